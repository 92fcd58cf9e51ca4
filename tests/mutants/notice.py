"""Who notices that a line is gone: rows of the matrix, unit tests, the simulator, scripts."""

import math
import os
import resource
import subprocess
import sys
import tempfile

from tests import harness
from tests import probes
from tests.harness import runner
from tests.mutants.mutant import ROOT
from tests.mutants.workshop import is_script
from tests.outside import kernel

# What a mutant does may depend on who is faster, so those who should notice have some tries.
TRIES = 6
SOAK, CROWDS = {32}, {3, 4, 31}  # random; slow, because of their 1,500 to 10,000 clients
SIM_RUNS = "3000"
PATIENCE = "4"  # seconds that a test waits for what may never come
HANGS = 50  # looks, a tenth of a second apart, that find a test asleep and not woken
CPU_SECONDS = 10  # that a test may use
CIRCLES = 10  # times the CPU that it needs without the patch, after which it goes in circles
SPIN_MS = 1500 * harness.SLOWER  # the same of a server: ours need a hundredth of it for an answer


class Notice:
    """What came of one mutant: .rows and .tests that noticed, and .problem, '' if all is well.

    .untried: why a row could not be tried on this machine.
    """

    # Which rows are left out of the search for others that turn.
    EXACT = {"no": set(probes.ROWS), "quick": SOAK | CROWDS, "all": SOAK}

    def __init__(self, mutant, build, exact):
        self.mutant, self.build, self.exact = mutant, build, exact
        self.rows, self.tests, self.problem, self.untried = {}, [], "", ""

    def take(self, workshop):
        """Build the mutant, and put it to all that should notice."""
        try:
            for test in self.mutant.tests:
                self.count(self.test_notices(test, workshop), f"{test} does not notice. ")
                self.tests.append(test)
            if self.mutant.rows:
                self.try_rows(workshop.server(self.mutant))
        except RuntimeError as error:
            self.problem = str(error)

    def count(self, right, problem):
        """Add a problem, unless all is right."""
        self.problem += "" if right else problem

    # Tests

    def test_notices(self, test, workshop):
        """Does it fail with the patch, and only with it?"""
        flags = self.mutant.flags
        whole, used = workshop.tests(test, None, flags), cpu_of_children()
        if not passes(test, whole, CPU_SECONDS):
            raise RuntimeError(f"{test} fails without the patch, too")
        used = cpu_of_children() - used
        program, most = workshop.tests(test, self.mutant, flags), 1 + CIRCLES * used
        return not all(passes(test, program, most) for _ in range(TRIES))

    # Rows

    def try_rows(self, server):
        """Its own rows must turn, row 0 and all others must not."""
        stage, build = self.mutant.stage, self.build
        broken = difference(0, stage, server, build)
        self.count(not broken, f"it does not even echo: {broken and broken.seen} ")
        for row in self.mutant.rows:
            try:
                for _ in range(TRIES):
                    if wrong := difference(row, stage, server, build):
                        break
            except harness.NotTried as reason:
                self.rows[row] = self.untried = str(reason)
                continue
            self.rows[row] = wrong.seen if wrong else "all as without the patch"
            self.count(wrong, f"row {row} does not notice. ")
        for row in self.others(server):
            self.count(False, f"row {row}, {probes.ROWS[row]}, turns as well. ")

    def others(self, server):
        """Rows beside its own that turn, and should not."""
        mutant = self.mutant
        asked = set(probes.ROWS) - {0, *self.EXACT[self.exact], *mutant.rows, *mutant.also}
        tasks = [(probe, mutant.stage, [server], self.build)
                 for probe in harness.probes(rows=asked, stage=mutant.stage)]
        return sorted({task[0].row for task, verdict in runner.run_all(tasks)
                       if harness.judge(task[0], mutant.stage, verdict)})


def passes(test, program, cpu):
    """Does the test pass in this program; a script, with the programs in this folder?

    No process of it may use more than so many seconds of CPU.
    """
    command = [str(program), f"--gtest_filter={test}:{test}/*"]
    if test == "sim":
        command = [str(program), "--runs", SIM_RUNS]
    if is_script(test):
        command = [sys.executable, "-W", "ignore", "-m", "unittest", "--failfast", test]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TEST_FAILSAFE": PATIENCE,
                   "BUILD": str(program)}
    limited = ["prlimit", f"--cpu={math.ceil(cpu)}", *harness.tied(command)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(limited, stdin=subprocess.DEVNULL, stdout=said,
                                   stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        ended_well = ends_well(process)
        said.seek(0)
        words = said.read()
        if b"[==========] Running 0 tests" in words or b"has no attribute 'test_" in words:
            raise RuntimeError(f"there is no test {test}")
    return ended_well


def cpu_of_children():
    """Seconds of CPU that the processes which this one has waited for have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ends_well(process):
    """Wait for its end, or until it is certain that it hangs. Is its exit status 0?"""
    still = harness.Stillness([process.pid], HANGS)
    while True:
        try:
            return process.wait(0.1) == 0
        except subprocess.TimeoutExpired:
            if any("R" in kernel.thread_states(pid) for pid in below(process.pid)):
                still.same = 0  # it may wait for one that is ready, and has no core
            elif still.lasts():
                process.kill()
                process.wait()
                return False


def below(pid):
    """The children of a process, theirs, and so on."""
    children = kernel.children(pid)
    return [*children, *(other for child in children for other in below(child))]


def difference(row, stage, server, build):
    """The first verdict of a probe of the row that is not as it should be; None if all are."""
    found = harness.probes(rows=[row], stage=stage)
    if not found:
        raise RuntimeError(f"no probe for row {row} on stage {stage}")
    harness.Server.spin_ms = SPIN_MS
    untried = ""
    for probe in found:
        verdict = harness.run_cell(probe, stage, [server], build)
        if verdict.kind == "probe":
            raise RuntimeError(verdict.seen)
        if harness.judge(probe, stage, verdict):
            return verdict
        untried = untried or harness.untried(verdict)
    if untried:
        raise harness.NotTried(untried)
    return None
