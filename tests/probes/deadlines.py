"""Clients that will never finish, and a server that is told to."""

import signal

import kernel
from harness import KIB, MIB, Fail, Gone, Lesson, NoStart, frame, probe, wait_for
from probes.flood import FRAME, Flood

TCP_REPAIR, IPPROTO_TCP = 19, 6  # linux/tcp.h


def start_with(stage, *options):
    """Start with options that only stage 07 has."""
    if stage.number < 7:
        return stage.start()
    try:
        return stage.start(*options)
    except NoStart as fail:
        if stage.own:
            raise
        raise Fail(fail.seen, expected="stage 07 takes " + " ".join(map(str, options)),
                   sent=fail.sent) from None


def given_up(server, client, what):
    """Wait until the server has closed the connection; Lesson if it waits without a deadline."""
    number = client.server_fd()

    def closed():
        return number not in server.fds() or holds(server, client)
    wait_for(closed, f"{what}: closed at the deadline", server)
    if number in server.fds():
        raise Lesson(f"{what}: {server.describe()}, without a timeout, and descriptor {number} "
                     "stays open", "holds")


def holds(server, client):
    """It sleeps with no timeout and nothing to read, and no timer wakes it: it will hold on."""
    return (server.waits_for_ever() and client.accepted() and not client.unread()
            and server.waits_for_ever())


@probe(row=27, title="a client sends a frame so slowly that it never ends",
       expect="L:holds L:holds L:holds L:holds L:holds L:holds P",
       look="epoll_wait(2): the timeout; clock_gettime(2): CLOCK_MONOTONIC",
       hint="a deadline for each whole message, not for each byte")
def slow_loris(stage):
    """A byte, then another one, each after a whole answer to somebody else."""
    server = start_with(stage, "--idle-ms", 400, "--tick-ms", 50)
    loris = server.connect()
    loris.send(frame(bytes(100_000))[:20])
    wait_for(lambda: loris.accepted() and not loris.unread(), "the server reads the beginning",
             server)
    other = server.connect() if stage.number > 1 else None

    def dribble():
        if other:
            other.roundtrip()
        try:
            loris.try_send(b".")
            while loris.try_receive():
                pass
        except Gone:
            return True
        wait_for(lambda: not loris.unread(), "the server reads the byte", server)
        return holds(server, loris)

    wait_for(dribble, "the connection is closed at its deadline", server)
    given_up(server, loris, "a frame that never ends")


@probe(row=27, title="a client vanishes without a FIN",
       expect="L:holds L:holds L:holds L:holds L:holds L:holds P",
       look="epoll_wait(2): the timeout; tcp(7): SO_KEEPALIVE",
       hint="nothing tells you that a peer has gone: only a deadline does")
def vanished(stage):
    """The client's socket disappears as in a power cut (TCP_REPAIR), where we may do that."""
    server = start_with(stage, "--idle-ms", 400, "--tick-ms", 50)
    client = server.connect()
    client.roundtrip()
    near, far = client.sock.getsockname(), client.sock.getpeername()
    number = client.server_fd()
    try:
        client.sock.setsockopt(IPPROTO_TCP, TCP_REPAIR, 1)
        client.sock.close()
    except PermissionError:
        stage.note("it is silent and does not vanish: TCP_REPAIR needs CAP_NET_ADMIN")

    def open_still():
        end = kernel.find_socket(far, near)
        return (server.waits_for_ever() and number in server.fds() and end is not None
                and end.state == kernel.ESTABLISHED)
    wait_for(lambda: number not in server.fds() or open_still(),
             "the connection is closed at its deadline", server)
    if number in server.fds():
        raise Lesson(f"{server.describe()}, without a timeout, and descriptor {number} stays open",
                     "holds")


def stop(server):
    """SIGTERM. Lesson if that is the end of it."""
    server.ending = True
    server.signal(signal.SIGTERM)


def require_exit(server, seen=""):
    """It must exit with 0 after stop(); Lesson if the signal has killed it."""
    code = server.wait_exit("it ends after SIGTERM")
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise Lesson(f"SIGTERM ends it at once{seen}", "dies")
    if code != 0:
        raise Fail(f"{server.describe()}. {server.last_words()}", expected="exit status 0",
                   sent="SIGTERM")


STOP = dict(row=28, expect="L:dies L:dies L:dies L:dies L:dies L:dies P",
            look="signal(7), signalfd(2), close(2)",
            hint="treat SIGTERM as an event: stop accepting, answer, send, then exit with 0")


@probe(title="SIGTERM: a client that reads gets all it is owed", **STOP)
def stop_while_reading(stage):
    """Everything that had reached the server's kernel is owed."""
    server = start_with(stage, "--drain-ms", 20_000)
    client = server.connect(rcvbuf=64 * KIB)
    client.roundtrip()
    flood = Flood(client, 16 * MIB)
    try:
        flood.push_until_stuck()
    except Gone:
        stop(server)
        require_exit(server)
    owed = (flood.sent - client.near_end().unsent) // FRAME * FRAME
    stop(server)
    try:
        while flood.pull() or not ready_to_end(flood):
            pass
    except Gone:
        pass
    require_exit(server, f", when it owes {owed - flood.received:,} bytes more")
    if flood.received < owed:
        raise Fail(f"{flood.received:,} bytes, then the end", expected=f"{owed:,} bytes",
                   sent="SIGTERM while that was pending")


def ready_to_end(flood):
    """Wait for more; never true, because the end comes as Gone."""
    flood.wait(sending=False)
    return False


@probe(title="SIGTERM: a client that does not read holds it up until the deadline", **STOP)
def stop_while_stuck(stage):
    """Nobody will ever read what is pending."""
    server = start_with(stage, "--drain-ms", 300)
    client = server.connect(rcvbuf=64 * KIB)
    client.roundtrip()
    try:
        Flood(client, 16 * MIB).push_until_stuck()
    except Gone:
        pass
    stop(server)
    require_exit(server)


@probe(title="SIGTERM: who waits in the accept queue is answered", **STOP)
def stop_with_queue(stage):
    """They have connected, and asked, before the signal came."""
    server = start_with(stage, "--drain-ms", 20_000)
    server.pause()
    clients = [server.connect() for _ in range(100)]  # few servers have a shorter queue
    for client in clients:
        client.send(frame(b"too late?"))
    stop(server)
    server.resume()
    if stage.number < 7:
        require_exit(server)
    for client in clients:
        client.expect(frame(b"too late?"))
        client.expect_end()
    require_exit(server)
