"""Connections that break, servers that are restarted, and what is left behind."""

import os
import random
import socket

import kernel
from harness import Fail, Gone, frame, probe, wait_for
from probes.flood import Flood

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
    server.connect().close()
    server.connect().roundtrip()
    server.clients[-1].close()
    server.connect().roundtrip()
    server.clients[-1].close()
    wait_for(server.asleep, "the server sleeps", server)
    before = settled(server)
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
    before = server.fds()
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


@probe(row=19, title="no descriptor for child processes, none left after 10,000 clients",
       expect="P P P P P P P", look="open(2): O_CLOEXEC; accept4(2), socket(2): SOCK_CLOEXEC",
       hint="close each client's descriptor, also when the connection broke")
def descriptors(stage):
    """They leave in turn: by FIN, by RST, and by half-close."""
    server = stage.start()
    before = server.fds()
    client = server.connect()
    client.roundtrip()
    for fd, what in server.fds().items():
        if fd > 2 and not kernel.fd_flags(server.pid, fd) & os.O_CLOEXEC:
            raise Fail(f"descriptor {fd} ({what}) stays open in a child process",
                       expected="O_CLOEXEC on every descriptor")
    client.close()
    for batch in range(200):
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
    same_fds(server, before)
