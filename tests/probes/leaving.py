"""Connections that break, servers that are restarted, and what is left behind."""

import contextlib
import os
import random
import socket
import time

from tests.outside import kernel, runtime
from tests.harness import (SAN, Deadline, Fail, Gone, Lesson, NotTried, counted, frame, probe,
                           wait_for)
from tests.probes.flood import Flood

TCP_REPAIR = 19  # linux/tcp.h
TRIES = 8  # to have a connection kept in TIME_WAIT


def same_fds(server, before):
    """Wait until the server has as many descriptors open as before."""
    def back():
        return len(server.owed_fds()) <= len(before)
    try:
        wait_for(back, "", server, failsafe=20)
    except Fail as fail:
        left = {fd: what for fd, what in server.owed_fds().items() if fd not in before}
        some = ", ".join(f"{fd} is {what}" for fd, what in list(left.items())[:3])
        raise Fail(f"{counted(len(left), 'descriptor')} more than before: {some}; "
                   f"{fail.seen}", expected=f"{len(before)}, as at the start") from None


@probe(row=9, title="data, then a reset: the others are served", expect="P P P P P P P",
       look="recv(2): ECONNRESET; send(2): EPIPE and SIGPIPE; MSG_NOSIGNAL",
       hint="an error of one connection closes that one; send() needs MSG_NOSIGNAL")
def data_then_reset(stage):
    """Four ways to leave, all of them in the kernel's queue before the server looks."""
    server = stage.start()
    before = warmed_up(server)
    for way in ("reset", "end, then reset", "closed", "nothing sent"):
        server.pause()
        client = server.connect()
        if way != "nothing sent":
            client.send(frame(b"farewell") * 3)
        if way == "end, then reset":
            client.half_close()  # the server's send() fails with EPIPE after that, not ECONNRESET
        if way == "closed":
            client.close()
        else:
            client.reset()
        server.resume()
        other = server.connect()
        other.roundtrip(way.encode())
        other.close()
        same_fds(server, before)


def at_start(stage, server):
    """The descriptors of a server without clients."""
    return server.owed_fds() if stage.own else warmed_up(server)


def warmed_up(server):
    """The same of a reader's server, when some clients have come and gone.

    A runtime may open a socket or a file of its own when it first needs it, and keep it.
    """
    for talks in (False, True, True):
        client = server.connect()
        if talks:
            client.roundtrip()
        client.close()
    wait_for(server.asleep, "the server sleeps", server)
    return settled(server)


def settled(server):
    """The descriptors of a server without clients."""
    wait_for(lambda: not any(client.fileno() != -1 and client.accepted()
                             for client in server.clients), "all clients gone", server)
    last, same = None, 0
    while same < 3:  # the last close() may be on its way
        wait_for(server.asleep, "the server sleeps", server)
        now = sorted(server.owed_fds(), key=str)
        last, same = now, same + 1 if now == last else 0
    return last


@probe(row=9, title="a reset while the server writes", expect="P P P P P P P",
       look="send(2): ECONNRESET, EPIPE", hint="a failed send() closes that connection only")
def reset_while_writing(stage):
    """It has output for a client that does not read, and that client is gone."""
    server = stage.start()
    before = at_start(stage, server)
    for end_first in (False, True):
        client = server.connect(rcvbuf=64 * 1024)
        client.roundtrip()
        try:
            Flood(client, 16 << 20).push_until_stuck()
            if end_first:
                client.half_close()
        except Gone:
            stage.note("the client that does not read is dropped")
        client.reset()
        other = server.connect()
        other.roundtrip()
        other.close()
        same_fds(server, before)


@probe(row=18, title="a restart at once, with connections in TIME_WAIT", expect="P P P P P P P",
       look="socket(7): SO_REUSEADDR, before bind(2)", hint="set SO_REUSEADDR on the listener")
def restart(stage):
    """Where others have filled the kernel's table of connections in TIME_WAIT, it has room soon."""
    for _ in range(TRIES - 1):
        try:
            return restarted(stage)
        except NotTried:
            time.sleep(2)
    return restarted(stage)


def restarted(stage):
    """The server ends first, so its port keeps connections: half-closed, then in TIME_WAIT."""
    port, _kept = free_port()
    server = stage.start(port=port)
    clients = [server.connect() for _ in range(3)]
    for client in clients[:1] if stage.number == 1 else clients:
        client.roundtrip()
    server.kill()
    wait_for(lambda: kept(port) <= {kernel.FIN_WAIT2}, "the kernel waits for the clients' ends")
    require(kept(port))
    server = stage.start(port=port)
    clients.append(server.connect())
    clients[-1].roundtrip()

    server.kill()
    for client in clients:
        client.close()
    wait_for(lambda: kernel.FIN_WAIT2 not in kept(port), "the clients' ends have come")
    require(kernel.TIME_WAIT in kept(port))
    stage.start(port=port).connect().roundtrip()


def kept(port):
    """The states of a port's connections that no process has any more.

    There may be none: a kernel whose net.ipv4.tcp_max_tw_buckets are full forgets them at once.
    """
    return {socket.state for socket in kernel.from_proc(lambda local, *_: local == port)}


def require(is_kept):
    """Nothing can be seen on a machine that has forgotten the connections already."""
    if not is_kept:
        raise NotTried("nothing is in TIME_WAIT: the net.ipv4.tcp_max_tw_buckets are full")


def free_port():
    """A port below those that connect() and bind() to port 0 give away, with no connection left.

    It is that of no other probe for as long as what stands for it is kept, too.
    """
    while True:
        port, name = random.randrange(12_000, 32_000), socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            name.bind(f"\0port {port} of the course")
            with socket.create_server(("127.0.0.1", port)):
                pass
            if not kept(port):
                return port, name
        name.close()


@probe(row=19, title="no descriptor for child processes", expect="P P P P P P P",
       look="open(2): O_CLOEXEC; accept4(2), socket(2): SOCK_CLOEXEC",
       hint="ask for it when the descriptor is made: accept4(..., SOCK_CLOEXEC)")
def inherited(stage):
    """What a program that the server starts would get, without knowing."""
    server = stage.start()
    client = server.connect()
    client.roundtrip()
    name = "" if stage.own else runtime.name(server.pid)
    if name in ("Java", "Erlang"):
        return stage.note(f"not asked for: {name} closes all descriptors in a child process")
    try:
        require_cloexec(stage, server)
    except Fail as fail:
        if name == "PHP":
            raise Lesson(f"{fail.seen}. {name} has no call to change that: what you start from "
                         "this server gets its sockets", "runtime") from None
        raise


CLIENTS = 5000  # come and go, and then as many again
SECONDS = 8  # for these, if the server is a reader's: a slow one gets fewer
GROWTH_KIB = 20 * 1024  # of memory meanwhile
STACKS_KIB = 4 << 20  # of addresses: nobody needs so many for 50 clients at a time
JOIN = "pthread_detach(3): a thread that has ended keeps its stack until it is joined"
ZOMBIES = ("wait(2): a child that has ended stays until its parent has waited for it",
           "waitpid(-1, NULL, WNOHANG) until it returns 0, or ignore SIGCHLD: then none stays")
STAYS = ("fork(2): where does the child go when its client has left? It must not come to accept()",
         "end the child with _exit() as soon as its client has left")
NOISE_KIB = 4 * 1024  # of it, also where few come
FILES = 100  # that a runtime may open in that time
PROCESSES = 100  # that a server may keep for later


@probe(row=19, title="nothing is left after 10,000 clients", expect="P P P P P P P",
       look="close(2); /proc/PID/fd; /proc/PID/status: VmRSS",
       hint="close each client's descriptor, also when the connection broke")
def leaked(stage):
    """They leave in turn: by FIN, by RST, and by half-close."""
    server = stage.start()
    before, visits = at_start(stage, server), Visits(server)
    visits.come_and_go()
    memory, files = server.memory_kib(), len(server.fds())
    processes = started(server)
    visits.come_and_go()
    require_few_left(server, visits, processes)
    require_bounded(server, visits, memory)
    if len(server.fds()) > files + FILES:
        raise Fail(f"{counted(len(server.fds()) - files, 'descriptor')} more after each "
                   f"{counted(visits.clients, 'client')}", expected="as many as before")
    same_fds(server, before)
    if visits.clients < CLIENTS:
        stage.note(f"{counted(visits.clients, 'client')} at a time, and not {CLIENTS:,}: it needs "
                   f"more than {SECONDS} s for these")


def started(server):
    """The processes that it has started and not waited for, when those that end have ended."""
    wait_for(server.others_asleep, "its processes end, or sleep", server)
    return kernel.descendants(server.process.pid)


def require_few_left(server, visits, before):
    """Fail if processes that it starts for its clients stay when these have left."""
    left = set(started(server))
    more = len(left) - len(before)
    if more <= PROCESSES:
        return
    ended = sum(kernel.state(pid) == "Z" for pid in left - set(before))
    look, hint = ZOMBIES if ended > more / 2 else STAYS
    raise Fail(f"{more:,} children more after {counted(visits.clients, 'client')}, of which "
               f"{ended:,} have ended",
               expected="as many as before", look=look, hint=hint)


def require_cloexec(stage, server):
    """Our servers have it on everything. Of a reader's only the sockets count: the files are those
    of its runtime, and its epoll instance, which may be a library's, is only told of."""
    for pid, fd, what in [(pid, fd, what) for pid in server.pids
                          for fd, what in kernel.open_fds(pid).items()]:
        if fd <= 2 or kernel.fd_flags(pid, fd) & os.O_CLOEXEC:
            continue
        if stage.own or what.startswith("socket:"):
            raise Fail(f"descriptor {fd} ({what}) stays open in a child process",
                       expected="O_CLOEXEC on every descriptor")
        if what == "anon_inode:[eventpoll]":
            stage.note(f"descriptor {fd} ({what}) stays open in a child process: "
                       "epoll_create1(EPOLL_CLOEXEC) mends that")


class Visits:
    """Clients that come and go, as many each time.

    A server that starts a program for each client, or an interpreter that is slow, needs minutes
    for 5,000 of them: how many come in SECONDS must do there.
    """

    def __init__(self, server):
        self.server, self.clients = server, CLIENTS
        self.space = server.memory_kib("VmSize")
        self.deadline = None if server.own else Deadline(SECONDS, *server.pids)

    def come_and_go(self, together=50):
        """Once more. The first time decides how many they are."""
        for done in range(together, self.clients + 1, together):
            try:
                self._visit(together, frame(b"%d" % done))
            except Fail as fail:
                if self.server.memory_kib("VmSize") - self.space > STACKS_KIB:
                    fail.look = JOIN
                raise
            if self.deadline and self.deadline.passed():
                self.clients = done
                break
        self.deadline = None

    def _visit(self, together, message):
        """So many at once."""
        clients = [self.server.connect() for _ in range(together)]
        for client in clients:
            client.send(message)
        for i, client in enumerate(clients):
            client.expect(message)
            if i == 0:
                client.half_close()
                client.expect_end()
            if i == 1:
                client.close()
            else:
                client.reset()
        self.server.clients.clear()


def require_bounded(server, visits, memory):
    """Fail if each 5,000 clients leave memory behind. A sanitizer keeps what is freed.

    A reader's server may run on a runtime that collects its garbage late, and whose heap levels off
    late: it gets more clients until it has. One that grows as fast at the end as at the beginning
    will not.
    """
    if SAN:
        return
    growth, most = [], max(NOISE_KIB, GROWTH_KIB * visits.clients // CLIENTS)
    for _ in range(rounds(server)):
        now = server.memory_kib()
        growth.append(now - memory)
        memory = now
        if growth[-1] <= most:
            return
        if not server.own:
            visits.come_and_go()
    half = len(growth) // 2
    if half and runtime.collects(server.pid) and sum(growth[-half:]) < sum(growth[:half]) * 3 / 4:
        return
    raise Fail(f"{growth[-1]:,} KiB more memory after each {counted(visits.clients, 'client')}, in "
               f"the end {now:,} KiB", expected=f"less than {most:,} KiB more")


def rounds(server):
    """How often we look whether the memory has stopped growing."""
    return 1 if server.own else 10 if runtime.collects(server.pid) else 5
