"""What a reader works in: windows with a shell in each, a keyboard and a screen."""

import fcntl
import os
import pty
import re
import resource
import signal
import struct
import termios
import time

from tests import harness
from tests.outside import kernel

SOFT_LIMIT = 1024  # open descriptors: what most shells allow, as chapter 3 says
FAILSAFE = 5 * harness.FAILSAFE  # a command may compile everything, on a busy machine
LOOKS = 8  # so often that time, for as long as something moves: top(1) prints for ever
MANY = 100  # pieces of what is printed, between two looks
MARK = "\x1e"  # around the prompt, which is the exit status
PROMPT = re.compile(rf"{MARK}(\d+){MARK}")
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\(B|[=>])|\r|\x0f")
FORGOTTEN = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "BUILD", "B", "SAN", "PROGRESS", "ASAN_OPTIONS"}


class Terminal:
    """A shell with a terminal of its own. It shows what programs print, and not what is typed."""

    def __init__(self, folder):
        starter = os.getpid()
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            self._become_shell(starter, folder)
        os.set_blocking(self.end, False)
        self.screen, self.seen = "", 0  # all since the last command; how much the reader has read
        harness.wait_for(self.idle, "a prompt", failsafe=FAILSAFE)

    @staticmethod
    def _become_shell(starter, folder):
        """In the child."""
        harness.die_with_parent(starter)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # chapter 5 counts them
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        settings = termios.tcgetattr(0)
        settings[3] &= ~termios.ECHO
        settings[3] |= termios.NOFLSH  # else Ctrl-C could discard the prompt that follows it
        termios.tcsetattr(0, termios.TCSANOW, settings)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_LIMIT, hard), hard))
        os.chdir(folder)
        environment = {name: value for name, value in os.environ.items() if name not in FORGOTTEN}
        environment |= {"PS1": r"\036$?\036", "PS2": "", "TERM": "xterm", "HISTFILE": ""}
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)

    def read(self):
        """Take what has been printed, and not for ever from what prints without end."""
        try:
            for _ in range(MANY):
                data = os.read(self.end, 1 << 16)
                self.screen += ESCAPES.sub("", data.decode(errors="replace"))
        except OSError:
            pass  # nothing now, or the shell has ended

    def idle(self):
        """Is the shell waiting for a command?"""
        self.read()
        return bool(PROMPT.search(self.screen))

    def status(self):
        """The exit status of the last command, when the shell is idle."""
        return int(PROMPT.search(self.screen)[1])

    def text(self):
        """What the last command has printed."""
        return PROMPT.sub("", self.screen)

    def unread(self):
        """What it has printed since the reader last looked."""
        return self.text()[self.seen:]

    def type(self, text):
        """Write to the keyboard."""
        data = text.encode()
        while data:
            try:
                data = data[os.write(self.end, data):]
            except BlockingIOError:
                self.read()

    def start(self, command):
        """Give the shell a command."""
        self.screen, self.seen = "", 0
        self.type(command + "\n")

    def close(self):
        """Close the window: all that runs in it is hung up."""
        os.close(self.end)


class Desk:
    """The windows of a reader, by their numbers."""

    def __init__(self, folder):
        self.folder, self.terminals = folder, {}

    def __getitem__(self, number):
        if number not in self.terminals:
            self.terminals[number] = Terminal(self.folder)
        return self.terminals[number]

    def look(self, condition, what):
        """Wait for a condition, while all windows go on showing what is printed.

        It is not in vain for as long as something is printed, or processes begin and end.
        """
        def looked():
            for terminal in self.terminals.values():
                terminal.read()
            return condition()

        before, deadline, looks = None, None, 0
        while not looked():
            if not deadline or deadline.passed():
                now = kernel.descendants(os.getpid()), [len(t.screen) for t in
                                                        self.terminals.values()]
                if now == before or looks == LOOKS:
                    raise harness.Fail(f"not within {looks * FAILSAFE:.0f} s", expected=what)
                before, deadline = now, harness.Deadline(FAILSAFE, *now[0])
                looks += 1
            time.sleep(0.005)  # lets others run; no verdict depends on how long

    def run(self, number, command):
        """Type a command where the last one has ended, if need be by Ctrl-C."""
        terminal = self[number]
        if not terminal.idle():
            self.press(number, "C")
            self.look(terminal.idle, f"an end after Ctrl-C in terminal {number}")
        terminal.start(command)

    def press(self, number, key):
        """Ctrl-C and its like."""
        self[number].type(chr(ord(key) - ord("@")))

    def ends(self, number, status=0):
        """The command must come to an end, with this status."""
        terminal = self[number]
        self.look(terminal.idle, "an end of the command")
        if terminal.status() != status:
            raise harness.Fail(f"exit status {terminal.status()}: {tail(terminal.text())}",
                               expected=f"exit status {status}")

    def shows(self, number, pattern):
        """Something must be printed, behind what has been read before."""
        terminal = self[number]

        def found():
            ended = terminal.idle()  # and then nothing more will come
            return re.search(pattern, terminal.unread(), re.M) or ended

        self.look(found, f"{pattern!r} in terminal {number}")
        match = re.search(pattern, terminal.unread(), re.M)
        if not match:
            raise harness.Fail(f"ended: {tail(terminal.text())}", expected=repr(pattern))
        end = terminal.unread().find("\n", match.end())
        terminal.seen = terminal.seen + end + 1 if end >= 0 else len(terminal.text())

    def listens(self, number, port):
        """A server must listen on this port, in whatever language."""
        def found():
            if self[number].idle() and not kernel.descendants(self[number].pid):
                raise harness.Fail(f"ended: {tail(self[number].text())}",
                                   expected=f"a server on port {port}")
            return port in [listening for listening, *_ in kernel.listeners()]

        self.look(found, f"a server on port {port}")

    def sleeps_in(self, number, name):
        """A program in this window must come to sleep in this system call."""
        def found():
            pids = kernel.descendants(self[number].pid)
            calls = [kernel.blocked_call(pid, tid) for pid in pids for tid in kernel.threads(pid)]
            return any(call and call[0] == name for call in calls)

        self.look(found, f"a program that sleeps in {name}()")

    def silent(self, number):
        """All programs are asleep, and this window shows nothing new."""
        still = harness.Stillness([])

        def rests():
            still.pids = [pid for pid in kernel.descendants(os.getpid())
                          if kernel.state(pid) not in ("Z", "T", "")]
            return still.lasts(beside=[len(t.screen) for t in self.terminals.values()])

        try:
            self.look(rests, "all programs at rest")
        except harness.Fail as failure:
            names = [kernel.read_file(f"/proc/{pid}/comm").strip() for pid in still.pids
                     if not kernel.blocked_calls(pid)]
            raise harness.Fail(f"{failure}awake: {', '.join(names)}", failure.expected) from None
        if text := self[number].unread().strip():
            raise harness.Fail(tail(text), expected=f"nothing in terminal {number}")

    def clear(self):
        """Close all windows, and end what was started in them."""
        for terminal in self.terminals.values():
            terminal.close()
        self.terminals = {}
        harness.end_descendants()


def tail(text):
    """The end of what was printed, for one line of a report."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-4:]) or "nothing"
