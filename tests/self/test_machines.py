"""Are the machines of tests/machines what they say, and is a command there judged rightly?"""

import socket
import subprocess
import sys
import unittest

from tests import harness
from tests.machines import enter, run
from tests.self import scripts


def said(machine, code):
    """What a line of Python prints on a machine."""
    done = scripts.run("tests.machines.enter", machine, "python3", "-c", code, errors="replace")
    if done.returncode == enter.SKIPPED:
        raise unittest.SkipTest(done.stderr.strip())
    return done.stdout.strip() or done.stderr.strip()


class Machines(unittest.TestCase):
    """Something is missing there that is here."""

    def test_descriptors(self):
        limits = "import resource as r; print(*r.getrlimit(r.RLIMIT_NOFILE))"
        self.assertEqual(said("hard-1024", limits), "1024 1024")
        self.assertTrue(said("soft-1024", limits).startswith("1024 "))

    def test_no_ipv6(self):
        listen = "import socket as s; s.create_server(('::1', 0), family=s.AF_INET6); print('here')"
        self.assertIn("Cannot assign requested address", said("no-ipv6", listen))
        self.assertIn("Address family not supported", said("no-inet6", listen))
        self.assertEqual(said("no-ipv6", listen.replace("::1", "127.0.0.1").replace("6", "")),
                         "here", "the other one is left")

    def test_no_ptrace(self):
        allowed = "from tests.outside import tracing; print(tracing.allowed())"
        self.assertEqual(said("no-ptrace", allowed), "False")

    def test_no_shm(self):
        self.assertEqual(said("no-shm", "import os; print(os.path.exists('/dev/shm'))"), "False")

    def test_one_cpu(self):
        self.assertEqual(said("one-cpu", "import os; print(len(os.sched_getaffinity(0)))"), "1")

    def test_read_only(self):
        self.assertIn("Read-only file system", said("read-only", "open('x', 'w')"))

    def test_user(self):
        self.assertNotEqual(said("user", "import os; print(os.getuid())"), "0")

    def test_odd_path(self):
        path = said("odd-path", "import os; print(ascii(os.getcwd()))")
        for part in ("'", '"', ":", " ", "\\xe4"):
            self.assertIn(part, path)

    def test_closed(self):
        self.assertIn("Bad file descriptor", said("no-stdin", "import os; os.fstat(0)"))

    def test_several_at_once(self):
        code = ("import os, resource as r; print(len(os.sched_getaffinity(0)), "
                "r.getrlimit(r.RLIMIT_NOFILE)[0], os.environ['TZ'])")
        self.assertEqual(said("one-cpu+soft-1024+far-away", code), "1 1024 Pacific/Kiritimati")

    def test_nothing_changes_here(self):
        said("no-ipv6+no-shm+hard-1024", "pass")
        with socket.socket(socket.AF_INET6):
            pass
        self.assertNotEqual(harness.raise_fd_limit(), 1024)

    def test_processes_of_its_own(self):
        """The command is process 1, its parent ends with its status, and nothing is left."""
        code = """if True:
            import os, subprocess, sys
            from tests.harness import runner
            from tests.machines import enter
            def main():
                try:
                    enter.own_processes()
                except (enter.Unavailable, OSError) as reason:
                    return f"not here: {reason}"
                subprocess.Popen(["sleep", "1000"])
                print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[:2])
                return 3
            runner.main(main)"""
        done = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True,
                              encoding="utf-8", check=False)
        if done.stderr.startswith("not here"):
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stdout), (3, "[1, 2]\n"), done.stderr)

    def test_unknown(self):
        done = scripts.run("tests.machines.enter", "no-such", "true")
        self.assertEqual((done.returncode, done.stderr), (2, "there is no machine no-such\n"))


class Judged(unittest.TestCase):
    """What counts as a failure."""

    def outcome(self, status, text, machine="one-cpu", name="step"):
        return run.judge(machine, name, status, text)[0]

    def test_failures(self):
        self.assertEqual(self.outcome(None, "35 passed, 0 failed"), "FAIL")
        self.assertEqual(self.outcome(1, "34 passed, 1 failed"), "FAIL")
        self.assertEqual(self.outcome(0, "Traceback (most recent call last):\n"), "FAIL")
        self.assertEqual(self.outcome(2, "", "no-ptrace", "trace"), "FAIL")

    def test_all_is_well(self):
        self.assertEqual(self.outcome(0, "35 passed, 0 failed"), "ok")
        self.assertEqual(self.outcome(enter.SKIPPED, "needs root"), "skipped")
        self.assertEqual(self.outcome(2, "strace is missing: apt-get install strace\n", "bare",
                                      "trace"), "says")

    def test_what_the_page_shows_is_read_as_it_was_written(self):
        results = {("one-cpu", "step"): run.Result("ok", "", 0),
                   ("one-cpu", "check"): run.Result("ok", "34 passed, 0 failed, 2 skipped", 0),
                   ("bare", "trace"): run.Result("says", "strace is missing: see there", 0),
                   ("no-ipv6", "step"): run.Result("skipped", "needs root", 0),
                   ("user", "diff"): run.Result("FAIL", "exit status 2", 0)}
        for result in results.values():
            again = run.from_cell(run.cell(result))
            self.assertEqual((again.outcome, run.cell(again)), (result.outcome, run.cell(result)))
        self.assertIn(run.table(run.shown()), run.PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
