#!/usr/bin/env python3
"""Servers that a learner might have written, each wrong in one way: its name says which.

All wait with epoll and keep what they cannot send. test_soak.py builds its wrong servers on this
one, and requires that each is caught.
"""

import argparse
import os
import selectors
import signal
import socket
import sys
import time


class Client:
    """A connection, and what it is owed."""

    def __init__(self, sock):
        self.sock, self.out, self.eof, self.seen = sock, bytearray(), False, 0


def answer(fault, client, data):
    """What to send back. Wrong, if the fault says so."""
    client.seen += len(data)
    if fault == "extra-byte":
        return data + b"!"
    if fault == "drops-tail":
        return data[:-1]
    if fault == "swaps":
        return data[1:2] + data[:1] + data[2:]
    if fault == "hangs" and client.seen > 5:
        while True:
            signal.pause()
    if fault == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "raises":
        raise RuntimeError("something unexpected")
    if fault == "closes-early":
        client.eof = True
    return data


def serve(listener, fault):
    """Echo until the end of days."""
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ, None)
    while True:
        for key, events in ready.select():
            if key.data is None:
                sock, _ = listener.accept()
                sock.setblocking(False)
                ready.register(sock, selectors.EVENT_READ, Client(sock))
            elif not step(key.data, fault):
                ready.unregister(key.fileobj)
                key.fileobj.close()
            else:
                client = key.data
                reading = not client.eof and len(client.out) < 1 << 20
                wanted = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * bool(client.out)
                ready.modify(client.sock, wanted, client)


def step(client, fault):
    """Receive once and send what fits. False when the client is gone."""
    try:
        if not client.eof and len(client.out) < 1 << 20:
            data = client.sock.recv(65536)
            client.eof = not data
            client.out += answer(fault, client, data) if data else b""
    except BlockingIOError:
        pass
    except OSError:
        return False
    try:
        if client.out:
            del client.out[:client.sock.send(client.out)]
    except BlockingIOError:
        pass
    except OSError:
        return False
    return bool(client.out) or not client.eof


def main():
    fault = os.path.basename(sys.argv[0])
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=9000)
    port = arguments.parse_args().port
    if fault == "exits":
        sys.exit("I do not feel like it")
    if fault == "too-early":
        with socket.socket() as free:  # a port that nobody listens on
            free.bind(("127.0.0.1", 0))
            print("too-early listening on 127.0.0.1:%d" % free.getsockname()[1], flush=True)
            time.sleep(3600)
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    if fault == "wrong-line":
        print("ready on port", listener.getsockname()[1], flush=True)
    elif fault != "silent":
        print("%s listening on 127.0.0.1:%d" % (fault, listener.getsockname()[1]), flush=True)
    serve(listener, fault)


if __name__ == "__main__":
    main()
