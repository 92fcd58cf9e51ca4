#!/usr/bin/env python3
"""The exercises of a stage, and a solution to each: `make solution-N`, and X=2 for the second.

A solution is a patch with a head, in the solutions/ of its stage:

    Exercise: 2
    Check: make -s build/01-blocking build/shim.so &&
      python3 -m tests.learn.check 1 --rows 5,6
    Shows: 2 passed
    What is to be learned from it, in a few sentences.

    --- a/01-blocking/server.cpp
    +++ b/01-blocking/server.cpp
    ...

Exercise    its number on its page. The file is called as it: 2-small-buffer.patch is of README.md,
            and life-2-deadline.patch of LIFE.md
Check       a shell command, run in a copy of the repository to which the patch was applied, with
            BUILD=build. It exits with 0 when the solution is right, and not otherwise
Shows       what the check must print, too
Needs       programs that the check cannot do without

An exercise that is a question has an answer in words, and a check that shows that it is true. The
patch may add a check.py at the top, for a check of more than a line.

    python3 -m tests.learn.solution 1 2 --check    try the second of stage 1
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

from tests import harness
from tests.book import markdown
from tests.harness import runner
from tests.mutants.patch import ROOT, Patch
from tests.outside import tracing

SECTION = "Try it yourself"
CHECK_FILE = "check.py"  # of the check, and no part of what it judges
FAILSAFE = 4 * harness.FAILSAFE
PACKAGES = {"nc": "netcat-openbsd"}
NO_COMMAND = 126, 127  # exit statuses of a shell that could not run what it was told


class Exercise:
    """An exercise: the name by which one asks for it, and its text."""

    def __init__(self, page, number, text):
        self.page, self.number, self.text = page, number, text
        stem = pathlib.PurePath(page).stem.lower()
        self.name = f"{number}" if stem == "readme" else f"{stem}-{number}"

    @property
    def title(self):
        """Its first sentence."""
        return re.match(r".*?[.?:](?= |$)", " ".join(self.text.split()))[0]

    @property
    def solutions(self):
        """Its solutions. There is to be one."""
        folder = (ROOT / self.page).parent / "solutions"
        return [Solution(path) for path in sorted(folder.glob(f"{self.name}-*.patch"))]


class Solution(Patch):
    """A file in 0N-*/solutions/."""

    KEYS = ("Exercise", "Check", "Shows", "Needs")

    def __init__(self, path):
        super().__init__(path)
        self.folder = path.parent.parent.name
        self.exercise = re.match(r"(?:[a-z-]+-)?\d+(?=-)", self.name)[0]
        self.check, self.shows = self.fields.get("Check", ""), self.fields.get("Shows", "")
        self.needs = self.fields.get("Needs", "").split()
        if not self.check or not any(self.words):
            raise ValueError(f"{self.where}: what does it say, and how is it checked?")
        if self.fields.get("Exercise") != self.exercise.rpartition("-")[2]:
            raise ValueError(f"{self.where}: which exercise?")

    def __str__(self):
        return f"{self.folder} {self.name}"

    @property
    def missing(self):
        """What it needs and is not here, in words; '' if nothing."""
        programs = [name for name in self.needs if not shutil.which(name)]
        if programs:
            return f"apt-get install {' '.join(PACKAGES.get(name, name) for name in programs)}"
        return "" if "strace" not in self.needs or tracing.allowed() else "ptrace(2) is forbidden"

    def problem(self, build):
        """Try it. Returns what is wrong, '' if all is well."""
        answers = set(self.changed) - {CHECK_FILE}
        try:
            if answers and not self.fails(build, only=CHECK_FILE):
                return "its check passes without the patch, too"
            return self.fails(build)
        except RuntimeError as error:
            return str(error)

    def fails(self, build, only=None):
        """Run its check in a copy with the patch, or with this file of it. Why it fails, or ''."""
        with tempfile.TemporaryDirectory(prefix="solution-") as place:
            tree = pathlib.Path(place) / "course"
            copy_course(tree, build, self.folder)
            self.apply(tree, only)
            status, said = shell(self.check, tree)
        if status in NO_COMMAND:
            raise RuntimeError(f"its check is no command: {said}")
        if status == 0 and self.shows in said:
            return ""
        return f"exit status {status}, and not {self.shows!r} in:\n{said[-4000:]}"


def copy_course(tree, build, stage):
    """A copy of the repository, with what is built of this stage already."""
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns("build", ".git", "__pycache__"))
    for pattern in ("shim.so*", stage, f"{stage[:2]}-*", f"obj/{stage}/*"):
        for path in (pathlib.Path(ROOT) / build).glob(pattern):
            if path.is_file():
                to = tree / "build" / path.relative_to(pathlib.Path(ROOT) / build)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)


def shell(command, folder):
    """Run a command. Returns its exit status and what it has printed. It leaves nothing behind."""
    of_others = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PROGRESS")
    environment = {name: value for name, value in os.environ.items() if name not in of_others}
    environment |= {"BUILD": "build", "CXXFLAGS": "-O0"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            harness.tied(["env", "--default-signal=INT", "bash", "-c", command]), cwd=folder,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True)
        try:
            status = ended(process)
        finally:
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def ended(process):
    """Wait for its end. Returns its exit status; None if it did not end."""
    deadline = harness.Deadline(FAILSAFE, process.pid)
    while not deadline.passed():
        try:
            return process.wait(0.2)
        except subprocess.TimeoutExpired:
            pass
    return None


def exercises(number="[1-7]"):
    """The exercises of a stage, or of all stages, in reading order."""
    folders = {path.name for path in ROOT.glob(f"0{number}-*")}
    return [exercise for page in markdown.reading_order()
            if pathlib.PurePath(page).parent.name in folders for exercise in of_page(page)]


def of_page(page):
    """The exercises of a page."""
    text = re.sub(r"^ *<!--.*?-->\n\n?", "", markdown.read(page), flags=re.M | re.S)
    _, _, behind = text.partition(f"\n## {SECTION}\n")
    items = re.findall(r"^(\d+)\. (.*\n(?:(?:   .*)?\n)*)", behind.partition("\n## ")[0], re.M)
    return [Exercise(page, int(number), textwrap.dedent("   " + text).strip())
            for number, text in items]


def listing(number, found):
    """The exercises that have a solution, a line or two each."""
    lines = [f"{harness.STAGES[number]} has a solution to"]
    for exercise in found:
        if exercise.solutions:
            lines.append(textwrap.fill(exercise.title, 80, initial_indent=f"{exercise.name:>10}  ",
                                       subsequent_indent=" " * 12))
    example = next((exercise.name for exercise in found if exercise.solutions), "")
    return "\n".join([*lines, f"To read one: make solution-{number} X={example}"])


def in_full(exercise):
    """An exercise and its solution, for people."""
    solution = exercise.solutions[0]
    parts = [f"{exercise.name}. {exercise.text}", *map(textwrap.fill, solution.words)]
    if solution.diff:
        parts += [solution.diff.rstrip(), f"It is yours with\n    git apply {solution.where}"]
    shows = f", and prints {solution.shows!r}" if solution.shows else ""
    parts += [f"This shows that it's right{shows}:\n" + textwrap.indent(solution.check, "    ")]
    return "\n\n".join(parts)


def check(found, build):
    """Try the solutions of some exercises. Returns the exit status."""
    failed = 0
    for solution in [solution for exercise in found for solution in exercise.solutions]:
        problem = "" if solution.missing else solution.problem(build)
        failed += bool(problem)
        word = "FAIL" if problem else "skip" if solution.missing else "ok  "
        print(f"{word}  {solution}  {problem or solution.missing}".rstrip(), flush=True)
    return 1 if failed else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, choices=list(harness.STAGES))
    arguments.add_argument("exercise", nargs="*", help="2, or life-2 for the second of LIFE.md")
    arguments.add_argument("--check", action="store_true", help="try what it says")
    arguments.add_argument("--build", default="build", help="where our programs are")
    options = arguments.parse_args()
    found = exercises(options.stage)
    chosen = [e for e in found if e.name in options.exercise]
    if unknown := set(options.exercise) - {e.name for e in found if e.solutions}:
        print(f"no solution to {', '.join(sorted(unknown))}\n{listing(options.stage, found)}",
              file=sys.stderr)
        return 2
    if options.check:
        return check(chosen or found, options.build)
    print("\n\n\n".join(map(in_full, chosen)) or listing(options.stage, found))
    return 0


if __name__ == "__main__":
    runner.main(main)
