"""The measurement beside nginx, as a script. Times never; with wrk and nginx where they are."""

import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

from tests import harness
from tests.outside import kernel
from tests.bench import nginx

BUILD = os.environ.get("BUILD", harness.BUILD)
SCRIPT = [sys.executable, "-m", "tests.bench.nginx", "--build", os.path.abspath(BUILD)]
INSTALLED = all(shutil.which(program, path=nginx.PATH) for program in ("wrk", "nginx"))


def samples(*values):
    """Slices that have seen these."""
    return [{"cpu_us": v, "rate": 1e6 / v, "busy": 1.0} for v in values]


def program(pid):
    """What a process runs."""
    return kernel.read_file(f"/proc/{pid}/comm").strip()


class Tables(unittest.TestCase):
    """What is printed."""

    results = {s: {"07-http": samples(10, 12, 11), "nginx": samples(20, 20, 20)}
               for s in nginx.SCENARIOS}

    def test_medians_and_ratios_in_80_columns(self):
        text = nginx.table(self.results, "cpu_us", "Title", 2)
        self.assertRegex(text, r"(?m)^ +07-http +nginx +ratio +\+-$")
        self.assertRegex(text, r"(?m)^1 connection +11\.00 +20\.00 +0\.55 +0\.05$")
        self.assertEqual(len(text.splitlines()), 2 + len(nginx.SCENARIOS))
        self.assertLessEqual(max(map(len, text.splitlines())), 80)

    def test_who_had_to_wait_is_said(self):
        self.assertEqual(nginx.waited(self.results), "")
        idle = dict(self.results)
        idle[nginx.SCENARIOS[0]] = {name: [{"busy": 0.5}] for name in nginx.NAMES}
        self.assertIn("\n  1 connection", nginx.waited(idle))
        self.assertLessEqual(max(map(len, nginx.waited(idle).splitlines())), 80)


class Missing(unittest.TestCase):
    """Without wrk there is one line that says what to install."""

    def test_says_what_to_install(self):
        done = subprocess.run(SCRIPT, capture_output=True, encoding="utf-8", check=False,
                              cwd=harness.ROOT, env={**os.environ, "PATH": "/nonexistent"})
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"^nothing measured: apt-get install wrk( nginx-light)?\n$")


@unittest.skipUnless(INSTALLED, "wrk or nginx is not installed: apt-get install wrk nginx-light")
class Run(unittest.TestCase):
    """The whole of it, briefly."""

    def start(self, *arguments):
        """The script in a process group of its own."""
        process = subprocess.Popen([*SCRIPT, *arguments], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, encoding="utf-8", cwd=harness.ROOT,
                                   start_new_session=True,
                                   preexec_fn=harness.heed_interrupts)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_same_bytes_and_two_tables(self):
        process = self.start("--slices", "1", "--scenarios", "c1,pipeline,close",
                             "--json", os.devnull)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 0, err)
        tables = out.split("\n\n")
        self.assertTrue(tables[0].startswith("Server CPU per request, in us"), out)
        self.assertTrue(tables[1].startswith("Requests per second"), out)
        for name in (*nginx.NAMES, "1 connection", "16 in flight", "one request on each"):
            self.assertIn(name, tables[0])
            self.assertIn(name, tables[1])
        self.assertLessEqual(max(len(line) for line in "\n".join(tables[:2]).split("\n")), 80)

    def test_ctrl_c_leaves_no_process_behind(self):
        process = self.start("--slices", "100", "--scenarios", "c1")
        end = time.monotonic() + 60
        children = []
        while not {"07-http", "nginx", "wrk"} <= set(map(program, children)):
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
            children = kernel.descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        try:
            self.assertEqual(process.wait(), 130)
            # Killed is not yet gone, and whose child it is now decides how long it is a zombie.
            harness.wait_for(lambda: all(kernel.state(pid) in ("", "Z") for pid in children),
                             "no process is left")
        finally:
            for pid in children:
                if kernel.state(pid) not in ("", "Z"):
                    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    unittest.main()
