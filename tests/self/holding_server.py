#!/usr/bin/env python3
"""A server that holds what it cannot send, and servers that lose bytes in one way each.

The name of the file that starts it says which: `right`, or one of those below. Each wrong one is
right in ordinary traffic; test_wrong_servers.py requires that a probe finds it.
"""

import argparse
import os
import select
import socket
import sys
import time

MARK, LOW = 256 * 1024, 64 * 1024  # bytes held for a client: reading pauses, and goes on


class Right:
    """A connection. Level-triggered, 64 KiB a turn, and frames are no matter to it."""

    size = 64 * 1024  # of a read

    def __init__(self, sock):
        self.sock, self.out, self.eof, self.paused = sock, bytearray(), False, False
        self.first = True  # nothing has come before

    def interest(self):
        """What to wait for."""
        reading = not self.eof and not self.paused
        return select.EPOLLIN * reading | select.EPOLLOUT * bool(self.out)

    def turn(self, events):
        """Something is ready. False when the client is gone."""
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self.eof:
            self.read()
        self.flush()
        self.limit()
        return bool(self.out) or not self.eof

    def read(self):
        """Receive once."""
        data = self.sock.recv(self.size)
        self.eof = not data
        if data:
            self.take(data)
            self.first = False

    def take(self, data):
        """What to do with it."""
        self.out += data

    def more(self):
        """Is there more to read? Then it was no whole message."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def flush(self):
        """Send what fits. Returns how much."""
        count = 0
        try:
            while self.out:
                sent = self.sock.send(self.out)
                del self.out[:sent]
                count += sent
        except BlockingIOError:
            pass
        return count

    def limit(self):
        """Read on, or not."""
        self.paused = len(self.out) >= (LOW if self.paused else MARK)

    @staticmethod
    def timeout(clients):
        """How long to wait, in seconds; None for ever."""
        return None


# Frames: what is behind one.

class Frames(Right):
    """It answers whole frames, and keeps what is not whole yet."""

    def __init__(self, sock):
        super().__init__(sock)
        self.rest = bytearray()

    def take(self, data):
        self.rest += data
        while len(self.rest) >= 8:
            end = 8 + int.from_bytes(self.rest[4:8], "big")
            if len(self.rest) < end:
                break
            self.out += self.rest[:end]
            del self.rest[:end]
            self.answered()

    def answered(self):
        """After each answer."""


class DropsABegunHeader(Frames):
    """After an answer, less than a header is thought to be nothing."""

    def answered(self):
        if len(self.rest) < 8:
            self.rest.clear()


class DropsWhatIsBehind(Frames):
    """After the answer to a frame whose header came in two parts, the buffer begins anew."""

    def take(self, data):
        in_parts = 0 < len(self.rest) < 8
        super().take(data)
        if in_parts and len(self.rest) < 100:
            self.rest.clear()


class LeavesASecondOne(Frames):
    """A frame that becomes whole together with another one is answered, and the other one waits."""

    def take(self, data):
        self.rest += data
        if len(self.rest) >= 8:
            end = 8 + int.from_bytes(self.rest[4:8], "big")
            if len(self.rest) >= end:
                self.out += self.rest[:end]
                del self.rest[:end]
                if len(self.rest) > end:  # many: not forgotten
                    super().take(b"")


# Lengths.

class EndsAFullBuffer(Right):
    """The last byte of a full buffer is overwritten by a 00, as if it were a string."""

    size = 4096

    def take(self, data):
        full = self.first and len(data) == self.size and not self.more()
        self.out += data[:-1] + b"\0" if full else data


class CountsIn16Bits(Right):
    """65,536 bytes at once are none."""

    def take(self, data):
        whole = self.first and not self.more()
        self.out += data[:len(data) & 0xffff] if whole else data


class FullIsEmpty(Right):
    """A ring of 8 KiB, whose head and tail are the same when it is full, too."""

    size = 8192

    def take(self, data):
        if not (self.first and len(data) == self.size) or self.more():
            self.out += data


class FullThenEmptyIsAnEnd(Right):
    """When the first read fills the buffer it asks again at once, and takes EAGAIN for the end."""

    size = 16 * 1024

    def take(self, data):
        self.out += data
        try:
            if self.first and len(data) == self.size:
                self.out += self.sock.recv(self.size)
        except BlockingIOError:
            self.eof = True


# Limits.

class HitsTheMark(Right):
    """Exactly at the mark it neither reads nor knows that it has paused."""

    stuck = False

    def limit(self):
        if len(self.out) > MARK:
            self.paused = True
        elif len(self.out) < LOW and self.paused:
            self.paused = False
        if len(self.out) == MARK:
            self.stuck = True

    def interest(self):
        return super().interest() & ~(select.EPOLLIN * self.stuck)


class ResumesInAStepAcross(Right):
    """It goes on when output falls from above the mark to below it, and not from the mark."""

    before = 0

    def limit(self):
        if len(self.out) >= MARK:
            self.paused = True
        elif self.before > MARK:
            self.paused = False
        self.before = len(self.out)


class CutsAtItsCap(Right):
    """It has room for the mark and nearly 64 KiB: what is read beyond that is cut."""

    def take(self, data):
        self.out += data[:327_600 - len(self.out)]


class KeepsHalf(Right):
    """When much has gone it moves the rest to the front, and moves too little if it is much."""

    def flush(self):
        held = len(self.out)
        count = super().flush()
        if count and held > 100_000 and len(self.out) > count:
            del self.out[2 * count:]
        return count


# The end of input.

class ClosesAfterAPart(Right):
    """At the end it sends what it can, and if that was something it thinks that it was all."""

    def turn(self, events):
        self.read_all()
        sent = self.flush()
        self.limit()
        return bool(self.out and not (self.eof and sent)) or not self.eof

    def read_all(self):
        """Receive, if there is anything to."""
        try:
            if not self.eof:
                self.read()
        except BlockingIOError:
            pass


class ForgetsAtTheEnd(Right):
    """Room, and the end, in one event: it sends, and then the end is all that counts."""

    def turn(self, events):
        both = events & select.EPOLLOUT and events & select.EPOLLIN
        gone = self.flush() if both else 0
        alive = super().turn(events)
        return alive and not (both and gone and self.eof)


class WritesOrReads(Right):
    """An event is for writing or for reading; with both, the end goes unnoticed, and again."""

    def turn(self, events):
        if events & select.EPOLLOUT and events & select.EPOLLIN and self.out:
            self.flush()
            if not self.sock.recv(1, socket.MSG_PEEK):
                self.out.clear()
                return False
            return True
        return super().turn(events)


class ForgetsToClose(Right):
    """What was held when the end came is sent, and then it waits for nothing."""

    def turn(self, events):
        late = self.eof and bool(self.out)
        return super().turn(events) or late


# Waiting.

class Polls(Right):
    """With output pending it looks every 300 ms whether it can send."""

    def interest(self):
        return super().interest() & ~select.EPOLLOUT

    @staticmethod
    def timeout(clients):
        pending = [client for client in clients if client.out]
        for client in pending:
            client.flush()
            client.limit()
        return 0.3 if pending else None


class LooksSometimes(Right):
    """It waits for room as it should, and yet looks every 200 ms."""

    @staticmethod
    def timeout(clients):
        return 0.2 if any(client.out for client in clients) else None


class Naps(Right):
    """With output pending, it sleeps a little and looks at all, instead of waiting."""

    @staticmethod
    def timeout(clients):
        if any(client.out for client in clients):
            time.sleep(0.03)
            return 0
        return None


# Behind the answer.

class EndsALine(Right):
    """Behind an answer of some length comes a newline."""

    def take(self, data):
        self.out += data + b"\n" * (1000 < len(data) < 1100)


class Repeats(Right):
    """A short last part is sent twice."""

    def take(self, data):
        self.out += data
        if 1024 < len(data) < 1100:
            self.out += data[-4:]


def serve(kind, listener):
    """Echo until the end of days."""
    epoll, clients = select.epoll(), {}
    epoll.register(listener, select.EPOLLIN)
    while True:
        timeout = kind.timeout(clients.values())
        for fd, events in epoll.poll(-1 if timeout is None else timeout):
            if fd == listener.fileno():
                accept(kind, listener, epoll, clients)
            elif not step(clients[fd], events):
                clients.pop(fd).sock.close()
        for fd, client in clients.items():
            epoll.modify(fd, client.interest())


def accept(kind, listener, epoll, clients):
    """Take one client, if it is still there and there is room."""
    try:
        sock, _ = listener.accept()
    except OSError:
        return
    sock.setblocking(False)
    try:
        epoll.register(sock, select.EPOLLIN)
        clients[sock.fileno()] = kind(sock)
    except OSError:
        sock.close()


def step(client, events):
    """One turn of a client; False when it is gone."""
    try:
        return client.turn(events)
    except BlockingIOError:
        return True
    except OSError:
        return False


def kinds(kind=Right):
    """All of them, {name: class}."""
    name = "".join("-" * bool(i) + c.lower() if c.isupper() else c
                   for i, c in enumerate(kind.__name__))
    found = {name: kind}
    for more in kind.__subclasses__():
        found |= kinds(more)
    return found


def main():
    name = os.path.basename(sys.argv[0])
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True)
    port = arguments.parse_args().port
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    print(f"{name} listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    serve(kinds()[name], listener)


if __name__ == "__main__":
    main()
