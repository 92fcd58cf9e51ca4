"""The command line of all seven servers: what is accepted, what is refused, and in which words."""

import os
import re
import signal
import socket
import subprocess
import unittest

import harness

STAGES = harness.STAGES
ALL = {**STAGES, 8: "07-client"}
BUILD = os.environ.get("BUILD", harness.BUILD)


def run(name, *arguments):
    """Run a program that is expected to end by itself."""
    return subprocess.run([os.path.join(BUILD, name), *arguments], capture_output=True, text=True,
                          timeout=harness.FAILSAFE, stdin=subprocess.DEVNULL)


class BadUsage(unittest.TestCase):
    """One line on stderr, nothing on stdout, exit status 2."""

    def refused(self, *arguments, says):
        for name in ALL.values():
            with self.subTest(program=name, arguments=arguments):
                done = run(name, *arguments)
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, says)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_port_too_large(self):
        self.refused("--port", "70000", says=r"--port 70000: not a whole number from 0 to 65535")

    def test_port_is_no_number(self):
        for port in ("x", "", "-1", "1.5", "80x", "0x50", " 80"):
            self.refused("--port", port, says=r"--port .*: not a whole number from 0 to 65535")

    def test_unknown_option(self):
        self.refused("--colour", says="--colour")

    def test_option_without_its_value(self):
        self.refused("--port", says="requires an argument")

    def test_host_that_is_no_address(self):
        for host in ("localhost", "300.1.1.1", "", "::g"):
            self.refused("--host", host, says="--host .*: not an IPv4 or IPv6 address")

    def test_unexpected_argument(self):
        self.refused("9000", says="unexpected argument 9000")

    def test_limits_of_stage_seven(self):
        for option in ("--threads", "--tick-ms", "--drain-ms"):
            with self.subTest(option=option):
                self.assertEqual(run("07-evloop", option, "0").returncode, 2)


class SetUp(unittest.TestCase):
    """A failure of the set-up names the call, the address and the reason; exit status 1."""

    def fails(self, *arguments, says):
        for name in STAGES.values():
            with self.subTest(stage=name, arguments=arguments):
                done = run(name, *arguments)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertEqual(done.stderr, says + "\n")

    def test_occupied_port(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            self.fails("--port", str(port), says=f"bind 127.0.0.1:{port}: Address already in use")

    def test_address_of_another_machine(self):
        self.fails("--host", "192.0.2.1", "--port", "0",
                   says="bind 192.0.2.1:0: Cannot assign requested address")

    def test_address_in_brackets_for_ipv6(self):
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            port = other.getsockname()[1]
            self.fails("--host", "::1", "--port", str(port),
                       says=f"bind [::1]:{port}: Address already in use")


class Listening(unittest.TestCase):
    """What is right is said in one line, and is true."""

    def test_one_line_and_an_echo_on_both_families(self):
        for number, name in STAGES.items():
            for host, shown in (("127.0.0.1", "127.0.0.1"), ("127.8.8.8", "127.8.8.8"),
                                ("::1", "[::1]")):
                with self.subTest(stage=name, host=host):
                    stage = harness.Stage(number, build=BUILD)
                    try:
                        server = stage.start("--host", host)
                        self.assertEqual(server.line,
                                         f"{name} listening on {shown}:{server.port}")
                        server.connect().roundtrip()
                        server.check_alive()
                        os.kill(server.pid, signal.SIGTERM)
                        server.process.wait(harness.FAILSAFE)
                        rest = server.process.stdout.read()
                        self.assertEqual(server.stdout + rest, (server.line + "\n").encode())
                    finally:
                        stage.stop()

    def test_help_names_every_option_and_the_default_port(self):
        for number, name in STAGES.items():
            with self.subTest(stage=name):
                done = run(name, "--help")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                for word in (r"--host ADDR", r"--port N", r"--help", rf"default 900{number}"):
                    self.assertRegex(done.stdout, word)
                self.assertLessEqual(max(map(len, done.stdout.splitlines())), 100)

    def test_header_says_how_to_build(self):
        for name in STAGES.values():
            with self.subTest(stage=name):
                with open(os.path.join(harness.ROOT, name, "server.cpp")) as source:
                    command = re.search(r"^// Build: (.*)$", source.read(), re.M)[1]
                program = os.path.join(BUILD, "plain-" + name)
                done = subprocess.run(command.replace("-o server", f"-o {program} -fsyntax-only"),
                                      shell=True, cwd=harness.ROOT, capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
