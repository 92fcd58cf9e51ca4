"""Output that a server holds because it could not be sent: how much, and what comes then."""

from tests.outside import kernel, runtime
from tests.harness import (KIB, MIB, SAN, WHOSE, Fail, Gone, counted, difference, frame, pattern,
                           probe, wait_for)
from tests.probes.flood import Flood, dropped
from tests.probes.leaving import NOISE_KIB
from tests.probes.sharing import fd_room
from tests.probes.syscalls import OutOfReach, start

MOST = 64 * MIB  # to send to a server that does not stop reading
SMALL = frame(bytes(range(256)) * 16)  # a little more than 4 KiB
ENOUGH_MS = 1000  # of CPU time: it looks again and again
ENDLESS = "epoll(7): EPOLLIN and EPOLLRDHUP stay after the end of input. Do you still ask for them?"
DROPS = "P P P P L:drops P P"


class Held:
    """A client that reads late, and the bytes on their way to it, each kept for comparison."""

    def __init__(self, server):
        self.server, self.client = server, server.connect(rcvbuf=16 * KIB)
        self.owed, self.unsent = bytearray(), b""

    def held(self):
        """Bytes that are in no kernel buffer, neither its nor ours: the server has them."""
        far, near = self.client.far_end(), self.client.near_end()
        if not far or not near:
            self.pull()  # raises Gone: it has closed
            return 0
        return (self.client.sent - near.unsent - far.unread - far.unsent - near.unread
                - self.client.received)

    def stopped(self):
        """It reads no more: it sleeps in send(), or leaves unread what is there."""
        if kernel.SENDING.intersection(self.server.calls() or ()):
            return True
        return all(self.server.asleep() and self.client.unread() for _ in range(20))

    def send(self, message):
        """Send a frame, and wait until the server has read it, or stops. Did it read all of it?"""
        self.unsent += message
        self.owed += message

        def taken():
            self._push()
            self.held()  # raises Gone
            return not self.unsent and not self.client.unread() and self.server.asleep()
        wait_for(lambda: taken() or self.stopped(), "it reads on, or stops reading", self.server)
        return taken() and not self.stopped()

    def _push(self):
        """Send what fits."""
        if self.unsent:
            self.unsent = self.unsent[self.client.try_send(self.unsent):]

    def pull(self, most=MIB):
        """Receive and compare what is there. Returns how many bytes; raises Gone."""
        data = self.client.try_receive(most)
        if data != self.owed[:len(data)]:
            raise Fail(difference(bytes(self.owed[:len(data)]), data),
                       sent=f"frames, {counted(self.client.sent, 'byte')}",
                       expected="every byte, in order", look=WHOSE)
        del self.owed[:len(data)]
        return len(data)

    def fill(self, least=1, message=SMALL):
        """Send until the server holds so much. Returns how much; 0 if it stops reading before."""
        end = self.client.sent + MOST
        while self.client.sent < end:
            if not self.send(message):
                return 0
            if self.held() >= least:
                return self.held()
        raise Fail(f"it took {counted(self.client.sent, 'byte')}",
                   expected="it stops reading, or cannot send",
                   sent="frames, of which nothing was read")

    def make_room(self, most):
        """Read so much, so that its kernel can send on. (It is stopped.)"""
        end = self.client.received + most

        def enough():
            """So much has come, or all that its kernel had: an acknowledgement may be late."""
            self.pull(16 * KIB)
            far = self.client.far_end()
            return self.client.received >= end or not far or not far.unsent
        wait_for(enough, "what its kernel has")

    def drain(self, step=MIB):
        """Read all that is owed, in steps."""
        while self.owed:
            self._push()
            if not self.pull(step):
                self.client.wait(writing=bool(self.unsent), what="every byte",
                                 sent=f"frames, {counted(self.client.sent, 'byte')}",
                                 so_far=f"{counted(len(self.owed), 'byte')} still owed; ")

    def end(self):
        """It has finished sending, and gets the rest and the end, after the server has looked."""
        while self.unsent:
            self._push()
            self.pull()
        spent = self.server.cpu_ms()
        self.client.half_close()
        wait_for(lambda: self.noticed() or self.server.cpu_ms() - spent > ENOUGH_MS,
                 "it sees the end of input, or cannot look", self.server)
        if self.server.cpu_ms() - spent > ENOUGH_MS and not self.noticed():
            raise Fail(f"it goes in circles: more than {ENOUGH_MS} ms of CPU time; "
                       f"{self.server.describe()}", sent="frames, and the end of input",
                       expected="it sleeps until there is room for what it holds", look=ENDLESS)
        self.drain()
        self.client.expect_end("frames")

    def noticed(self):
        """Has it seen the end of input? It sleeps, and the end, which has come, woke it up before.

        Or it looks at nothing while it is stopped. Without this, a busy machine would show it both
        at once, the end and the room that drain() makes.
        """
        far = self.client.far_end()
        here = not far or far.state != kernel.ESTABLISHED
        return here and all(self.server.asleep() for _ in range(20)) or self.stopped()


def start_narrow(stage):
    """A server whose sockets have room for little, if that can be had: build/shim.so does it."""
    try:
        return start(stage, f"sndbuf={16 * KIB}")[0]
    except OutOfReach:
        stage.note("with the send buffers of this system: build/shim.so has no hold of it")
        return stage.start()


def or_dropped(run):
    """A server may drop a client that reads late, as stage 5 does, if it says so."""
    def wrapped(stage):
        server = start_narrow(stage)
        try:
            run(server)
        except Gone as gone:
            late = server.clients[-1]
            dropped(late.received, late.sent, server, gone.how)
    wrapped.__name__, wrapped.__doc__ = run.__name__, run.__doc__
    return wrapped


@probe(row=6, title="the end of input comes while output is held for one that reads late",
       expect=DROPS, look="recv(2): 0; send(2): EAGAIN",
       hint="it has finished sending, not reading: close when all has gone")
@or_dropped
def end_while_output_is_held(server):
    """The server has read all, and could not send all, when the end of input comes.

    Frame by frame, so that even one that soon stops reading holds some when it has read all.
    """
    late = Held(server)
    late.fill()
    late.end()


@probe(row=6, title="the end of input comes together with room to send, after a part has gone",
       expect=DROPS, look="epoll(7): EPOLLIN and EPOLLOUT in one event; recv(2): 0",
       hint="first send what you hold, then look for the end, and close when nothing is held")
@or_dropped
def end_and_room_at_once(server):
    """Stopped meanwhile, it finds both at once: room for a part of it, or for all."""
    for least in (1, 100 * KIB, 300 * KIB):
        for room in (16 * KIB, 64 * KIB, 8 * MIB):
            late = Held(server)
            late.fill(least)
            while late.unsent:
                late._push()
                late.pull()
            server.pause()
            late.make_room(room)
            late.client.half_close()
            server.resume()
            late.drain()
            late.client.expect_end("frames")
            late.client.close()


@probe(row=8, title="output is held up to each round number of bytes, and a byte more",
       expect=DROPS, look="your limit on output: what happens when it is hit exactly",
       hint="derive whether to read from how much is held, each time: never from a step across")
@or_dropped
def held_to_the_byte(server):
    """4 KiB, 8 KiB, and so on to 1 MiB, as far as the server goes; then all is read.

    Then it shrinks from there, or grows by a little; and from a byte below it grows by much.
    """
    late = Held(server)
    for power in range(12, 21):
        for below, behind in ((0, b"!" * (power % 2)), (1, bytes(100_000))):
            if late.fill(message=frame(bytes(1000))):
                missing = (1 << power) - below - late.held() - 8
                if missing >= 0:
                    late.send(frame(bytes(missing)))
            if behind:
                late.send(frame(behind))
            late.drain(4 * KIB if power % 2 else 1000)
            late.send(SMALL)
            late.drain()


@probe(row=8, title="output grows and shrinks across every limit, in small and in round steps",
       expect=DROPS, look="your limit on output: pausing and resuming",
       hint="below the limit, read again, also what has come in the meantime")
@or_dropped
def back_and_forth(server):
    """Up until it stops reading, down by a part, up again, and so on; then all is read."""
    for step, part in ((1000, 10_000), (4 * KIB, 64 * KIB), (64 * KIB, 256 * KIB), (99_999, MIB)):
        late = Held(server)
        message = frame(pattern(step - 8))
        for _ in range(8):
            while late.client.sent < MOST and late.send(message):
                if late.held() > 2 * MIB:
                    break
            before = late.client.received
            while late.owed and late.client.received < before + part:
                late._push()
                if not late.pull(step):
                    late.client.wait(what="what is owed")
        late.end()
        late.client.close()


CROWD = 1100  # more than a table of 1,024 has room for
SLOW = [0] + [1 << power for power in range(11)]  # so that two are any power of two apart


@probe(row=7, title="twelve of 1,100 clients do not read; all others talk",
       expect="- - - - - P P",
       look="what do clients share: a place in a table (number % size), a limit, a thread?",
       hint="keep output with the client itself, and bound it there; never wait in send()")
def many_do_not_read(stage):
    """A server with two places in one table, a limit for all, or a few threads, shows it here."""
    room = fd_room(CROWD, stage, least=CROWD)
    server = start_narrow(stage)
    clients = [server.connect(rcvbuf=16 * KIB) for _ in range(room)]
    for client in clients:
        client.roundtrip()
    floods = [Flood(clients[at], 16 * MIB, size=16 * KIB + at) for at in SLOW]
    for flood in floods:
        flood.push_until_stuck()
    for _ in range(2):
        for at, client in enumerate(clients[:100]):
            if at not in SLOW:
                client.roundtrip()
    for flood in floods:
        flood.stop()
        flood.drain()


@probe(row=6, title="another client is served while the kernel has the rest for one that has ended",
       expect="- P P P P P P", look="close(2); socket(7): with SO_LINGER, close() itself waits",
       hint="leave SO_LINGER alone: after close(), the kernel sends the rest by itself")
def closes_without_waiting(stage):
    """All is handed to the kernel when the end of input comes, and this client reads late."""
    server = stage.start()
    late, other = server.connect(rcvbuf=16 * KIB), server.connect()
    other.roundtrip()
    message = frame(pattern(100 * KIB))
    late.send(message)

    def answered():
        far = late.far_end()
        return far and far.unsent and not far.unread and server.asleep()

    wait_for(answered, "a frame of 100 KiB is answered", server)
    if kernel.SENDING.intersection(server.calls() or ()):
        return stage.note("not asked for: its sockets have no room for 100 KiB")
    late.half_close()
    server.come_to_rest()  # it has seen the end
    other.roundtrip()
    late.expect(message)
    late.expect_end(message)


BREAK = 60  # clients, of which each leaves output behind


@probe(row=9, title="what is held for a client is given up when the connection breaks",
       expect="- - - - - P P", look="send(2): ECONNRESET; /proc/PID/status: VmRSS",
       hint="free the buffer wherever a client is removed: let one function do both")
def gives_up_what_it_held(stage):
    """One after the other sends and does not read, and then resets its connection."""
    server = start_narrow(stage)
    if SAN or runtime.collects(server.pid):
        return stage.note("not measured: what is freed is kept for a while")
    break_off(server, 10)
    for _ in range(1 if server.own else 5):  # a heap may take some time to level off
        before = server.memory_kib()
        break_off(server, BREAK)
        grown = server.memory_kib() - before
        if grown <= NOISE_KIB:
            return
    raise Fail(f"{grown:,} KiB more memory after {counted(BREAK, 'client')}",
               sent="frames, of which nothing was read, and then a reset, by each",
               expected=f"less than {NOISE_KIB:,} KiB more")


def break_off(server, count):
    """So many clients, one after the other, do not read what they are owed, and reset."""
    other = server.connect()
    for _ in range(count):
        client = server.connect(rcvbuf=16 * KIB, sndbuf=64 * KIB)
        Flood(client, 16 * MIB).push_until_stuck()
        client.reset()
        other.roundtrip()
        server.clients.remove(client)
    other.close()
