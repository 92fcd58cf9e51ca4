"""A running server: how it is started, watched, steered and ended."""

import collections
import errno
import os
import re
import resource
import select
import shlex
import signal
import subprocess
import tempfile
import time

from tests.harness.client import Client
from tests.harness.messages import printable
from tests.harness.processes import die_with_parent, heed_interrupts
from tests.harness.verdict import Fail, NoStart
from tests.harness.waiting import FAILSAFE, Deadline, wait_for
from tests.outside import kernel

LINE = "a line on stdout that ends in: listening on HOST:PORT"
CRASH = "the probe has only triggered it: run the server in gdb, or built with -fsanitize=address"
ENDED = "the server goes on when a client has left, and stays in the foreground"


def finding(text, limit=30):
    """The report of a sanitizer in what a program has said: its first lines."""
    lines = text.splitlines()
    begin = next((at for at, line in enumerate(lines)
                  if re.search("Sanitizer|runtime error", line)), len(lines))
    return "\n".join(line[:200] for line in lines[begin:begin + limit] if line.strip("= "))


def plug(pipe):
    """Fill a pipe, so that the next who writes to it sleeps. Returns with how many bytes."""
    os.set_blocking(pipe, False)
    count = 0
    try:
        while True:
            count += os.write(pipe, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, True)
        return count


class Server:
    """A running server. Use Stage.start(), or a `with` block that it is to live in.

    cpu: the core that it is to stay on.
    """

    def __init__(self, command, args=(), env=None, nofile=None, port=0, plugged=False, cpu=None,
                 stderr=None, closed=()):
        self.command = [*command, "--port", str(port), *map(str, args)]
        self.clients = []
        self.ending = False  # the probe ends it on purpose
        self.stderr_file = tempfile.TemporaryFile()
        self.stdout = b""
        self.line_end = 0  # where the line ends in stdout
        self.early = False  # did it print the line before it listened?
        self.out, stdout = os.pipe()
        filler = plug(stdout) if plugged else 0
        try:
            self._spawn(env, nofile, stdout, cpu, stderr, closed)
        finally:
            os.close(stdout)
        try:
            if plugged:
                self._unplug(filler)
            self.line = self._listening_line()
            self.host, self.port = self._parse(self.line)
            self._find_pid()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _spawn(self, env, nofile, stdout, cpu, stderr, closed):
        starter = os.getpid()

        def prepare():
            die_with_parent(starter)
            os.setpgid(0, 0)
            heed_interrupts()
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile or hard, hard))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for fd in closed:
                os.close(fd)

        try:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=self.stderr_file if stderr is None else stderr, preexec_fn=prepare,
                env={**os.environ, **(env or {})})
        except OSError as error:
            hint = {errno.ENOEXEC: "; a script needs a first line such as #!/usr/bin/env python3",
                    errno.EACCES: "; chmod +x makes it executable"}.get(error.errno, "")
            raise NoStart(f"it cannot be run: {error.strerror}{hint}",
                          expected="an executable file", sent=shlex.join(self.command)) from None
        self.pid = self.process.pid

    def _unplug(self, filler):
        """Wait until it writes to the full pipe: now it must be listening. Then make room."""
        def writes():
            calls = [kernel.blocked_call(self.pid, tid) for tid in kernel.threads(self.pid)]
            return any(call and call[0] in kernel.SENDING and call[1][0] == 1 for call in calls)

        try:
            wait_for(lambda: writes() or self._silent_but_listening() or self.exited(), "",
                     failsafe=10)
        except Fail:
            pass  # what is wrong with it will be said elsewhere
        self.early = writes() and not kernel.listening_ports(kernel.socket_inodes(self.pid))
        while filler:
            filler -= len(os.read(self.out, filler))

    def _listening_line(self):
        """Wait for the line on stdout that says so. Lines before it are of no interest."""
        deadline, silent = Deadline(FAILSAFE, self.pid), 0
        while not (line := self._find_line()):
            if not select.select([self.out], [], [], 0.2)[0]:
                silent = silent + 1 if self._silent_but_listening() else 0
                if silent < 5 and not deadline.passed():
                    continue
                raise NoStart(self._why_no_line(), LINE, shlex.join(self.command))
            data = os.read(self.out, 65536)
            if not data:
                wait_for(lambda: self.process.poll() is not None, "the end of the process",
                         failsafe=5)
                raise NoStart(f"{self.describe()}, before it said 'listening on'. "
                              f"{self.last_words()}", LINE, shlex.join(self.command),
                              hint=CRASH if self.process.returncode < 0 else ENDED)
            self.stdout += data
        return line

    def _find_line(self):
        """The line, once it is there."""
        begin = 0
        while (end := self.stdout.find(b"\n", begin)) != -1:
            line = self.stdout[begin:end].decode(errors="replace")
            begin = end + 1
            if re.search(r"listening on \S*:\d+\s*$", line):
                if self.stdout.find(b"\n") + 1 != begin:
                    self.early = False  # it was another line that it wrote early
                self.line_end = begin
                return line
        return ""

    def _silent_but_listening(self):
        """Does it sleep in a call that waits for clients, although it has not said where?"""
        calls = kernel.blocked_calls(self.pid)
        waiting = calls and all(name not in kernel.SENDING for name, _ in calls)
        return waiting and kernel.listening_ports(kernel.socket_inodes(self.pid))

    def _why_no_line(self):
        if b"\n" in self.stdout:
            last = self.stdout.rpartition(b"\n")[0].rpartition(b"\n")[2]
            return f"the line {last.decode(errors='replace')!r}; {self.describe()}"
        ports = kernel.listening_ports(kernel.socket_inodes(self.pid))
        if ports:
            return (f"it listens on port {ports[0]}, {self.describe()}, but that line has not come "
                    "(a pipe is buffered: flush stdout after the line)")
        return f"no such line; {self.describe()}"

    def _parse(self, line):
        """The address from the line. Everything listens on an address that we can connect to."""
        found = re.search(r"listening on (\S*):(\d+)\s*$", line)
        host = found.group(1).strip("[]")
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1",
                "*": "127.0.0.1"}.get(host, host), int(found.group(2))

    def _find_pid(self):
        """Behind a wrapper script, the server is the child that owns the listening socket."""
        def listens(pid):
            return self.port in kernel.listening_ports(kernel.socket_inodes(pid))

        if not listens(self.pid):
            self.pid = next((pid for pid in kernel.descendants(self.pid) if listens(pid)), self.pid)

    # What it does

    def exited(self):
        """Has the process ended?"""
        return self.process.poll() is not None

    def describe(self):
        """What the process is doing, in words."""
        code = self.process.poll()
        if code is not None and code < 0:
            return f"the server was killed by {kernel.signal_name(-code)}"
        if code is not None:
            return f"the server exited with status {code}"
        calls = kernel.blocked_calls(self.pid)
        if not calls:
            states = kernel.thread_states(self.pid)
            if len(states) > 3:
                count = collections.Counter(states)
                states = ", ".join(f"{count[state]:,} {state}" for state in sorted(count))
            return f"the server is running (state {states})"
        return "the server sleeps in " + ", ".join(self._call_text(*call) for call in calls[:3])

    def _call_text(self, name, args):
        call = f"{kernel.IN_C.get(name, name)}()"
        if name not in kernel.RECEIVING | kernel.SENDING | {"accept", "accept4"}:
            return call
        for client in self.clients:
            if client.server_fd() == args[0]:
                return f"{call} on descriptor {args[0]}, client {self.clients.index(client) + 1}"
        return f"{call} on descriptor {args[0]}"

    def calls(self):
        """The calls that all its threads sleep in: a list of names, or None if one is running."""
        calls = kernel.blocked_calls(self.pid)
        return [name for name, _ in calls] if calls else None

    def stderr(self):
        """All it has said on stderr."""
        size = os.fstat(self.stderr_file.fileno()).st_size
        return os.pread(self.stderr_file.fileno(), size, 0).decode(errors="replace")

    def finding(self):
        """What a sanitizer has said of it; '' if none has."""
        return finding(self.stderr())

    def last_words(self):
        """The end of stderr, for a message."""
        if self.finding():
            return f"A sanitizer says:\n{self.finding()}"
        lines = self.stderr().strip().splitlines()
        return f"Its last words: {printable(lines[-1][:200])}" if lines else \
            "It said nothing on stderr."

    def cpu_ms(self):
        """CPU time used so far, in milliseconds."""
        return kernel.cpu_ns(self.pid) / 1e6

    def wake_ups(self):
        """How often it went to sleep."""
        return kernel.wake_ups(self.pid)

    def fds(self):
        """Its open descriptors: {number: what}."""
        return kernel.open_fds(self.pid)

    def more_stdout(self):
        """What it has printed since the line."""
        ready = select.select([self.out], [], [], 0)[0]
        return self.stdout[self.line_end:] + (os.read(self.out, 65536) if ready else b"")

    def waits_for_ever(self):
        """Do all its threads sleep in calls that have no timeout, and will no timer end one?"""
        calls = kernel.blocked_calls(self.pid)
        return bool(calls) and all(kernel.without_timeout(*call) for call in calls) and \
            not kernel.has_timer(self.pid)

    def asleep(self):
        """Are all its threads blocked in a system call?"""
        return self.calls() is not None

    # Steering it

    def _pids(self):
        return [self.process.pid] + ([self.pid] if self.pid != self.process.pid else [])

    def signal(self, number):
        """Send a signal to the server process."""
        os.kill(self.pid, number)

    def pause(self):
        """Stop it (SIGSTOP), and return when it has stopped. The kernel goes on queueing."""
        self.signal(signal.SIGSTOP)
        wait_for(lambda: set(kernel.thread_states(self.pid)) <= set("TtZ"), "state T", self)

    def resume(self):
        """Let it go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def limit_fds(self, soft):
        """Give it room for descriptors below `soft`. Returns the limit it had."""
        old = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, old[1]))
        return old[0]

    def connect(self, **options):
        """A new client. Options: see Client."""
        client = Client(self, **options)
        self.clients.append(client)
        return client

    def wait_exit(self, what="the end of the process"):
        """Wait until it has exited; returns the status (-15 for SIGTERM)."""
        self.ending = True
        try:
            wait_for(self.exited, what)
        except Fail as fail:
            raise Fail(fail.seen + self.describe(), expected=what) from None
        return self.process.returncode

    def kill(self):
        """End it at once, with everything it has started, and wait for that."""
        self.ending = True
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.kill()
        self.process.wait()
        if self.out != -1:
            os.close(self.out)
            self.out = -1

    def close(self):
        """End it, and close what was opened for it."""
        self.kill()
        self.stderr_file.close()
        for client in self.clients:
            client.sock.close()

    def come_to_rest(self):
        """A process that dies closes its sockets first. Wait until it is asleep, or has ended."""
        deadline = Deadline(3, self.pid)
        while not (self.exited() or self.asleep() or deadline.passed()):
            time.sleep(0.001)  # one that spins will do neither, and is described as running

    def check_alive(self):
        """Fail if it has ended although the probe did not end it, or if a sanitizer spoke."""
        self.come_to_rest()
        if self.exited() and not self.ending:
            raise Fail(f"{self.describe()}. {self.last_words()}",
                       expected="the server lives on, whatever its clients do",
                       hint=CRASH if self.process.returncode < 0 else ENDED)
        if self.finding():
            raise Fail(self.finding(), expected="no finding of a sanitizer")

    def check_leaks(self):
        """Fail if it has lost memory. Ends it; loop/sanitizer.cpp answers the signal."""
        if self.ending or not self.asleep():  # interrupted in malloc(), it could not answer
            return
        self.ending = True
        self.signal(signal.SIGRTMAX)
        wait_for(self.exited, "the search for leaks ends")
        if self.finding() or self.process.returncode != 0:
            raise Fail(f"{self.describe()}. {self.last_words()}", expected="no memory is lost")
