#!/usr/bin/env python3
"""How many of four processes does a client wake up? Chapter 7, AROUND.md.

They wait for the same listener in five ways. A hundred clients come, each when all processes are
asleep again, and what is counted is how often a process wakes up for one.
"""

import argparse
import os
import select
import signal
import socket

from tests import harness
from tests.harness import runner
from tests.outside import kernel

PROCESSES, CLIENTS = 4, 100


def accept_all(listener, _):
    """Sleep in accept() itself."""
    listener.setblocking(True)
    while True:
        listener.accept()[0].close()


def own_epoll(listener, _, events=select.EPOLLIN):
    """Sleep in an epoll of one's own."""
    with select.epoll() as epoll:
        epoll.register(listener, events)
        accept_when_told(listener, epoll)


def exclusive_epoll(listener, _):
    """The same, and not all are to be told."""
    own_epoll(listener, None, select.EPOLLIN | select.EPOLLEXCLUSIVE)


def shared_edge(listener, epoll):
    """Sleep in one epoll for all, edge-triggered."""
    epoll.modify(listener, select.EPOLLIN | select.EPOLLET)
    accept_when_told(listener, epoll)


def accept_when_told(listener, epoll):
    """Sleep in an epoll, and accept one client for each event, if it is still there."""
    while True:
        epoll.poll()
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            pass  # another process was faster


WAYS = {"in accept()": accept_all, "in an epoll each": own_epoll,
        "the same, with EPOLLEXCLUSIVE": exclusive_epoll, "in one epoll for all": accept_when_told,
        "the same, with EPOLLET": shared_edge}


def started(way, listener, epoll, starter):
    """A process that waits in this way, and does not outlive us."""
    pid = os.fork()
    if pid == 0:
        harness.die_with_parent(starter)
        try:
            way(listener, epoll)
        finally:
            os._exit(1)
    return pid


def at_rest(pids):
    """How often they have gone to sleep, all together, once they sleep and go on sleeping."""
    harness.wait_for(harness.Stillness(pids, 2).lasts, "all are asleep")
    return sum(map(kernel.wake_ups, pids))


def count(way):
    """The wake-ups for one client, of all processes together."""
    with socket.create_server(("127.0.0.1", 0)) as listener, select.epoll() as epoll:
        listener.setblocking(False)
        epoll.register(listener, select.EPOLLIN)
        pids = [started(way, listener, epoll, os.getpid()) for _ in range(PROCESSES)]
        try:
            before = at_rest(pids)
            for _ in range(CLIENTS):
                with socket.create_connection(listener.getsockname()) as client:
                    client.recv(1)  # the end: it was accepted
                    after = at_rest(pids)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return round((after - before) / CLIENTS)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"{PROCESSES} processes wait              wake-ups for a client")
    for name, way in WAYS.items():
        print(f"{name:34}{count(way):2}", flush=True)


if __name__ == "__main__":
    runner.main(main)
