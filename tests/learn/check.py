#!/usr/bin/env python3
"""Put every probe of a stage to a server: ours, or one that you wrote. This is `make check-N`.

    python3 -m tests.learn.check 4                    our stage 4
    python3 -m tests.learn.check 4 --server ./mine    your own server, in any language

A server of yours takes --port N, and prints a line that ends in `listening on HOST:PORT` when it
can be connected to. That is all it has to know of this course. A command with arguments is fine,
too: --server "python3 mine.py".
"""

import argparse
import os
import pathlib
import shlex
import shutil
import textwrap

from tests import harness
from tests import probes
from tests.harness import runner

WIDTH = 80


def describe(probe, number, verdict, own):
    """The lines for one probe: what to print, and whether it counts as passed."""
    expected = probe.expect[number]
    problem = harness.judge(probe, number, verdict)
    if not problem:
        lesson = verdict.outcome == "L"
        outcome = "L" if lesson else "-" if harness.untried(verdict) else "P"
        text = line(probe, outcome, probe.title)
        text += indented(f"lesson, as chapter {told_in(probe.row, number)} says", verdict.seen) \
            if lesson else ""
        return text, True
    if verdict.outcome == "P" and not own:
        return line(probe, "P", f"{probe.title} (more than stage {number} asks)"), True
    text = line(probe, "FAIL", probe.title)
    if verdict.outcome == "P":
        return text + indented("expected", "the lesson: it " + expected[2:]) + \
            indented("received", problem), False
    said = verdict.hint or verdict.kind == "no start"  # then it is not what the probe is about
    look, hint = ("", verdict.hint) if said else (probe.look, probe.hint)
    for name, value in (("sent", verdict.sent), ("expected", verdict.expected),
                        ("received", problem), ("look at", look), ("hint", hint)):
        text += indented(name, value) if value else ""
    return text, False


def told_in(row, number):
    """The chapter that speaks of a lesson: its own, or the one where it becomes urgent."""
    return {12: max(number, 4), 27: 7, 28: 7}.get(row, number)


def line(probe, outcome, text):
    """The first line of a probe."""
    return f"{probe.row:>2}  {outcome:<4}  {text}\n"


def indented(name, text):
    """A line below it, wrapped."""
    return textwrap.fill(f"{name}: {text}", WIDTH, initial_indent=" " * 10,
                         subsequent_indent=" " * 14) + "\n"


def reached(results, rows):
    """The highest stage whose every expectation these (probe, verdict) pairs meet, or 0.

    A stage counts only if all its probes (of the chosen rows) were run.
    """
    verdicts = dict(results)

    def meets(number):
        asked = harness.probes(rows, number)
        return asked and all(
            p in verdicts and (verdicts[p].outcome == "P"
                               or not harness.judge(p, number, verdicts[p])) for p in asked)

    return max((number for number in harness.STAGES if meets(number)), default=0)


def numbers(text):
    """{1, 7, 9} for "1,7,9"."""
    return {int(number) for number in text.split(",")}


def find_server(path):
    """The reader's server as a command that exec() takes."""
    path = os.path.expanduser(path)
    found = path if os.path.exists(path) else shutil.which(path)
    if found and os.path.isfile(found):
        return [os.path.abspath(found)]
    words = shlex.split(path)  # "python3 mine.py" is a command, too
    program = shutil.which(words[0]) if len(words) > 1 else None
    return [program, *words[1:]] if program else None


def run(number, rows, command, build):
    """Run the probes and print a line each, in order. Returns (probe, verdict, passed) each."""
    chosen = harness.probes(rows, number)
    results, printed = {}, 0
    with runner.progress(len(chosen)) as step:
        for (probe, *_), verdict in runner.run_all([(p, number, command, build) for p in chosen]):
            step(probe.title)
            results[probe] = verdict
            while printed < len(chosen) and chosen[printed] in results:
                show(chosen[printed], number, results[chosen[printed]], command is None)
                printed += 1
            if verdict.kind == "no start":  # then nothing else can be said about it
                return stopped(chosen[:printed + 1], results, verdict, number, command is None)
    return results


def stopped(chosen, results, verdict, number, own):
    """It does not start: said once, for the first probe that is not printed yet."""
    said = {p: results[p] for p in chosen if p in results}
    if verdict not in said.values():
        said[chosen[-1]] = verdict
        show(chosen[-1], number, verdict, own)
    return said


def show(probe, number, verdict, own):
    """Print what a probe has shown."""
    print(describe(probe, number, verdict, own)[0], end="")
    for note in verdict.notes:
        print(indented("note", note), end="")


def summary(number, results, rows, own):
    """The last lines."""
    failed = sum(not describe(p, number, v, own)[1] for p, v in results.items())
    left_out = sum(bool(harness.untried(v)) for v in results.values())
    passed = len(results) - failed - left_out
    if own:
        print(f"\n{harness.STAGES[number]}: everything as its chapter says" if not failed else "")
    else:
        stage = reached(list(results.items()), rows)
        missing = sorted({p.row for p, v in results.items() if not describe(p, number, v, own)[1]})
        text = f"This server has reached stage {stage}: {harness.STAGES[stage]}" if stage else \
            "This server has reached no stage yet"
        text += ", as far as these rows show." if rows else "."
        if missing:
            text += (f" It is not stage {number}, because of row{'s' * (len(missing) > 1)} "
                     f"{', '.join(map(str, missing))}.")
        elif stage < 7:
            text += f" Next: make check-{stage + 1} SERVER=..."
        print("\n" + textwrap.fill(text, WIDTH))
    print(f"{passed} passed, {failed} failed" + f", {left_out} not tried" * (left_out > 0))
    return 1 if failed or not passed else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, choices=list(harness.STAGES))
    arguments.add_argument("--server", help="your own server (default: ours)")
    arguments.add_argument("--rows", type=numbers, help="only these: 1,7,9")
    arguments.add_argument("--build", default=harness.BUILD, help="where our servers are")
    options = arguments.parse_args()

    command = None
    if options.server:
        command = find_server(options.server)
        if not command:
            print(f"{options.server}: there is no such program\n0 passed, 1 failed")
            return 1
    elif not (pathlib.Path(options.build) / harness.STAGES[options.stage]).exists():
        print(f"{harness.STAGES[options.stage]} is not built: make\n0 passed, 1 failed")
        return 1
    probes.load()
    rows = options.rows
    if not harness.probes(rows, options.stage):
        print(f"none of these rows is asked of stage {options.stage}\n0 passed, 1 failed")
        return 1
    print("P: passes.  L: a lesson, the stage is meant to fail there.\n")
    results = run(options.stage, rows, command, options.build)
    return summary(options.stage, results, rows, command is None)


if __name__ == "__main__":
    runner.main(main)
