"""The measurement beside nginx, as a script. Times never; with wrk and nginx where they are."""

import os
import shutil
import unittest

from tests.bench import nginx
from tests.self import scripts

INSTALLED = all(shutil.which(program, path=nginx.PATH) for program in ("wrk", "nginx"))


def samples(*values):
    """Slices that have seen these."""
    return [{"cpu_us": v, "rate": 1e6 / v, "busy": 1.0} for v in values]


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
        done = scripts.run("tests.bench.nginx", env={**os.environ, "PATH": "/nonexistent"})
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"^nothing measured: apt-get install wrk( nginx-light)?\n$")


@unittest.skipUnless(INSTALLED, "wrk or nginx is not installed: apt-get install wrk nginx-light")
class Run(unittest.TestCase):
    """The whole of it, briefly."""

    def test_same_bytes_and_two_tables(self):
        done = scripts.run("tests.bench.nginx", "--slices", 1, "--scenarios", "c1,pipeline,close",
                           "--json", os.devnull)
        self.assertEqual(done.returncode, 0, done.stderr)
        tables = done.stdout.split("\n\n")
        self.assertTrue(tables[0].startswith("Server CPU per request, in us"), done.stdout)
        self.assertTrue(tables[1].startswith("Requests per second"), done.stdout)
        for name in (*nginx.NAMES, "1 connection", "16 in flight", "one request on each"):
            self.assertIn(name, tables[0])
            self.assertIn(name, tables[1])
        self.assertLessEqual(max(len(line) for line in "\n".join(tables[:2]).split("\n")), 80)

    def test_ctrl_c_leaves_no_process_behind(self):
        status, _ = scripts.ended_early(
            "tests.bench.nginx", "--slices", 100, "--scenarios", "c1",
            ready=lambda names: {"07-http", "nginx", "wrk"} <= set(names))
        self.assertEqual(status, 130)


if __name__ == "__main__":
    unittest.main()
