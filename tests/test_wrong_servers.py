"""Tests of the tests: check.py catches every wrong server, for the right reason, and no right one."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import harness

HERE = pathlib.Path(__file__).resolve().parent


class WrongServers(unittest.TestCase):
    """`make check-4 SERVER=...` with a few rows, on one server after the other."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, name, rows="0,1,5,6", stage=4):
        """Run check.py on the server of that name."""
        path = self.folder / name
        if not path.exists():
            path.symlink_to(HERE / "wrong_server.py")
        return self.check_path(str(path), rows, stage)

    def check_path(self, path, rows="0,1,5,6", stage=4):
        return subprocess.run(
            [sys.executable, str(HERE / "check.py"), str(stage), "--server", path, "--rows", rows],
            capture_output=True, text=True, timeout=10 * harness.FAILSAFE)

    def caught(self, done, *words):
        """It failed, and said these words."""
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertEqual(done.stderr, "")
        for word in words:
            self.assertIn(word, " ".join(done.stdout.split()))
        self.assertRegex(done.stdout, r"(?m)^\d+ passed, [1-9]\d* failed$")

    def test_a_right_one_passes(self):
        done = self.check("right")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("This server has reached stage", done.stdout)
        self.assertRegex(done.stdout, r"(?m)^\d+ passed, 0 failed$")

    def test_a_byte_too_many(self):
        self.caught(self.check("extra-byte"), "bytes are right, then", "too many")

    def test_the_tail_is_missing(self):
        self.caught(self.check("drops-tail"), "bytes are right, then nothing more came",
                    "look at:", "hint:")

    def test_two_bytes_swapped(self):
        self.caught(self.check("swaps"), "byte 0 differs", "expected 45 56", "received 56 45")

    def test_hangs(self):
        self.caught(self.check("hangs", "0"), "sleeps in pause()")

    def test_crash_is_named(self):
        self.caught(self.check("crashes", "0"), "killed by SIGSEGV")

    def test_exception_is_quoted(self):
        self.caught(self.check("raises", "0"), "exited with status 1", "something unexpected")

    def test_closes_early(self):
        self.caught(self.check("closes-early", "0,1"), "end of file")

    def test_never_says_where_it_listens(self):
        self.caught(self.check("silent", "0"), "it listens on port", "flush")

    def test_says_it_in_other_words(self):
        self.caught(self.check("wrong-line", "0"), "listening on HOST:PORT", "ready on port")

    def test_says_it_too_early(self):
        self.caught(self.check("too-early", "0"), "Connection refused", "says that it listens")

    def test_exits_at_once(self):
        self.caught(self.check("exits", "0"), "exited with status 1", "I do not feel like it")

    def test_no_such_file(self):
        self.caught(self.check_path(str(self.folder / "nothing")), "there is no such file")

    def test_not_executable(self):
        path = self.folder / "plain.txt"
        path.write_text("#!/bin/sh\n")
        self.caught(self.check_path(str(path)), "chmod +x")

    def test_no_program(self):
        path = self.folder / "no-program"
        path.write_text("hello\n")
        path.chmod(0o755)
        self.caught(self.check_path(str(path)), "#!/usr/bin/env python3")

    def test_stage_one_is_no_stage_four(self):
        one = os.path.join(os.environ.get("BUILD", harness.BUILD), "01-blocking")
        done = self.check_path(one, "1,5")
        self.caught(done, "it waits", "has reached stage 1: 01-blocking")

    def test_stage_seven_is_more_than_stage_one_asks(self):
        seven = os.path.join(os.environ.get("BUILD", harness.BUILD), "07-evloop")
        done = self.check_path(seven, "1,5", stage=1)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("more than stage 1 asks", done.stdout)


if __name__ == "__main__":
    unittest.main()
