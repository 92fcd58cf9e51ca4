"""The upper-case server and the clock of chapter 7: their patches apply, compile, and do it."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import types
import unittest

from tests import harness
from tests.book import variants
from tests.mutants.mutant import Mutant


def build(name, tree):
    """The path of the patched server."""
    folder = variants.stage(name)
    for part in (folder, "common"):
        shutil.copytree(variants.ROOT / part, tree / part)
    Mutant.apply(types.SimpleNamespace(diff=variants.patch(name).partition("\n\n")[2],
                                       path=variants.PATCHES / f"{name}.patch"), tree)
    library = [f"{folder}/evloop.cpp"] if folder == "07-evloop" else []
    subprocess.run([os.environ.get("CXX", "g++"), "-std=c++20", "-Wall", "-Wextra", "-Wpedantic",
                    "-Werror", "-I.", f"{folder}/server.cpp", *library, "-o", "server",
                    "-pthread"], cwd=tree, check=True)
    return tree / "server"


def read(client, size):
    """So many bytes."""
    client.sock.settimeout(harness.FAILSAFE)
    return client.sock.recv(size, socket.MSG_WAITALL)


class Variants(unittest.TestCase):
    """Each of the four, built and talked to."""

    def start(self, name):
        """Build it and run it."""
        tree = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, tree)
        stage = harness.Stage(int(name[:2]), [str(build(name, tree))])
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


if __name__ == "__main__":
    unittest.main()
