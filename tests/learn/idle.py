#!/usr/bin/env python3
"""Feel the weight of clients that say nothing: what does a message cost while they are there?

    python3 tests/learn/idle.py 9003 3000

Silent clients come, 500 a second, up to 3,000, and one more client talks all the time. Once a
second you see how much of the server's CPU time each of its messages takes. The server is found by
its port, and may be written in any language, if it sends back what it gets.
"""

import argparse
import os
import pathlib
import re
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.harness.messages import counted  # noqa: E402
from tests.harness.processes import raise_fd_limit  # noqa: E402
from tests.learn.talk import pack  # noqa: E402
from tests.outside import kernel  # noqa: E402

A_SECOND = 500  # silent clients that come in a second
PAUSE = 0.005  # seconds between two messages, in which the server goes to sleep
SPARE = 50  # descriptors that a program needs besides
WORD = pack(b"hello")  # a frame: so stage 7 answers, too


def server_of(port):
    """The process that listens on this port and is ours to look at; None if there is none."""
    inodes = {inode for listening, inode, *_ in kernel.listeners() if listening == port}
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return next((pid for pid in pids if inodes & kernel.socket_inodes(pid)), None)


def room(pid):
    """For how many silent clients both sides have descriptors."""
    limit = re.search(r"^Max open files +(\d+)", kernel.read_file(f"/proc/{pid}/limits"), re.M)
    return min(raise_fd_limit(), int(limit[1]) if limit else 0) - SPARE


def exchange(talker):
    """One word there and back."""
    talker.sendall(WORD)
    left = len(WORD)
    while left:
        data = talker.recv(left)
        if not data:
            raise ConnectionError("the server has closed the connection")
        left -= len(data)


def cost(pid, talker, seconds=1):
    """Microseconds of the server's CPU time for a message, while the talker talks so long."""
    before, count, end = kernel.cpu_ns(pid), 0, time.monotonic() + seconds
    while not count or time.monotonic() < end:
        exchange(talker)
        count += 1
        time.sleep(PAUSE)
    return (kernel.cpu_ns(pid) - before) / count / 1000


def watch(port, pid, most):
    """Print a line a second, until `most` silent clients are there."""
    def connect():
        return socket.create_connection(("127.0.0.1", port), timeout=5)

    talker, silent = connect(), []
    exchange(talker)
    print("silent clients   CPU of a message", flush=True)
    while True:
        print(f"{len(silent):14,}{cost(pid, talker):16,.0f} µs", flush=True)
        if len(silent) >= most:
            return
        silent += [connect() for _ in range(min(A_SECOND, most - len(silent)))]
        exchange(talker)  # the server has accepted them, or has begun to


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("port", type=int, help="900N for stage N")
    arguments.add_argument("clients", type=int, help="how many silent ones")
    options = arguments.parse_args()
    pid = server_of(options.port)
    if pid is None:
        return f"idle: no server of yours listens on port {options.port}"
    most = min(options.clients, room(pid))
    if most < options.clients:
        print(f"only {counted(most, 'client')}: there are no descriptors for more. Say `ulimit -Sn "
              f"{options.clients + 100}` where the server runs, and start it again")
    try:
        watch(options.port, pid, most)
    except OSError as error:
        return f"idle: port {options.port}: {error.strerror or error}"
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
