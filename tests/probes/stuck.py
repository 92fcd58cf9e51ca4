"""Output that a server holds because it could not be sent: how much, and what comes then."""

from tests.outside import kernel
from tests.harness import (KIB, MIB, WHOSE, Fail, Gone, counted, difference, frame, pattern,
                           probe, wait_for)
from tests.probes.flood import dropped
from tests.probes.syscalls import OutOfReach, start

MOST = 64 * MIB  # to send to a server that does not stop reading
SMALL = frame(bytes(range(256)) * 16)  # a little more than 4 KiB
ENOUGH_MS = 200  # of CPU time: it has looked, even if it does not sleep
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
