#!/usr/bin/env python3
"""Measure the seven stages beside each other: `make compare`.

    python3 -m tests.bench.compare                    all stages, about two minutes
    python3 -m tests.bench.compare --full             more rounds, and what needs more time to show
    python3 -m tests.bench.compare --stages 3,4 --scenarios wake10,wake10000 --rounds 10

All stages run at the same time, and are measured in turn: one slice of each, then the next round.
The bytes are checked first, and every byte of the measured load too. What differs by less than it
varies between the rounds is printed as "=". tests/bench/MEASURING.md says how to read it.
"""

import argparse
import contextlib
import pathlib
import sys

from tests import harness
from tests.bench import chart
from tests.bench import extra
from tests.bench import load
from tests.bench import report
from tests.bench import rounds
from tests.bench import scenarios
from tests.harness import argument, runner


class Comparison:
    """What has been measured so far: of each stage and scenario, one sample for each round."""

    def __init__(self, options):
        self.stages = options.stages
        self.scenarios = options.chosen
        self.rounds = options.rounds
        self.full = options.full
        self.samples = {}  # (stage, key) -> [phase, ...]
        self.failed = {}  # (stage, key) -> why
        self.calls = {}  # (stage, key) -> {name: calls per message}
        self.broken = False
        self.extra = {}

    def groups(self):
        """The scenarios that share connections, together."""
        for name in dict.fromkeys(s.group for s in self.scenarios):
            yield [s for s in self.scenarios if s.group == name]

    def check_bytes(self, stage):
        """Frames of all sizes, before anything is measured."""
        try:
            with load.Session(load.command_of(stage)) as session:
                for size, flight, count in scenarios.BYTE_CHECK:
                    why = session.run({"size": size, "in-flight": flight, "count": count})["why"]
                    if why:
                        return self.give_up(stage, f"frames of {size} bytes: {why}")
        except harness.NoStart as reason:
            print(f"{stage}: {reason}", file=sys.stderr)
            self.give_up(stage, "does not start")
        return None

    def give_up(self, stage, why):
        """It is not measured at all. That is a failure of the run, unless it is meant to drop."""
        self.broken |= not why.endswith(load.DROPPED)
        for scenario in self.scenarios:
            self.failed[stage, scenario.key] = why

    def measure(self, group, progress):
        """All rounds of a group. All stages are up meanwhile, and idle unless it is their turn."""
        with contextlib.ExitStack() as stack:
            sessions = {}

            def sample(stage):
                if stage not in sessions:
                    sessions[stage] = stack.enter_context(load.Session(load.command_of(stage)))
                result = self.slice(sessions[stage], stage, scenario)
                if result is None:  # its connections are in no known state
                    sessions.pop(stage).__exit__()
                return result

            for scenario in group:
                stages = [s for s in self.stages if (s, scenario.key) not in self.failed]
                found = rounds.in_turn(self.rounds, stages, sample, progress, scenario.key)
                self.samples.update({(s, scenario.key): found[s] for s in stages})

    def slice(self, session, stage, scenario):
        """One sample, or None."""
        result = session.run({**scenario.options, "ms": scenario.ms})
        if not result["why"] and result["messages"]:
            return rounds.measures(result)
        self.failed[stage, scenario.key] = result["why"] or "not one echo in time"
        self.broken |= result["why"] == load.WRONG
        return None

    def count_calls(self, group, progress):
        """The same under the shim, which slows the server down: so never what is timed."""
        for stage in self.stages:
            progress(f"{group[0].group}, counting system calls: {stage}")
            members = [s for s in group if (stage, s.key) not in self.failed
                       and (self.full or s.options.get("idle", 0) <= 1000)]
            if not members or not load.has_shim():
                continue
            with load.shim_session(stage) as session:
                for scenario in members:
                    result = session.run({**scenario.options, "count": scenario.count})
                    if result["why"]:
                        break
                    self.calls[stage, scenario.key] = rounds.per_message(result)

    def result(self, stage, key):
        """Medians and single values of one stage and scenario, for JSON."""
        if (stage, key) in self.failed:
            return {"failed": self.failed[stage, key]}
        samples = self.samples.get((stage, key), [])
        if not samples:
            return {"failed": "not measured"}
        calls = self.calls.get((stage, key))
        return {name: rounds.summed_up([sample[name] for sample in samples])
                for name in rounds.METRICS} | {
                    "calls": sum(calls.values()) if calls else None, "calls_by_name": calls or {}}


def parse_arguments(arguments):
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=argument.some_of(harness.STAGES), metavar="4,5",
                        default=list(harness.STAGES))
    keys = [s.key for s in scenarios.SCENARIOS]
    parser.add_argument("--scenarios", type=argument.some_of(keys), metavar="KEY,KEY",
                        help="of: " + " ".join(keys))
    parser.add_argument("--rounds", type=int, help="of all stages (default 5, with --full 11)")
    parser.add_argument("--full", action="store_true", help="everything, in about 15 minutes")
    parser.add_argument("--quick", action="store_true", help="does it work? The numbers are none")
    parser.add_argument("--build", type=pathlib.Path, default=load.BUILD,
                        help="where the programs are")
    parser.add_argument("--json", type=pathlib.Path, help="where to write all numbers, and SVG"
                        " charts beside it (default compare.json in the build directory)")
    parser.add_argument("--no-charts", action="store_true", help="write no SVG files")
    options = parser.parse_args(arguments)
    options.stages = [harness.STAGES[number] for number in options.stages]
    options.json = options.json or options.build / "compare.json"
    options.rounds = options.rounds or (11 if options.full else 1 if options.quick else 5)

    chosen = [s for s in scenarios.SCENARIOS
              if (s.key in options.scenarios if options.scenarios else options.full or not s.full)]
    options.chosen = [*map(scenarios.smaller, chosen)] if options.quick else chosen
    return options


def compare(options):
    """Measure all that was asked for."""
    comparison = Comparison(options)
    groups = list(comparison.groups())
    steps = len(options.stages) * (
        1 + len(groups) + 3 * options.full + options.rounds * len(options.chosen))
    with runner.progress(steps, loud=True) as progress:
        for stage in options.stages:
            progress(f"checking bytes: {stage}")
            comparison.check_bytes(stage)
        for group in groups:
            comparison.measure(group, progress)
            comparison.count_calls(group, progress)
        if options.full:
            comparison.extra = extra.measure_extra(options.stages, progress)
    return comparison


def main(arguments):
    """Exit status 0 if every byte came back; what a stage cannot do by design is no failure."""
    options = parse_arguments(arguments)
    load.use_build(options.build)
    if load.is_missing("load", *options.stages):
        return 2
    comparison = compare(options)
    report.print_tables(comparison)
    print()
    load.keep(options.json, "tests.bench.compare", arguments, report.numbers(comparison))
    if not options.no_charts:
        chart.main([str(options.json)])
    return 1 if comparison.broken else 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
