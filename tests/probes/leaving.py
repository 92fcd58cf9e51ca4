"""Connections that break, servers that are restarted, and what is left behind."""

import os
import random
import socket

from tests.outside import kernel
from tests.harness import SAN, Fail, Gone, frame, probe, wait_for
from tests.probes.flood import Flood

TCP_REPAIR = 19  # linux/tcp.h


def same_fds(server, before):
    """Wait until the server has as many descriptors open as before."""
    def back():
        return len(server.fds()) <= len(before)
    try:
        wait_for(back, "", server, failsafe=20)
    except Fail as fail:
        left = {fd: what for fd, what in server.fds().items() if fd not in before}
        some = ", ".join(f"{fd} is {what}" for fd, what in list(left.items())[:3])
        raise Fail(f"{len(left)} descriptors more than before: {some}; "
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
    return server.fds() if stage.own else warmed_up(server)


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
        now = sorted(server.fds())
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
    """The server ends first, so its port keeps connections: half-closed, then in TIME_WAIT."""
    port = free_port()
    server = stage.start(port=port)
    clients = [server.connect() for _ in range(3)]
    for client in clients[:1] if stage.number == 1 else clients:
        client.roundtrip()
    server.kill()
    wait_for(lambda: kept(port) <= {kernel.FIN_WAIT2}, "the kernel waits for the clients' ends")
    server = stage.start(port=port)
    clients.append(server.connect())
    clients[-1].roundtrip()

    server.kill()
    for client in clients:
        client.close()
    wait_for(lambda: kernel.FIN_WAIT2 not in kept(port), "the clients' ends have come")
    if kernel.TIME_WAIT not in kept(port):
        stage.note("nothing in TIME_WAIT: net.ipv4.tcp_max_tw_buckets are full")
    stage.start(port=port).connect().roundtrip()


def kept(port):
    """The states of a port's connections that no process has any more.

    There may be none: a kernel whose net.ipv4.tcp_max_tw_buckets are full forgets them at once.
    """
    return {socket.state for socket in kernel.from_proc(lambda local, *_: local == port)}


def free_port():
    """A port below those that connect() and bind() to port 0 give away."""
    while True:
        port = random.randrange(12_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            pass


GROWTH_KIB = 20 * 1024  # of memory while 5,000 clients come and go


@probe(row=19, title="no descriptor for child processes, none left after 10,000 clients",
       expect="P P P P P P P", look="open(2): O_CLOEXEC; accept4(2), socket(2): SOCK_CLOEXEC",
       hint="close each client's descriptor, also when the connection broke")
def descriptors(stage):
    """They leave in turn: by FIN, by RST, and by half-close."""
    server = stage.start()
    before = at_start(stage, server)
    client = server.connect()
    client.roundtrip()
    if closes_itself(server):
        stage.note("O_CLOEXEC is not asked for: Java closes all descriptors in a child process")
    else:
        require_cloexec(stage, server)
    client.close()
    come_and_go(server, 100)
    memory = kernel.memory_kib(server.pid)
    come_and_go(server, 100)
    require_bounded(stage, server, memory)
    same_fds(server, before)


def closes_itself(server):
    """Does its runtime need no O_CLOEXEC? Java sets none on sockets."""
    return "/libjvm.so" in kernel.read_file(f"/proc/{server.pid}/maps")


def require_cloexec(stage, server):
    """Our servers have it on everything; of a reader's, the files are those of its runtime."""
    for fd, what in server.fds().items():
        asked = stage.own or what.startswith("socket:")
        if fd > 2 and asked and not kernel.fd_flags(server.pid, fd) & os.O_CLOEXEC:
            raise Fail(f"descriptor {fd} ({what}) stays open in a child process",
                       expected="O_CLOEXEC on every descriptor")


def come_and_go(server, batches):
    """50 clients in each."""
    for batch in range(batches):
        clients = [server.connect() for _ in range(50)]
        for client in clients:
            client.send(frame(b"%d" % batch))
        for i, client in enumerate(clients):
            client.expect(frame(b"%d" % batch))
            if i == 0:
                client.half_close()
                client.expect_end()
            if i == 1:
                client.close()
            else:
                client.reset()
        server.clients.clear()


def require_bounded(stage, server, memory):
    """Fail if each 5,000 clients leave memory behind.

    A reader's server may collect its garbage late: it gets more clients until it has. A sanitizer
    keeps what is freed.
    """
    if SAN:
        return
    for _ in range(1 if stage.own else 5):
        now = kernel.memory_kib(server.pid)
        grown, memory = now - memory, now
        if grown <= GROWTH_KIB:
            return
        if not stage.own:
            come_and_go(server, 100)
    raise Fail(f"{grown:,} KiB more memory after each 5,000 clients, in the end {now:,} KiB",
               expected=f"less than {GROWTH_KIB:,} KiB more")
