"""A client that sends more than it reads, and what may become of it."""

from tests.harness import (KIB, MIB, WHOSE, Fail, Gone, Lesson, counted, difference, frames,
                           wait_for)

FRAME = 64 * KIB + 8  # bytes of each
BLOCK = frames(3 * MIB)  # 47 of them, sent again and again


class Flood:
    """A long stream of frames, sent and compared piece by piece."""

    def __init__(self, client, total, size=FRAME):
        self.client, self.sent, self.received = client, 0, 0
        self.size, self.block = size, BLOCK if size == FRAME else frames(3 * MIB, size - 8)
        self.total = -(-total // len(self.block)) * len(self.block)  # whole frames only

    def push(self, most=MIB):
        """Send until the kernel takes no more, or the end. Returns how many bytes; raises Gone."""
        before = self.sent
        while self.sent < self.total and self.sent - before < most:
            at = self.sent % len(self.block)
            piece = min(256 * KIB, self.total - self.sent, before + most - self.sent)
            count = self.client.try_send(memoryview(self.block)[at:at + piece])
            if not count:
                break
            self.sent += count
        return self.sent - before

    def pull(self, most=MIB):
        """Receive and compare what is there, once. Returns how many bytes; raises Gone."""
        at = self.received % len(self.block)
        data = self.client.try_receive(min(most, len(self.block) - at))
        right = self.block[at:at + len(data)]
        if data != right:
            raise Fail(difference(right, data, self.received),
                       sent=f"frames, {counted(self.sent, 'byte')}",
                       expected="every byte, in order", look=WHOSE)
        self.received += len(data)
        return len(data)

    def wait(self, sending):
        """Wait until something can be received or, if `sending`, sent."""
        self.client.wait(writing=sending, what="every byte",
                         sent=f"frames, {counted(self.sent, 'byte')}",
                         so_far=f"{counted(self.received, 'byte')} came; ")

    def push_until_stuck(self):
        """Send, without reading, until nothing moves: the server sleeps and takes no more.

        While it sleeps and has taken all that has arrived, more is on its way, however full our
        side is.
        """
        server = self.client.server

        def stuck():
            return (not self.push() and server.asleep() and not self.push()
                    and (self.client.unread() > 0 or self.sent == self.total))
        wait_for(stuck, "the server stops reading from a client that does not read", server)

    def stop(self):
        """Send no more than the frame that is begun."""
        self.total = -(-self.sent // self.size) * self.size

    def drain(self):
        """Send what is left, and receive all of it."""
        while self.received < self.total:
            moved = self.push() + self.pull()
            if not moved:
                self.wait(self.sent < self.total)


def dropped(received, sent, server, how):
    """The server has closed a connection: a lesson, if it says so and serves others."""
    said = [line for line in server.stderr().splitlines() if "dropped" in line]
    if not said:
        raise Fail(f"the connection ended ({how}) after {received:,} of "
                   f"{counted(sent, 'byte')}, without a word on stderr; {server.describe()}",
                   expected="every byte, or a line on stderr that says: dropped",
                   sent=f"frames, {counted(sent, 'byte')}")
    server.connect().roundtrip()
    raise Lesson(f"the client is gone ({how}) after {received:,} of {counted(sent, 'byte')}; "
                 f"stderr: {said[0]}", "drops")


def remains(flood):
    """Read what a dropped client can still read; raises Gone at its end."""
    while True:
        if not flood.pull():
            flood.wait(False)


def finish_dropped(flood, server, gone):
    """After Gone while sending: compare what did arrive, then judge."""
    try:
        remains(flood)
    except Gone:
        pass
    dropped(flood.received, flood.sent, server, gone.how)
