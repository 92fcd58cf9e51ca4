"""tests/learn/talk.py: both ways at once, whatever stdin is, and in words when it ends badly."""

import os
import subprocess
import sys
import tempfile
import unittest

from tests import harness

PROGRAM = os.path.join(harness.ROOT, "tests", "learn", "talk.py")
LINE = b"." * (32 * harness.MIB)  # without an end
LINES = b"".join(b"%07d%s\n" % (i, b"." * 992) for i in range(33_000))  # 33 MB


class Talk(unittest.TestCase):
    """With a stage at the other end."""

    def talk(self, number, *arguments, **stdin):
        """A run against a server of this stage."""
        stage = harness.Stage(number)
        self.addCleanup(stage.stop)
        server = stage.start()
        return subprocess.run([sys.executable, PROGRAM, str(server.port), *arguments],
                              capture_output=True, **stdin)

    def comes_back(self, number, data, *arguments):
        """More than all buffers hold: a server that cannot send stops reading."""
        done = self.talk(number, *arguments, input=data)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertTrue(done.stdout == data)

    def test_much_at_once(self):
        self.comes_back(1, LINE)
        self.comes_back(6, LINE)

    def test_many_frames_at_once(self):
        self.comes_back(7, LINES, "--frames")

    def test_file_as_stdin(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"hello\nand no end of a line")
            file.seek(0)
            done = self.talk(4, stdin=file)
        self.assertEqual((done.returncode, done.stdout), (0, b"hello\nand no end of a line"))

    def test_last_line_without_an_end_is_a_frame(self):
        done = self.talk(7, "--frames", input=b"one\n\nthree")
        self.assertEqual((done.returncode, done.stdout), (0, b"one\n\nthree\n"))

    def test_line_that_no_frame_takes(self):
        done = self.talk(7, "--frames", input=b"." * (harness.MIB + 1))
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertEqual(done.stderr, b"talk: a line is longer than a frame may be: 1 MiB\n")

    def test_lines_to_a_server_of_frames(self):
        done = self.talk(7, "--raw", input=LINES)
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertRegex(done.stderr, b"^talk: .*\n$")

    def test_nobody_is_there(self):
        done = subprocess.run([sys.executable, PROGRAM, "1"], capture_output=True, input=b"")
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertEqual(done.stderr, b"talk: 127.0.0.1:1: Connection refused\n")


if __name__ == "__main__":
    unittest.main()
