#!/usr/bin/env python3
"""A thread for each client, beside the one thread of stage 04: `make per-client`.

    python3 -m tests.bench.per_client --rounds 20 --idle 1000

A hundred clients talk, and many more are silent. Both servers are connected to all the time and
measured in turn. Memory is what each has grown by from its start until every client has had an
echo: the process's own, its page tables, and the kernel's stacks of its threads. The sockets are
the same for both and are not counted.
"""

import argparse
import contextlib
import pathlib
import sys

from tests.bench import load
from tests.bench import peers
from tests.bench import rounds
from tests.bench.tables import table
from tests.harness import argument, runner
from tests.outside import host, kernel

THREADS = "thread_per_client"
SERVERS = ("04-epoll-lt", THREADS)
TALKING = 100
RATE = 10_000  # messages a second of all of them, for the latency: MEASURING.md, "How not to"


def command_of(name):
    """How to start it."""
    return [str(load.BUILD / "peers" / name)] if name == THREADS else load.command_of(name)


def memory_kib(pid):
    """What the process, its page tables and the kernel's stacks take. The stacks are those of all
    processes of this machine: what others start or end meanwhile is in it."""
    stacks = host.meminfo()["KernelStack"] // 1024
    return kernel.memory_kib(pid) + kernel.memory_kib(pid, "VmPTE") + stacks


def connect(session, idle):
    """Let all clients connect and have an echo. KiB for each of them, and the threads."""
    pid = session.server.pid
    before = memory_kib(pid)
    session.measure({"connections": TALKING, "idle": idle, "count": TALKING})
    return (memory_kib(pid) - before) / (TALKING + idle), len(kernel.threads(pid))


def sample(session, idle, messages):
    """So many messages as fast as it can, and again at a fixed rate, for the latency."""
    options = {"connections": TALKING, "idle": idle, "count": messages}
    fast = rounds.measures(session.measure(options))
    paced = rounds.measures(session.measure({**options, "rate": RATE}))
    return fast | {name: paced[name] for name in ("p50_us", "p99_us")}


def measure(idle, options, progress):
    """{server: (KiB for a client, threads, {what: median})}."""
    with contextlib.ExitStack() as stack:
        sessions, sizes = {}, {}
        for name in SERVERS:
            progress(f"{idle:,} idle: {name}: connecting")
            sessions[name] = stack.enter_context(load.Session(command_of(name)))
            sizes[name] = connect(sessions[name], idle)
        samples = rounds.in_turn(
            options.rounds, SERVERS, lambda name: sample(sessions[name], idle, options.messages),
            progress, f"{idle:,} idle")
    return {name: (*sizes[name], {what: rounds.summed_up([s[what] for s in samples[name]])["median"]
                                  for what in samples[name][0]}) for name in SERVERS}


def rows(idle, results):
    """Its lines of the table."""
    for name, (kib, threads, medians) in results.items():
        yield name, [f"{idle:,}", f"{threads:,}", f"{kib:.2f}", f"{medians['switches']:.2f}",
                     f"{medians['cpu_us']:.2f}", f"{medians['p50_us']:,.0f}",
                     f"{medians['p99_us']:,.0f}"]


def main(arguments):
    """Exit status 0 if every byte came back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=load.BUILD)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--messages", type=int, default=10_000, help="of a sample, twice")
    parser.add_argument("--idle", type=argument.counts, default=[1000, 10_000])
    options = parser.parse_args(arguments)
    load.use_build(options.build)
    load.PATIENCE_MS = 10_000  # ten thousand threads do not start in a second everywhere
    if wrong := peers.compiled(THREADS, THREADS, "-pthread"):
        print(wrong, file=sys.stderr)
    if wrong or load.is_missing("load", *SERVERS[:1]):
        return 2

    lines = []
    steps = len(options.idle) * len(SERVERS) * (options.rounds + 1)
    with runner.progress(steps, loud=True) as progress:
        for idle in options.idle:
            lines += rows(idle, measure(idle, options, progress))
    print(table(f"{TALKING} clients talk, the others are idle",
                ("", 19), [("idle", 8), ("threads", 9), ("KiB each", 10), ("switches", 10),
                           ("CPU us", 8), ("p50 us", 8), ("p99", 8)], lines))
    print(f"\nKiB each: memory for a client. Switches and CPU: for a message, at full speed.\n"
          f"p50, p99: at {RATE:,} messages a second. Medians of {options.rounds} rounds.")
    return 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
