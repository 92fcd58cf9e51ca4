#!/usr/bin/env python3
"""An echo server of several processes: one accepts, and hands the connections to the others.

    python3 -m tests.beyond.handover --port 9007 --workers 4 --by client

A descriptor is a number in a table of its process. SCM_RIGHTS (unix(7)) puts the connection behind
it into the table of another one. Who hands it over can choose: the next worker (--by turn), or
always the same one for the same client (--by client). It echoes bytes, and so frames, too.
"""

import argparse
import itertools
import os
import selectors
import signal
import socket
import zlib

from tests import harness


def echo(new):
    """A worker: serve the connections that come through `new`, until it ends."""
    ready = selectors.DefaultSelector()
    ready.register(new, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is new:
                message, fds, _, _ = socket.recv_fds(new, 1, 1)
                if not message:
                    return  # the acceptor is gone
                ready.register(socket.socket(fileno=fds[0]), selectors.EVENT_READ)
            elif not answer(key.fileobj):
                ready.unregister(key.fileobj)
                key.fileobj.close()


def answer(client):
    """Send back what has come. False if the client has left."""
    try:
        data = client.recv(65536)
        client.sendall(data)  # blocks while the client does not read: stage 6 has the cure
        return bool(data)
    except OSError:
        return False


def start_worker(listener):
    """A process that serves what comes through the socket that is returned."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    starter = os.getpid()
    if os.fork() == 0:
        harness.die_with_parent(starter)
        listener.close()
        ours.close()
        echo(theirs)
        os._exit(0)
    theirs.close()
    return ours


def choose(count, by):
    """A function from a client's address to the number of the worker that gets it."""
    if by == "client":
        return lambda address: zlib.crc32(address[0].encode()) % count
    in_turn = itertools.cycle(range(count))
    return lambda _: next(in_turn)


def hand_over(client, worker):
    """False if the worker is gone."""
    try:
        socket.send_fds(worker, [b"."], [client.fileno()])
        return True
    except OSError:
        return False


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=9007)
    arguments.add_argument("--workers", type=int, default=4)
    arguments.add_argument("--by", choices=("turn", "client"), default="turn")
    options = arguments.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    listener = socket.create_server((options.host, options.port), backlog=socket.SOMAXCONN)
    workers = [start_worker(listener) for _ in range(options.workers)]
    number_for = choose(options.workers, options.by)
    print(f"handover listening on {options.host}:{listener.getsockname()[1]}", flush=True)
    while True:
        client, address = listener.accept()
        number = number_for(address)
        while not hand_over(client, workers[number]):
            workers[number].close()
            workers[number] = start_worker(listener)
        client.close()  # the message holds it until the worker has it


if __name__ == "__main__":
    main()
