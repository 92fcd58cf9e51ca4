"""07-evloop: jobs. What is promised to those who wait, and to those behind them."""

import os
import unittest

from tests import harness

PROGRAM = os.path.join(harness.BUILD, "07-evloop")
MAX_JOBS = 32  # worker.h
LONG, SHORT = harness.frame(b"sleep 10000"), harness.frame(b"sleep 1 please")


class Server(unittest.TestCase):
    """One for each test."""

    arguments = ()

    def setUp(self):
        self.stage = harness.Stage(7, [PROGRAM])
        self.addCleanup(self.stage.stop)
        self.server = self.stage.start(*self.arguments)

    def tearDown(self):
        self.stage.finish()


class Jobs(Server):
    """One at a time, in a queue that has an end."""

    def waiting(self, count):
        """So many clients whose long jobs the server has taken."""
        clients = [self.server.connect() for _ in range(count)]
        for client in clients:
            client.send(LONG)
        for client in clients:
            harness.wait_for(lambda c=client: c.accepted() and not c.unread()
                             and self.server.asleep(), "the job is taken", self.server)
        return clients

    def test_job_is_answered_and_what_is_behind_it_after_it(self):
        client = self.server.connect()
        request = harness.frame(b"one") + SHORT + harness.frame(b"two") + SHORT
        client.send(request * 20 + harness.frame(b"three"))
        client.half_close()
        client.expect(request * 20 + harness.frame(b"three"))
        client.expect_end()

    def test_others_go_on_meanwhile(self):
        self.waiting(1)
        for _ in range(100):
            self.server.connect().roundtrip()

    def test_who_does_not_fit_is_told(self):
        self.waiting(MAX_JOBS)
        client = self.server.connect()
        client.send(LONG + harness.frame(b"and this?"))
        client.expect(harness.frame(b"busy") + harness.frame(b"and this?"))
        client.roundtrip()

    def test_job_of_one_who_has_left_is_cancelled(self):
        before = self.server.fds()
        for client in self.waiting(MAX_JOBS):
            client.reset()
        harness.wait_for(lambda: self.server.fds() == before, "their descriptors", self.server)
        client = self.server.connect()
        client.send(SHORT)  # behind 320 s of work, if it were still done
        client.expect(SHORT)

    def test_others_keep_their_place_when_one_leaves(self):
        first = self.server.connect()
        first.send(harness.frame(b"sleep 300 first"))
        waiting = [self.server.connect() for _ in range(5)]
        for client in waiting:
            client.send(LONG)
        last = self.server.connect()
        last.send(SHORT)
        harness.wait_for(lambda: last.accepted() and not last.unread(), "it is taken", self.server)
        for client in waiting:
            client.reset()
        first.expect(harness.frame(b"sleep 300 first"))
        last.expect(SHORT)


class Idle(Server):
    """--idle-ms is not for one who waits for us."""

    arguments = ("--idle-ms", "200", "--tick-ms", "20")

    def test_job_may_take_longer(self):
        client, = self.server.connect_with(harness.frame(b"sleep 1500"))
        self.server.connect().expect_end()
        client.expect(harness.frame(b"sleep 1500"))
        client.expect_end()


if __name__ == "__main__":
    unittest.main()
