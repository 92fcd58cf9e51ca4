"""What fails is no client, but what the server itself stands on."""

import ctypes
import os
import resource
import socket
import subprocess

from tests.outside import kernel, runtime
from tests.outside.shim import WAITS
from tests.harness import (KIB, MIB, SAN, Fail, Gone, Lesson, NotTried, die_with_parent, frame,
                           frames, plug, probe, wait_for)
from tests.probes.exhausted import ENOUGH_MS, quiet
from tests.probes.sharing import ended
from tests.probes.syscalls import OF_ACCEPT, SPIN, check_calls, start

PIDFD_GETFD = 438  # pidfd_getfd(2), in all architectures
ASK = frame(b"still there?")
SAID_MS = 100  # of CPU time: by then it has tried to write its line, whether it spins or not


def spins(server, spent, enough=ENOUGH_MS):
    """Wait until it sleeps, or has used CPU time for nothing. Is it the latter?"""
    wait_for(lambda: quiet(server) or server.cpu_ms() - spent > enough,
             "the server sleeps or spins", server)
    return server.cpu_ms() - spent > enough


# Row 33

def shut_listener(server):
    """shutdown() of the server's listening socket, through a descriptor of our own for it."""
    inodes = set().union(*map(kernel.socket_inodes, server.pids))
    for pid in server.pids:
        for fd, what in kernel.open_fds(pid).items():
            if what.startswith("socket:"):
                shut_if_listening(pid, fd)
    wait_for(lambda: server.port not in kernel.listening_ports(inodes), "nothing listens", server)


def shut_if_listening(pid, fd):
    """Nothing is left to do with a socket that the server has closed meanwhile."""
    try:
        taken = take(pid, fd)
    except PermissionError:
        raise NotTried("it needs pidfd_getfd(), and this machine forbids it (a container may: "
                       "--cap-add=SYS_PTRACE)") from None
    except OSError:
        return
    with taken:
        if taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            taken.shutdown(socket.SHUT_RDWR)


def take(pid, fd):
    """A copy of another process's socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        number = libc.syscall(PIDFD_GETFD, process, fd, 0)
    finally:
        os.close(process)
    if number == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.socket(fileno=number)


@probe(row=33, title="the listener is shut down: it says so, and serves on",
       expect="P L:spins L:spins L:spins P P P",
       look="accept(2): EINVAL, \"Error handling\"",
       hint="only EINTR and the errors of one connection may be tried again at once",
       of_runtime=OF_ACCEPT, runtimes=runtime.ACCEPTING)
def listener_fails(stage):
    """From now on accept() fails with EINVAL. The client that is connected must not notice."""
    server = stage.start()
    client = server.connect()
    client.roundtrip()
    spent = server.cpu_ms()
    shut_listener(server)
    lesson = spins(server, spent)
    client.roundtrip()
    if not lesson:
        client.close()  # who serves one at a time asks for the next one only now
        wait_for(lambda: not client.accepted(), "its descriptor is closed", server)
        if stage.own:
            wait_for(server.stderr, "a line on stderr: accept: Invalid argument", server)
        if spins(server, server.cpu_ms()):
            raise Fail("it spins", expected="it sleeps before it tries again")
    else:
        raise Lesson(f"more than {ENOUGH_MS} ms of CPU time, although nobody can come. The client "
                     "that is there is served", "spins")


# Row 34

def waits_in(stage):
    """The call, or the calls, in which it waits for its first client."""
    server, shim = start(stage, "")
    wait_for(server.asleep, "the server sleeps", server)
    found = [call for call in WAITS if shim[call].calls]
    server.kill()
    return found or ["wait"]


@probe(row=34, title="the wait fails again and again: it says so and rests",
       expect="- P P P P P P", look="select(2), poll(2), epoll_wait(2): EINVAL",
       hint="only EINTR may be tried again at once; with anything else, rest for a moment",
       of_runtime="It is {} that waits")
def wait_fails(stage):
    """From the second on, each wait fails at once. It may rest in another call of that kind."""
    server, shim = start(stage, " ".join(f"{call}:2-:EINVAL" for call in waits_in(stage)))
    try:
        server.connect()
    except Fail:
        pass  # it may have rested too early to see it
    wait_for(lambda: shim.most_fruitless >= SPIN
             or quiet(server) and (server.stderr() or not stage.own),
             "a line on stderr, and it sleeps", server)
    if not stage.own and shim["wait"].calls < 2:
        return stage.note("it waits in other calls than select(), poll() and epoll_wait()")
    check_calls(stage, server, shim)


@probe(row=34, title="fewer descriptors allowed than are open: served, or later",
       expect="P P P P P P P", look="poll(2): EINVAL, more than RLIMIT_NOFILE descriptors",
       hint="poll() fails, and not because of a signal: say it, rest, and try again",
       of_runtime="It is {} that waits")
def limit_below(stage):
    """The limit is lowered below the number of descriptors that it watches, and raised again."""
    server = stage.start()
    clients = [server.connect() for _ in range(10)]
    clients[0].roundtrip()
    wait_for(server.asleep, "the server sleeps", server)
    old = server.limit_fds(3)
    clients[0].roundtrip()  # the wait that it sleeps in began before
    spent = server.cpu_ms()
    clients[0].send(ASK)
    if spins(server, spent):
        raise Fail(f"more than {ENOUGH_MS} ms of CPU time, and {server.describe()}",
                   expected="an answer, or a line on stderr and a rest")
    if not clients[0].readable() and not server.stderr():
        raise Fail(f"no answer and no line on stderr; {server.describe()}",
                   expected="an answer, or a line on stderr and a rest")
    server.lift_limit(old)
    clients[0].expect(ASK)


# Row 35

@probe(row=35, title="0 and 2 are closed at its start: no client gets these numbers",
       expect="P P P P P P P", look="open(2): the lowest number that is free",
       hint="open /dev/null until 0, 1 and 2 are taken, before the first socket")
def closed_numbers(stage):
    """A line for stderr would go to the client that has number 2."""
    server = stage.start(closed=(0, 2))
    clients = [server.connect() for _ in range(5)]
    clients[0].roundtrip()
    wait_for(server.asleep, "the server sleeps", server)
    for fd, what in server.fds().items():
        if fd in (0, 1, 2) and what.startswith("socket:"):
            raise Fail(f"descriptor {fd} is a socket", expected="0, 1 and 2 are no sockets")


def lines_are_lost(stage, stderr, change=lambda server: None):
    """With a stderr that cannot be written, make it say something. Nothing else may change."""
    server = stage.start(stderr=stderr)
    change(server)
    first = server.connect()
    first.roundtrip()
    wait_for(server.asleep, "the server sleeps", server)
    old = server.limit_fds(first.server_fd())  # also when it has left
    second = server.connect()
    second.try_send(ASK)
    spins(server, server.cpu_ms(), SAID_MS)
    first.roundtrip()
    first.close()
    spins(server, server.cpu_ms(), SAID_MS)
    server.lift_limit(old)
    third = server.connect()
    third.send(ASK)
    if not ended(second):
        second.expect(ASK)
    second.close()
    third.expect(ASK)


def only_so_long(server):
    """No file of this process may grow any more."""
    hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))


@probe(row=35, title="a line on stderr that cannot be written is lost, and nothing else",
       expect="P P P P P P P", look="pipe(7): SIGPIPE, a full pipe; setrlimit(2): SIGXFSZ",
       hint="poll() before the write; block or ignore SIGPIPE and SIGXFSZ around it",
       of_runtime="It is {} that writes to stderr")
def log_fails(stage):
    """The reader of the log has gone; it sleeps; the file may not grow; the disk is full."""
    reader, writer = os.pipe()
    plug(writer)
    lines_are_lost(stage, writer)
    os.close(reader)
    lines_are_lost(stage, writer)
    with open("/dev/full", "wb") as full:
        lines_are_lost(stage, full)
    lines_are_lost(stage, None, only_so_long)


@probe(row=35, title="the line on stdout cannot be written: it ends with status 1",
       expect="P P P P P P P", look="write(2): ENOSPC, EPIPE; fflush(3)",
       hint="look at what printf() and fflush() return; nobody can find the port without the line",
       of_runtime="It is {} that writes to stdout")
def announcement_fails(stage):
    """The disk is full, or nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        for stdout, what in (full, "/dev/full"), (writer, "a pipe without a reader"):
            parent = os.getpid()
            process = subprocess.Popen([*stage.command, "--port", "0"], stdin=subprocess.DEVNULL,
                                       stdout=stdout, stderr=subprocess.DEVNULL,
                                       preexec_fn=lambda: die_with_parent(parent))
            try:
                wait_for(lambda: process.poll() is not None or kernel.blocked_calls(process.pid),
                         "its end", pids=[process.pid])
                if process.poll() is None:
                    wait_for(lambda: process.poll() is not None, f"its end, with stdout on {what}",
                             failsafe=5, pids=[process.pid])
            finally:
                process.kill()
                process.wait()
            if process.returncode != 1 and (stage.own or process.returncode == 0):
                ended = (kernel.signal_name(-process.returncode) if process.returncode < 0
                         else f"status {process.returncode}")
                raise Fail(f"with stdout on {what} it ends with {ended}", expected="exit status 1")


# Row 36

def pour(client, data):
    """Send until the server takes no more of it."""
    sent = 0
    while sent < len(data):
        count = client.try_send(data[sent:])
        sent += count
        if not count and quiet(client.server):
            return


@probe(row=36, title="memory runs out: it costs clients, not the server", expect="- - - - - P P",
       look="setrlimit(2): RLIMIT_AS; std::bad_alloc",
       hint="catch it where a client's bytes are kept, and drop that client",
       of_runtime="It is {} that asks for memory")
def no_memory(stage):
    """Twenty clients send and do not read, under a limit that has no room for what they sent."""
    if SAN:
        raise NotTried("a sanitizer needs terabytes of address space")
    server = stage.start()
    witness = server.connect()
    witness.roundtrip()
    with open(f"/proc/{server.pid}/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(server.pid, resource.RLIMIT_AS, (size + 8 * MIB, resource.RLIM_INFINITY))
    data, gone = frames(6 * MIB), 0
    for _ in range(20):
        client = server.connect(rcvbuf=16 * KIB)
        try:
            pour(client, data)
        except Gone:
            gone += 1
    witness.roundtrip()
    stage.note(f"{gone} of 20 were dropped")
