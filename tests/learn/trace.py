#!/usr/bin/env python3
"""A picture of a stage at work: its system calls while three clients come, talk and stall.

What the clients do stands at the left margin, what the server does below it, indented. This is
`make trace-N`, and the traces in the chapters. Needs strace.
"""

import argparse
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

from tests import harness
from tests.harness import runner
from tests.outside import kernel, tracing

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALLS = "accept4,recvfrom,sendto,select,pselect6,poll,epoll_ctl,epoll_wait,shutdown,close"
TIDY = [
    (r"recvfrom", "recv"), (r"sendto", "send"), (r"pselect6", "select"),
    (r"recv\((\d+), (.*), \d+, 0, NULL, NULL\)", r"recv(\1, \2)"),
    (r"send\((\d+), (.*), \d+, MSG_NOSIGNAL, NULL, 0\)", r"send(\1, \2)"),
    (r"accept4\((\d+), .*\) =", r"accept4(\1) ="),
    (r", NULL, NULL, NULL, NULL\)", ")"),
    (r"data=\{u32=(\d+), u64=\1\}", r"fd \1"),
    (r"data=\{[^}]*\}", r"ptr"),
    (r"data=0x([0-9a-f]{1,4})\b", lambda m: f"fd {int(m[1], 16)}"),  # newer versions of strace
    (r"data=0x[0-9a-f]+", r"ptr"),
    (r"\{fd=(\d+), events=POLLIN\}", r"\1"),
    (r"\{fd=(\d+), revents=(\w+)\}", r"\1 \2"),
    (r"0x[0-9a-f]+", "..."), (r", 256, -?\d+\)", ")"), (r", -1\) =", ") ="),
    (r" \([A-Z][a-z ]*\)$", ""), (r"\) +=", ") ="),
]


def frame(payload):
    """A frame for stage 07; the other stages echo it like any bytes."""
    return b"EVLP" + struct.pack(">I", len(payload)) + payload


class Traced:
    """A server under strace, and the lines that strace has written since the last time."""

    def __init__(self, command, log):
        self.log, self.seen = log, 0
        self.strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-s", "24", "-e", "trace=" + CALLS, "-e", "signal=none",
             "-o", log, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            encoding="utf-8")
        line = self.strace.stdout.readline()
        self.port = int(line.rsplit(":", 1)[1])

    def calls(self):
        """What the server has called since the last time, once it is quiet again."""
        still = harness.Stillness([self.strace.pid, *kernel.descendants(self.strace.pid)])
        harness.wait_for(lambda: still.lasts(beside=os.path.getsize(self.log)),
                         "the server is quiet")
        with open(self.log, encoding="utf-8") as log:
            log.seek(self.seen)
            text = log.read()
        whole = text[:text.rfind("\n") + 1]
        self.seen += len(whole)
        return [tidy(line) for line in whole.splitlines()]

    def end(self):
        """Stop it, and wait for its end."""
        for pid in kernel.descendants(self.strace.pid):
            os.kill(pid, 9)
        self.strace.wait(10)


def tidy(line):
    """A line of strace without what says nothing here."""
    line = re.sub(r"^\d+ +", "", line)
    for pattern, replacement in TIDY:
        line = re.sub(pattern, replacement, line)
    return line if len(line) <= 92 else line[:89] + "..."


def story(port):
    """What the clients do: a step and its name, one after the other."""
    clients = {}

    def connect(name):
        clients[name] = socket.create_connection(("127.0.0.1", port), timeout=5)

    def talk(name, text):
        clients[name].sendall(frame(text))

    yield "A connects", lambda: connect("A")
    yield "B connects", lambda: connect("B")
    yield "C connects", lambda: connect("C")
    yield 'B sends "hi"', lambda: talk("B", b"hi")
    yield "A, which said nothing, leaves", lambda: clients["A"].shutdown(socket.SHUT_WR)
    yield 'C sends "ho"', lambda: talk("C", b"ho")
    yield "B leaves", lambda: clients["B"].shutdown(socket.SHUT_WR)


def cannot_trace():
    """Why there can be no trace here; '' if there can."""
    if not shutil.which("strace"):
        return "strace is missing: apt-get install strace"
    return "" if tracing.allowed() else \
        "strace needs ptrace(), and this machine forbids it (a container may: --cap-add=SYS_PTRACE)"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, choices=range(1, 8))
    arguments.add_argument("--build", default="build")
    arguments.add_argument("--steps", default="1-7", metavar="4-5", help="print only these")
    options = arguments.parse_args()
    if reason := cannot_trace():
        sys.exit(reason)
    folder = next(ROOT.glob(f"0{options.stage}-*"))
    command = [f"{options.build}/{folder.name}", "--port", "0"]
    if options.stage == 7:
        command += ["--tick-ms", "3600000"]  # none while we look

    first, last = map(int, options.steps.split("-"))
    with tempfile.NamedTemporaryFile() as log:
        server = Traced(command, log.name)
        try:
            server.calls()  # the set-up
            for number, (name, step) in enumerate(story(server.port), 1):
                step()
                calls = server.calls()
                if first <= number <= last:
                    print(name, *calls, sep="\n    ")
        finally:
            server.end()


if __name__ == "__main__":
    runner.main(main)
