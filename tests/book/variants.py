#!/usr/bin/env python3
"""More servers, made of stage 6 and made of stage 7: what had to be written for each?

    python3 -m tests.book.variants           count the lines
    python3 -m tests.book.variants 07-clock  show what it changes

The patches are in tests/book/variants. A line is about the mechanism if it names a descriptor, an
event, a timer, or the buffer that waits to be sent. test_variants.py builds them and talks to them.
"""

import argparse
import re
import shutil
import subprocess
import sys

from tests.book import markdown
from tests.harness.course import CXX
from tests.mutants.patch import Patch

PATCHES = markdown.ROOT / "tests" / "book" / "variants"
MECHANISM = re.compile(r"\b(?:fd|Fd|epoll\w*|EPOLL\w+|timer\w*|itimerspec|flush|update|watch|"
                       r"remove\w*|unsent|high_water|batch|broken)\b")


def names():
    """The four, as they stand in the chapter."""
    return sorted(path.stem for path in PATCHES.glob("*.patch"))


def pairs():
    """Those of which there is one for each stage."""
    return [name for name in names() if name[3:] in ("upper", "clock")]


def patch(name):
    """Its text."""
    return (PATCHES / f"{name}.patch").read_text("utf-8")


def stage(name):
    """The folder of the stage that it changes."""
    return re.search(r"^\+\+\+ b/([^/]+)/server\.cpp$", patch(name), re.M)[1]


def counts(name):
    """Lines added, lines removed, and how many of both are about the mechanism."""
    lines = [line for line in patch(name).splitlines()
             if re.match(r"[+-]", line) and not re.match(r"\+\+\+ |--- ", line)]
    added = [line for line in lines if line[0] == "+" and line[1:].strip()]
    removed = [line for line in lines if line[0] == "-" and line[1:].strip()]
    return len(added), len(removed), sum(bool(MECHANISM.search(line)) for line in added + removed)


def build(name, tree):
    """The path of the patched server, built in an empty folder."""
    folder = stage(name)
    for part in (folder, "common"):
        shutil.copytree(markdown.ROOT / part, tree / part)
    Patch(PATCHES / f"{name}.patch").apply(tree)
    library = [f"{folder}/evloop.cpp"] if folder == "07-evloop" else []
    subprocess.run([*CXX, "-std=c++20", "-Wall", "-Wextra", "-Wpedantic",
                    "-Werror", "-I.", f"{folder}/server.cpp", *library, "-o", "server",
                    "-pthread"], cwd=tree, check=True)
    return tree / "server"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("name", nargs="?", choices=names(), help="show this one")
    name = arguments.parse_args().name
    if name:
        print(patch(name), end="")
        return
    print("           lines +   -   about descriptors, events and buffers")
    for name in sorted(pairs(), key=lambda name: (name[3:] != "upper", name)):
        added, removed, mechanism = counts(name)
        print(f"{name:8} {added:9} {removed:3} {mechanism:3}")


if __name__ == "__main__":
    sys.exit(main())
