#!/usr/bin/env python3
"""One loop per thread: how connections spread, and what a second loop gains. `make threads`.

    python3 -m tests.bench.threads --rounds 20

Each loop of stage 07 has a listening socket of its own on the same port (SO_REUSEPORT). The kernel
picks one for each connection by a hash of its addresses and ports: socket(7). Which loop has how
many is read from outside, in /proc/PID/fdinfo of the epoll descriptors. Nothing is pinned here:
server and generator share all cores, so that with two cores the generator takes its part of what a
second loop could gain.
"""

import argparse
import os
import pathlib
import sys

from tests.bench import load
from tests.bench import rounds
from tests.bench.tables import table
from tests.harness import argument, runner

SPREAD = 1000  # connections
SCENARIOS = {"100 connections": {"connections": 100},
             "50 x 64 in flight": {"connections": 50, "in-flight": 64}}


def command(threads):
    """How to start it."""
    return [*load.command_of("07-evloop"), "--threads", str(threads)]


def watched(pid):
    """For each epoll descriptor of a process, how many descriptors are in its interest list."""
    counts = {}
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            text = pathlib.Path(f"/proc/{pid}/fdinfo/{name}").read_text("ascii")
        except OSError:
            continue  # closed meanwhile
        if "eventpoll" in os.readlink(f"/proc/{pid}/fd/{name}"):
            counts[name] = text.count("tfd:")
    return counts


def spread(threads):
    """Clients per loop, of SPREAD that have all been answered, the fullest loop first."""
    with load.Session(command(threads)) as session:
        before = watched(session.server.pid)
        session.measure({"connections": SPREAD, "count": SPREAD})
        after = watched(session.server.pid)
    return sorted((after[epoll] - before[epoll] for epoll in after), reverse=True)


def sample(threads, options):
    """One slice, on new connections."""
    with load.Session(command(threads)) as session:
        session.run({**options, "ms": 50})
        return rounds.measures(session.measure({**options, "ms": 300}))


def speeds(title, options, counts, count):
    """A table of what each number of loops has done, beside the first."""
    with runner.progress(count * len(counts), loud=True) as progress:
        samples = rounds.in_turn(count, counts, lambda n: sample(n, options), progress, title)
    rates = {n: [s["throughput"] for s in samples[n]] for n in counts}
    rows = []
    for n in counts:
        ratio = rounds.summed_up([a / b for a, b in zip(rates[n], rates[counts[0]])])
        cpu = rounds.summed_up([s["cpu_us"] for s in samples[n]])
        rows.append((f"--threads {n}", [
            f"{rounds.summed_up(rates[n])['median']:,.0f}", f"{ratio['median']:.2f}",
            f"{ratio['spread'] / 2:.2f}", f"{cpu['median']:.2f}"]))
    return table(f"{title}: medians of {count} rounds, +-: spread of the ratio", ("", 14),
                 [("messages/s", 12), ("ratio", 8), ("+-", 6), ("CPU us per message", 20)], rows)


def main(arguments):
    """Exit status 0 if every byte came back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=load.BUILD)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=argument.counts, default=[1, 2, 4])
    options = parser.parse_args(arguments)
    load.use_build(options.build)
    load.cpus = lambda: (None, None)  # nothing is pinned
    if load.is_missing("load", "07-evloop"):
        return 2

    print(f"{SPREAD:,} connections, spread by the kernel over SO_REUSEPORT listeners")
    for threads in options.threads:
        print(f"--threads {threads:<4}{', '.join(f'{n:,}' for n in spread(threads))}")
    for title, load_options in SCENARIOS.items():
        print("\n" + speeds(title, load_options, options.threads, options.rounds))
    return 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
