#!/usr/bin/env python3
"""Keep what chapters show of the code equal to the code.

A chapter marks a place, and this script fills it:

    <!-- code 04-epoll-lt/server.cpp: bool Server::watch -->
    ```cpp
    ... the definition that begins with these words, with the comment above it ...
    ```

    <!-- diff 3 4: std::vector<int> Server::wait_ready -->
    ```diff
    ... what stage 4 changes in that definition of stage 3 ...
    ```

    <!-- output make diff-4 | head -3 -->
    ```text
    ... what the command prints; only for commands that print the same each time ...
    ```

    <!-- measured compare: 100 connections, 64 B frames -->
    ```text
    ... that table of tests/bench/MEASURED.md, which `make measured` writes ...
    ```

    <!-- measured compare: 100 connections, 64 B frames | 03 04 -->
    ... of the table only the lines that begin so, under its title and its heads ...

    <!-- mutants 4 -->
    ... what becomes of stage 4 without a line, from the heads of the patches in its mutants/ ...
    <!-- /mutants -->

The README's table of the stages has the lines of each server.cpp, and the minutes that the chapters
ask for.

`make prose` writes, `make lint` and `make test` check. Links inside the repository are checked too.
"""

import argparse
import difflib
import pathlib
import re
import subprocess

from tests.book import markdown
from tests.harness import runner
from tests.learn import trace
from tests.mutants import mutant as mutant_files

ROOT = markdown.ROOT
BLOCK = re.compile(r"(<!-- (code|diff|output|measured) (.+?) -->\n```\w*\n)(.*?)(^```$)",
                   re.M | re.S)
MUTANTS = re.compile(r"(<!-- mutants (\d) -->\n).*?(<!-- /mutants -->)", re.S)
STAGE = re.compile(r"^(\| \[(0\d-[\w-]+)\]\(.*\| )\d+ \| \d+ min \|$", re.M)
SITTINGS = ("README.md", "LIFE.md", "AROUND.md")  # the pages of a chapter that take its time
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def chapters():
    """Every Markdown file of the course."""
    return sorted(p for p in ROOT.glob("**/*.md") if "build" not in p.relative_to(ROOT).parts)


def stage_file(number):
    """The server.cpp of a stage, by its number."""
    return next(ROOT.glob(f"0{number}-*/server.cpp"))


def definition(path, begins):
    """The lines of the definition in `path` whose first line begins with `begins`.

    With the comment lines above it. It ends at the first line that closes it in column 0, or with
    its first line if that is the whole of it.
    """
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    found = [i for i, line in enumerate(lines) if line.strip().startswith(begins)]
    if len(found) != 1:
        raise ValueError(f"{path}: {len(found)} lines begin with {begins!r}, not one")
    first = last = found[0]
    indent = re.match(r"\s*", lines[first]).group()
    if not re.search(r"(;|})(\s*//.*)?$", lines[first]):
        last = next(i for i in range(first + 1, len(lines)) if lines[i].startswith(indent + "}"))
    while first > 0 and lines[first - 1].startswith(indent + "//"):
        first -= 1
    return lines[first:last + 1]


def code(argument):
    """What stands behind <!-- code PATH: BEGINS -->."""
    path, begins = argument.split(": ", 1)
    return definition(ROOT / path, begins)


def diff(argument):
    """What stands behind <!-- diff OLD NEW: BEGINS -->."""
    stages, begins = argument.split(": ", 1)
    old, new = (definition(stage_file(n), begins) for n in stages.split())
    return list(difflib.unified_diff(old, new, n=99, lineterm=""))[3:]


def output(argument):
    """What a command prints."""
    done = subprocess.run(argument, shell=True, cwd=ROOT, capture_output=True, encoding="utf-8",
                          check=True)
    return [line.rstrip() for line in done.stdout.splitlines()]


def measured(argument):
    """The table with this title in a section of tests/bench/MEASURED.md, or some of its lines."""
    name, title = argument.split(": ", 1)
    title, _, rows = title.partition(" | ")
    page = (ROOT / "tests" / "bench" / "MEASURED.md").read_text(encoding="utf-8")
    section = page.partition(f"<!-- measured {name} -->\n")[2].partition("<!-- /measured -->")[0]
    for block in section.replace("```text\n", "\n").replace("\n```", "\n\n").split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and lines[0].startswith(title):
            if not rows:
                return lines
            wanted = [line for line in lines[2:] if line.startswith(tuple(rows.split()))]
            if len(wanted) < len(rows.split()):
                raise ValueError(f"MEASURED.md: {name}: {title!r} has not all of {rows}")
            return lines[:2] + wanted
    raise ValueError(f"tests/bench/MEASURED.md: {name}: no table {title!r}")


def mutants(number):
    """A table of a stage's mutants."""
    lines = ["| without | a user sees | caught by |", "|---|---|---|"]
    for mutant in mutant_files.of_stage(number):
        who = ", ".join([*(f"row {row}" for row in mutant.rows), *mutant.tests])
        lines.append(f"| {mutant.without} | {mutant.seen} | {who} |")
    return "\n".join(lines) + "\n"


def effort(folder):
    """How many lines a stage has, and how many minutes its chapter takes."""
    lines = (ROOT / folder / "server.cpp").read_text(encoding="utf-8").count("\n")
    pages = [page.read_text(encoding="utf-8") for name in SITTINGS
             if (page := ROOT / folder / name).exists()]
    minutes = [re.search(r"^About (\d+) minutes", page, re.M) for page in pages]
    if not all(minutes):
        raise ValueError(f"{folder}: a page does not say how many minutes it takes")
    return f"{lines} | {sum(int(match[1]) for match in minutes)} min |"


def filled(text):
    """The chapter's text with every marked block made anew."""
    make = {"code": code, "diff": diff, "output": output, "measured": measured}

    def fill(match):
        if "tests.learn.trace" in match[3] and (reason := trace.cannot_trace()):
            print(f"not checked: {match[3]}: {reason}")
            return match[0]
        body = "\n".join(make[match[2]](match[3])) + "\n"
        return match[1] + body + match[5]

    text = STAGE.sub(lambda match: match[1] + effort(match[2]), text)
    text = MUTANTS.sub(lambda match: match[1] + mutants(match[2]) + match[3], text)
    return BLOCK.sub(fill, text)


def broken_links(path):
    """Links of a chapter that lead nowhere inside the repository."""
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        if not (path.parent / target.split("#")[0]).exists():
            yield target


def main():
    arguments = argparse.ArgumentParser(description="Chapters show the code as it is.")
    arguments.add_argument("--write", action="store_true", help="fill the blocks (else: compare)")
    write = arguments.parse_args().write

    passed = failed = 0
    for path in chapters():
        name = path.relative_to(ROOT)
        problems = [f"{name}: the link to {target} leads nowhere" for target in broken_links(path)]
        try:
            old = path.read_text(encoding="utf-8")
            new = filled(old)
            if write and new != old:
                path.write_text(new, encoding="utf-8")
                print(f"{name}: written")
            elif new != old:
                problems.append(f"{name}: does not show the code as it is; run: make prose")
        except (ValueError, OSError, subprocess.CalledProcessError, StopIteration) as error:
            problems.append(f"{name}: {error}")
        for problem in problems:
            print(problem)
        passed, failed = passed + (not problems), failed + bool(problems)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    runner.main(main)
