"""Starters compile and say what to do; each step of build-N turns its row."""

import contextlib
import io
import pathlib
import subprocess
import tempfile
import unittest
from unittest import mock

from tests import harness
from tests import probes
from tests.learn import build, check, start, step
from tests.self import scripts


class Starters(unittest.TestCase):
    """make start-N."""

    def make(self, number, build):
        """What the command does, in a build folder of its own."""
        return scripts.run("tests.learn.start", number, "--build", build)

    def test_each_compiles_and_says_what_to_do(self):
        for number, name in harness.STAGES.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as build:
                done = self.make(number, build)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                path = pathlib.Path(build) / "mine" / str(number) / "server.cpp"
                text = path.read_text("utf-8")
                self.assertGreaterEqual(text.count("To do: "), 3)
                self.assertIn(f'{{"{name}", {9000 + number}}}', text)
                subprocess.run([*harness.CXX, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-I.",
                                "-fsyntax-only", str(path)], cwd=harness.ROOT, check=True)
                self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_a_place_that_is_gone_is_noticed(self):
        with self.assertRaisesRegex(ValueError, "no line that begins with 'void gone'"):
            start.with_note("int here() {}\n", "void gone", "something")

    def test_what_a_reader_wrote_is_kept(self):
        with tempfile.TemporaryDirectory() as build:
            self.make(4, build)
            path = pathlib.Path(build) / "mine" / "4" / "server.cpp"
            path.write_text("mine", "utf-8")
            done = self.make(4, build)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, "is there already, and yours")
            self.assertEqual(path.read_text("utf-8"), "mine")


class Untried(unittest.TestCase):
    """What could not be tried is not as its chapter says."""

    NOT_HERE = harness.Verdict("-", "", "no room", "", "", [], 0.0)

    def said(self, function, *arguments):
        """What it returns, and what it prints."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            return function(*arguments), said.getvalue()

    def test_check(self):
        probes.load()
        first, second = harness.probes(rows=[9], stage=1)[:2]
        results = {first: self.NOT_HERE, second: self.NOT_HERE._replace(outcome="P")}
        status, said = self.said(check.summary, 1, results, [9], True, False)
        self.assertEqual(status, 0)
        self.assertIn("01-blocking: as its chapter says; row 9 could not be tried\n1 passed", said)

    def test_step(self):
        probes.load()
        everything = [(task, self.NOT_HERE) for task in
                      [(probe, 1, None, "") for probe in harness.probes(step.ROWS, 1)]]
        with mock.patch.object(step.runner, "run_all", lambda _: everything):
            wrong, said = self.said(step.check, 1, "")
        self.assertEqual(wrong, [])
        self.assertIn("is built. 0 of ", said)
        self.assertIn("not tried: no room", said)

    def test_build(self):
        refused = harness.NotTried("no room")
        with mock.patch.object(build.notice, "difference", side_effect=refused), \
                mock.patch.object(build.Ladder, "server"):
            failed, said = self.said(build.climb, 1, harness.BUILD, lambda _: None)
        self.assertEqual(failed, 0)
        self.assertIn("not tried: no room", said)
        self.assertIn("0 passed, 0 failed, 3 skipped", said)


class Building(unittest.TestCase):
    """make build-N: a row fails before each step and passes behind it, or it says so."""

    def test_each_step(self):
        for number in range(1, 7):
            with self.subTest(harness.STAGES[number]):
                done = scripts.run("tests.learn.build", number, "--build", harness.BUILD)
                self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
                self.assertRegex(done.stdout, r"is whole: \d passed, 0 failed(, \d skipped)?\n$")

    def test_stage_7_is_refused_in_words(self):
        done = scripts.run("tests.learn.build", 7)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, "^make build-N: N is 1 to 6.")


if __name__ == "__main__":
    unittest.main()
