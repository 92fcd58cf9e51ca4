#!/usr/bin/env python3
"""Play the book: type the commands that it shows, in its order, in a fresh copy of the course.

    python3 -m tests.book.commands                             all pages
    python3 -m tests.book.commands 03-poll-lt/README.md        one of them

What is indented is typed, what is fenced is read. A block is typed into the first terminal, and
each of its commands must end with status 0. Where a reader does something else, a comment beside
the block says so, which no reader sees:

    <!-- play 2 $; 2 types hello; 2 shows ^hello -->

    nc 127.0.0.1 9001

Its steps begin with the number of a terminal, and are separated by semicolons or stand on lines of
their own:

    2 $ COMMAND      type a command; where the last one still runs, Ctrl-C comes first. It must end,
                     unless a step that is no `$` comes next, here or for this terminal
    2 $              type the next command of the block below, and with the last such step all that
                     are left
    2 types TEXT     type a line to the program
    2 shows REGEX    it prints this; the program may go on
    2 shows          it prints the lines of the block below, in this order
    2 listens 9002   it is a server, and has begun to listen
    2 in poll        a program sleeps in this system call
    2 silent         all programs are asleep, and nothing more was printed
    2 ends 3         it has come to its end, with this status (0 if none is given)
    2 ^C             press Ctrl-C
    1 not: REASON    the block is not typed
    1 writes FILE    the block below becomes a file

A fenced block with lines that begin with "$ " is a transcript: its commands are typed, and what
they print is compared. So are the rows of a table below a comment: a command, and a part of what it
prints. A `make trace-N`, `make diff-N` or `make start-N` within a sentence is typed,
too. All other commands are looked up: there is such a target, script, program or option.

Commands that measure are played in a short form (SHORT), and commands that are suites themselves,
or whose cases are, are left to these suites (SUITES).
"""

import argparse
import collections
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import textwrap

from tests import harness
from tests.book import markdown, prose
from tests.book.terminal import Desk, tail
from tests.harness import runner
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

Step = collections.namedtuple("Step", "terminal verb text")
Item = collections.namedtuple("Item", "line kind text steps")  # a block's kind is its language
Command = collections.namedtuple("Command", "text prints shows", defaults=[None, None])
TERMINALS = re.compile(r"^About \d+ minutes\. You need [^.]*?(two|three|four) terminals", re.M)
STEP = re.compile(r"(\d) (\$|types|shows|listens|in|silent|ends|not:|\^[A-Z]|writes)(?: (.*))?$")
ITEM = re.compile(r"""
    (?P<comment> <!--\ (?P<about>.*?) \s*--> )
  | (?P<fence> ^``` (?P<language>\w*) \n (?P<fenced>.*?) ^```$ )
  | (?<=\n\n) (?P<indented> [ ]{4,}\S[^\n]*\n (?:[ ]{4,}[^\n]*\n | \n(?=[ ]{4,}\S))* )
  | (?<=-->\n) (?P<table> (?:\|[^\n]*\n)+ )
  | ` (?P<span> [^`]+ ) `
""", re.M | re.S | re.X)


# What a page says

def items(text):
    """The blocks, comments and commands of a page, in their order."""
    found, bound, end, filled = [], None, 0, False
    for match in ITEM.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if text[end:match.start()].strip() or match["span"]:
            bound = None  # the comment before stands for itself
        end = match.end()
        if match["comment"]:
            kind, about = (match["about"].split(None, 1) + ["", ""])[:2]
            filled = kind in ("output", "code", "diff", "measured")  # by prose.py
            if kind == "play":
                bound = Item(line, "steps", "", parse(about))
                found.append(bound)
            continue
        if bound:
            found.remove(bound)
        steps, bound = bound.steps if bound else [], None
        if match["span"]:
            found.append(Item(line, "span", " ".join(match["span"].split()), steps))
        elif match["indented"]:
            block = textwrap.dedent(match["indented"])
            found.append(Item(line, "typed", block, steps or [Step(1, "$", "")]))
        elif match["table"]:
            found.append(Item(line, "table", match["table"], steps))
        elif not filled:
            shown = match["language"] == "text" and match["fenced"].startswith("$ ")
            default = [Step(1, "$", "")] if shown else []
            found.append(Item(line, "fenced", match["fenced"], steps or default))
        filled = False
    return [item for item in found if item.steps or item.kind == "span"]


def parse(about):
    """The steps of a comment."""
    steps = []
    for text in re.split(r"\n|; (?=\d )", about):
        if not text.strip():
            continue
        match = STEP.match(text.strip())
        if not match:
            raise ValueError(f"this is no step: {text.strip()!r}")
        steps.append(Step(int(match[1]), match[2], match[3] or ""))
    return steps


def commands(block):
    """The commands of a block. Those of a transcript know what they print."""
    if block.startswith("$ "):
        return [Command(*part.split("\n", 1)) for part in re.split(r"^\$ ", block, flags=re.M)[1:]]
    if block.startswith("|"):
        rows = [re.findall(r"`([^`]+)`", row) for row in block.splitlines()[2:]]
        return [Command(row[0], shows=row[1]) for row in rows]
    found, text = [], ""
    for line in block.splitlines():
        text += line + "\n"
        if not line.endswith("\\") and is_whole(text):
            found.append(Command(text.rstrip("\n")))
            text = ""
    if text.strip():
        raise ValueError(f"no whole command: {text!r}")
    return [command for command in found if command.text]


def is_whole(text):
    """Would the shell begin with this, and not wait for more?"""
    done = subprocess.run(["bash", "-n", "-c", text], stderr=subprocess.PIPE, encoding="utf-8")
    return done.returncode == 0


def suite_of(command):
    """The suite that runs a command; '' if a reader's own server is judged by it."""
    return next((suite for pattern, suite in SUITES.items() if re.match(pattern, command)), None)


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
            for line, kind, block, steps in items(text):
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
        here = [at for at, step in enumerate(steps) if step.verb == "$" and not step.text]
        left = commands(block) if here else []
        for at, (number, verb, text) in enumerate(steps):
            if verb == "$":
                last = at == here[-1] if here else False
                todo = [Command(text)] if text else left if last else [left.pop(0)]
                then = [step.verb for step in steps[at + 1:] if step.terminal == number]
                stays = [verb for verb in then[:1] + [s.verb for s in steps[at + 1:at + 2]]
                         if verb != "$"]
                for command in todo:
                    self.type(number, command, stays and command is todo[-1])
            elif verb == "writes":
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

    def type(self, number, command, stays):
        """One command. What it prints is compared where the page shows it."""
        text = re.sub(r"\s+#.*", "", command.text)
        if (suite := suite_of(text)) is not None:
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


# What can be looked up

class Index:
    """Which targets, scripts, programs and options there are."""

    def __init__(self, folder):
        self.folder, self.helps, self.found = folder, {}, 0
        self.makefile = (folder / "Makefile").read_text("utf-8")
        self.targets = set(re.findall(r"^([a-z][a-z%-]*-?\d?):", self.makefile, re.M))
        self.sources = "".join(path.read_text("utf-8") for kind in ("py", "h", "cpp")
                               for path in sorted(folder.glob(f"**/*.{kind}"))
                               if "build" not in path.relative_to(folder).parts)

    def problems(self, text):
        """What is wrong with the commands in a piece of code. .found counts the others."""
        if re.fullmatch(r"--[a-z][a-z-]+( \S+)?", text):
            name = text.split()[0][2:]
            return self.judged(re.search(rf'"(--)?{name}"', self.sources), f"no option --{name}")
        return [problem for line in text.replace("\\\n", "").splitlines()
                for words in simple(line) for problem in self.wrong(words)]

    def wrong(self, words):
        """The same of one command without a shell's signs."""
        program, *arguments = words
        if program == "make":
            return [problem for word in arguments
                    for problem in self.judged(self.knows(word), f"make has no {word}")]
        if program.startswith("build/"):
            return self.wrong_program(program, arguments)
        if program != "python3" or not arguments or arguments[0] == "-c":
            return []
        if arguments[0] == "-m":
            return self.wrong_script(f"python3 -m {arguments[1]}", arguments[1].replace(".", "/"),
                                     arguments[2:])
        return self.wrong_script(f"python3 {arguments[0]}", arguments[0], arguments[1:])

    def judged(self, found, problem):
        """The problem, in a list, unless it is none."""
        self.found += bool(found)
        return [] if found else [problem]

    def knows(self, word):
        """Is there such a target or variable?"""
        if "=" in word:
            return re.search(rf"\b{word.split('=')[0]}\b", self.makefile)
        if word.startswith(("-", "build/")):
            return True
        return word in self.targets or re.sub(r"-(\d|N)$", "-%", word) in self.targets

    def wrong_program(self, program, arguments):
        """A program that make has built has these options. Others are a reader's own."""
        done = subprocess.run(["make", "-rn", program], cwd=self.folder, capture_output=True,
                              encoding="utf-8", errors="replace", check=False,
                              env={**os.environ, "LC_ALL": "C"})
        if re.search("No rule to make|Nothing to be done", done.stdout + done.stderr):
            return []
        self.found += 1
        built = (self.folder / program).exists()
        return self.wrong_options(f"./{program}", arguments) if built else []

    def wrong_script(self, command, path, arguments):
        """A script is in the repository, and has these options."""
        found = [self.folder / (path + end) for end in ("", ".py", "/__main__.py")]
        if problem := self.judged(any(f.is_file() for f in found), f"{command}: no such script"):
            return problem
        if command.endswith("tests.mutants"):
            return [problem for word in arguments if re.match("[a-z-]+$", word) for problem in
                    self.judged(list(self.folder.glob(f"tests/mutants/**/{word}.patch")) or
                                word == "library", f"no mutant {word}")]
        return self.wrong_options(command, arguments)

    def wrong_options(self, command, arguments):
        """Its --help names these options."""
        options = [word.split("=")[0] for word in arguments if re.match(r"--[a-z]", word)]
        if not options:
            return []
        if command not in self.helps:
            done = subprocess.run([*command.split(), "--help"], cwd=self.folder, encoding="utf-8",
                                  capture_output=True, check=False)
            self.helps[command] = done.stdout + done.stderr
        return [problem for option in options for problem in
                self.judged(re.search(rf"{option}(?![\w-])", self.helps[command]),
                            f"{command} has no option {option}")]


def simple(text):
    """The simple commands in a line of shell, as lists of words."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;()")
    lexer.whitespace, lexer.commenters = " \t", "#"
    lexer.whitespace_split = True
    found = [[]]
    with contextlib.suppress(ValueError):  # a quotation that does not end: it is no command
        for word in lexer:
            if set(word) <= set("|&;()"):
                found.append([])
            elif found[-1] or not re.match(r"[A-Z_]+=|(exec|sudo|time|do)$", word):
                found[-1].append(word)
    found = [words[words.index("strace") + 1:] if "strace" in words else words for words in found]
    return [words for words in found if words]


# The whole book

def fresh_copy(place):
    """The course as it would be committed now, with no program built."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT,
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
    found = [item for item in items(text) if item.kind != "span"]
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
    """All pages, played one after the other in one copy. `out` is called with each line."""

    def __init__(self, pages=PAGES, out=print):
        self.pages, self.out = pages, out
        self.passed = self.failed = self.skipped = 0

    def play(self, texts=None):
        """Type and look up. `texts`: what to read instead of a page. Returns the failures."""
        failures = []
        with tempfile.TemporaryDirectory(prefix="course-") as place:
            folder = pathlib.Path(place)
            fresh_copy(folder)
            lend_objects(folder)
            for page in self.pages:
                failures += self.page(page, (texts or {}).get(page) or markdown.read(page), folder)
            index = Index(folder)
            for path in prose.chapters():
                failures += self.looked_up(str(path.relative_to(ROOT)), index)
            self.out(f"{index.found} targets, scripts and options looked up")
            self.passed, self.failed = self.passed + index.found, len(failures)
        return failures

    def page(self, page, text, folder):
        """Type what a page shows."""
        reader = Reader(folder)
        if reason := missing(text):
            self.skipped += 1
            self.out(f"{page}: not played: {reason}")
            return []
        try:
            reader.play(text)
            problem = []
        except harness.Fail as failure:
            problem = [f"{page}, {failure}"]
            self.out(f"FAIL {problem[0]}")
        self.passed += reader.typed - len(problem)
        self.skipped += len(reader.skipped)
        others = ", ".join(f"{count} to {suite}" for suite, count in reader.left.items())
        left = [f"left {others}"] if others else []
        left += [f"not typed: {reason}" for reason in reader.skipped]
        self.out("; ".join([f"{page}: {reader.typed} typed", *left]))
        problem += [f"{page}: {name} hides the header <{name}> of C++" for name in headers(folder)]
        return problem

    def looked_up(self, page, index):
        """Look up all commands that a page names."""
        problems, text = [], markdown.read(page)
        for match in ITEM.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            code = " ".join((match["span"] or "").split()) or match["indented"] or ""
            found = [f"{page}, line {line}: {problem}" for problem in index.problems(code)]
            problems += found
        for problem in problems:
            self.out(f"FAIL {problem}")
        return problems


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("page", nargs="*", default=PAGES)
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
