"""A running server: how it is started, watched, steered and ended."""

import collections
import os
import re
import resource
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time

from tests.harness import cause
from tests.harness.client import Client
from tests.harness.course import MIB, SLOWER
from tests.harness.processes import die_with_parent, heed_interrupts, kill_all
from tests.harness.verdict import Fail, NoStart, NotTried, QueueFull
from tests.harness.waiting import FAILSAFE, SPIN_MS, Deadline, Stillness, wait_for
from tests.outside import kernel, runtime

LAST_MS = 1000 * SLOWER  # CPU time in which a process that dies has died
LINE = "a line on stdout that ends in: listening on HOST:PORT"
FIRST = "listen first, then print the line and flush stdout"


def has_ipv6():
    """Has this machine the address ::1?"""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


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

    cpu: the core that it is to stay on. own: it is one of ours, and not a reader's.
    """

    spin_ms = SPIN_MS

    def __init__(self, command, args=(), env=None, nofile=None, port=0, plugged=False, cpu=None,
                 stderr=None, closed=(), own=True):
        self.command = [*command, "--port", str(port), *map(str, args)]
        self.clients, self.own = [], own
        self.shimmed = "LD_PRELOAD" in (env or {})
        self.drain = None  # reads what it prints after the line
        self.met = False  # do we know all processes that accept?
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
            if not own:
                self._drain_stdout()
            self.pids = self._those_who_listen()
            self.pid = self.pids[0]
            self.event_loop = "" if own else runtime.event_loop(self.pid)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _spawn(self, env, nofile, stdout, cpu, stderr, closed):
        assert threading.active_count() == 1, "beside a thread, prepare() may wait for ever: tied()"
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
            why = error.strerror + cause.why_not(self.command[0], error)
            raise NoStart(f"it cannot be run: {why}", expected="an executable file",
                          sent=shlex.join(self.command)) from None
        self.pid, self.pids = self.process.pid, [self.process.pid]

    def _unplug(self, filler):
        """Wait until it writes to the full pipe: now it must be listening. Then make room."""
        def writes():
            calls = [kernel.blocked_call(self.pid, tid) for tid in kernel.threads(self.pid)]
            return any(call and call[0] in kernel.SENDING and call[1][0] == 1 for call in calls)

        try:
            wait_for(lambda: writes() or self._silent_but_listening(), "", self, failsafe=10)
        except Fail:
            pass  # what is wrong with it will be said elsewhere
        self.early = writes() and not self._ports()
        while filler:
            filler -= len(os.read(self.out, filler))

    def _listening_line(self):
        """Wait for the line on stdout that says so. Lines before it are of no interest."""
        deadline, still = Deadline(FAILSAFE, self.pid), Stillness([], 5)
        while not (line := self._find_line()):
            data = b""
            if select.select([self.out], [], [], 0.2)[0]:
                data = os.read(self.out, 65536)
            elif not self.exited():  # who is left behind when it has, may keep stdout open
                still.pids = self.processes()  # one of them may be about to say it
                if not (still.lasts() and self._silent_but_listening() or deadline.passed()):
                    continue
                raise NoStart(self._why_no_line(), LINE, shlex.join(self.command), hint=FIRST)
            if not data:
                wait_for(lambda: self.process.poll() is not None, "the end of the process",
                         failsafe=5, pids=self.pids)
                look, hint = self._why_dead()
                if look == cause.ENDED and self.process.returncode != 0:
                    look = cause.of_no_start(self.command, self.last_words())
                raise NoStart(f"{self.describe()}, before it said 'listening on'. "
                              f"{self.last_words()}", LINE, shlex.join(self.command), look, hint)
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
        return waiting and self._ports()

    def _ports(self):
        """On which ports does it listen? Behind a wrapper script a child does it."""
        family = [self.process.pid, *kernel.descendants(self.process.pid)]
        return kernel.listening_ports(set().union(*map(kernel.socket_inodes, family)))

    def _why_no_line(self):
        if b"\n" in self.stdout:
            last = self.stdout.rpartition(b"\n")[0].rpartition(b"\n")[2]
            return f"the line {last.decode(errors='replace')!r}; {self.describe()}"
        ports = self._ports()
        if ports:
            return (f"it listens on port {ports[0]}, {self.describe()}, but that line has not come "
                    "(a pipe is buffered: flush stdout after the line)")
        return f"no such line; {self.describe()}"

    def _parse(self, line):
        """The address from the line. Everything listens on an address that we can connect to."""
        found = re.search(r"listening on (\S*):(\d+)\s*$", line)
        host = found.group(1).strip("[]")
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1" if has_ipv6() else "127.0.0.1",
                "*": "127.0.0.1"}.get(host, host), int(found.group(2))

    def _those_who_listen(self):
        """The processes that own the listening socket.

        Behind a wrapper script it is a child. There are several where children accept in turn.
        """
        family = [self.process.pid, *kernel.descendants(self.process.pid)]
        return [pid for pid in family if self.port in kernel.listening_ports(
            kernel.socket_inodes(pid))] or [self.process.pid]

    def _drain_stdout(self):
        """Read what else it prints: a pipe that nobody reads is full after 64 KiB."""
        starter = os.getpid()
        self.drain = subprocess.Popen(["cat"], stdin=self.out, stdout=subprocess.DEVNULL,
                                      preexec_fn=lambda: die_with_parent(starter))

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
        calls = self.blocked_calls()
        if not calls:
            states = self._states()
            if len(states) > 3:
                count = collections.Counter(states)
                states = ", ".join(f"{count[state]:,} {state}" for state in sorted(count))
            return f"the server is running (state {states})"
        if len(calls) > 3:  # of many threads, those that hold somebody up
            calls.sort(key=lambda call: call[0] not in kernel.SENDING)
        return "the server sleeps in " + ", ".join(self._call_text(*call) for call in calls[:3])

    def _call_text(self, name, args):
        text = cause.in_words(name, args)
        for at, client in enumerate(self.clients[:100] if text.endswith(f" {args[0]}") else [], 1):
            if client.server_fd() == args[0]:
                return f"{text}, client {at}"
        return text

    def blocked_calls(self):
        """(name, arguments) of the calls that all its threads sleep in; None if one is running."""
        found = []
        for pid in self.pids:
            calls = kernel.blocked_calls(pid)
            if calls is None:
                return None
            found += calls
        return found

    def calls(self):
        """The names of the calls that all its threads sleep in; None if one is running."""
        calls = self.blocked_calls()
        return [name for name, _ in calls] if calls else None

    def threads(self):
        """The ids of all its threads."""
        return [tid for pid in self.pids for tid in kernel.threads(pid)]

    def _states(self):
        """The states of all its threads, as one string."""
        return "".join(kernel.thread_states(pid) for pid in self.pids)

    def stderr(self, most=MIB):
        """What it has said on stderr, or the end of it: one that goes in circles may say much."""
        size = os.fstat(self.stderr_file.fileno()).st_size
        return os.pread(self.stderr_file.fileno(), most, max(0, size - most)).decode(
            errors="replace")

    def finding(self):
        """What a sanitizer has said of it; '' if none has."""
        return cause.finding(self.stderr())

    def last_words(self):
        """The end of stderr, for a message."""
        return cause.last_words(self.stderr())

    def said(self):
        """Its last words, to be put behind something else; '' if there are none."""
        return f". {self.last_words()}" if self.stderr() else ""

    def _why_dead(self):
        """(what to look at, what to write) after its end."""
        return cause.of_death(self.process.returncode, self.command, self.stderr())

    def forbids_the_shim(self):
        """Has its own filter of system calls ended it, while it had a library of ours in it?"""
        return not self.own and self.shimmed and self.process.poll() == -signal.SIGSYS

    def why_stuck(self, spins, fd=None):
        """(what to look at, what to write) when a client's bytes are there and nothing comes.

        fd: this client's descriptor, if it is known.
        """
        if spins:
            return cause.CLOSED if "Bad file descriptor" in self.said() else cause.BUSY
        calls = self.blocked_calls() or []
        readers = [args[0] for name, args in calls if name in kernel.RECEIVING]
        if len(self.pids) == 1 and len(set(readers)) < len(readers):
            return cause.SHARED
        if fd and any(name.startswith("epoll") for name, _ in calls):
            if look := cause.why_not_reported(kernel.epoll_events(self.pid, fd)):
                return look, ""
        looks = {look for names, look in cause.ASLEEP for name, _ in calls if name in names}
        return (looks.pop() if len(looks) == 1 else ""), ""

    def processes(self):
        """All of it: those who listen, and what they have started that has not ended."""
        begun = {self.process.pid, *kernel.descendants(self.process.pid)} - set(self.pids)
        return self.pids + [pid for pid in begun if kernel.state(pid) not in ("Z", "")]

    def others_do(self, most=3):
        """What the processes do that it has started, and that do not listen, for a message."""
        doing = []
        for pid in sorted(set(self.processes()) - set(self.pids)):
            calls = [cause.in_words(*call) for call in kernel.blocked_calls(pid) or []]
            name = kernel.read_file(f"/proc/{pid}/comm").strip()
            doing.append(f"{name} sleeps in {', '.join(calls)}" if calls else f"{name} is running")
        return "".join(f"; its process {text}" for text in doing[:most])

    def others_asleep(self):
        """Are the processes asleep that it has started, and that do not listen?"""
        return all(kernel.state(pid) == "Z" or kernel.blocked_calls(pid)
                   for pid in kernel.descendants(self.process.pid) if pid not in self.pids)

    def cpu_ms(self):
        """CPU time used so far, in milliseconds."""
        return sum(map(kernel.cpu_ns, self.pids)) / 1e6

    def wake_ups(self):
        """How often it went to sleep."""
        return sum(map(kernel.wake_ups, self.pids))

    def memory_kib(self, key="VmRSS"):
        """Its memory: what is resident now, or VmHWM, the most that ever was."""
        return sum(kernel.memory_kib(pid, key) for pid in self.pids)

    def fds(self):
        """Its open descriptors: {number: what}. Other processes than the first have a name."""
        found = kernel.open_fds(self.pid)
        for pid in self.pids:
            if pid != self.pid:
                found |= {f"{fd} of process {pid}": what
                          for fd, what in kernel.open_fds(pid).items()}
        return found

    def owed_fds(self):
        """The descriptors that it must give back when its clients have left.

        Of a reader's server they are its sockets: what else is open may be its runtime's, which
        keeps pipes and files for later.
        """
        return {fd: what for fd, what in self.fds().items()
                if self.own or what.startswith("socket:")}

    def fd_of(self, inode):
        """(process, number) of its descriptor of a socket; None if it has none."""
        name = f"socket:[{inode}]"
        return next(((pid, fd) for pid in self.pids
                     for fd, what in kernel.open_fds(pid).items() if what == name), None)

    def more_stdout(self):
        """What it has printed since the line."""
        ready = select.select([self.out], [], [], 0)[0]
        return self.stdout[self.line_end:] + (os.read(self.out, 65536) if ready else b"")

    def waits_for_ever(self):
        """Do all its threads sleep in calls that have no timeout, and will no timer end one?"""
        calls = self.blocked_calls()
        return bool(calls) and all(kernel.without_timeout(*call) for call in calls) and \
            not any(map(kernel.has_timer, self.pids))

    def asleep(self):
        """Are all its threads blocked in a system call?"""
        return self.calls() is not None

    def family(self):
        """The address family of its clients."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def backlog(self):
        """How many clients may wait for accept(); None if the kernel does not say."""
        return kernel.backlog(self.port)

    def accepts_nobody(self):
        """Is the queue of its clients full, while it sleeps or is stopped?"""
        room = self.backlog()
        return (room is not None and kernel.accept_queue(self.port) > room
                and (self.is_paused() or self.asleep()))

    def queue_is_full(self):
        """What to raise when a client finds no room there."""
        full = QueueFull(f"connect: no room in the queue of those who wait for accept(): "
                         f"{kernel.accept_queue(self.port):,} are there; {self.describe()}",
                         expected="a connection: the line says that it listens",
                         look="listen(2): backlog", hint="listen(fd, SOMAXCONN), which is 4,096")
        full.room = self.backlog()
        return full

    # Steering it

    def signal(self, number):
        """Send a signal to the server process."""
        os.kill(self.pid, number)

    def _meet(self):
        """Before the first client: it may have started others who accept, after the line."""
        if not self.met:
            self.come_to_rest()
            self.pids, self.met = self._those_who_listen(), True
            self.pid = self.pids[0]

    def pause(self):
        """Stop it (SIGSTOP), and return when it has stopped. The kernel goes on queueing."""
        self._meet()
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(self.is_paused, "state T", self)

    def is_paused(self):
        """Are all its threads stopped?"""
        return set(self._states()) <= set("TtZ")

    def resume(self):
        """Let it go on (SIGCONT)."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def limit_fds(self, soft=None):
        """Give it room for descriptors below `soft`; without it, for none that is not open now.

        Returns what lift_limit() takes.
        """
        try:
            old = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in self.pids}
        except PermissionError:
            raise NotTried("it runs as another user, and to change its limits needs "
                           "CAP_SYS_RESOURCE then: prlimit(2)") from None
        for pid, (_, hard) in old.items():
            fds = kernel.open_fds(pid)
            lowest_free = next(fd for fd in range(len(fds) + 1) if fd not in fds)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft or lowest_free, hard))
        return old

    def lift_limit(self, old):
        """Give back the room that it had before limit_fds()."""
        for pid, limits in old.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    def connect(self, **options):
        """A new client. Options: see Client."""
        self._meet()
        client = Client(self, **options)
        self.clients.append(client)
        return client

    def connect_with(self, *messages):
        """New clients, one for each message, which is there before the server can accept them.

        So none of them was ever silent, however late we are: not even by a short deadline.
        """
        self.pause()
        clients = [self.connect() for _ in messages]
        for client, message in zip(clients, messages):
            client.send(message)
        self.resume()
        return clients

    def wait_exit(self, what="the end of the process"):
        """Wait until it has exited; returns the status (-15 for SIGTERM)."""
        self.ending = True
        try:
            wait_for(self.exited, what, pids=self.pids)
        except Fail as fail:
            raise Fail(f"{fail.seen}; {self.describe()}", expected=what) from None
        return self.process.returncode

    def kill(self):
        """End it at once, with everything it has started, and wait for that."""
        self.ending = True
        if self.process.poll() is None:
            below = kernel.descendants(self.process.pid)  # they may be in a group of their own
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.kill()
            kill_all(below)
        self.process.wait()
        if self.out != -1:
            os.close(self.out)
            self.out = -1
        if self.drain:
            self.drain.kill()
            self.drain.wait()

    def close(self):
        """End it, and close what was opened for it."""
        self.kill()
        self.stderr_file.close()
        for client in self.clients:
            client.sock.close()

    def come_to_rest(self):
        """A process that dies closes its sockets first. Wait until it is asleep, or has ended.

        One that spins will do neither, and is described as running.
        """
        deadline, spin_ms = Deadline(3, self.pid), self.cpu_ms() + LAST_MS
        while not (self.exited() or self.asleep() or deadline.passed() or self.cpu_ms() > spin_ms):
            time.sleep(0.001)

    def check_alive(self):
        """Fail if it has ended although the probe did not end it, or if a sanitizer spoke."""
        self.come_to_rest()
        if self.exited() and not self.ending:
            look, hint = self._why_dead()
            raise Fail(f"{self.describe()}. {self.last_words()}", look=look, hint=hint,
                       expected="the server lives on, whatever its clients do")
        if self.finding():
            raise Fail(self.finding(), expected="no finding of a sanitizer")

    def check_leaks(self):
        """Fail if it has lost memory. Ends it; loop/sanitizer.cpp answers the signal."""
        if self.ending or not self.asleep():  # interrupted in malloc(), it could not answer
            return
        self.ending = True
        self.signal(signal.SIGRTMAX)
        wait_for(self.exited, "the search for leaks ends", pids=self.pids)
        if self.finding() or self.process.returncode != 0:
            raise Fail(f"{self.describe()}. {self.last_words()}", expected="no memory is lost")
