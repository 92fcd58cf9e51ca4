#!/usr/bin/env python3
"""Talk to a server by hand: what you type goes there, what comes back is printed.

    python3 tests/learn/talk.py 9004       a line is sent as it is
    python3 tests/learn/talk.py 9007       a line is sent as a frame, and frames are shown as lines

Ctrl-D finishes sending; what is still owed is printed, and then the program ends.
"""

import argparse
import os
import select
import socket
import struct
import sys

HEADER = struct.Struct(">4sI")
LONGEST = 1 << 20  # bytes of a line that a frame takes
MOST = 1 << 20  # bytes that may wait to be sent; then no more is read from stdin


def pack(text):
    """A line as a frame of stage 07."""
    return HEADER.pack(b"EVLP", len(text)) + text


def unpack(data):
    """The payloads of the whole frames at the front of `data`, and what is left."""
    payloads = []
    while len(data) >= HEADER.size:
        magic, length = HEADER.unpack_from(data)
        if magic != b"EVLP":
            sys.exit("talk: this is no frame (is it stage 7? --raw talks to the others)")
        if len(data) < HEADER.size + length:
            break
        payloads.append(data[HEADER.size:HEADER.size + length])
        data = data[HEADER.size + length:]
    return payloads, data


def show(data, frames):
    """Print what has come; returns what is not complete yet."""
    payloads, rest = unpack(data) if frames else ([data], b"")
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.writelines(payload + b"\n" * frames for payload in payloads)
    except BrokenPipeError:
        sys.exit(141)  # nobody reads what we print: that is not the server's fault
    except OSError as error:
        sys.exit(f"talk: stdout: {error.strerror}")
    return rest


class Talk:
    """Carries lines to a server and its answers back, as nc does: both ways at once.

    A server that sends back what it gets stops reading when we do not read. So nothing here waits
    for one direction alone.
    """

    def __init__(self, server, frames):
        self.server, self.frames = server, frames
        self.to_send = bytearray()
        self.typed = self.received = b""  # the beginning of a line; of a frame
        self.typing = True  # stdin has not ended
        self.sending = True  # and neither have we
        self.asked = self.answered = False

    def run(self):
        """Until the server closes. Returns what there is to say about it."""
        self.server.setblocking(False)
        while True:
            ready = select.poll()  # and not epoll, which takes no file as stdin
            ready.register(self.server, select.POLLIN | select.POLLOUT * bool(self.to_send))
            if self.typing and len(self.to_send) < MOST:
                ready.register(0, select.POLLIN)
            events = dict(ready.poll())
            if 0 in events:
                self.read_stdin()
            if events.get(self.server.fileno(), 0) & ~select.POLLOUT and not self.receive():
                return self.ending()
            self.send()

    def read_stdin(self):
        """What was typed, as it is to be sent."""
        data = os.read(0, 65536)
        self.asked |= bool(data)
        self.typing = bool(data)
        if not self.frames:
            self.to_send += data
            return
        *lines, self.typed = (self.typed + data).split(b"\n")
        if not data and self.typed:
            lines.append(self.typed)
        if max(map(len, [*lines, self.typed])) > LONGEST:
            sys.exit("talk: a line is longer than a frame may be: 1 MiB")
        for line in lines:
            self.to_send += pack(line)

    def send(self):
        """As much as fits now; and after the last of it, that it was the last."""
        try:
            while self.to_send:
                del self.to_send[:self.server.send(self.to_send[:65536])]
            if self.sending and not self.typing:
                self.sending = False
                self.server.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:  # it takes no more; what it has still said comes first
            self.to_send.clear()

    def receive(self):
        """Print what has come. False at the end."""
        data = self.server.recv(65536)
        if data:
            self.answered = True
            self.received = show(self.received + data, self.frames)
        return bool(data)

    def ending(self):
        """What there is to say when the server has closed; '' if all is well."""
        if self.received:
            return "talk: the server closed in the middle of a frame"
        if self.asked and not self.answered:
            hint = "" if self.frames else " (is it stage 7? --frames talks to it)"
            return "talk: closed without an answer" + hint
        return ""


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = arguments.add_mutually_exclusive_group(required=True)
    where.add_argument("port", type=int, nargs="?", help="900N for stage N")
    where.add_argument("--stage", type=int, choices=range(1, 8), help="on its usual port")
    arguments.add_argument("--host", default="127.0.0.1")
    kind = arguments.add_mutually_exclusive_group()
    kind.add_argument("--frames", action="store_true", help="talk frames (default on port 9007)")
    kind.add_argument("--raw", action="store_true", help="talk plain lines")
    options = arguments.parse_args()
    while os.open(os.devnull, os.O_RDWR) < 2:
        pass  # a stream that is closed: the socket must not get its number
    options.port = options.port or 9000 + options.stage
    frames = options.frames or (options.port == 9007 and not options.raw)
    try:
        with socket.create_connection((options.host, options.port), timeout=5) as server:
            return Talk(server, frames).run()
    except OSError as error:
        host = f"[{options.host}]" if ":" in options.host else options.host
        return f"talk: {host}:{options.port}: {error.strerror or error}"


if __name__ == "__main__":
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        sys.exit(130)
