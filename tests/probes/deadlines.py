"""Clients that will never finish, and a server that is told to."""

import signal
import time

from tests.outside import kernel
from tests.harness import (FAILSAFE, KIB, MIB, Fail, Gone, Lesson, NoStart, NotTried, counted,
                           frame, probe, wait_for)
from tests.probes.flood import FRAME, Flood

TCP_REPAIR, IPPROTO_TCP = 19, 6  # linux/tcp.h
HOUR_MS = 3_600_000  # a deadline that does not come, however late we read
SOON = 0.25  # seconds: who has heard of a stop waits so long at least for the rest of a message
TRIES = 8  # of a client that is to be in time, and may have no core then
BUSY = "this machine is too busy: no client of ours is in time"


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


def closed(client):
    """Has every process that had the server's socket closed it? (It has been accepted.)"""
    far = client.far_end()
    return not far or not far.inode


def given_up(stage, server, client, what=""):
    """Wait until the server has closed the connection; Lesson if it waits without a deadline."""
    number, patience = client.server_fd(), Patience(stage, server)
    wait_for(lambda: closed(client) or patience.ends(client),
             "the connection is closed at its deadline" if not what
             else f"{what}: closed at the deadline", server)
    if not closed(client):
        name = "the connection" if number is None else f"descriptor {number}"
        why = patience.text() if patience.asked and not server.waits_for_ever() else \
            "without a timeout"
        raise Lesson(f"{what + ': ' if what else ''}{server.describe()}, {why}, and {name} stays "
                     "open", "holds")


def holds(server, client):
    """It sleeps with no timeout and nothing to read, and no timer wakes it: it will hold on."""
    return (server.waits_for_ever() and client.accepted() and not client.unread()
            and server.waits_for_ever())


class Patience:
    """How long a server is waited for: until it is certain that it has no deadline.

    A reader's server below stage 7 may have timers for other things, and nobody asks it for a
    deadline: so many wake-ups are enough. In stage 7 it may have a deadline that does not show, a
    timerfd or SO_RCVTIMEO: it is waited for until the failsafe.
    """

    WAKE_UPS = 10

    def __init__(self, stage, server):
        self.asked = not stage.own and stage.number < 7
        self.certain = stage.own or self.asked
        self.server, self.before = server, server.wake_ups()
        self.end = time.monotonic() + FAILSAFE / 2

    def ends(self, client):
        """Is it clear, or has it woken up so often that we need not know?"""
        if self.certain and holds(self.server, client):
            return True
        return self.asked and (self.server.wake_ups() - self.before >= self.WAKE_UPS
                               or time.monotonic() > self.end)

    def text(self):
        """What has been seen, for a message."""
        count = self.server.wake_ups() - self.before
        return f"after {counted(count, 'wake-up')}" if count >= self.WAKE_UPS else \
            f"after {FAILSAFE / 2:.0f} s"


@probe(row=27, title="a client sends a frame so slowly that it never ends",
       expect="L:holds L:holds L:holds L:holds L:holds L:holds P",
       look="epoll_wait(2): the timeout; clock_gettime(2): CLOCK_MONOTONIC",
       hint="a deadline for each whole message, not for each byte")
def slow_loris(stage):
    """A byte, then another one, each after a whole answer to somebody else."""
    server = start_with(stage, "--idle-ms", 400, "--tick-ms", 50)
    loris, = server.connect_with(frame(bytes(100_000))[:20])
    wait_for(lambda: loris.readable() or loris.accepted() and not loris.unread(),
             "the server reads the beginning, or has ended it", server)
    patience = Patience(stage, server)

    def dribble():
        if stage.number > 1:
            other, = server.connect_with(frame(b"and me?"))
            other.expect(frame(b"and me?"))
            other.close()
        try:
            loris.try_send(b".")
            while loris.try_receive():
                pass
        except Gone:
            return True
        wait_for(lambda: not loris.unread(), "the server reads the byte", server)
        return patience.ends(loris)

    wait_for(dribble, "the connection is closed at its deadline", server)
    given_up(stage, server, loris, "a frame that never ends")


@probe(row=27, title="a client vanishes without a FIN",
       expect="L:holds L:holds L:holds L:holds L:holds L:holds P",
       look="epoll_wait(2): the timeout; tcp(7): SO_KEEPALIVE",
       hint="nothing tells you that a peer has gone: only a deadline does")
def vanished(stage):
    """The client's socket disappears as in a power cut (TCP_REPAIR), where we may do that."""
    server = start_with(stage, "--idle-ms", 400, "--tick-ms", 50)
    client, = server.connect_with(frame(b"hello"))
    client.expect(frame(b"hello"))
    try:
        client.sock.setsockopt(IPPROTO_TCP, TCP_REPAIR, 1)
        client.sock.close()
    except PermissionError:
        stage.note("it is silent and does not vanish: TCP_REPAIR needs CAP_NET_ADMIN")
    given_up(stage, server, client)


@probe(row=27, title="a client that reads slowly is not silent", expect="- - - - - - P",
       look="send(2): what it has taken is a sign of life; tcp(7): SIOCOUTQ",
       hint="a deadline begins anew when the client takes output, and not only when it sends")
def slow_reader(stage):
    """It takes its answers for as long as three deadlines, and sends nothing meanwhile."""
    for idle in (0.4, 0.8, 1.6, 3.2):
        server = start_with(stage, "--idle-ms", int(1000 * idle), "--tick-ms", 50)
        flood, pauses = Flood(server.connect(rcvbuf=64 * KIB), 16 * MIB), Pauses()
        try:
            flood.push_until_stuck()
            pauses.end()
            while pauses.seconds() < 3 * idle:
                flood.pull(32 * KIB)
                pauses.end()
                time.sleep(idle / 10)
            flood.stop()
            flood.drain()
            return
        except Gone as gone:
            pauses.end()
            if pauses.longest < idle / 2:
                raise Fail(f"the connection ended ({gone.how}) while it read: "
                           f"{counted(flood.received, 'byte')} came within "
                           f"{pauses.seconds():.1f} s", sent=f"{counted(flood.sent, 'byte')}",
                           expected=f"a client that reads 32 KiB after each {idle / 10:.2f} s may "
                                    "go on") from None
    raise NotTried(BUSY)


class Pauses:
    """How long we have done nothing: we may have had no core."""

    def __init__(self):
        self.began = self.last = time.monotonic()
        self.longest = 0.0

    def end(self):
        """We do something."""
        now = time.monotonic()
        self.last, self.longest = now, max(self.longest, now - self.last)

    def seconds(self):
        """Since the beginning."""
        return self.last - self.began


def stop(server):
    """SIGTERM. Fail if nothing can come of it."""
    if kernel.ignores(server.pid, signal.SIGTERM):
        raise Fail(f"it ignores SIGTERM; {server.describe()}", expected="it ends after SIGTERM")
    server.ending = True
    server.signal(signal.SIGTERM)


def require_exit(stage, server, seen=""):
    """It must exit with 0 after stop(); Lesson if the signal has killed it."""
    code = server.wait_exit("it ends after SIGTERM")
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise Lesson(f"SIGTERM ends it at once{seen}", "dies")
    if code > 0 and not asked_to_drain(stage):
        raise Lesson(f"SIGTERM ends it, with status {code}{seen}", "dies")
    if code != 0:
        raise Fail(f"{server.describe()}. {server.last_words()}", expected="exit status 0",
                   sent="SIGTERM")


def asked_to_drain(stage):
    """Below stage 7, a reader's server may end in other ways than ours, and lose what it owes."""
    return stage.own or stage.number == 7


STOP = dict(row=28, expect="L:dies L:dies L:dies L:dies L:dies L:dies P",
            look="signal(7), signalfd(2), close(2)",
            hint="treat SIGTERM as an event: stop accepting, answer, send, then exit with 0")


@probe(title="SIGTERM: a client that reads gets all it is owed", **STOP)
def stop_while_reading(stage):
    """Everything that had reached the server's kernel is owed."""
    server = start_with(stage, "--drain-ms", HOUR_MS)
    client = server.connect(rcvbuf=64 * KIB)
    client.roundtrip()
    flood = Flood(client, 16 * MIB)
    try:
        flood.push_until_stuck()
    except Gone:
        stop(server)
        require_exit(stage, server)
    near = client.near_end()
    if not near:
        raise Gone("reset")
    owed = (flood.sent - near.unsent) // FRAME * FRAME
    stop(server)
    pull_all(flood, server)
    missing = owed - flood.received
    owes = f", when it owes {counted(missing, 'byte')} more" if missing > 0 else ""
    require_exit(stage, server, owes)
    if missing > 0:
        seen = f"{counted(flood.received, 'byte')}, then the end"
        if not asked_to_drain(stage):
            raise Lesson(f"SIGTERM ends it, with status 0: {seen}, of {owed:,}", "dies")
        raise Fail(seen, expected=counted(owed, "byte"), sent="SIGTERM while that was pending")


def pull_all(flood, server):
    """Receive until the connection ends, or another process keeps it though the server has gone."""
    try:
        while flood.pull() or not (server.exited() and flood.client.accepted()):
            flood.wait(sending=False)
    except Gone:
        pass


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
    try:
        require_exit(stage, server)
    except Fail as fail:
        if asked_to_drain(stage) or server.exited():
            raise
        raise Lesson(f"SIGTERM does not end it: {fail.seen}", "dies") from None


@probe(title="SIGTERM: a client that goes on sending does not move the deadline",
       **{**STOP, "expect": "- - - - - - P", "look": "--drain-ms: from when on does it count?",
          "hint": "the deadline of a stop is set once, when SIGTERM comes"})
def stop_while_sending(stage):
    """A frame has begun, and goes on byte by byte for as long as the server lives."""
    server = start_with(stage, "--drain-ms", 300)
    client = server.connect()
    client.roundtrip()
    client.send(frame(bytes(MIB))[:100])
    wait_for(lambda: not client.unread(), "the server reads a part of a frame", server)
    stop(server)

    def ends():
        try:
            client.try_send(b".")
        except Gone:
            pass
        return server.exited()

    wait_for(ends, "it ends 300 ms after SIGTERM, whatever this client does", server)
    require_exit(stage, server)


@probe(title="SIGTERM: a message that has begun may end",
       **{**STOP, "expect": "- - - - - - P", "look": "what becomes of input that is no message yet",
          "hint": "after SIGTERM, wait a little for the rest of a message that has begun"})
def stop_in_a_message(stage):
    """Its rest comes when the server has heard of the signal, and has nothing to do."""
    message = frame(b"begun before SIGTERM, and sent to its end after it")
    for _ in range(TRIES):
        server = start_with(stage, "--drain-ms", HOUR_MS)
        client = server.connect()
        client.roundtrip()
        client.send(message[:20])
        wait_for(lambda: not client.unread(), "the server reads a part of a frame", server)
        woken, begin = server.wake_ups(), time.monotonic()
        stop(server)
        wait_for(lambda: server.exited() or server.wake_ups() > woken and server.asleep(),
                 "the server has had the signal, and sleeps", server)
        in_time = time.monotonic() - begin < SOON
        try:
            client.send(message[20:])
            client.expect(message)
            client.expect_end()
            return require_exit(stage, server)
        except Fail:
            if in_time:
                raise
    raise NotTried(BUSY)


@probe(title="SIGTERM: who waits in the accept queue is answered", **STOP)
def stop_with_queue(stage):
    """They have connected, and asked, before the signal came."""
    server = start_with(stage, "--drain-ms", HOUR_MS)
    server.pause()
    clients = [server.connect() for _ in range(100)]  # few servers have a shorter queue
    for client in clients:
        client.send(frame(b"too late?"))
    stop(server)
    server.resume()
    if stage.number < 7:
        require_exit(stage, server)
    try:
        for client in clients:
            client.expect(frame(b"too late?"))
            client.expect_end()
    except Fail as fail:
        if asked_to_drain(stage):
            raise
        raise Lesson(f"SIGTERM ends it, with status 0, and who waited gets: {fail.seen}",
                     "dies") from None
    require_exit(stage, server)
