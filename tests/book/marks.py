#!/usr/bin/env python3
"""Why two marks and not one: what is epoll told while a client is slow? Needs strace.

Stage 7 with a send buffer of 16 KiB, as on a slow network, and with one mark or two. A client sends
16 MiB and reads it late. The kernel's own buffers grow as they like, so the numbers differ a little
from run to run.
"""

import argparse
import pathlib
import re
import shutil
import sys
import tempfile

from tests import harness
from tests.book import variants

NAMES = ("07-one-mark", "07-two-marks")
TOTAL = 16 << 20  # bytes
STEP = 64 << 10  # bytes that the client takes at a time, while more wait to be read by the server


def calls(program):
    """How often this server calls epoll_ctl()."""
    with tempfile.NamedTemporaryFile() as trace:
        stage = harness.Stage(7, ["strace", "-f", "-o", trace.name, "-e", "trace=epoll_ctl",
                                  str(program)])
        try:
            client, sent, received = stage.start().connect(), 0, 0
            message = memoryview(harness.frame(bytes(STEP - 8)) * (TOTAL // STEP))

            def is_paused():
                nonlocal sent
                sent += client.try_send(message[sent:])
                return "events=EPOLLOUT," in pathlib.Path(trace.name).read_text("utf-8")

            harness.wait_for(is_paused, "the server waits for room alone")
            while received < TOTAL:
                sent += client.try_send(message[sent:])
                client.wait(what="the rest")
                received += len(client.try_receive(STEP))
        finally:
            stage.stop()
        return len(re.findall(r"epoll_ctl\(", pathlib.Path(trace.name).read_text("utf-8")))


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not shutil.which("strace"):
        sys.exit("needs strace: apt-get install strace")
    print("calls of epoll_ctl() for 16 MiB")
    for name in NAMES:
        with tempfile.TemporaryDirectory() as tree:
            program = variants.build(name, pathlib.Path(tree))
            print(f"{name[3:].replace('-', ' '):10} {calls(program):5}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
