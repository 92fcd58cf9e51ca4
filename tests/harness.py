"""What every probe is built on: start a server, talk to it, judge what it does.

A probe is a function that plays one fault against a running server:

    @probe(row=1, title="the second client is served while the first one idles",
           expect="L:waits P P P P P P", look="accept(2), recv(2)", hint="...")
    def second_client(stage):
        server = stage.start()
        server.connect().roundtrip()

It returns (the server passes), raises Lesson (it fails in a way that a chapter teaches) or raises
Fail (it fails in any other way). `expect` has a column for each of the seven stages: P it must
pass, L:kind it must fail as a Lesson of that kind, - the probe does not apply.

Time decides nothing here: a probe waits for a byte, an exit, a state of the process. FAILSAFE only
ends what would wait for ever.
"""

import collections
import ctypes
import errno
import os
import pickle
import re
import resource
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import kernel

STAGES = {1: "01-blocking", 2: "02-select", 3: "03-poll-lt", 4: "04-epoll-lt", 5: "05-epoll-et",
          6: "06-write-buffering", 7: "07-evloop"}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build")
SAN = os.environ.get("SAN", "")  # the sanitizers in our programs, as in `make test SAN=thread`
SLOWER = 5 if SAN else 1  # times the time that things may take
FAILSAFE = 30.0 * SLOWER  # seconds; a loaded machine may let a process wait long for its turn
CELL_FAILSAFE = 120.0 * SLOWER  # seconds for one probe on one stage, whatever it does
SPIN_MS = 6000 * SLOWER  # CPU time that no answer needs: a server that uses it up goes in circles
KIB, MIB = 1024, 1024 * 1024


# Verdicts

class Fail(Exception):
    """The server did something wrong. Bytes are compared, and the first difference is shown.

    `hint`: what to do about it, when that is not what the probe is about.
    """

    def __init__(self, seen, expected="", sent="", hint=""):
        super().__init__(seen)
        self.seen, self.expected, self.sent, self.hint = seen, expected, sent, hint


class Lesson(Exception):
    """The server failed exactly as a chapter says. `kind` is the word for it in `expect`."""

    def __init__(self, seen, kind):
        super().__init__(seen)
        self.seen, self.kind = seen, kind


class NoStart(Fail):
    """The server did not start as agreed. No probe can pass then."""


Verdict = collections.namedtuple("Verdict", "outcome kind seen expected sent notes seconds hint",
                                 defaults=[""])
LINE = "a line on stdout that ends in: listening on HOST:PORT"
CRASH = "the probe has only triggered it: run the server in gdb, or built with -fsanitize=address"
ENDED = "the server goes on when a client has left, and stays in the foreground"


# Probes

class Probe:
    """One registered function, with what readers are told about it."""

    def __init__(self, run, row, title, expect, look, hint, alone):
        self.run, self.row, self.title = run, row, title
        self.expect = dict(zip(STAGES, expect.split()))
        self.look, self.hint, self.alone = look, hint, alone
        assert len(self.expect) == len(STAGES), f"{run.__name__}: a column for each stage"

    def __repr__(self):
        return f"{self.row}:{self.run.__name__}"


PROBES = []


def probe(row, title, expect, look, hint="", alone=False):
    """Register a probe. `alone`: nothing else may run while it measures."""
    def register(run):
        PROBES.append(Probe(run, row, title, expect, look, hint, alone))
        return run
    return register


def probes(rows=None, stage=None):
    """The registered probes in the order of their rows, those that apply to `stage`."""
    chosen = [p for p in PROBES if rows is None or p.row in rows]
    if stage is not None:
        chosen = [p for p in chosen if p.expect[stage] != "-"]
    return sorted(chosen, key=lambda p: p.row)


# Bytes

def frame(payload=b""):
    """A message as stage 07 reads it. The other stages send it back without looking."""
    return b"EVLP" + struct.pack("!I", len(payload)) + payload


def frames(total, size=64 * KIB, seed=1):
    """About `total` bytes of frames with `size` bytes of payload, no two alike."""
    block = bytes((i * 7 + seed) % 251 for i in range(size))
    count = max(1, total // (size + 8))
    return b"".join(frame(struct.pack("!II", seed, i) + block[8:]) for i in range(count))


def show(data, limit=16):
    """Bytes for people: how many, and how they begin."""
    if isinstance(data, str):
        return data
    text = " ".join(f"{byte:02x}" for byte in data[:limit])
    return f"{len(data):,} bytes" + (f": {text}" if data else "") + (" ..." * (len(data) > limit))


def printable(text):
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def difference(expected, seen, before=0):
    """Point at the first byte that differs, `before` right ones being left out. '' if none does."""
    if expected == seen:
        return ""
    shared = min(len(expected), len(seen))
    at = next((i for i in range(shared) if expected[i] != seen[i]), shared)
    if at == len(seen):
        return f"the first {before + at:,} bytes are right, then nothing more came"
    if at == len(expected):
        return f"all {before + at:,} bytes are right, then {show(seen[at:])} too many"
    return (f"byte {before + at:,} differs (counted from 0): expected {show(expected[at:at + 8])}, "
            f"received {show(seen[at:at + 8])}")


# Waiting

def wait_for(condition, what, server=None, failsafe=FAILSAFE, spin_ms=SPIN_MS):
    """Wait until condition() is true and return its value. Fail says what did not come."""
    end, pause = time.monotonic() + failsafe, 0.0002
    spin_ms += server.cpu_ms() if server else 0
    while True:
        value = condition()
        if value:
            return value
        if server and server.exited():
            raise Fail(server.describe(), expected=what)
        if server and server.cpu_ms() > spin_ms:
            raise Fail(f"the server goes in circles: it uses CPU time without end; "
                       f"{server.describe()}", expected=what)
        if time.monotonic() > end:
            raise Fail(f"not within {failsafe:.0f} s; " + (server.describe() if server else ""),
                       expected=what)
        time.sleep(pause)  # lets others run; no verdict depends on how long
        pause = min(pause * 1.5, 0.02)


# Servers

def finding(text, limit=30):
    """The report of a sanitizer in what a program has said: its first lines."""
    lines = text.splitlines()
    begin = next((at for at, line in enumerate(lines)
                  if re.search("Sanitizer|runtime error", line)), len(lines))
    return "\n".join(line[:200] for line in lines[begin:begin + limit] if line.strip("= "))


_libc = ctypes.CDLL(None, use_errno=True)
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: connect() chooses the port, knowing the other end
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent(starter):
    """In a child: SIGKILL when the parent dies, however that comes."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter:  # it died before prctl()
        os._exit(1)


def adopt_orphans():
    """Whoever loses its parent below this process becomes a child of it, and not of init."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_descendants():
    """Kill all that was started from here, also what has put itself into the background."""
    while True:
        for pid in kernel.descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def heed_interrupts():
    """In a child: let SIGINT end it. What a shell starts with "&" ignores it, and all it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_fd_limit():
    """As many descriptors as this process may have. Returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


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
    """A running server. Use Stage.start()."""

    def __init__(self, command, args=(), env=None, nofile=None, port=0, plugged=False,
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
            self._spawn(env, nofile, stdout, stderr, closed)
        finally:
            os.close(stdout)
        try:
            if plugged:
                self._unplug(filler)
            self.line = self._listening_line()
            self.host, self.port = self._parse(self.line)
            self._find_pid()
        except BaseException:
            self.kill()
            raise

    def _spawn(self, env, nofile, stdout, stderr, closed):
        starter = os.getpid()

        def prepare():
            die_with_parent(starter)
            os.setpgid(0, 0)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile or hard, hard))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for fd in closed:
                os.close(fd)

        try:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=self.stderr_file if stderr is None else stderr, preexec_fn=prepare, env={**os.environ, **(env or {})})
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
        end, silent = time.monotonic() + FAILSAFE, 0
        while not (line := self._find_line()):
            if not select.select([self.out], [], [], 0.2)[0]:
                silent = silent + 1 if self._silent_but_listening() else 0
                if silent < 5 and time.monotonic() < end:
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
        """Do all its threads sleep in calls that have no timeout?"""
        calls = kernel.blocked_calls(self.pid)
        return bool(calls) and all(kernel.without_timeout(*call) for call in calls)

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

    def come_to_rest(self):
        """A process that dies closes its sockets first. Wait until it is asleep, or has ended."""
        end = time.monotonic() + 3
        while not (self.exited() or self.asleep()) and time.monotonic() < end:
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
        """Fail if it has lost memory. Ends it; tests/sanitizer.cpp has what answers the signal."""
        if self.ending or not self.asleep():  # interrupted in malloc(), it could not answer
            return
        self.ending = True
        self.signal(signal.SIGRTMAX)
        wait_for(self.exited, "the search for leaks ends")
        if self.finding() or self.process.returncode != 0:
            raise Fail(f"{self.describe()}. {self.last_words()}", expected="no memory is lost")


# Clients

class Gone(Exception):
    """The server closed the connection; `how` is EOF or the error."""

    def __init__(self, how):
        super().__init__(how)
        self.how = how


class Client:
    """One connection to a server. The socket is non-blocking; all waiting is in wait().

    rcvbuf and sndbuf fix the kernel's buffers (SO_RCVBUF before connect, so that the window never
    grows beyond it). source is a loopback address to come from: one address has 28,000 ports.
    """

    def __init__(self, server, rcvbuf=None, sndbuf=None, source=None, wait=True):
        self.server = server
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if sndbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        if source:
            self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((source, 0))
        self.sock.settimeout(FAILSAFE)
        self.lost = ""  # the server had closed it when connect() returned
        try:
            self.sock.connect((server.host, server.port))
        except ConnectionResetError as error:
            self.lost = error.strerror
        except OSError as error:
            queue = kernel.accept_queue(server.port)
            full = isinstance(error, TimeoutError) and queue > 0
            raise Fail(f"connect: {error.strerror or error}; {server.describe()}"
                       + (f"; {queue} connections wait in its queue, and there is no room" * full),
                       expected="a connection: the line says that it listens",
                       hint="listen(2), backlog: ours is SOMAXCONN" if full else "") from None
        self.sock.setblocking(False)
        self.name, self.server_name = self.sock.getsockname(), (server.host, server.port)
        self.received = 0  # bytes, in all

    def fileno(self):
        """So that select() and friends take a Client."""
        return self.sock.fileno()

    # The other end, in the kernel

    def far_end(self):
        """The server's socket of this connection: kernel.Sock, or None when it is closed."""
        return kernel.find_socket(self.server_name, self.name)

    def near_end(self):
        """Our own socket as the kernel sees it."""
        return kernel.find_socket(self.name, self.server_name)

    def unread(self):
        """Bytes that have reached the server's kernel and that it has not read."""
        far = self.far_end()
        return far.unread if far else 0

    def accepted(self):
        """Has the server called accept() for it?"""
        far = self.far_end()
        return bool(far and far.inode)

    def server_fd(self):
        """The number of this connection's descriptor in the server; None if it has none."""
        far = self.far_end()
        if not far or not far.inode:
            return None
        name = f"socket:[{far.inode}]"
        return next((fd for fd, what in self.server.fds().items() if what == name), None)

    # Sending

    def try_send(self, data):
        """Send what fits at once. Returns how many bytes; raises Gone."""
        if self.lost:
            raise Gone(self.lost)
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Gone(error.strerror) from None

    def send(self, data):
        """Send all, waiting while the server does not read."""
        view = memoryview(data)
        while view:
            try:
                count = self.try_send(view)
            except Gone as gone:
                self.server.come_to_rest()
                raise Fail(f"{gone.how} when {len(data) - len(view):,} bytes were sent; "
                           f"{self.server.describe()}", sent=show(data),
                           expected="the server reads all of it") from None
            view = view[count:]
            if view and not count:
                self.wait(reading=False, writing=True, what="the server reads on", sent=data)

    def half_close(self):
        """Finish sending (FIN), and go on reading. Raises Gone."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Gone(error.strerror) from None

    # Receiving

    def try_receive(self, limit=256 * KIB):
        """What has come, b'' if nothing has; raises Gone at the end."""
        if self.lost:
            raise Gone(self.lost)
        try:
            data = self.sock.recv(limit)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Gone(error.strerror) from None
        if not data:
            raise Gone("end of file")
        self.received += len(data)
        return data

    def readable(self):
        """Is there something to receive, or an end?"""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def expect(self, expected, sent=None):
        """Receive exactly these bytes; fail at the first one that differs."""
        sent = expected if sent is None else sent
        got = bytearray()
        while len(got) < len(expected):
            try:
                data = self.try_receive(min(len(expected) - len(got), MIB))
            except Gone as gone:
                self.server.come_to_rest()
                raise Fail(f"{gone.how}: {difference(expected, bytes(got))}; "
                           f"{self.server.describe()}", expected=show(expected),
                           sent=show(sent)) from None
            if data != expected[len(got):len(got) + len(data)]:
                seen = bytes(got) + data
                raise Fail(difference(expected, seen), expected=show(expected), sent=show(sent))
            got += data
            if not data:
                self.wait(what=show(expected), sent=sent,
                          so_far=f"{len(got):,} of {len(expected):,} bytes came; ")

    def expect_end(self, sent=""):
        """The server closes in an orderly way, without a byte more."""
        while True:
            try:
                data = self.try_receive()
            except Gone as gone:
                if gone.how != "end of file":
                    raise Fail(gone.how, expected="end of file", sent=show(sent)) from None
                return
            if data:
                raise Fail(f"{show(data)} too many", sent=show(sent),
                           expected="nothing more, then end of file")
            self.wait(what="end of file", sent=sent)

    def roundtrip(self, payload=b"hello"):
        """Send one frame and receive it."""
        self.send(frame(payload))
        self.expect(frame(payload))

    def wait(self, reading=True, writing=False, what="", sent="", so_far=""):
        """Wait until the socket is ready. Fails as soon as it is certain that it never will be."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN * reading | select.POLLOUT * writing)
        end, still = time.monotonic() + FAILSAFE, Stillness(self)
        spin_ms = self.server.cpu_ms() + SPIN_MS
        while not poll.poll(200):
            if self.server.exited() and not poll.poll(0):
                break
            spins = self.server.cpu_ms() > spin_ms
            if still.lasts() or spins or time.monotonic() > end:
                raise Fail(f"{so_far}nothing more comes: {self.server.describe()}"
                           f"{', and goes in circles' if spins else ''}, "
                           f"{self.unread():,} bytes of this client unread",
                           expected=what, sent=show(sent))

    # Leaving

    def close(self):
        """Leave: FIN, or RST if something is unread."""
        self.sock.close()

    def reset(self):
        """Leave with RST, and nothing in TIME_WAIT."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Stillness:
    """Has a server come to rest, so that waiting longer is pointless?

    All threads asleep, nothing in flight, and for `rounds` looks in a row not one of them has been
    woken. A server with timers wakes up and is waited for until the failsafe.
    """

    rounds = 15  # looks, 0.2 s apart in Client.wait()

    def __init__(self, client):
        self.client, self.same, self.last = client, 0, None

    def lasts(self):
        """Look once more."""
        server, near = self.client.server, self.client.near_end()
        now = (server.wake_ups(), near.unsent if near else 0) if server.asleep() else None
        self.same = self.same + 1 if now is not None and now == self.last else 0
        self.last = now
        return self.same >= self.rounds


# Running a probe

class Stage:
    """What a probe gets: the stage's number, and servers."""

    def __init__(self, number, command=None, build=BUILD):
        self.number = number
        self.own = command is None  # one of ours, not a reader's
        self.build = build
        self.name = STAGES[number]
        self.command = command or [os.path.join(build, self.name)]
        self.servers, self.notes = [], []

    def start(self, *args, env=None, nofile=None, port=0, plugged=False, stderr=None, closed=()):
        """Start a server on a free port and wait until it listens.

        plugged: it finds stdout full when it writes its line, and we look what it does meanwhile.
        stderr: a descriptor in the place of the file that Server.stderr() shows.
        closed: of 0, 1 and 2, those that it finds closed, as after `2>&-`.
        """
        server = Server(self.command, args, env, nofile, port, plugged, stderr, closed)
        self.servers.append(server)
        return server

    def note(self, text):
        """Something to show beside the verdict."""
        self.notes.append(text)

    def finish(self, sent=""):
        """After the probe: is everything alive that should be?"""
        for server in self.servers:
            try:
                server.check_alive()
            except Fail as fail:
                fail.sent = sent
                raise
        if self.own and "address" in SAN:
            for server in self.servers:
                server.check_leaks()

    def stop(self):
        """End all servers, and close what was opened for them."""
        for server in self.servers:
            server.kill()
            server.stderr_file.close()
            for client in server.clients:
                client.sock.close()


def run_probe(the_probe, stage):
    """Run one probe in this process; returns a Verdict."""
    start = time.monotonic()

    def verdict(outcome, kind="", seen="", expected="", sent="", hint=""):
        return Verdict(outcome, kind, show(seen), show(expected), show(sent), list(stage.notes),
                       time.monotonic() - start, hint)

    try:
        try:
            the_probe.run(stage)
        except NoStart:
            raise
        except Fail as fail:
            stage.finish(fail.sent)  # a server that has died explains everything else
            raise
        stage.finish()
        return verdict("P")
    except Lesson as lesson:
        try:
            stage.finish()
        except Fail as fail:
            return verdict("F", "", fail.seen, fail.expected, hint=fail.hint)
        return verdict("L", lesson.kind, lesson.seen)
    except NoStart as fail:
        return verdict("F", "no start", fail.seen, fail.expected, fail.sent, fail.hint)
    except Fail as fail:
        return verdict("F", "", fail.seen, fail.expected, fail.sent, fail.hint)
    except Gone as gone:
        return verdict("F", "", f"the connection ended ({gone.how}); "
                                f"{stage.servers[-1].describe()}", "the connection lasts")
    except Exception as error:  # a fault of the probe itself must be seen, too
        line = error.__traceback__
        while line.tb_next:
            line = line.tb_next
        where = f"{os.path.basename(line.tb_frame.f_code.co_filename)}:{line.tb_lineno}"
        return verdict("F", "probe", f"the probe itself failed: {error!r} at {where}")
    finally:
        stage.stop()


def no_verdict(stage, at):
    """The probe takes too long: say where it is, and what the server does."""
    while at and os.path.basename(os.path.dirname(at.f_code.co_filename)) != "probes":
        at = at.f_back
    where = f" (the probe is at line {at.f_lineno} of {at.f_code.co_filename})" if at else ""
    raise Fail(f"no verdict within {CELL_FAILSAFE - 10:.0f} s; "
               + (stage.servers[-1].describe() if stage.servers else "no server yet") + where)


class Cell:
    """One probe on one stage, in a process of its own, so that it cannot disturb the others."""

    def __init__(self, the_probe, number, command=None, build=BUILD, stage_class=Stage):
        self.probe, self.number = the_probe, number
        self.deadline = time.monotonic() + CELL_FAILSAFE
        starter = os.getpid()
        self.pipe, write_end = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            self._work(starter, write_end, stage_class(number, command, build))
        os.close(write_end)

    def _work(self, starter, write_end, stage):
        """In the child."""
        try:
            die_with_parent(starter)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends us
            adopt_orphans()
            kernel.forget_netlink()
            raise_fd_limit()
            signal.signal(signal.SIGALRM, lambda _, at: no_verdict(stage, at))
            signal.setitimer(signal.ITIMER_REAL, CELL_FAILSAFE - 10)
            result = pickle.dumps(run_probe(self.probe, stage))
            signal.setitimer(signal.ITIMER_REAL, 0)
            end_descendants()
            with os.fdopen(write_end, "wb") as file:
                file.write(result)
        finally:
            os._exit(0)

    def result(self):
        """The Verdict; waits for it."""
        data = b""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                self.kill()
                return Verdict("F", "", f"no verdict within {CELL_FAILSAFE:.0f} s", "", "", [],
                               CELL_FAILSAFE)
            more = os.read(self.pipe, 65536)
            if not more:
                break
            data += more
        self.kill()
        if not data:
            return Verdict("F", "", "the probe's process died", "", "", [], 0.0)
        return pickle.loads(data)

    def kill(self):
        """End the child and, with it, its servers."""
        if self.pid:
            family = [self.pid] + kernel.descendants(self.pid)
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            os.waitpid(self.pid, 0)
            os.close(self.pipe)
            self.pid = 0


def run_cell(the_probe, number, command=None, build=BUILD):
    """Run one probe on one stage and return its Verdict."""
    cell = Cell(the_probe, number, command, build)
    try:
        return cell.result()
    finally:
        cell.kill()


def judge(the_probe, number, verdict):
    """'' if the verdict is what the chapters say, else what is wrong with it."""
    expected = the_probe.expect[number]
    got = verdict.outcome + (f":{verdict.kind}" if verdict.outcome == "L" else "")
    if got == expected:
        return ""
    if expected.startswith("L") and verdict.outcome == "P":
        return (f"the lesson no longer shows: {STAGES[number]} should fail here "
                f"({expected[2:]}), but it passes")
    if verdict.outcome == "L":
        return f"it {verdict.kind}: {verdict.seen}"
    return verdict.seen
