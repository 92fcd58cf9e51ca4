"""tests/learn/idle.py: silent clients weigh on stage 3 and not on stage 4, and it says why not."""

import os
import re
import subprocess
import sys
import unittest

from tests import harness

PROGRAM = os.path.join(harness.ROOT, "tests", "learn", "idle.py")
LINE = re.compile(r"^ *([\d,]+) +([\d,]+) µs$", re.M)


class Idle(unittest.TestCase):
    """With a stage at the other end."""

    def idle(self, number, clients):
        """A run against a server of this stage."""
        stage = harness.Stage(number)
        self.addCleanup(stage.stop)
        self.server = stage.start()
        return self.run_it(self.server.port, clients)

    def run_it(self, port, clients):
        """A run against a port."""
        return subprocess.run([sys.executable, PROGRAM, str(port), str(clients)],
                              capture_output=True, encoding="utf-8")

    def last(self, number):
        """How many silent clients there were in the end, and what a message cost then."""
        done = self.idle(number, 600)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = LINE.findall(done.stdout)
        self.assertEqual([count for count, _ in lines], ["0", "500", "600"])
        return int(lines[-1][1].replace(",", ""))

    def test_poll_pays_for_the_silent_ones_and_epoll_does_not(self):
        self.assertGreater(self.last(3), 2 * self.last(4))

    def test_a_port_without_a_server_is_an_error_in_words(self):
        self.assertEqual(self.idle(1, 10).returncode, 0)  # clients may queue
        self.server.kill()
        done = self.run_it(self.server.port, 10)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no server of yours listens", done.stderr)

    def test_a_server_with_few_descriptors_is_not_asked_for_more(self):
        stage = harness.Stage(4)
        self.addCleanup(stage.stop)
        server = stage.start()
        server.limit_fds(60)
        done = self.run_it(server.port, 100)
        self.assertIn("only 10 clients", done.stdout)
        self.assertEqual([count for count, _ in LINE.findall(done.stdout)], ["0", "10"])


if __name__ == "__main__":
    unittest.main()
