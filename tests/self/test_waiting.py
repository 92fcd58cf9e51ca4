"""How long is waited: not for ever, and not too short where there is no core."""

import os
import subprocess
import sys
import unittest
from unittest import mock

from tests import harness
from tests.mutants import notice
from tests.outside import kernel
from tests.self import run

NEVER_WITHOUT_WORK = "while True: pass"
CORE = min(os.sched_getaffinity(0))
TRIES = 200  # a tick of the kernel may fall between two looks, and give it a moment


def last_of_all():
    """From now on this process runs on one core, and there only when no one else wants it."""
    os.sched_setaffinity(0, {CORE})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class WithProcesses(unittest.TestCase):
    """What both need."""

    def start(self, code, prepare=None):
        """A process that runs some Python."""
        process = subprocess.Popen([sys.executable, "-c", code], preexec_fn=prepare)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process


class Deadlines(WithProcesses):
    """The end of all waiting."""

    def test_it_passes_for_one_that_sleeps(self):
        pid = self.start("import time; time.sleep(1e6)").pid
        harness.wait_for(lambda: kernel.blocked_calls(pid), "it sleeps")
        deadline = harness.Deadline(0, pid)
        harness.wait_for(deadline.passed, "the deadline passes")

    def test_it_does_not_pass_while_one_has_no_core(self):
        with run.busy(2, CORE):
            deadline = harness.Deadline(0, self.start(NEVER_WITHOUT_WORK, last_of_all).pid)
            self.assertTrue(any(deadline.left() >= 1 for _ in range(TRIES)))

    def test_it_does_not_pass_because_one_has_got_its_core_while_we_looked(self):
        waited = 0

        def look(_):
            nonlocal waited
            waited = 10**10  # the kernel says so when the waiting is over
            return False

        with mock.patch.object(kernel, "is_starved", look), \
                mock.patch.object(kernel, "waited_ns", lambda _: waited):
            self.assertGreater(harness.Deadline(0, os.getpid()).left(), 9)

    def test_a_process_that_is_no_server_may_have_no_core_either(self):
        looks = iter((False, False, True))
        with mock.patch.object(kernel, "is_starved", lambda pid: pid == os.getpid()):
            harness.wait_for(lambda: next(looks), "three looks", failsafe=0, pids=[os.getpid()])


class Tests(WithProcesses):
    """Of a mutant: does one hang, or has it to wait?"""

    def setUp(self):
        self.enterContext(mock.patch.object(notice, "HANGS", 5))

    def test_one_that_sleeps_for_ever_hangs(self):
        self.assertFalse(notice.ends_well(self.start("import time; time.sleep(1e6)")))

    def test_one_that_waits_for_a_child_without_a_core_does_not(self):
        child = """
import os
from tests.self import test_waiting
test_waiting.last_of_all()
sum(range(50_000))  # a millisecond, for which it waits
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
"""
        parent = self.start("import subprocess, sys; "
                            f"subprocess.run([sys.executable, '-c', {child!r}], check=True)")
        with run.busy(1, CORE):
            self.assertTrue(notice.ends_well(parent))


if __name__ == "__main__":
    unittest.main()
