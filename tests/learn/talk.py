#!/usr/bin/env python3
"""Talk to a server by hand: what you type goes there, what comes back is printed.

    python3 tests/learn/talk.py 9004       a line is sent as it is
    python3 tests/learn/talk.py 9007       a line is sent as a frame, and frames are shown as lines

Ctrl-D finishes sending; what is still owed is printed, and then the program ends.
"""

import argparse
import os
import selectors
import socket
import struct
import sys

HEADER = struct.Struct(">4sI")


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


def talk(server, frames):
    """Carry lines to the server and its answers back, until it closes."""
    ready = selectors.PollSelector()  # epoll would not take a file as stdin
    ready.register(server, selectors.EVENT_READ)
    ready.register(0, selectors.EVENT_READ)
    received = typed = b""
    asked = answered = False
    while True:
        for key, _ in ready.select():
            data = server.recv(65536) if key.fileobj is server else os.read(0, 65536)
            if key.fileobj is server and not data:
                return ending(received, asked and not answered, frames)
            if key.fileobj is server:
                answered = True
                received = show(received + data, frames)
            elif data:
                asked = True
                *lines, typed = (typed + data).split(b"\n")
                server.sendall(b"".join(pack(x) if frames else x + b"\n" for x in lines))
            else:
                server.sendall((pack(typed) if frames else typed) if typed else b"")
                ready.unregister(0)
                server.shutdown(socket.SHUT_WR)


def ending(received, unanswered, frames):
    """What there is to say when the server has closed; '' if all is well."""
    if received:
        return "talk: the server closed in the middle of a frame"
    if unanswered and not frames:
        return "talk: closed without an answer (is it stage 7? --frames talks to it)"
    return "talk: closed without an answer" if unanswered else ""


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
            server.settimeout(None)
            return talk(server, frames)
    except OSError as error:
        host = f"[{options.host}]" if ":" in options.host else options.host
        return f"talk: {host}:{options.port}: {error.strerror or error}"


if __name__ == "__main__":
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        sys.exit(130)
