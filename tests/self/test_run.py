"""`make test` itself: what it counts, and that it names what has failed."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import unittest
from unittest import mock

from tests import harness
from tests.harness.progress import progress
from tests.outside import kernel
from tests.self import run

GOOGLE = """\
[==========] Running 4 tests from 2 test suites.
[----------] 3 tests from Suite
[ RUN      ] Suite.Passes
[       OK ] Suite.Passes (0 ms)
[ RUN      ] Suite.Fails
t.cpp:4: Failure
[  FAILED  ] Suite.Fails (0 ms)
[ RUN      ] Suite.Skips
[  SKIPPED ] Suite.Skips (0 ms)
[----------] 3 tests from Suite (0 ms total)

[ RUN      ] Of/P.Fails/1
[  FAILED  ] Of/P.Fails/1, where GetParam() = 2 (0 ms)
[==========] 4 tests from 2 test suites ran. (0 ms total)
[  PASSED  ] 1 test.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Suite.Skips
[  FAILED  ] 2 tests, listed below:
[  FAILED  ] Suite.Fails
[  FAILED  ] Of/P.Fails/1, where GetParam() = 2
"""

UNITTEST = """\
FAIL: test_one (tests.self.test_x.Case.test_one)
ERROR: test_two (tests.self.test_x.Case.test_two)
Ran 5 tests in 0.100s

FAILED (failures=1, errors=1, skipped=1)
"""


class Counts(unittest.TestCase):
    """In the words of three kinds of suites."""

    def test_google_test(self):
        self.assertEqual(run.counts(GOOGLE), (1, 2, 1))
        self.assertEqual(run.failures(GOOGLE), ["Suite.Fails", "Of/P.Fails/1"])
        shown = run.worth_showing(GOOGLE)
        self.assertNotIn("Suite.Passes", shown)
        self.assertIn("t.cpp:4: Failure", shown)

    def test_a_test_that_ends_the_program(self):
        until = GOOGLE[:GOOGLE.index("t.cpp")]
        self.assertIsNone(run.counts(until))
        self.assertEqual(run.failures(until), ["Suite.Fails, which ended the program"])

    def test_unittest(self):
        self.assertEqual(run.counts(UNITTEST), (2, 2, 1))
        self.assertEqual(len(run.failures(UNITTEST)), 2)

    def test_ours(self):
        text = "ok   one\nFAIL two: it hangs\n1 passed, 1 failed\n"
        self.assertEqual((run.counts(text), run.failures(text)), ((1, 1, 0), ["two: it hangs"]))


class Order(unittest.TestCase):
    """In which they begin."""

    def test_the_longest_are_suites(self):
        names = [name for name, _ in run.suites("build")]
        self.assertEqual(names[:len(run.ORDER)], run.ORDER)


class WithSuites(unittest.TestCase):
    """Suites that are a few lines of Python each."""

    def run_them(self, *codes):
        """Returns the sums, what has failed, and what was printed."""
        chosen = [(f"suite {at}", [*run.PYTHON, "-c", textwrap.dedent(code)])
                  for at, code in enumerate(codes)]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), mock.patch.object(run, "SAY_EVERY", 1e9):
            results, failed = run.run(chosen, "build", 2)
        return [sum(column) for column in zip(*results)], failed, said.getvalue()


class Run(WithSuites):
    """Suites that end."""

    def test_sums(self):
        sums, failed, said = self.run_them(*["print('2 passed, 0 failed')"] * 3)
        self.assertEqual((sums, failed), ([6, 0, 0], []))
        self.assertRegex(said, r"==== suite 2: 2 passed, 0 failed, exit status 0, \d+ s")

    def test_silence_is_no_pass(self):
        self.assertEqual(self.run_them("pass")[:2], ([0, 1, 0], ["suite 0: see above"]))

    def test_an_exit_status_is_a_failure(self):
        sums, failed, _ = self.run_them("print('2 passed, 0 failed'); exit(3)")
        self.assertEqual((sums, failed), ([2, 1, 0], ["suite 0: see above"]))

    def test_a_suite_that_is_killed(self):
        sums, failed, said = self.run_them("import os; os.kill(os.getpid(), 9)")
        self.assertEqual((sums, failed), ([0, 1, 0], ["suite 0: see above"]))
        self.assertIn("exit status -9", said)

    def test_what_has_lost_its_parent_is_waited_for(self):
        harness.adopt_orphans()
        result = self.run_them("""
            import os, pathlib, time
            ours, its = os.pipe()
            if not os.fork():
                if not os.fork():
                    os.write(its, b"%d" % os.getpid())
                os._exit(0)
            os.wait()
            orphan = pathlib.Path("/proc", os.read(ours, 9).decode())
            end = time.monotonic() + 30
            while orphan.exists() and time.monotonic() < end:
                time.sleep(0.01)
            print(f"{1 - orphan.exists()} passed, {1 * orphan.exists()} failed")
            """)
        self.assertEqual(result[:2], ([1, 0, 0], []))


class Hangs(WithSuites):
    """Suites that do not end: each is one failure, and the others go on."""

    def setUp(self):
        for name, seconds in (("SILENCE", 1.5), ("LAST_WORDS", 1)):
            patch = mock.patch.object(run, name, seconds)
            patch.start()
            self.addCleanup(patch.stop)

    def require_one_failure(self, code):
        """Beside a suite that passes. Returns what was printed."""
        sums, failed, said = self.run_them(code, "print('2 passed, 0 failed')")
        self.assertEqual(sums, [2, 1, 0])
        self.assertEqual(failed, ["suite 0: nothing new within 0 minutes: it hangs"])
        return said

    def test_the_threads_of_one_that_sleeps_are_shown(self):
        said = self.require_one_failure("""
            import threading, time
            def sleeper():
                time.sleep(1e6)
            def starter():
                threading.Thread(target=sleeper).start()
                sleeper()
            starter()""")
        self.assertEqual(len(re.findall("in sleeper$", said, re.M)), 2, said)
        self.assertIn("in starter", said)
        self.assertIn("exit status -6", said)

    def test_one_that_ignores_the_signal_is_killed_with_all_below_it(self):
        said = self.require_one_failure("""
            import signal, subprocess
            signal.signal(signal.SIGABRT, signal.SIG_IGN)
            subprocess.run(["sleep", "1000000"])""")
        self.assertIn("exit status -9", said)
        pid = re.search(r"was below it: (\d+) S in clock_nanosleep: sleep 1000000", said)[1]
        harness.wait_for(lambda: kernel.is_over(int(pid)), "it has ended")

    def test_one_that_has_ended_and_left_a_process_with_its_stdout(self):
        said = self.require_one_failure("""
            import subprocess
            print(subprocess.Popen(["sleep", "1000000"]).pid, "was left")""")
        os.kill(int(re.search(r"(\d+) was left", said)[1]), signal.SIGKILL)

    def test_waiting_for_a_core_is_no_silence(self):
        core = min(os.sched_getaffinity(0))
        with mock.patch.object(os, "sched_getaffinity", return_value={core}), run.busy(9, core):
            for code, ready in (("while True: pass", True), ("sys.stdin.read()", False)):
                code = f"import sys; print(1, flush=True)\n{code}"
                with harness.ended(subprocess.Popen(
                        [sys.executable, "-c", code], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE)) as process:
                    process.stdout.readline()
                    harness.wait_for(lambda: ready or kernel.blocked_call(process.pid),
                                     "it sleeps")
                    share = run.Silence(process.pid).share()
                    self.assertEqual(share < 0.5, ready, share)

    def test_a_sum_before_it_hung_is_counted(self):
        sums, _, _ = self.run_them("import time\n"
                                   "print('5 passed, 1 failed', flush=True); time.sleep(1e6)")
        self.assertEqual(sums, [5, 2, 0])

    def test_one_that_says_something_now_and_then_goes_on(self):
        sums, failed, _ = self.run_them("""
            import os, time
            steps = int(os.environ["PROGRESS"].split(":")[0])
            for i in range(6):
                print(i, flush=True)
                time.sleep(0.4)
                os.write(steps, b"1/2\\n")
                time.sleep(0.4)
            print("1 passed, 0 failed")""")
        self.assertEqual((sums, failed), ([1, 0, 0], []))

    def test_words_count_that_came_while_we_were_stopped(self):
        """As after Ctrl-Z and fg. In a copy of this process: a shell may be waiting for ours."""
        if (pid := os.fork()) == 0:
            try:
                sums, _, _ = self.run_them("""
                    import os, signal, time
                    os.kill(os.getppid(), signal.SIGSTOP)
                    for i in range(6):
                        time.sleep(0.4)
                        print(i, flush=True)
                    os.kill(os.getppid(), signal.SIGCONT)
                    time.sleep(0.4)
                    print("1 passed, 0 failed")""")
                os._exit(0 if sums == [1, 0, 0] else 1)
            finally:
                os._exit(2)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


class Readers(unittest.TestCase):
    """A command whose output is piped into `head`."""

    def start(self, code):
        """A command whose stdout and stderr we read."""
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        return process

    def test_it_ends_when_its_reader_has_gone_and_not_with_its_next_line(self):
        process = self.start("""
            import subprocess
            from tests.harness import runner
            def command():
                sleeper = subprocess.Popen(["sleep", "1000000"])
                print(sleeper.pid, flush=True)
                sleeper.wait()
            runner.main(command)""")
        pid = int(process.stdout.readline())
        process.stdout.close()
        self.assertEqual(process.stderr.read(), b"")
        self.assertEqual(process.wait(harness.FAILSAFE), 141)
        self.assertEqual(kernel.state(pid), "")

    def test_one_that_is_told_so_twice_says_nothing(self):
        process = self.start("""
            import os, signal
            from tests.harness import runner
            def cells():
                try:
                    yield
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
            def command():
                for _ in cells():
                    raise BrokenPipeError
            runner.main(command)""")
        self.assertEqual(process.stderr.read(), b"")
        self.assertEqual(process.wait(harness.FAILSAFE), 141)


class Steps(unittest.TestCase):
    """How far a suite is, in the pipe that `make test` gives it, and in no other."""

    def said(self, off=0):
        """What comes out of a pipe with one step, if its name is wrong by `off`."""
        out, pipe = os.pipe()
        os.set_blocking(out, False)
        self.addCleanup(os.close, out)
        name = f"{pipe}:{os.fstat(pipe).st_ino + off}"
        with mock.patch.dict(os.environ, PROGRESS=name), progress(2) as step:
            step("one")
        os.close(pipe)
        return os.read(out, 100)

    def test_a_step(self):
        self.assertEqual(self.said(), b"1/2\n")

    def test_a_descriptor_that_is_something_else(self):
        self.assertEqual(self.said(off=1), b"")

    def test_a_terminal(self):
        """What is printed stands on a line of its own, and how far we are on no line for long."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        subprocess.run([sys.executable, "-c", textwrap.dedent("""\
            from tests.harness.progress import progress, say
            with progress(1) as step:
                step("one")
                say("two")
            """)], cwd=harness.ROOT, stdout=theirs, stderr=theirs, check=True)
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # EIO: all is read, and nobody can write
            while data := os.read(ours, 100):
                said += data
        self.assertRegex(said, rb"^\r\x1b\[K\[1/1\] \d:\d\d one\r\x1b\[Ktwo\r\n\r\x1b\[K$")


if __name__ == "__main__":
    unittest.main()
