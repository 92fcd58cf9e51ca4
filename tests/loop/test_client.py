"""07-client: it ends, whatever the server does, and says what came of it."""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import unittest

from tests import harness

PROGRAM, LOAD = os.path.join(harness.BUILD, "07-client"), os.path.join(harness.BUILD, "load")

# Runs a program where there is one port to connect from, and "lo" as the only device, which is up
# (netdevice(7): SIOCSIFFLAGS, IFF_UP).
ONE_PORT = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("40000 40000")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def run(*arguments, **streams):
    """A run that ends by itself."""
    streams.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([PROGRAM, *map(str, arguments)], stderr=subprocess.PIPE, encoding="utf-8",
                          stdin=subprocess.DEVNULL, timeout=harness.FAILSAFE, check=False,
                          **streams)


class Client(unittest.TestCase):
    """Against a real server, and against some that are none."""

    def test_all_come_back(self):
        stage = harness.Stage(7)
        self.addCleanup(stage.stop)
        port = stage.start().port
        for connections, count, size in ((1, 10, 64), (100, 5, 0), (3, 3, harness.MIB)):
            done = run("--port", port, "--connections", connections, "--count", count,
                       "--size", size)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, f"^{connections * count} of {connections * count} "
                                          f"frames of {size} bytes came back\nmicroseconds: ")

    def against(self, serve, *arguments):
        """A run against serve(), which gets each connection, until all is over."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def accept():
                try:
                    while True:
                        serve(listener.accept()[0])
                except OSError:
                    pass  # shut down

            thread = threading.Thread(target=accept)
            thread.start()
            try:
                return run("--port", listener.getsockname()[1], *arguments)
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def test_silent_server_is_given_up(self):
        kept = []
        done = self.against(kept.append, "--connections", 3, "--timeout-ms", 200)
        for connection in kept:
            connection.close()
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout, "0 of 30 frames of 64 bytes came back\n")
        self.assertRegex(done.stderr, r"^(127\.0\.0\.1:\d+: Connection timed out\n){3}$")

    def test_server_that_falls_silent_is_given_up(self):
        """Its answer has to be in time, and so the client is as patient as this machine asks."""
        def once(connection):
            kept.append(connection)
            connection.sendall(connection.recv(1000))
            answered.append(time.monotonic())

        for ms in (500 << doubled for doubled in itertools.count()):
            kept, answered, began = [], [], time.monotonic()
            done = self.against(once, "--count", 2, "--timeout-ms", ms)
            for connection in kept:
                connection.close()
            if answered and answered[0] - began < ms / 1000:
                break
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, "^1 of 2 frames of 64 bytes came back\n")
        self.assertIn(": Connection timed out\n", done.stderr)

    def test_something_else_comes_back(self):
        def wrong(connection):
            with connection:
                connection.sendall(connection.recv(1000)[:-1] + b"!")
                connection.recv(1000)

        done = self.against(wrong)
        self.assertEqual((done.returncode, done.stdout),
                         (1, "0 of 10 frames of 64 bytes came back\n"))

    def test_nobody_is_there(self):
        done = run("--port", 1, "--connections", 2)
        self.assertEqual((done.returncode, done.stdout),
                         (1, "0 of 20 frames of 64 bytes came back\n"))
        self.assertEqual(done.stderr, "127.0.0.1:1: Connection refused\n" * 2)

    def test_does_not_take_itself_for_a_server(self):
        """In a network of its own, in which every connection comes from the port it goes to."""
        done = self.alone(PROGRAM, "--port", "40000")
        self.assertEqual((done.returncode, done.stdout),
                         (1, "0 of 10 frames of 64 bytes came back\n"))
        self.assertEqual(done.stderr, "127.0.0.1:40000: Connection refused\n")

    def test_nor_does_the_load_generator(self):
        done = self.alone(LOAD, "--port", "40000", "--ms", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn('"Connection refused": 1', done.stdout)

    def alone(self, *command):
        """A run where there is one port."""
        prefix = ["unshare", "--map-root-user", "--net", sys.executable, "-c", ONE_PORT]
        try:
            subprocess.run([*prefix, "true"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("no network of our own: unshare(1) is missing, or may not make one")
        return subprocess.run([*prefix, *command], encoding="utf-8", timeout=harness.FAILSAFE,
                              capture_output=True, check=False)

    def test_stdout_that_cannot_be_written(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = run("--port", 1, stdout=full)
        self.assertEqual(done.returncode, 1)
        self.assertIn("stdout: No space left on device\n", done.stderr)

    def test_stdout_that_nobody_reads(self):
        reader, writer = os.pipe()
        os.close(reader)
        done = run("--port", 1, stdout=writer)
        os.close(writer)
        self.assertEqual(done.returncode, 1)
        self.assertIn("stdout: Broken pipe\n", done.stderr)

    def test_help_says_when_it_gives_up(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"--timeout-ms N .*\(default 10000\)")


if __name__ == "__main__":
    unittest.main()
