#!/usr/bin/env python3
"""Run the suite again and again on a machine that is busy: `make repeat TIMES=50`.

A verdict that depends on who is faster differs sooner or later, and most of all when there is not
enough CPU to go round. So one process for each core does nothing but burn it, while the matrix (all
probes on all stages), the unit tests and the simulator run, over and over. One line for each time;
what fails is named with what was seen. Exit status 0: not one verdict differed.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time

from tests import harness
from tests.learn import matrix
from tests import probes
from tests.harness import runner

BURN = "while True: pass"


@contextlib.contextmanager
def busy_cores():
    """One process per core that is never without work."""
    burners = [subprocess.Popen([sys.executable, "-c", BURN], preexec_fn=lambda c=core: (
        os.sched_setaffinity(0, {c}), harness.die_with_parent(os.getppid())))
        for core in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def failures(rows, build, jobs):
    """Everything that is not as it should be, a text each; and how many verdicts there were."""
    cells, wrong = matrix.measure(rows, build, jobs)
    count = sum(text not in ("-", "unit") for text in cells.values())
    for program in ([f"{build}/unit", "--gtest_brief=1"], [f"{build}/sim"]):
        done = subprocess.run(program, capture_output=True, encoding="utf-8", check=False)
        count += 1
        if done.returncode != 0:
            wrong.append(f"{program[0]}: {done.stdout[-2000:]}")
    return wrong, count


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default=harness.BUILD)
    arguments.add_argument("--times", type=int, default=50)
    arguments.add_argument("--jobs", type=int, default=runner.JOBS, help="probes at the same time")
    options = arguments.parse_args()
    probes.load()
    rows = sorted({probe.row for probe in harness.PROBES} - {0} | probes.UNIT_ROWS)

    different = 0
    with busy_cores():
        for number in range(1, options.times + 1):
            began = time.monotonic()
            wrong, count = failures(rows, options.build, options.jobs)
            print(f"{number:>3}: {count - len(wrong)} as expected, {len(wrong)} not; "
                  f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
            for text in wrong:
                print(f"     {text}", flush=True)
            different += bool(wrong)
    print(f"{options.times - different} of {options.times} times without a different verdict")
    return 1 if different else 0


if __name__ == "__main__":
    runner.main(main)
