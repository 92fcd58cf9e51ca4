#!/usr/bin/env python3
"""Run every test suite, one after the other, and sum up. This is `make test`.

Each suite is a program that says on a line of its own how many of its checks passed and failed, and
exits with 0 when none failed. A suite that says nothing counts as one failure: silence is no pass.

With SAN=address,undefined or SAN=thread in the environment (`make test SAN=thread`) the programs in
--build have these sanitizers. A finding ends the program, and so fails what it was part of.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = [sys.executable]
SAN = os.environ.get("SAN", "")

# Suites whose result does not depend on SAN, and what they build.
SAME_WITH_SAN = {
    "prose": "nothing",
    "fuzz corpus": "its own programs, always with address,undefined",
    "mutants": "its own servers and tests, wrong ones, those always with address",
}


def suites(build):
    """Name and command of each suite, the quick ones first."""
    return [
        ("prose", PYTHON + ["-m", "tests.book.prose"]),
        ("unit", [f"{build}/unit", "--gtest_brief=1"]),
        ("sim", [f"{build}/sim"]),
        ("fuzz corpus", PYTHON + ["-m", "tests.loop.fuzz", "--replay", "--build", build]),
        ("matrix", PYTHON + ["-m", "tests.learn.matrix", "--build", build]),
        ("mutants", PYTHON + ["-m", "tests.mutants", "--exact", "quick", "--build", build]),
        ("scripts", PYTHON + ["-m", "unittest", "discover", "-s", "tests", "-t", "."]),
    ]


def counts(output):
    """How many passed and failed, in the words of this course, GoogleTest or unittest.

    A test that is skipped, since a tool is missing, counts as neither.
    """
    if ours := re.findall(r"^(\d+) passed, (\d+) failed", output, re.M):
        return int(ours[-1][0]), int(ours[-1][1])
    if google := re.search(r"\[==========\] (\d+) tests? from .* ran", output):
        bad = re.search(r"(\d+) FAILED TESTS?", output)
        failed = int(bad[1]) if bad else 0
        return int(google[1]) - failed, failed
    if unit := re.search(r"^Ran (\d+) tests? in", output, re.M):
        bad = re.findall(r"(?:failures|errors|unexpected successes)=(\d+)", output)
        failed = sum(int(n) for n in bad)
        skipped = sum(int(n) for n in re.findall(r"skipped=(\d+)", output))
        return int(unit[1]) - failed - skipped, failed
    return None


def run(name, command, build):
    """Run one suite, showing what it prints. Returns how many passed and failed."""
    print(f"==== {name}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    lines = []
    process = subprocess.Popen(command, cwd=ROOT, text=True, errors="replace",
                               env={**os.environ, "BUILD": str(build)},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
        process.wait()
    passed, failed = counts("".join(lines)) or (0, 1)
    if process.returncode != 0 and failed == 0:
        failed = 1
    print(f"==== {name}: {passed} passed, {failed} failed, exit status {process.returncode}, "
          f"{time.monotonic() - started:.0f} s\n", flush=True)
    return passed, failed


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default="build", help="where the programs are")
    arguments.add_argument("suite", nargs="*", help="only these")
    options = arguments.parse_args()

    known = suites(options.build)
    unknown = set(options.suite) - {name for name, _ in known}
    if unknown:
        names = ", ".join(name for name, _ in known)
        arguments.error(f"no suite {', '.join(unknown)}; there are {names}")
    chosen = [(name, command) for name, command in known
              if not options.suite or name in options.suite]
    results = []
    for name, command in chosen:
        if SAN and name in SAME_WITH_SAN and not options.suite:
            print(f"==== {name}: left out with SAN={SAN}: it builds {SAME_WITH_SAN[name]}\n")
        else:
            results.append(run(name, command, options.build))
    passed, failed = (sum(column) for column in zip(*results))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
