"""A program's own stdin, stdout and stderr fail: nothing else may change.

Row 35 of the matrix asks the seven servers. Here are the other programs, and what takes one of the
course's own servers to see: how often a line is said.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import unittest

from tests import harness

SERVERS = [*harness.STAGES.values(), "07-http"]
CLIENTS = ["07-client", "load"]


def run(name, *args, **streams):
    """Run a program that is expected to end by itself."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
               **streams}
    return subprocess.run([os.path.join(harness.BUILD, name), *args], encoding="utf-8",
                          **streams)


@contextlib.contextmanager
def without_reader():
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


class Streams(unittest.TestCase):
    """The programs from outside."""

    def test_a_line_on_stdout_that_cannot_be_written_ends_the_set_up(self):
        for name in SERVERS:
            with self.subTest(program=name), open("/dev/full", "w", encoding="ascii") as full:
                done = run(name, "--port", "0", stdout=full)
                self.assertEqual((done.returncode, done.stderr),
                                 (1, "stdout: No space left on device\n"))
            with self.subTest(program=name), without_reader() as pipe:
                done = run(name, "--port", "0", stdout=pipe)
                self.assertEqual((done.returncode, done.stderr), (1, "stdout: Broken pipe\n"))
            with self.subTest(program=name):
                done = run(name, "--port", "0", preexec_fn=lambda: os.close(1))
                self.assertEqual((done.returncode, done.stderr),
                                 (1, "stdout: Bad file descriptor\n"))

    def test_help_that_cannot_be_written_is_a_failure(self):
        for name in SERVERS + CLIENTS:
            with self.subTest(program=name), open("/dev/full", "w", encoding="ascii") as full:
                self.assertEqual(run(name, "--help", stdout=full).returncode, 1)

    def test_what_cannot_be_said_keeps_the_exit_status(self):
        with socket.create_server(("127.0.0.1", 0)) as busy:
            taken = str(busy.getsockname()[1])
            for name, *args in [*([server, "--port", taken] for server in SERVERS),
                                *([client, "--port", "1"] for client in CLIENTS)]:
                with self.subTest(program=name), without_reader() as pipe:
                    self.assertEqual(run(name, *args, stderr=pipe).returncode, 1)

    def test_numbers_that_were_closed_are_no_sockets(self):
        for name in ["07-http"]:  # row 35 asks the others
            stage = harness.Stage(7, [os.path.join(harness.BUILD, name)])
            self.addCleanup(stage.stop)
            server = stage.start(closed=(0, 2))
            client = server.connect()
            harness.wait_for(client.accepted, "accept()", server)
            self.assertEqual({fd: server.fds()[fd] for fd in (0, 2)},
                             {0: "/dev/null", 2: "/dev/null"})


class BadClients(unittest.TestCase):
    """1,380 clients that send wrong frames to stage 7."""

    COUNT = 1380

    def send_bad_frames(self, server):
        for _ in range(self.COUNT):
            client = server.connect()
            client.try_send(b"nonsense")
            client.expect_end()
            client.close()
            server.clients.remove(client)

    def start(self, **streams):
        stage = harness.Stage(7)
        self.addCleanup(stage.stop)
        return stage.start(**streams)

    def stop(self, server):
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait_exit(), 0)

    def test_they_cannot_fill_the_disk(self):
        server, began = self.start(), time.monotonic()
        self.send_bad_frames(server)
        said = re.findall(r"^.*: closed.*$", server.stderr(), re.M)
        minutes = int(time.monotonic() - began) // 60 + 2  # that it may have been, or a part of it
        self.assertLessEqual(len(said), 20 * minutes, said[-1])
        self.assertGreaterEqual(len(said), 20)
        self.stop(server)

    def test_a_log_that_nobody_reads_does_not_stop_the_server(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        harness.plug(writer)
        server = self.start(stderr=writer)
        os.close(writer)
        self.send_bad_frames(server)
        server.connect().roundtrip()
        self.stop(server)


class Headers(unittest.TestCase):
    """The name, the port and the build line at the top of a stage agree with its folder."""

    def test_every_stage(self):
        for number, name in list(harness.STAGES.items())[:6]:
            with open(os.path.join(harness.ROOT, name, "server.cpp"), encoding="utf-8") as file:
                text = file.read()
            self.assertRegex(text, rf"\A// {name}: ")
            self.assertIn(f"\n// Build: g++ -std=c++20 -O2 -I. {name}/server.cpp -o server\n", text)
            self.assertIn(f'\nconstexpr Stage stage{{"{name}", 900{number}}};\n', text)
            self.assertEqual(text.count(name), 3)


if __name__ == "__main__":
    unittest.main()
