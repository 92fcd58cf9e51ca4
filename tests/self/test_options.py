"""The command line that the seven servers share: help, bad usage, and set-up that fails.

And that of our other programs and scripts: help and bad usage.
"""

import os
import pathlib
import re
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from tests import harness
from tests.harness import server


def run(number, *args, preexec_fn=None):
    """Run a server that is expected to end by itself."""
    return subprocess.run([os.path.join(harness.BUILD, harness.STAGES[number]), *args],
                          encoding="utf-8", capture_output=True, stdin=subprocess.DEVNULL,
                          preexec_fn=preexec_fn)


class Options(unittest.TestCase):
    """Each test goes through all seven."""

    def refuses(self, args, status, pattern):
        """One line on stderr that says what is wrong, nothing on stdout, and the exit status."""
        for number, name in harness.STAGES.items():
            with self.subTest(stage=name, args=args):
                done = run(number, *args)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, pattern)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_port_out_of_range(self):
        self.refuses(["--port", "70000"], 2, "--port 70000: .*0 to 65535")
        self.refuses(["--port", "-1"], 2, "--port -1: ")

    def test_port_is_no_number(self):
        for text in ("x", "", "80x", " 80", "0x50", "99999999999999999999"):
            self.refuses(["--port", text], 2, re.escape(f"--port {text}: ") + "not a whole number")

    def test_port_without_a_value(self):
        self.refuses(["--port"], 2, r": --port: a value is missing \(try --help\)")

    def test_unknown_option(self):
        for wrong in "--prot", "-p", "-pq", "-", "--help=me", "--h":
            self.refuses(["--port", "0", wrong, "80"], 2,
                         rf": (unexpected argument )?{wrong}(: no such option)? \(try --help\)")

    def test_unexpected_argument(self):
        self.refuses(["8080"], 2, "unexpected argument 8080")

    def test_host_that_is_no_address(self):
        for host in ("localhost", "256.0.0.1", "1.2.3", "127.1", "0x7f.0.0.1", "1.2.3.4.5", "::g",
                     ""):
            self.refuses(["--host", host], 2, re.escape(f"--host {host}: "))

    def test_occupied_port(self):
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = str(busy.getsockname()[1])
            self.refuses(["--port", port], 1, f"^bind 127.0.0.1:{port}: Address already in use$")

    def test_address_of_somebody_else(self):
        self.refuses(["--host", "192.0.2.1", "--port", "0"], 1,
                     "^bind 192.0.2.1:0: Cannot assign requested address$")

    def test_help_shows_the_default_and_not_what_was_given(self):
        for number, name in harness.STAGES.items():
            with self.subTest(stage=name):
                done = run(number, "--port", "8080", "--help")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertRegex(done.stdout, rf"--port N .*\(default 900{number}\)")
                self.assertRegex(done.stdout, r"--host ADDR .*\(default 127\.0\.0\.1\)")
                self.assertIn("--help", done.stdout)

    def listens_on(self, host, shown):
        """Say exactly that line, and serve there."""
        for number, name in harness.STAGES.items():
            with self.subTest(stage=name, host=host):
                stage = harness.Stage(number)
                try:
                    one = stage.start("--host", host)
                    self.assertEqual(one.line, f"{name} listening on {shown}:{one.port}")
                    one.connect().roundtrip()
                    self.assertEqual(one.more_stdout(), b"")
                finally:
                    stage.stop()

    def test_listens_on_ipv4(self):
        self.listens_on("127.0.0.1", "127.0.0.1")
        self.listens_on("0.0.0.0", "0.0.0.0")

    def test_listens_on_ipv6(self):
        if not server.has_ipv6():
            self.skipTest("no IPv6 on this machine")
        self.listens_on("::1", "[::1]")

    def test_options_of_stage_7(self):
        for args in (["--threads", "0"], ["--threads", "65"], ["--idle-ms", "-1"],
                     ["--tick-ms", "0"], ["--drain-ms", "x"]):
            done = run(7, *args)
            self.assertEqual(done.returncode, 2)
            self.assertRegex(done.stderr, re.escape(" ".join(args)) + ": not a whole number")

    def test_no_memory_for_the_stack_of_a_thread(self):
        limit = resource.getrlimit(resource.RLIMIT_STACK)[1]
        huge = 1 << 44 if limit == resource.RLIM_INFINITY else limit  # bytes; so much is not there
        self.assertGreaterEqual(huge, 1 << 44, "the hard limit of the stack is in the way")
        done = run(7, "--threads", "4", "--port", "0",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (huge, limit)))
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, "^Resource temporarily unavailable\n$")


class OtherPrograms(unittest.TestCase):
    """What else `make` builds reads its options in the same way."""

    def test_help_and_an_unknown_option(self):
        for name in "07-client", "07-http", "load":
            for option, status in ("--help", 0), ("--prot", 2):
                with self.subTest(name, option=option):
                    done = subprocess.run([os.path.join(harness.BUILD, name), option],
                                          encoding="utf-8", capture_output=True)
                    self.assertEqual(done.returncode, status, done.stderr)
                    said, silent = (done.stdout, done.stderr)[::-1 if status else 1]
                    self.assertRegex(said, rf"^Usage: {name} |: --prot: no such option .*\n$")
                    self.assertEqual(silent, "")


UNKNOWN = [
    "tests.learn.check 4 --rows x", "tests.learn.check 4 --hint x", "tests.learn.check 9",
    "tests.learn.matrix --rows x", "tests.learn.solution 9", "tests.learn.start 9",
    "tests.learn.trace 9", "tests.mutants.__main__ 9", "tests.mutants.__main__ no-such-mutant",
    "tests.book.commands no-such.md", "tests.book.style no-such.md", "tests.book.recorded 9 9 Z",
    "tests.bench.compare --stages 0", "tests.bench.compare --scenarios none",
    "tests.bench.peers --scenarios none", "tests.bench.nginx --scenarios none",
    "tests.bench.threads --threads 0", "tests.bench.threads --threads x",
    "tests.bench.per_client --idle 10,x", "tests.beyond.restart --only none",
    "tests.loop.soak --stage 1", "tests.machines.run --only none",
    "tests.machines.run --commands none", "tests.machines.roots none", "tests.self.run none",
]


class Scripts(unittest.TestCase):
    """Each module that one can run says what it wants, instead of beginning to work."""

    def modules(self):
        """Their names. A test is a script of unittest's, which has a help of its own."""
        root = pathlib.Path(harness.ROOT)
        for path in sorted(root.glob("tests/**/*.py")):
            if not path.name.startswith("test_") and 'if __name__ == "__main__"' in \
                    path.read_text("utf-8"):
                yield ".".join(path.relative_to(root).with_suffix("").parts)

    def run_module(self, name, *options):
        """As python3 -m does it, but in a copy of this process: (status, stdout, stderr)."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = [name, *options]
                sys.modules.pop(name, None)  # another test may have it
                try:
                    runpy.run_module(name, run_name="__main__", alter_sys=True)
                except SystemExit as end:
                    sys.stdout.flush()
                    os._exit(end.code or 0)
                finally:
                    os._exit(99)
            try:
                harness.wait_for(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT
                                                   | os.WNOHANG), f"{name} ends at once")
            finally:
                os.kill(pid, signal.SIGTERM)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return status, *(os.pread(file.fileno(), 100_000, 0).decode() for file in (out, err))

    def test_a_name_or_a_number_that_is_not_known(self):
        for name, *options in map(str.split, UNKNOWN):
            with self.subTest(name, options=options):
                status, out, err = self.run_module(name, *options)
                self.assertEqual((status, out), (2, ""))
                self.assertRegex(err, r"(?s)^usage: .*\n\w+\.py: error: [^\n]*\n$")

    def test_help_and_an_unknown_option(self):
        names = list(self.modules())
        self.assertIn("tests.learn.check", names)
        for name in names:
            for option in "--help", "-h", "--no-such-thing":
                with self.subTest(name, option=option):
                    status, out, err = self.run_module(name, option)
                    if "h" in option[:3]:
                        self.assertEqual((status, err), (0, ""))
                        self.assertRegex(out, "^usage: ")
                    else:
                        self.assertEqual((status, out), (2, ""))
                        self.assertRegex(err, "^usage: ")


if __name__ == "__main__":
    unittest.main()
