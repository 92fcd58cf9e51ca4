"""The servers that chapter 7 makes of two stages: their patches apply, compile, and do it."""

import pathlib
import re
import tempfile
import unittest

from tests import harness
from tests.book import marks, variants


def read(client, size):
    """So many bytes: with a timeout of Python's, MSG_WAITALL would not wait for all of them."""
    data = b""
    while len(data) < size:
        client.wait(what=f"{size} bytes")
        data += client.try_receive(size - len(data))
    return data


class Variants(unittest.TestCase):
    """Each of the four, built and talked to."""

    def build(self, name):
        """The path of the program."""
        tree = self.enterContext(tempfile.TemporaryDirectory())
        return str(variants.build(name, pathlib.Path(tree)))

    def start(self, name):
        """Build it and run it."""
        stage = harness.Stage(int(name[:2]), [self.build(name)])
        self.addCleanup(stage.stop)
        return stage.start()

    def expect_times(self, server, pattern, size):
        """Two of them, in two clients; one that leaves costs the others nothing."""
        clients = [server.connect() for _ in range(3)]
        clients.pop().close()
        for client in clients:
            for time in (read(client, size), read(client, size)):
                self.assertRegex(time, pattern)

    def test_upper_case_of_stage_6(self):
        client = self.start("06-upper").connect()
        client.send(b"Hello, you 2\n")
        client.expect(b"HELLO, YOU 2\n")

    def test_upper_case_of_stage_7_leaves_the_length_alone(self):
        client = self.start("07-upper").connect()
        for payload in (b"hello", b"x" * ord("d"), b""):
            client.send(harness.frame(payload))
            client.expect(harness.frame(payload.upper()))

    def test_clock_of_stage_6(self):
        self.expect_times(self.start("06-clock"), re.compile(rb"\d\d:\d\d:\d\d\n"), 9)

    def test_clock_of_stage_7(self):
        self.expect_times(self.start("07-clock"), re.compile(rb"EVLP\0\0\0\x08\d\d:\d\d:\d\d"), 16)

    def test_one_mark_is_told_to_epoll_more_often_than_two(self):
        one, two = (marks.calls(self.build(name)) for name in marks.NAMES)
        self.assertGreater(one, 2 * two)


if __name__ == "__main__":
    unittest.main()
