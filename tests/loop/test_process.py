"""07-evloop and 07-http as processes that are replaced: listeners, signals, their own streams."""

import functools
import os
import signal
import subprocess
import sys
import unittest

from tests import harness
from tests.outside import kernel

PROGRAMS = {"07-evloop": harness.frame(b"hello"),
            "07-http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"}

# What comes before the program, in the process that will be it.
INHERIT = """
import os, socket
listener = socket.create_server((os.environ["AT"], 0))
os.dup2(listener.detach(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"] = "1"
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ["OTHER"]))
"""
IGNORE = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
# stderr: a pipe that is full and that nobody reads; one whose reader has gone; a file that may not
# grow; none at all.
FULL = """
import os
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"." * 4096)
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 2)
os.set_inheritable(reader, True)
"""
GONE = "import os; reader, writer = os.pipe(); os.dup2(writer, 2); os.close(reader)"
NO_ROOM = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
CLOSED = "import os; os.close(0); os.close(2)"
BLOCK = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
"""
EXECUTE = "\nimport os, sys; os.execv(sys.argv[1], sys.argv[1:])"


def with_each_program(test):
    """Run it with the path of each, and with a message for it."""
    @functools.wraps(test)
    def run(self):
        for name, request in PROGRAMS.items():
            with self.subTest(program=name):
                test(self, os.path.join(harness.BUILD, name), request)
    return run


class Processes(unittest.TestCase):
    """What all of them need."""

    def start(self, program, *arguments, before="", **options):
        """A server; `before` is Python that its process runs first."""
        command = [sys.executable, "-c", before + EXECUTE, program] if before else [program]
        stage = harness.Stage(7, command)
        self.addCleanup(stage.stop)
        return stage.start(*arguments, **options)

    def served(self, client, request):
        """An answer comes."""
        client.send(request)
        harness.wait_for(client.readable, "an answer", client.server)
        self.assertTrue(client.try_receive())

    def ends(self, server, number=signal.SIGTERM):
        """It ends in good order."""
        server.ending = True
        server.signal(number)
        self.assertEqual(server.wait_exit(), 0)


class Listeners(Processes):
    """Two processes on one port, and one after the other on one socket."""

    @with_each_program
    def test_port_is_shared_when_both_say_so(self, program, request):
        first = self.start(program, "--reuse-port", 1)
        second = self.start(program, "--reuse-port", 1, port=first.port)
        self.served(first.connect(), request)
        self.ends(first)
        self.served(second.connect(), request)

    @with_each_program
    def test_port_is_not_shared_by_default(self, program, _):
        first = self.start(program)
        with self.assertRaisesRegex(harness.NoStart, "Address already in use"):
            self.start(program, port=first.port)
        with self.assertRaisesRegex(harness.NoStart, "Address already in use"):
            self.start(program, "--reuse-port", 1, port=first.port)

    @with_each_program
    def test_inherited_listener(self, program, request):
        server = self.start(program, before=INHERIT, env={"AT": "127.0.0.9", "OTHER": "0"})
        self.assertRegex(server.line, r" listening on 127\.0\.0\.9:\d+$")
        self.assertEqual(len(kernel.listening_ports(kernel.socket_inodes(server.pid))), 1)
        self.served(server.connect(), request)

    @with_each_program
    def test_listener_of_another_process(self, program, request):
        server = self.start(program, before=INHERIT, env={"AT": "127.0.0.9", "OTHER": "1"})
        self.assertRegex(server.line, r" listening on 127\.0\.0\.1:\d+$")
        self.served(server.connect(), request)

    @with_each_program
    def test_inherited_listener_that_is_none(self, program, _):
        with self.assertRaisesRegex(harness.NoStart, "inherited listener: "):
            self.start(program, before=INHERIT.replace("set_inheritable(3, True)", "close(3)"),
                       env={"AT": "127.0.0.1", "OTHER": "0"})


class Streams(Processes):
    """A log that cannot be written is lost, and nothing else changes."""

    def goes_on(self, program, request, before):
        """Serves, refuses, says why if it can, serves on, and ends in good order."""
        server = self.start(program, before=before)
        bystander = server.connect()
        self.served(bystander, request)
        for _ in range(50):
            bad = server.connect()
            bad.send(b"nonsense\r\n\r\n")
            harness.wait_for(bad.readable, "an answer or the end", server)
        self.assertFalse(bystander.readable(), "what was said about others")
        self.served(bystander, request)
        self.ends(server)

    @with_each_program
    def test_nobody_reads_stderr(self, program, request):
        self.goes_on(program, request, FULL)

    @with_each_program
    def test_reader_of_stderr_has_gone(self, program, request):
        self.goes_on(program, request, GONE)

    @with_each_program
    def test_file_that_may_not_grow(self, program, request):
        self.goes_on(program, request, NO_ROOM)

    @with_each_program
    def test_closed_numbers_are_no_sockets(self, program, request):
        self.goes_on(program, request, CLOSED)

    @with_each_program
    def test_line_on_stdout_that_cannot_be_written(self, program, _):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([program, "--port", "0"], stdout=full, stderr=subprocess.PIPE,
                                  timeout=harness.FAILSAFE, check=False)
        self.assertEqual((done.returncode, done.stderr),
                         (1, b"stdout: No space left on device\n"))


class Signals(Processes):
    """As they were set when the process began."""

    @with_each_program
    def test_ignored_sigint_stays_ignored(self, program, request):
        server = self.start(program, before=IGNORE)
        server.signal(signal.SIGINT)
        for _ in range(3):
            self.served(server.connect(), request)
        self.ends(server)

    @with_each_program
    def test_blocked_signals_are_heard(self, program, _):
        self.ends(self.start(program, before=BLOCK))
        self.ends(self.start(program, before=BLOCK), signal.SIGINT)

    @with_each_program
    def test_second_signal_ends_at_once_although_blocked_before(self, program, request):
        server = self.start(program, "--drain-ms", 3_600_000, before=BLOCK)
        client = server.connect()
        client.send(b"GET /bytes/1048576 HTTP/1.1\r\nHost: a\r\n\r\n" * 9
                    if program.endswith("http") else harness.frame(b"sleep 10000"))
        self.served(server.connect(), request)
        server.ending = True
        server.signal(signal.SIGTERM)
        harness.wait_for(lambda: not is_blocked(server.pid), "the first is heard", server)
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait_exit(), -signal.SIGTERM)


def is_blocked(pid):
    """Is SIGTERM blocked in this process?"""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        mask = next(line.split()[1] for line in file if line.startswith("SigBlk"))
    return int(mask, 16) >> (signal.SIGTERM - 1) & 1


if __name__ == "__main__":
    unittest.main()
