#!/usr/bin/env python3
"""What `make lint` checks: formatting, static analysis, prose, and what may stand where."""

import argparse
import ast
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

from tests import harness
from tests.harness import runner

CLANG = 14  # each version of clang-format breaks some lines elsewhere, clang-tidy finds new faults
ROOT = pathlib.Path(harness.ROOT)
TOP = r"\..*|0[1-7]-[a-z-]+|common|tests|Makefile|README\.md|build"


def tracked(*endings):
    """The files of the repository with one of these endings."""
    skip = {"build", ".git", "__pycache__"}
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*")
                  if p.suffix in endings and not skip & set(p.relative_to(ROOT).parts))


def run(*command):
    """Run a command in the root of the repository; its output, or nothing when it succeeded."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or "failed"


class Skipped(Exception):
    """This check needs something that is not here."""


def tool(name, package=None, version=None):
    """The program of this name, or of the only version whose opinion we follow."""
    if version and shutil.which(f"{name}-{version}"):
        return f"{name}-{version}"
    if not shutil.which(name):
        raise Skipped(f"{name} is missing: apt-get install {package or name}")
    found = re.search(r"version (\d+)", subprocess.getoutput(f"{name} --version"))
    if version and found and int(found[1]) != version:
        raise Skipped(f"this is {name} {found[1]}: others than {version} have other opinions")
    return name


def formatting():
    """Every C++ file is as .clang-format wants it."""
    return run(tool("clang-format", version=CLANG), "--dry-run", "-Werror", *tracked(".cpp", ".h"))


def static_analysis():
    """clang-tidy has nothing to say about the servers and the library."""
    program = tool("clang-tidy", version=CLANG)

    def look(source):
        return run(program, "--quiet", "--warnings-as-errors=*", source, "--", "-std=c++20", "-I.")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as cores:  # half a minute each
        found = cores.map(look, [f for f in tracked(".cpp") if f[0] == "0"])
    return "\n".join(filter(None, found))


def clang_builds():
    """The servers and the library compile without a warning with clang, too."""
    warnings = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I.", "-fsyntax-only"]
    return run(tool("clang++", "clang"), *warnings, *[f for f in tracked(".cpp") if f[0] == "0"])


def prose():
    """Excerpts and diffs in the chapters show the code as it is."""
    return run(sys.executable, "-m", "tests.book.prose")


def figures():
    """The figures are what their script draws."""
    return run(sys.executable, "-m", "tests.book.figures")


def style():
    """The chapters talk as their models do, within bounds (make style shows the numbers)."""
    return run(sys.executable, "-m", "tests.book.style")


def glossary():
    """Each term is defined, before it is used, and the glossary says how."""
    return run(sys.executable, "-m", "tests.book.glossary")


def matrix():
    """The tables of faults are the ones that the probes expect."""
    return run(sys.executable, "-m", "tests.learn.matrix", "--check")


def measured():
    """No stage, scenario or peer is missing from what was measured, and the pictures fit it."""
    return run(sys.executable, "-m", "tests.bench.measured", "--check")


# Where the mode of a file stands, and which it is if none is given.
MODES = {"open": (1, "r"), "fdopen": (1, "r"), "TemporaryFile": (0, "w+b"),
         "NamedTemporaryFile": (0, "w+b")}


def locale_decides(call):
    """Does this call leave to the locale how it reads or writes text?"""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    named = {keyword.arg for keyword in call.keywords}
    positional = {"read_text": 1, "write_text": 2}.get(name, 99)  # where the encoding stands
    if name in MODES and (name != "open" or isinstance(call.func, ast.Name)):
        at, mode = MODES[name]
        mode = next((a.value for a in call.args[at:at + 1] if isinstance(a, ast.Constant)), mode)
        return "b" not in str(mode) and "encoding" not in named
    if name in ("read_text", "write_text"):
        return "encoding" not in named and len(call.args) < positional
    asks = [k for k in call.keywords if k.arg == "text" and getattr(k.value, "value", 0) is True]
    return bool(asks) and "encoding" not in named


def unused_imports(tree, lines):
    """(line, name) of each import that the file itself does not use, and does not comment on."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "#" not in lines[node.lineno - 1]:
            for alias in node.names:
                name = (alias.asname or alias.name).partition(".")[0]
                if name not in used:
                    yield node.lineno, name


def faults(text, is_package=False):
    """(line, what is wrong there) in a script. A package imports for others."""
    lines = text.splitlines()
    yield from ((number, f"{len(line)} columns") for number, line in enumerate(lines, 1)
                if len(line) > 100)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield error.lineno, error.msg
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and locale_decides(node):
            yield node.lineno, "which encoding? The locale is not to decide"
    if not is_package:
        yield from ((number, f"{name} is imported and not used")
                    for number, name in unused_imports(tree, lines))


def python():
    """The scripts compile, import what they use, name their encodings, and fit 100 columns."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in tracked(".py")}
    return "\n".join(f"{name}:{number}: {what}" for name, text in texts.items()
                     for number, what in faults(text, name.endswith("__init__.py")))


def top_level():
    """Nothing stands at the top level but what the design names."""
    extra = [n for n in os.listdir(ROOT) if not re.fullmatch(TOP, n)]
    return f"not in the design: {', '.join(extra)}" if extra else ""


def rooms():
    """tests/README.md has a paragraph for each folder, and no folder has no name there."""
    page = (ROOT / "tests" / "README.md").read_text("utf-8")
    named = {*re.findall(r"^\*\*(\w+)/\*\* ", page, re.M)}
    listed = {*re.findall(r"^\| \[(\w+)/\]\(\1\) \|", page, re.M)}
    there = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name[0] != "_"}
    loose = {p.name for p in (ROOT / "tests").iterdir() if p.is_file()}
    wrong = named ^ there | listed ^ there | loose - {"README.md", "__init__.py"}
    return f"tests/README.md and tests/ differ: {', '.join(sorted(wrong))}" if wrong else ""


def apply_format():
    """Lay out every C++ file as .clang-format wants it: `make format`."""
    try:
        print(run(tool("clang-format", version=CLANG), "-i", *tracked(".cpp", ".h")), end="")
        return 0
    except Skipped as reason:
        print(reason, file=sys.stderr)
        return 1


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--format", action="store_true", help="lay out the C++ files instead")
    if arguments.parse_args().format:
        return apply_format()
    passed = failed = skipped = 0
    for check in (formatting, static_analysis, clang_builds, prose, figures, style, glossary,
                  matrix, measured, python, top_level, rooms):
        try:
            problem = check()
        except Skipped as reason:
            skipped += 1
            print(f"skip  {check.__doc__}\n      {reason}", flush=True)
            continue
        print(f"{'FAIL' if problem else 'ok  '}  {check.__doc__}", flush=True)
        if problem:
            print("      " + problem.replace("\n", "\n      "))
        passed, failed = passed + (not problem), failed + bool(problem)
    print(f"{passed} passed, {failed} failed" + f", {skipped} skipped" * (skipped > 0))
    return 1 if failed else 0


if __name__ == "__main__":
    runner.main(main)
