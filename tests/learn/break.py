#!/usr/bin/env python3
"""What each load-bearing line is for: take it out, and see which probe catches it.

Every stage has patches in break/. Each takes a line or two out of the stage (a broken twin), and
says in its head what a user would see and which row of the matrix turns:

    Break: the loop around send()
    Row: 14
    Seen: now and then the end of a long answer is missing.
    Also: 10

This script builds the twins and runs those probes on them. `make break-N` shows one stage, `make
test` all of them: each patch must apply, each named row must turn, and row 0, which only asks for
an echo, must not (a twin that does not even start proves nothing). And no other row may turn but
those behind "Also:", which fail for the same reason, some of them only now and then. `make test`
looks at the quick rows for that, `make break-N EXACT=1` at all.
"""

import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import tempfile
import textwrap

from tests import harness
from tests import probes
from tests.harness import runner

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRIES = 6
SOAK, CROWDS = {32}, {3, 4, 31}  # random; slow, because of their 1,500 to 10,000 clients
EXACT = {"no": set(probes.ROWS), "quick": SOAK | CROWDS, "all": SOAK}  # the rows left out
FLAGS = ["-std=c++20", "-O1", "-I.", "-pthread"]


class Twin:
    """A patch, what its head says, and the broken server that it makes."""

    def __init__(self, path):
        self.path = path
        self.stage = int(path.parent.parent.name[:2])
        self.folder = path.parent.parent.name
        head, self.diff = re.split(r"^(?=--- )", path.read_text(encoding="utf-8"), maxsplit=1,
                                   flags=re.M)
        self.head = dict(re.findall(r"^(\w+): (.*(?:\n .*)*)", head, re.M))
        self.rows = [int(row) for row in self.head["Row"].split()]
        self.also = [int(row) for row in self.head.get("Also", "").split()]
        self.flags = self.head.get("Flags", "").split()

    def build(self, place):
        """Apply the patch to a copy of the stage and compile it. Returns the program, or raises."""
        copy = pathlib.Path(place) / f"{self.stage}-{self.path.stem}"
        for part in (self.folder, "common"):
            shutil.copytree(ROOT / part, copy / part)
        step(["git", "apply", "--unsafe-paths", "-p1", str(self.path)], copy)
        sources = [f"{self.folder}/server.cpp"]
        if self.stage == 7:
            sources.append(f"{self.folder}/evloop.cpp")
        step(["g++", *FLAGS, *self.flags, *sources, "-o", "twin"], copy)
        return str(copy / "twin")


def step(command, folder):
    """Run a command; what it said is the exception when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise RuntimeError(f"{' '.join(command[:2])}: {said}")


def examine(twin, program, build):
    """Run the twin's rows. Yields row, whether it turned, and what was seen.

    What a twin does may depend on who is faster, so a row has TRIES to notice; row 0 has one.
    """
    for row in [0, *twin.rows]:
        for _ in range(TRIES if row else 1):
            seen = differences(row, twin.stage, program, build)
            if seen:
                break
        yield row, bool(seen), seen[0] if seen else "all as without the patch"


def differences(row, stage, program, build):
    """What the probes of a row see that they should not."""
    verdicts = [(probe, harness.run_cell(probe, stage, [program], build))
                for probe in probes_of(row, stage)]
    for _, verdict in verdicts:
        if verdict.kind == "probe":
            raise RuntimeError(verdict.seen)
    return [verdict.seen for probe, verdict in verdicts if harness.judge(probe, stage, verdict)]


def probes_of(row, stage):
    """The probes of a row that apply to a stage."""
    found = harness.probes(rows=[row], stage=stage)
    if not found:
        raise RuntimeError(f"no probe for row {row} on stage {stage}")
    return found


def unexpected(twin, program, build, left_out):
    """Rows beside its own that turn, and should not."""
    others = set(probes.ROWS) - {0, *left_out, *twin.rows, *twin.also}
    tasks = [(probe, twin.stage, [program], build)
             for probe in harness.probes(rows=others, stage=twin.stage)]
    return sorted({task[0].row for task, verdict in runner.run_all(tasks)
                   if harness.judge(task[0], twin.stage, verdict)})


def show(twin, results, surprises):
    """Print one twin for people; returns what is wrong with it, as text, or nothing."""
    print(f"{twin.folder}: without {twin.head['Break']}")
    print(textwrap.indent(textwrap.fill("A user sees: " + twin.head["Seen"], 76), "    "))
    problem = ""
    for row, turned, seen in results:
        if row == 0:
            problem += "" if not turned else f"it does not even echo: {seen} "
            continue
        print(textwrap.indent(textwrap.fill(f"Row {row}, {probes.ROWS[row]}: {seen}", 76), "    "))
        problem += "" if turned else f"row {row} does not notice. "
    for row in surprises:
        problem += f"row {row}, {probes.ROWS[row]}, turns as well. "
    print(f"    {'FAIL: ' + problem if problem else 'caught'}\n", flush=True)
    return problem


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, nargs="?", choices=range(1, 8), help="only this one")
    arguments.add_argument("--build", default="build")
    arguments.add_argument("--exact", choices=EXACT, default="no",
                           help="that no other of the quick rows turns, too, or of all")
    options = arguments.parse_args()
    probes.load()
    patches = sorted(ROOT.glob(f"0{options.stage or '[1-7]'}-*/break/*.patch"))

    passed = failed = 0
    with tempfile.TemporaryDirectory() as place, concurrent.futures.ThreadPoolExecutor(2) as pool:
        twins = [Twin(path) for path in patches]
        programs = [pool.submit(twin.build, place) for twin in twins]
        for twin, program in zip(twins, programs):
            try:
                others = unexpected(twin, program.result(), options.build, EXACT[options.exact])
                problem = show(twin, list(examine(twin, program.result(), options.build)), others)
            except RuntimeError as error:
                problem = str(error)
                print(f"{twin.path.relative_to(ROOT)}: FAIL: {problem}\n")
            passed, failed = passed + (not problem), failed + bool(problem)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    runner.main(main)
