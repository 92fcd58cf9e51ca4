#!/usr/bin/env python3
"""Stage 07 beside other loops, under the same load: `make peers`.

    python3 -m tests.bench.peers                      about eight minutes
    python3 -m tests.bench.peers --slices 30 --only libuv,07-evloop --scenarios c100

The same framed echo, written as each library wants it, in peers/. What is printed are ratios
to raw_epoll.cpp, a loop by hand without any library: before and after every slice of a peer the raw
loop has one of its own, so that what drifts between minutes is in both. MEASURING.md says how to
read it. 04-epoll-lt is there for orientation: it does not look for frames.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import subprocess
import sys

from tests.bench import load
from tests.bench import rounds
from tests.bench import scenarios
from tests.bench import tables
from tests.harness import argument, runner
from tests.harness.course import CXX

SOURCES = load.ROOT / "tests" / "bench" / "peers"
RAW = "raw_epoll"
SPIN = "raw_spin"  # the same, and for 50 us it asks again before it goes to sleep
LIBRARIES = {  # peer: what it is linked with, Debian's package
    RAW: ("", ""),
    SPIN: ("", ""),
    "libev": ("-lev", "libev-dev"),
    "libuv": ("-luv", "libuv1-dev"),
    "libevent": ("-levent_core", "libevent-dev"),
    "asio": ("-pthread", "libasio-dev"),
}
STAGES = ("07-evloop", "04-epoll-lt")
SCENARIOS = ("c1", "c100", "c1000", "flight", "bulk", "idle10000", "churn")
RATIOS = ("cpu_us", "throughput", "p50_us", "p99_us")
NAMES = {"c1": "1 conn", "c100": "100", "c1000": "1,000", "flight": "50 x 64",
         "bulk": "64 KiB", "idle10000": "10k idle", "churn": "churn"}


def build(peer):
    """Compile a peer. What is missing, or None."""
    libraries, package = LIBRARIES[peer]
    wrong = compiled(peer, RAW if peer == SPIN else peer, *libraries.split(),
                     f"-DSPIN_US={50 if peer == SPIN else 0}")
    if package and "No such file" in wrong:
        return f"apt-get install {package}"
    return f"does not compile:\n{wrong}" if wrong else None


def compiled(peer, source, *flags):
    """Have build/peers/PEER made of peers/SOURCE.cpp. '', or what the compiler has to say."""
    source, target = SOURCES / f"{source}.cpp", load.BUILD / "peers" / peer
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.stat().st_mtime > max(
            f.stat().st_mtime for f in (source, SOURCES / "echo.h")):
        return ""
    done = subprocess.run(
        [*CXX, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-I.", source, *flags,
         "-o", target],
        cwd=load.ROOT, capture_output=True, encoding="utf-8", check=False)
    return "" if done.returncode == 0 else done.stderr or "no reason is given"


def command_of(peer):
    """How to start it."""
    return load.command_of(peer) if peer in load.STAGES else [str(load.BUILD / "peers" / peer)]


def sample(session, scenario, ms):
    """One slice, or None if it counts for nothing."""
    result = session.run({**scenario.options, "ms": ms})
    if result["why"] or not result["messages"]:
        why = result["why"] or "no echo"
        print(f"\n{session.server.command[0]}: {scenario.title}: {why}", file=sys.stderr)
        return None
    return rounds.measures(result)


def compare(peers, scenario, slices, ms, progress):
    """{peer: [(raw before, peer, raw after), ...]} of one scenario."""
    with contextlib.ExitStack() as stack:
        sessions = {peer: stack.enter_context(load.Session(command_of(peer)))
                    for peer in (RAW, *peers)}
        before = sample(sessions[RAW], scenario, ms)

        def between(peer):
            nonlocal before
            own = sample(sessions[peer], scenario, ms)
            after = sample(sessions[RAW], scenario, ms) if own else None
            triple, before = (before, own, after), after or before
            return triple if all(triple) else None

        return rounds.in_turn(slices, peers, between, progress, scenario.key)


def ratio(triples, metric):
    """Median and spread of a peer's ratio to the raw loop around it; None without samples."""
    ratios = [own[metric] / ((before[metric] + after[metric]) / 2)
              for before, own, after in triples]
    return rounds.summed_up(ratios) if ratios else None


def cell(measured):
    """A median and half its spread, nine columns wide."""
    if measured is None:
        return "-"
    digits = 2 if measured["median"] < 10 else 1
    text = f"{measured['median']:.{digits}f}±{measured['spread'] / 2:.2f}"
    return text.replace("±0.", "±.")


def table(results, metric, title):
    """A line for each peer."""
    rows = [(peer, [cell(results[key][peer][metric]) for key in results])
            for peer in next(iter(results.values()))]
    return tables.table(title, ("", 12), [(NAMES[key], 9) for key in results], rows)


def parse_arguments(arguments):
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=load.BUILD)
    known = [peer for peer in (*STAGES, *LIBRARIES) if peer != RAW]
    parser.add_argument("--only", type=argument.some_of(known), default=known, dest="peers",
                        help="of: " + " ".join(known))
    parser.add_argument("--scenarios", type=argument.some_of(SCENARIOS), default=SCENARIOS,
                        help="of: " + " ".join(SCENARIOS))
    parser.add_argument("--slices", type=int, default=10, help="of each peer and scenario")
    parser.add_argument("--ms", type=int, default=300, help="length of a slice")
    parser.add_argument("--json", type=pathlib.Path, help="default: peers.json in --build")
    options = parser.parse_args(arguments)
    options.chosen = [s for s in scenarios.SCENARIOS if s.key in options.scenarios]
    return options


def available(peers):
    """Those that can be built; the others are named with what they need."""
    found = []
    for peer in peers:
        missing = build(peer) if peer in LIBRARIES else None
        if missing is None:
            found.append(peer)
        else:
            print(f"without {peer}: {missing}", file=sys.stderr)
    return found


def main(arguments):
    """Exit status 0 if anything could be measured."""
    options = parse_arguments(arguments)
    load.use_build(options.build)
    if load.is_missing("load") or not available([RAW]):
        return 2
    peers = available(options.peers)
    results = {}
    steps = len(options.chosen) * options.slices * len(peers)
    with runner.progress(steps, loud=True) as progress:
        for scenario in options.chosen:
            samples = compare(peers, scenario, options.slices, options.ms, progress)
            results[scenario.key] = {
                peer: {metric: ratio(samples[peer], metric) for metric in RATIOS}
                for peer in peers}
    print(table(results, "cpu_us", "CPU per message, as a multiple of the raw epoll loop's"))
    print()
    print(table(results, "throughput", "Throughput, likewise"))
    print()
    load.keep(options.json or load.BUILD / "peers.json", "tests.bench.peers", arguments, {
        "slices": options.slices, "ms": options.ms,
        "scenarios": [dataclasses.asdict(s) | {"title": s.title, "results": results[s.key]}
                      for s in options.chosen]})
    return 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
