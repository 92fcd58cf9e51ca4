"""System calls that are interrupted, fail, or do a part: what no client can bring about.

The server runs under build/shim.so, which alters its calls (outside/shim.cpp says how, and why what
it does is legal). A reader's server can be out of its reach: Go, for one, makes its system calls
without libc. Then there is a note instead of a verdict, and nothing is claimed.
"""

import os
import signal
import socket
import struct

from tests.outside import kernel, runtime
from tests.harness import (KIB, MIB, Fail, Gone, Lesson, NotTried, counted, frame, frames, pattern,
                           probe, wait_for)
from tests.probes.leaving import warmed_up
from tests.outside.shim import SPIN, Shim

BURST = 100  # connections at a time: servers with a queue shorter than this are rare
ROUNDS = 10
OF_ACCEPT = "accept() is called by {}, and so are its errors dealt with"


class OutOfReach(NotTried):
    """The shim is not there, or the server does not make its calls through libc."""

    def __init__(self, why="build/shim.so is missing, or has no hold of this server"):
        super().__init__(why)


def start(stage, rules, situation=""):
    """A server under the shim: the server and its counters.

    situation: what is done to it, in words, for the message if it fails.
    """
    try:
        shim = Shim(rules, os.path.join(stage.build, "shim.so"))
    except FileNotFoundError as error:
        if stage.own:
            raise Fail(str(error), expected="the shim: make") from None
        raise OutOfReach from None
    server = stage.start(env=shim.variables())
    if not shim.pid:
        if stage.own:
            raise Fail("the shim has no hold of it")
        raise OutOfReach
    stage.situation = lambda: f" (while {situation})" if situation and shim.injected() else ""
    return server, shim


def check_calls(stage, server, shim):
    """After a probe that altered calls: did it, and was there no busy loop?"""
    require_no_loop(server, shim)
    if shim.injected():
        return
    if stage.own:
        raise Fail(f"nothing was altered by {shim.rules!r}\n{shim.report()}")
    raise OutOfReach


def require_no_loop(server, shim):
    """Fail if it has made calls again and again that could not do anything."""
    if shim.most_fruitless >= SPIN:
        raise Fail(f"{counted(shim.most_fruitless, 'system call')} in a row without progress; "
                   f"{server.describe()}", expected="a server that waits when it can do nothing")


def at_rest(stage, server):
    """The number of descriptors of a server that sleeps, with those that its runtime opens later.

    It is not warmed up itself: the first calls are those that the rules alter.
    """
    wait_for(server.asleep, "the server sleeps", server)
    return len(server.owed_fds()) + (0 if stage.own else opened_later(stage))


def opened_later(stage):
    """How many descriptors a reader's server keeps after its first clients, besides theirs."""
    server = stage.start()
    wait_for(server.asleep, "the server sleeps", server)
    count = len(server.owed_fds())
    count = max(0, len(warmed_up(server)) - count)
    server.kill()
    return count


def check_descriptors(stage, server, before):
    """All clients have left: the server has given back what it had for them."""
    wait_for(lambda: len(server.owed_fds()) == before
             or not stage.own and len(server.owed_fds()) < before,
             f"{counted(before, 'descriptor')}, as before the clients came", server)


# Row 10

@probe(row=10, title="SIGSTOP and SIGCONT change nothing", expect="P P P P P P P",
       look="signal(7), \"Interruption of system calls\": epoll_wait(2) fails with EINTR then",
       hint="a call that fails with EINTR has done nothing: make it again")
def stopped_and_continued(stage):
    """Stopped while it sleeps, with nothing to do and with bytes coming in meanwhile."""
    server = stage.start()
    client = server.connect()
    for i in range(50):
        message = frame(str(i).encode())
        client.roundtrip()
        wait_for(server.asleep, "the server sleeps", server)
        server.pause()
        if i % 2:
            client.send(message)
        server.resume()
        if not i % 2:
            client.send(message)
        client.expect(message)


class Storm:
    """Signals that the server handles, one at a time, so that none of them is merged."""

    def __init__(self, server, shim):
        self.server, self.shim, self.sent = server, shim, 0

    def blow(self, times=1):
        """Send the signal, and wait until its handler has run."""
        for _ in range(times):
            self.server.signal(signal.SIGUSR1)
            self.sent += 1
            wait_for(lambda: self.shim.signals >= self.sent, "the signal is handled", self.server)


    def reaches(self):
        """Is it the shim's handler that runs? A runtime may have put its own in that place."""
        self.server.signal(signal.SIGUSR1)
        self.sent += 1

        def handled():
            return self.shim.signals or self.server.exited() or all(
                self.server.asleep() and not kernel.is_pending(self.server.pid, signal.SIGUSR1)
                for _ in range(20))
        wait_for(handled, "the signal is handled", self.server)
        return self.shim.signals == self.sent


def heeds(stage, number):
    """Does a reader's server catch or ignore this signal of itself?"""
    server = stage.start()
    wait_for(server.asleep, "the server sleeps", server)
    found = kernel.ignores(server.pid, number) or kernel.catches(server.pid, number)
    server.kill()
    return found


def send_until_full(client, data, storm):
    """Send without reading, until the server sleeps and takes no more. Returns how much it took."""
    sent = 0
    while True:
        storm.blow()
        count = client.try_send(data[sent:sent + MIB])
        sent += count
        if not count and client.server.asleep() and not client.try_send(data[sent:sent + 1]):
            return sent


def exchange_rest(client, data, sent, storm):
    """Send the rest and read all of it."""
    got = bytearray()
    while len(got) < len(data):
        storm.blow()
        count = client.try_send(data[sent:sent + MIB])
        sent += count
        more = client.try_receive(MIB)
        got += more
        if not more and not count:
            client.wait(what=counted(len(data), "byte"),
                        so_far=f"{counted(len(got), 'byte')} came; ")
    if got != data:
        raise Fail("the bytes that came back differ from those sent")


@probe(row=10, title="a storm of handled signals changes nothing", expect="P P P P P P P",
       look="sigaction(2) without SA_RESTART; EINTR in accept(2), recv(2), send(2), select(2); "
            "signal(7): a send(2) that has moved some bytes by then says how many",
       hint="every call that can sleep can fail with EINTR, or do a part; go round and go on")
def storm_of_signals(stage):
    """Signals while it waits for clients, for bytes, and for one who does not read."""
    server, shim = start(stage, "SIGUSR1")
    storm, own_use = Storm(server, shim), OutOfReach("the runtime has a use of its own for SIGUSR1")
    if stage.own:
        return endure(stage, server, storm)
    if not storm.reaches():
        raise own_use  # Node starts a debugger
    try:
        endure(stage, server, storm)
    except (Fail, Gone):
        server.come_to_rest()
        if server.exited() and heeds(stage, signal.SIGUSR1):
            raise own_use from None  # Erlang ends
        raise


def endure(stage, server, storm):
    """Signals, while clients come, talk and do not read."""
    storm.blow(50)
    client = server.connect(rcvbuf=64 * 1024)
    for _ in range(20):
        client.roundtrip()
        storm.blow(5)
    # Stage 05 drops a client that does not read, so there it must fit into the kernel's buffers.
    data = frames(32 * 1024 if stage.number == 5 else 8 * MIB, size=16 * 1024)
    sent = len(data) if stage.number == 5 else 0
    if sent:
        client.send(data)
    else:
        sent = send_until_full(client, data, storm)
    storm.blow(50)
    exchange_rest(client, data, sent, storm)
    calls = [call for call in ("accept", "recv", "send", "wait") if storm.shim[call].interrupted]
    if stage.own and not calls:
        raise Fail("no call was interrupted", expected="EINTR in the call that it sleeps in")
    stage.note(f"{counted(storm.sent, 'signal')}; EINTR in {', '.join(calls)}")


# Row 11

def reset_in_the_queue(server, count):
    """Connect and reset, while the server is stopped. Returns how many its queue took."""
    for done in range(count):
        client = socket.socket(server.family())
        client.settimeout(2)
        try:
            client.connect((server.host, server.port))
        except TimeoutError:  # the queue is full: fewer must do
            return done
        finally:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    return count


@probe(row=11, title="1,000 connections that were reset in the queue do no harm",
       expect="P P P P P P P", look="accept(2) succeeds; recv(2) fails with ECONNRESET",
       hint="a connection may be dead before you see it; its error must not end the server")
def reset_before_accept(stage):
    """They come while the server is stopped, and behind them one that stays."""
    server = stage.start()
    before = at_rest(stage, server)
    lost = 0
    for _ in range(1000 // BURST):
        server.pause()
        lost += reset_in_the_queue(server, BURST)
        client = server.connect()
        client.send(frame(b"I am still here"))
        server.resume()
        client.expect(frame(b"I am still here"))
        client.close()
    check_descriptors(stage, server, before)
    stage.note(f"{counted(lost, 'connection')} reset before accept()")


@probe(row=11, title="accept() fails because of one connection; all others are served",
       expect="P P P P P P P", look="accept(2), \"Error handling\": ECONNABORTED, ENETDOWN, EPROTO",
       hint="these are errors of a connection that is gone: take the next one",
       of_runtime=OF_ACCEPT, runtimes=runtime.ACCEPTING)
def accept_fails_once(stage):
    """Every third accept() fails, and nobody else comes to help.

    Where the queue is drained until EAGAIN, the third is the first one for the second client.
    """
    for error in ("ECONNABORTED", "ENETDOWN", "EPROTO"):
        server, shim = start(stage, f"accept:%3:{error}", f"every third accept() said {error}")
        before = at_rest(stage, server)
        for _ in range(ROUNDS):
            client = server.connect()
            client.roundtrip()
            client.close()
        check_calls(stage, server, shim)
        check_descriptors(stage, server, before)


# Row 13

@probe(row=13, title="accept() finds the system out of memory or files", expect="P P P P P P P",
       look="accept(2): ENFILE, ENOBUFS, ENOMEM; the connection is still in the queue",
       hint="wait a little, or for the next event; the client has not gone away",
       of_runtime=OF_ACCEPT, runtimes=runtime.ACCEPTING)
def accept_out_of_resources(stage):
    """The accept() for the second client fails, and the one after it. A third comes.

    Edge-triggered stages may leave the second in the queue until the third one comes (row 12).
    """
    for error in ("ENFILE", "ENOBUFS", "ENOMEM"):
        server, shim = start(stage, f"accept:2-3:{error}", f"accept() said {error}, twice")
        before = at_rest(stage, server)
        first = server.connect()
        first.roundtrip()
        first.close()
        second = server.connect()
        second.send(frame(b"second"))
        wait_for(lambda: shim["accept"].failed == 2 or second.readable(),
                 "accept() is called for a client", server)
        third = server.connect()
        third.send(frame(b"third"))
        for client, name in (second, b"second"), (third, b"third"):
            client.expect(frame(name))
            client.close()
        check_calls(stage, server, shim)
        check_descriptors(stage, server, before)


def set_up_calls(stage):
    """How often the server calls epoll_ctl() before there is a client."""
    server, shim = start(stage, "")
    wait_for(server.asleep, "the server sleeps", server)
    count = shim["epoll_ctl"].calls
    server.kill()
    return count


def answer_or_end(client, message):
    """Send it; the bytes that come back, until all are there or the connection ends."""
    got = b""
    try:
        client.try_send(message)
        while len(got) < len(message):
            data = client.try_receive()
            got += data
            if not data:
                client.wait(what="an answer or the end of the connection", sent=message)
    except Gone:
        pass
    return got


def connect_or_end(server):
    """A client; None if the server has reset the connection before connect() could return."""
    try:
        return server.connect()
    except Fail:
        server.check_alive()
        return None


@probe(row=13, title="epoll_ctl() has no room for another client", expect="- - - P P P P",
       look="epoll_ctl(2): ENOSPC, ENOMEM; /proc/sys/fs/epoll/max_user_watches",
       hint="who cannot be watched must be closed, or it waits for ever and a descriptor leaks",
       of_runtime="It is {} that watches the clients. In production that happens when all "
                  "processes of a user together watch as many descriptors as sysctl "
                  "fs.epoll.max_user_watches allows: keep it far above the number of your clients")
def no_room_to_watch(stage):
    """The first client cannot be watched. It must not be left hanging; the next are served."""
    calls = set_up_calls(stage)
    for error in ("ENOSPC", "ENOMEM"):
        server, shim = start(stage, f"epoll_ctl:{calls + 1}+:{error}", f"epoll_ctl() said {error}")
        first_is_not_watched(stage, server)
        if not server.own and shim["accept"].calls and not shim["epoll_ctl"].calls:
            return stage.note("it does not use epoll")
        check_calls(stage, server, shim)


def first_is_not_watched(stage, server):
    """epoll_ctl() for the first client fails, or the next call after it that may fail so."""
    before = at_rest(stage, server)
    message = frame(b"any room?")
    unlucky = connect_or_end(server)
    got = answer_or_end(unlucky, message) if unlucky else b""
    if not message.startswith(got):
        raise Fail("wrong bytes", expected=message, sent=message)
    others = [server.connect() for _ in range(2)]
    for client in others:
        client.roundtrip()
    for client in others + ([unlucky] if unlucky else []):
        client.close()
    check_descriptors(stage, server, before)


# Row 14

@probe(row=14, title="1-byte reads, 1-byte writes and EINTR: the bytes are right",
       expect="P P P P P P P", look="recv(2) and send(2) return how many bytes they moved",
       hint="go round until all is sent: send() may take a part, even on a blocking socket")
def one_byte_at_a_time(stage):
    """One byte is read at a time, then one byte written of much that was read."""
    one_byte_moves(stage, f"recv:*:{short(stage, 1)} send:*:{short(stage, 1)}")
    one_byte_moves(stage, f"send:*:{short(stage, 1)}")


def short(stage, most):
    """The shim's word for moving fewer bytes: a reader's server may take that for a sign."""
    return f"{'short' if stage.own else 'part'}={most}"


def one_byte_moves(stage, rules):
    """Frames and half-closes under these rules.

    Stage 5 drops a client for which the kernel's buffers are too small, and there each byte that is
    sent alone takes as much room as some hundred, until it is acknowledged. Where a packet of the
    loopback is small (an MTU of 1,500), 83 have filled it before that.
    """
    # The kernel does not say EINTR of a non-blocking socket, and a reader's runtime may rely on it.
    interrupted = "recv:%7:EINTR send:%5:EINTR " if stage.own else ""
    server, shim = start(stage, interrupted + rules, "each call moved 1 byte")
    before = at_rest(stage, server)
    for size in (0, 1, 300, 5000):
        client = server.connect()
        if stage.number == 5 and client.packet() < 16 * KIB:
            size = min(size, 20)
        payload = pattern(size)
        client.roundtrip(payload)
        client.send(frame(payload))
        client.half_close()
        client.expect(frame(payload))
        client.expect_end(sent=frame(payload))
        client.close()
    check_calls(stage, server, shim)
    check_descriptors(stage, server, before)


@probe(row=14, title="short reads and writes of much that is held: the bytes are right",
       expect="P P P P P P P",
       look="send(2) returns how many bytes it took, and from where you go on",
       hint="advance by what send() has returned, also in what you hold for later")
def much_in_parts(stage):
    """A stream in parts: written at once but for the last byte, or in many; read in others.

    Stage 5 drops a client for which the kernel's buffers are too small.
    """
    message = frames(60_000 if stage.number == 5 else 300_000, size=20_000)
    for most, read in ((1000, 65_536), (4096, 1000), (19_999, 20_008), (20_007, 65_536)):
        rules = f"send:*:{short(stage, most)} recv:*:{short(stage, read)}"
        server, shim = start(stage, rules, f"send() took {counted(most, 'byte')} at most")
        client = server.connect()
        if stage.number == 5:  # it sends what one recv() brings: let that be much
            server.pause()
            client.send(message)
            server.resume()
            client.expect(message)
        else:
            client.exchange(message)
        client.half_close()
        client.expect_end(message)
        if stage.own or not shim["send"].calls:
            check_calls(stage, server, shim)
        require_no_loop(server, shim)  # a reader's server may move less at a time of itself


@probe(row=14, title="send() says EAGAIN although the client does read",
       expect="- - - - L:drops P P", look="send(2): EAGAIN; epoll(7): EPOLLOUT",
       hint="keep what could not be sent, and ask for EPOLLOUT until it is gone")
def not_now(stage):
    """First one send() fails with EAGAIN, then every second one, and some recv() and accept()."""
    server, shim = start(stage, "send:1:EAGAIN", "the first send() said EAGAIN")
    first, second = server.connect(), server.connect()
    message = frame(b"now?")
    got = answer_or_end(first, message)
    second.roundtrip()
    check_calls(stage, server, shim)
    if got == b"":
        raise Lesson("the first client's connection ended without a byte; the second is served",
                     "drops")
    if got != message:
        raise Fail(f"{counted(len(got), 'byte')}, then the end", expected=message, sent=message)

    rules = (f"accept:%2:EAGAIN recv:%2:EAGAIN send:%2:EAGAIN send:*:{short(stage, 100)} "
             f"recv:*:{short(stage, 1000)}")
    server, shim = start(stage, rules, "every second call said EAGAIN")
    before = at_rest(stage, server)
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.roundtrip(bytes(5000))
        client.exchange(frames(100_000, size=20_000))
    for client in clients:
        client.close()
    check_calls(stage, server, shim)
    check_descriptors(stage, server, before)
