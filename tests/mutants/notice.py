"""Who notices that a line is gone: rows of the matrix, unit tests, the simulator, scripts."""

import os
import subprocess
import sys
import tempfile

from tests import harness
from tests import probes
from tests.harness import runner
from tests.mutants.mutant import ROOT
from tests.mutants.workshop import is_script

# What a mutant does may depend on who is faster, so those who should notice have some tries.
TRIES = 6
SOAK, CROWDS = {32}, {3, 4, 31}  # random; slow, because of their 1,500 to 10,000 clients
SIM_RUNS = "3000"
HANGS = 50  # looks, a tenth of a second apart, that find a test asleep and not woken
CPU_SECONDS = 40  # that a test may use: one that goes in circles has failed too


class Notice:
    """What came of one mutant: .rows and .tests that noticed, and .problem, '' if all is well.

    .untried: why a row could not be tried on this machine.
    """

    # Which rows are left out of the search for others that turn.
    EXACT = {"no": set(probes.ROWS), "quick": SOAK | CROWDS, "all": SOAK}

    def __init__(self, mutant, workshop, options):
        self.mutant, self.workshop, self.options = mutant, workshop, options
        self.rows, self.tests, self.problem, self.untried = {}, [], "", ""
        self.server, self.programs = None, []

    def begin(self, pool):
        """Start what may be done beside other mutants: compiling, and the tests."""
        if self.mutant.rows:
            self.server = pool.submit(self.workshop.server, self.mutant)
        self.programs = [(test, pool.submit(self.test_notices, test)) for test in self.mutant.tests]

    def end(self):
        """Wait for that, and do the rest."""
        try:
            for test, noticed in self.programs:
                self.count(noticed.result(), f"{test} does not notice. ")
                self.tests.append(test)
            if self.server:
                self.try_rows(self.server.result())
        except RuntimeError as error:
            self.problem = str(error)

    def count(self, right, problem):
        """Add a problem, unless all is right."""
        self.problem += "" if right else problem

    # Tests

    def test_notices(self, test):
        """Does it fail with the patch, and only with it?"""
        if not passes(test, self.workshop.tests(test)):
            raise RuntimeError(f"{test} fails without the patch, too")
        program = self.workshop.tests(test, self.mutant)
        return not all(passes(test, program) for _ in range(TRIES))

    # Rows

    def try_rows(self, server):
        """Its own rows must turn, row 0 and all others must not."""
        stage, build = self.mutant.stage, self.options.build
        broken = differences(0, stage, server, build)
        self.count(not broken, f"it does not even echo: {''.join(broken)} ")
        for row in self.mutant.rows:
            try:
                for _ in range(TRIES):
                    if seen := differences(row, stage, server, build):
                        break
            except harness.NotTried as reason:
                self.rows[row] = self.untried = str(reason)
                continue
            self.rows[row] = seen[0] if seen else "all as without the patch"
            self.count(seen, f"row {row} does not notice. ")
        for row in self.others(server):
            self.count(False, f"row {row}, {probes.ROWS[row]}, turns as well. ")

    def others(self, server):
        """Rows beside its own that turn, and should not."""
        mutant = self.mutant
        asked = set(probes.ROWS) - {0, *self.EXACT[self.options.exact], *mutant.rows, *mutant.also}
        tasks = [(probe, mutant.stage, [server], self.options.build)
                 for probe in harness.probes(rows=asked, stage=mutant.stage)]
        return sorted({task[0].row for task, verdict in runner.run_all(tasks)
                       if harness.judge(task[0], mutant.stage, verdict)})


def passes(test, program):
    """Does the test pass in this program; a script, with the programs in this folder?"""
    command = [str(program), f"--gtest_filter={test}:{test}/*"]
    if test == "sim":
        command = [str(program), "--runs", SIM_RUNS]
    if is_script(test):
        command = [sys.executable, "-W", "ignore", "-m", "unittest", test]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TEST_FAILSAFE": "4",
                   "BUILD": str(program)}
    limited = ["prlimit", f"--cpu={CPU_SECONDS}", *harness.tied(command)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(limited, stdin=subprocess.DEVNULL, stdout=said,
                                   stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        ended_well = ends_well(process)
        said.seek(0)
        words = said.read()
        if b"[==========] Running 0 tests" in words or b"has no attribute 'test_" in words:
            raise RuntimeError(f"there is no test {test}")
    return ended_well


def ends_well(process):
    """Wait for its end, or until it is certain that it hangs. Is its exit status 0?"""
    still = harness.Stillness([process.pid], HANGS)
    while True:
        try:
            return process.wait(0.1) == 0
        except subprocess.TimeoutExpired:
            if still.lasts():
                process.kill()
                process.wait()
                return False


def differences(row, stage, server, build):
    """What the probes of a row see that they should not."""
    found = harness.probes(rows=[row], stage=stage)
    if not found:
        raise RuntimeError(f"no probe for row {row} on stage {stage}")
    verdicts = [(probe, harness.run_cell(probe, stage, [server], build)) for probe in found]
    for _, verdict in verdicts:
        if verdict.kind == "probe":
            raise RuntimeError(verdict.seen)
    seen = [verdict.seen for probe, verdict in verdicts if harness.judge(probe, stage, verdict)]
    reasons = [harness.untried(verdict) for _, verdict in verdicts if harness.untried(verdict)]
    if reasons and not seen:
        raise harness.NotTried(reasons[0])
    return seen
