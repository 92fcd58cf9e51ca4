#!/usr/bin/env python3
"""Play the book: type the commands that it shows, in its order, in a fresh copy of the course.

    python3 -m tests.book.commands                             all pages
    python3 -m tests.book.commands 03-poll-lt/README.md        one of them

blocks.py says how a page is read, and what a comment beside a block may ask for. A block is typed
into the first terminal, and each of its commands must end with status 0. A `make trace-N`,
`make diff-N` or `make start-N` within a sentence is typed, too. All other commands are looked up:
there is such a target, script, program or option (lookup.py).

Commands that measure are played in a short form (SHORT), and commands that are suites themselves,
or whose cases are, are left to these suites (SUITES).
"""

import argparse
import collections
import contextlib
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import tempfile

from tests import harness
from tests.book import blocks, markdown, prose
from tests.book.blocks import Command, Step
from tests.book.lookup import Index
from tests.book.terminal import Desk, tail
from tests.harness import argument, runner
from tests.learn import trace
from tests.machines import enter
from tests.self import run

ROOT = markdown.ROOT
PAGES = [*markdown.reading_order(), "tests/README.md", "tests/bench/MEASURING.md",
         "tests/machines/README.md"]
AT_ONCE = re.compile(r"make (?:trace|diff|start)-\d")
ASIDE = 0  # the terminal for these

# Measurements, and what makes them short: behind the command that make would run.
SHORT = {
    "make compare": "--quick --no-charts --scenarios c1",
    "make per-client": "--rounds 1 --messages 500 --idle 100",
    "make restart": "--requests 500 --restarts 1",
}
# Who else runs a command: a suite of `make test`, or a part of `make lint`.
SUITES = {
    r"(?:time )?make check-\d": "matrix",
    r"make patches": "mutants",
    r"python3 -m tests\.mutants [a-z]": "mutants",
    r"make soak": "test_soak",
    r"make fuzz": "fuzz corpus",
    r"make test": "all suites",
    r"make machines|python3 -m tests\.machines\.": "test_machines",
}
PACKAGES = {"nc": "netcat-openbsd", "strace": "strace", "curl": "curl", "ss": "iproute2",
            "top": "procps", "pgrep": "procps", "g++": "g++"}

TERMINALS = re.compile(r"^About \d+ minutes\. You need [^.]*?(two|three|four) terminals", re.M)


def suite_of(command):
    """The suite that runs a command, or None."""
    return next((suite for pattern, suite in SUITES.items() if re.match(pattern, command)), None)


def of_the_block(step):
    """Does it type what stands in the block?"""
    return step.verb == "$" and not step.text


# The reader

class Reader:
    """Sits before some terminals, reads, and does what the pages say."""

    def __init__(self, folder):
        self.folder, self.desk = folder, Desk(folder)
        self.typed, self.left, self.skipped = 0, collections.Counter(), []

    def play(self, text):
        """One page. Raises Fail, with the line."""
        line, named = 0, TERMINALS.search(text)
        try:
            for line, kind, block, steps in blocks.items(text):
                if kind == "span":
                    steps = [Step(ASIDE, "$", block)] if AT_ONCE.fullmatch(block) else []
                self.follow(steps, block)
            if named and max(self.desk.terminals) > ("two", "three", "four").index(named[1]) + 2:
                raise ValueError(f"{max(self.desk.terminals)} terminals, and not {named[1]}")
        except (harness.Fail, ValueError) as problem:
            raise harness.Fail(f"line {line}: {said(problem)}") from problem
        finally:
            self.desk.clear()

    def follow(self, steps, block):
        """The steps beside a block."""
        left = blocks.commands(block) if any(map(of_the_block, steps)) else []
        for at, step in enumerate(steps):
            later = steps[at + 1:]
            if step.verb != "$":
                self.do(step, block)
            elif step.text:
                self.type_all(step.terminal, [Command(step.text)], later)
            elif any(map(of_the_block, later)):
                self.type_all(step.terminal, [left.pop(0)], later)
            else:
                self.type_all(step.terminal, left, later)

    def do(self, step, block):
        """One that is no command."""
        number, verb, text = step
        if verb == "writes":
            (self.folder / text).write_text(block, encoding="utf-8")
        elif verb == "not:":
            self.skipped.append(text)
        elif verb == "types":
            self.desk[number].type(text + "\n")
        elif verb == "ends":
            self.desk.ends(number, int(text or 0))
        elif verb == "in":
            self.desk.sleeps_in(number, text)
        elif verb == "listens":
            self.desk.listens(number, int(text))
        elif verb == "silent":
            self.desk.silent(number)
        elif verb == "shows":
            for pattern in [text] if text else map(literally, block.splitlines()):
                self.desk.shows(number, pattern)
        else:
            self.desk.press(number, verb[1])

    def type_all(self, number, commands, later):
        """Commands. The last one may go on if what comes next, here or in all, is no command."""
        following = later[:1] + [step for step in later if step.terminal == number][:1]
        stays = any(step.verb != "$" for step in following)
        for command in commands:
            self.type(number, command, stays and command is commands[-1])

    def type(self, number, command, stays):
        """One command. What it prints is compared where the page shows it."""
        text = re.sub(r"\s+#.*", "", command.text)
        if suite := suite_of(text):
            server = re.search(r"SERVER=(build/\S+)", text)
            if server and not (self.folder / server[1]).exists():
                raise harness.Fail(f"{text}: there is no {server[1]}")
            self.left[suite] += 1
            return
        self.typed += 1
        for target, options in SHORT.items():
            if re.match(rf"{target}\b", text):
                shortened = f"""sh -c 'exec python3 "$$@" {options}' sh"""
                text += f" PYTHON={shlex.quote(shortened)}"
        self.desk.run(number, text)
        if command.shows:
            self.desk.shows(number, literally(command.shows))
        if stays or command.shows:
            return
        self.desk.ends(number)
        if command.prints is not None:
            shown, printed = (without_dates(t) for t in (command.prints, self.desk[number].text()))
            if shown != printed:
                raise harness.Fail(f"{text}: {tail(printed)}", expected=tail(shown))


def literally(line):
    """A pattern for a line as it stands, however its columns are spaced."""
    return r"[ \t]+".join(map(re.escape, line.split()))


def without_dates(text):
    """The reader's clock is another one. The pages say so."""
    text = re.sub(r"^Date: \w+, \d+ \w+ \d+ [\d:]+ GMT$", "Date: ...", text, flags=re.M)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def said(problem):
    """A failure, in a line."""
    expected = getattr(problem, "expected", "")
    return f"{problem}" + (f"; expected: {expected}" if expected else "")


# The whole book

def fresh_copy(place):
    """The course as it would be committed now, with no program built."""
    listed = subprocess.run("exec git ls-files -co --exclude-standard -z", shell=True, cwd=ROOT,
                            capture_output=True, encoding="utf-8", check=False)
    if listed.returncode != 0:  # no clone, or no git: all but what is built
        shutil.copytree(ROOT, place, symlinks=True, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns(".git", "build", "__pycache__"))
        return
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name, follow_symlinks=False)


def lend_objects(place):
    """What make has compiled here already need not be compiled again there: it links it, though."""
    if (objects := pathlib.Path(harness.BUILD, "obj")).is_dir():
        shutil.copytree(objects, place / "build" / "obj",  # with the times that make looks at
                        ignore=shutil.ignore_patterns("loop"))


def headers(folder):
    """Files that a reader was told to make and that `-I.` puts before the library's headers."""
    return [path.name for path in folder.iterdir() if path.is_file() and "." not in path.name
            and list(pathlib.Path("/usr/include/c++").glob(f"*/{path.name}"))]


def missing(text):
    """What this machine lacks for a page; '' if nothing."""
    found = [item for item in blocks.items(text) if item.kind != "span"]
    words = {word for item in found for command in
             (item.text, *(step.text for step in item.steps if step.verb == "$"))
             for word in re.findall(r"[\w+]+", command)}
    absent = [package for tool, package in PACKAGES.items()
              if tool in words and not shutil.which(tool)]
    if absent:
        return f"apt-get install {' '.join(sorted(set(absent)))}"
    return trace.cannot_trace() if "strace" in words else ""


def alone():
    """Ports of our own, and a process list in which `pgrep` meets no program of another suite.
    Returns why not, '' if it is so."""
    try:
        enter.own_network()
        enter.own_processes()
        return ""
    except (enter.Unavailable, OSError) as problem:
        return str(problem)


def lock_ports():
    """Where the ports are everybody's: the right to use them, for as long as this is kept."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind("\0the ports of the course")
        for port in (*range(9001, 9008), 9080, *range(9101, 9108)):
            with socket.create_server(("127.0.0.1", port)):
                pass
    except OSError as problem:
        lock.close()
        return None, f"the ports of the course are not free: {problem.strerror}"
    return lock, ""


class Book:
    """All pages, played one after the other in one copy."""

    def __init__(self, pages):
        self.pages = pages
        self.passed = self.failed = self.skipped = 0

    def play(self):
        """Type and look up. Returns the failures."""
        failures = []
        with tempfile.TemporaryDirectory(prefix="course-") as place:
            folder = pathlib.Path(place)
            fresh_copy(folder)
            lend_objects(folder)
            for page in self.pages:
                failures += self.page(page, markdown.read(page), folder)
            index = Index(folder)
            for path in prose.chapters():
                failures += self.looked_up(str(path.relative_to(ROOT)), index)
            print(f"{index.found} targets, scripts and options looked up")
            self.passed, self.failed = self.passed + index.found, len(failures)
        return failures

    def page(self, page, text, folder):
        """Type what a page shows."""
        reader = Reader(folder)
        if reason := missing(text):
            self.skipped += 1
            print(f"{page}: not played: {reason}")
            return []
        try:
            reader.play(text)
            problem = []
        except harness.Fail as failure:
            problem = [f"{page}, {failure}"]
            print(f"FAIL {problem[0]}")
        self.passed += reader.typed - len(problem)
        self.skipped += len(reader.skipped)
        others = ", ".join(f"{count} to {suite}" for suite, count in reader.left.items())
        left = [f"left {others}"] if others else []
        left += [f"not typed: {reason}" for reason in reader.skipped]
        print("; ".join([f"{page}: {reader.typed} typed", *left]))
        problem += [f"{page}: {name} hides the header <{name}> of C++" for name in headers(folder)]
        return problem

    def looked_up(self, page, index):
        """Look up all commands that a page names."""
        problems, text = [], markdown.read(page)
        for match in blocks.ITEM.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            code = " ".join((match["span"] or "").split()) or match["indented"] or ""
            found = [f"{page}, line {line}: {problem}" for problem in index.problems(code)]
            problems += found
        for problem in problems:
            print(f"FAIL {problem}")
        return problems


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("page", nargs="*", type=argument.page, default=PAGES)
    book = Book(arguments.parse_args().page)
    reason = alone()
    lock, reason = lock_ports() if reason else (None, "")
    if reason:
        print(f"{reason}\n0 passed, 0 failed, {len(book.pages)} skipped")
        return 0
    with contextlib.closing(lock) if lock else contextlib.nullcontext():
        failures = book.play()
    print(run.in_words(book.passed, book.failed, book.skipped))
    return 1 if failures else 0


if __name__ == "__main__":
    runner.main(main)
