#!/usr/bin/env python3
"""From a broken server to the whole one, a few lines at a time: `make build-N`.

The mutants of a stage, backwards. It begins with a server that lacks them all. Each step gives some
lines back, and shows which row of the matrix turns with them: guess before you press Return. What
you see is built and run at that moment.
"""

import argparse
import difflib
import pathlib
import shutil
import sys
import tempfile
import textwrap

from tests import harness
from tests import probes
from tests.harness import runner
from tests.mutants import mutant as mutants
from tests.mutants import notice
from tests.mutants.workshop import FLAGS, compiler

# In which order they are given back: each row must fail before its step and pass behind it. Two
# mutants that the same row notices cannot both be steps: make break-N shows the others.
STEPS = {
    1: ["one-send", "accept-rests", "reuseaddr"],
    2: ["no-copy", "fd-setsize"],
    3: ["erase", "wait-rests"],
    4: ["eintr", "eof"],
    5: ["one-accept", "one-recv"],
    6: ["no-mod", "no-mark", "bad-alloc"],
}


class Ladder:
    """The states of a stage: [0] lacks all that the steps give back, [-1] is whole."""

    def __init__(self, number):
        by_name = {mutant.name: mutant for mutant in mutants.of_stage(number)}
        self.steps = [by_name[name] for name in STEPS[number]]
        self.folder = self.steps[0].folder
        self.states = [{}]  # each: the files that are not as in the repository
        for step in reversed(self.steps):
            self.states.insert(0, self.without(self.states[0], step))

    def without(self, state, step):
        """The state with the lines of one more step taken away."""
        with tempfile.TemporaryDirectory() as place:
            tree = pathlib.Path(place)
            self.write(state, tree)
            step.apply(tree)
            return {**state, **{name: (tree / name).read_text("utf-8") for name in step.changed}}

    def write(self, state, tree):
        """Put a state into a folder, with all that it needs to be compiled."""
        for part in (self.folder, "common"):
            shutil.copytree(mutants.ROOT / part, tree / part)
        for name, text in state.items():
            (tree / name).write_text(text, "utf-8")

    def server(self, at, place):
        """Build a state; returns the path of the server."""
        tree = pathlib.Path(place) / str(at)
        self.write(self.states[at], tree)
        flags = {flag for step in self.steps for flag in step.flags}
        program = tree / self.folder / "server"
        compiler(program, [*FLAGS, *flags, f"-I{tree}",
                           str(tree / self.folder / "server.cpp")])
        return str(program)

    def change(self, at):
        """What a step changes, as the lines of a diff."""
        lines = []
        for name in self.steps[at].changed:
            texts = [state.get(name) or (mutants.ROOT / name).read_text("utf-8")
                     for state in self.states[at:at + 2]]
            lines += [f"    {name}", ""]
            lines += [f"    {line}".rstrip() for line in
                      list(difflib.unified_diff(*map(str.splitlines, texts), lineterm=""))[3:]]
        return "\n".join(lines)


def put_to(row, number, server, build, right):
    """What a row makes of a server: (what has been seen, is it wrong). `right`: what to say if not.

    None: the row could not be tried on this machine.
    """
    try:
        wrong = notice.difference(row, number, server, build)
    except harness.NotTried as why:
        return f"not tried: {why}", None
    return (wrong.seen, True) if wrong else (right, False)


def climb(number, build, ask):
    """All steps, one after the other. Returns how many did not do what they say."""
    ladder, failed, skipped = Ladder(number), 0, 0
    names = " ".join(step.without + (";" if step != ladder.steps[-1] else ".")
                     for step in ladder.steps)
    print(fill(f"{ladder.folder} in {len(ladder.steps)} steps. The server that we begin with lacks "
               + names))
    with tempfile.TemporaryDirectory(prefix="build-") as place:
        servers = [ladder.server(0, place)]
        for at, step in enumerate(ladder.steps):
            servers.append(ladder.server(at + 1, place))
            row = step.rows[0]
            seen, fails = put_to(row, number, servers[at], build, "passes, although it should not")
            print(f"\n{at + 1}. {step.without}\n")
            print(fill(f"Without it: {step.seen}"))
            print(fill(f"Row {row}, {probes.ROWS[row]}: {seen}", "    "))
            ask("\nWhich lines are missing? Return shows them. ")
            print("\n" + ladder.change(at) + "\n")
            seen, still = put_to(row, number, servers[at + 1], build, "as its chapter says.")
            print(fill(f"Row {row} now: {seen}", "    "))
            if fails is False or still:
                failed += 1
            elif None in (fails, still):
                skipped += 1
    print(f"\n{ladder.folder} is whole: {len(ladder.steps) - failed - skipped} passed, "
          f"{failed} failed" + f", {skipped} skipped" * (skipped > 0))
    return failed


def fill(text, indent=""):
    """A paragraph of 80 columns."""
    return textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent)


def wait_for_return(prompt):
    """Wait for the reader, if there is one who can type."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        input(prompt)
    except EOFError:
        print()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int)
    arguments.add_argument("--build", default=harness.BUILD)
    options = arguments.parse_args()
    if options.stage not in STEPS:
        print("make build-N: N is 1 to 6. Stage 7 is a library: make break-7 shows its mutants.",
              file=sys.stderr)
        return 2
    if not shutil.which(harness.CXX[0]):
        print("make build-N needs a compiler: apt-get install g++", file=sys.stderr)
        return 2
    probes.load()
    return 1 if climb(options.stage, options.build, wait_for_return) else 0


if __name__ == "__main__":
    runner.main(main)
