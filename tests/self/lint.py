#!/usr/bin/env python3
"""What `make lint` checks: formatting, static analysis, prose, and what may stand where."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOP = r"\..*|0[1-7]-[a-z-]+|common|tests|Makefile|README\.md|build"


def tracked(*endings):
    """The files of the repository with one of these endings."""
    skip = {"build", ".git", "__pycache__"}
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*")
                  if p.suffix in endings and not skip & set(p.relative_to(ROOT).parts))


def run(*command):
    """Run a command in the root of the repository; its output, or nothing when it succeeded."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or "failed"


def missing(tool, package):
    """A complaint when a tool that this check cannot do without is not installed."""
    return "" if shutil.which(tool) else f"{tool} is missing: apt-get install {package}"


def formatting():
    """Every C++ file is as .clang-format wants it."""
    return missing("clang-format", "clang-format") or \
        run("clang-format", "--dry-run", "-Werror", *tracked(".cpp", ".h"))


def static_analysis():
    """clang-tidy has nothing to say about the servers and the library."""
    sources = [f for f in tracked(".cpp") if f[0] == "0"]
    flags = ["--", "-std=c++20", "-I."]
    return missing("clang-tidy", "clang-tidy") or \
        run("clang-tidy", "--quiet", "--warnings-as-errors=*", *sources, *flags)


def clang_builds():
    """The servers and the library compile without a warning with clang, too."""
    warnings = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I.", "-fsyntax-only"]
    return missing("clang++", "clang") or \
        run("clang++", *warnings, *[f for f in tracked(".cpp") if f[0] == "0"])


def prose():
    """Excerpts and diffs in the chapters show the code as it is."""
    return run(sys.executable, "-m", "tests.book.prose")


def figures():
    """The figures are what their script draws."""
    return run(sys.executable, "-m", "tests.book.figures")


def matrix():
    """The tables of faults are the ones that the probes expect."""
    return run(sys.executable, "-m", "tests.learn.matrix", "--check")


def measured():
    """No stage, scenario or peer is missing from what was measured, and the pictures fit it."""
    return run(sys.executable, "-m", "tests.bench.measured", "--check")


def python():
    """The scripts compile, and no line is longer than 100 columns."""
    problems = run(sys.executable, "-m", "compileall", "-q", "tests").splitlines()
    for name in tracked(".py"):
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            if len(line) > 100:
                problems.append(f"{name}:{number}: {len(line)} columns")
    return "\n".join(problems)


def top_level():
    """Nothing stands at the top level but what the design names."""
    extra = [n for n in os.listdir(ROOT) if not re.fullmatch(TOP, n)]
    return f"not in the design: {', '.join(extra)}" if extra else ""


def main():
    passed = failed = 0
    for check in (formatting, static_analysis, clang_builds, prose, figures, matrix, measured, python,
                  top_level):
        problem = check()
        print(f"{'FAIL' if problem else 'ok  '}  {check.__doc__}", flush=True)
        if problem:
            print("      " + problem.replace("\n", "\n      "))
        passed, failed = passed + (not problem), failed + bool(problem)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
