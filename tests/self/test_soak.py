"""The soak in short, on every stage; and servers that leak or lose something are caught by it."""

import pathlib
import sys
import tempfile
import unittest
from unittest import mock

from tests import harness
from tests.loop import soak
from tests.self import scripts

STEPS = 2 * soak.ROUND

# A right server, but for what stands in the place of FAULT.
SERVER = """#!{python}
import os, signal, socket, sys, time
sys.path.insert(0, {root!r})
from tests.self import wrong_server

kept, total = [], 0
right_step = wrong_server.step

def step(client, _):
    global total
    before = client.seen
    alive = right_step(client, "right")
    total += client.seen - before
{fault}
    return alive

wrong_server.step = step
wrong_server.main()
"""


def make(folder, fault):
    """A server with a fault, as a program."""
    path = pathlib.Path(folder) / "server"
    lines = "".join(f"    {line}\n" for line in fault.splitlines())
    path.write_text(SERVER.format(python=sys.executable, root=harness.ROOT, fault=lines),
                    encoding="utf-8")
    path.chmod(0o755)
    return str(path)


class Stages(unittest.TestCase):
    """What `make soak` does for minutes, for a second."""

    def soak(self, number, seed=1, steps=STEPS):
        stage = harness.Stage(number)
        self.addCleanup(stage.stop)
        return soak.run(stage, seed, steps)

    def test_every_stage(self):
        for number in range(2, 8):
            with self.subTest(stage=harness.STAGES[number]):
                party = self.soak(number)
                self.assertEqual(party.steps, STEPS)
                self.assertTrue(all(party.counts.values()), party.counts)

    def test_a_seed_replays(self):
        """Another server, at another speed: the same clients do and ask the same."""
        one, two, other = self.soak(3), self.soak(6), self.soak(3, seed=2)
        self.assertEqual((one.counts, one.asked), (two.counts, two.asked))
        self.assertNotEqual((one.counts, one.asked), (other.counts, other.asked))

    def test_05_may_drop_who_is_slow_but_must_say_so(self):
        party = self.soak(5)
        self.assertGreater(party.dropped, 0)
        stage = harness.Stage(5)
        self.addCleanup(stage.stop)
        with mock.patch.object(harness.Server, "stderr", lambda _: ""), \
                self.assertRaisesRegex(harness.Fail, "lost its connection"):
            soak.run(stage, 1, STEPS)


class WrongServers(unittest.TestCase):
    """Each is wrong in one way, and not at once."""

    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def soak(self, fault, steps=STEPS, number=6):
        stage = harness.Stage(number, [make(self.folder, fault)])
        self.addCleanup(stage.stop)
        return soak.run(stage, 1, steps)

    def caught(self, words, fault, **options):
        with mock.patch.object(harness.Stillness, "rounds", 5), \
                self.assertRaisesRegex(harness.Fail, words):
            self.soak(fault, **options)

    def test_a_right_one_passes(self):
        self.soak("")

    def test_loses_a_byte(self):
        self.caught("differs", "if total > 1_000_000 and len(client.out) > 1000:\n"
                    "    del client.out[500]\n    total = 0")

    def test_changes_a_byte(self):
        self.caught("differs", "if total > 1_000_000 and len(client.out) > 1000:\n"
                    "    client.out[500] ^= 1\n    total = 0")

    def test_sends_too_much(self):
        self.caught("too many", "if total > 1_000_000 and client.eof and not alive:\n"
                    "    try:\n        client.sock.send(b'!')\n"
                    "    except OSError:\n        pass")

    def test_leaks_memory(self):
        self.caught("KiB more memory", "if not alive:\n    kept.append(bytes(range(256)) * 4000)",
                    steps=(soak.WARM_UP + 2) * soak.ROUND)

    def test_leaks_descriptors(self):
        self.caught("open descriptors when all have left",
                    "if not alive:\n    kept.append(socket.socket())")

    def test_never_closes(self):
        self.caught("get no more", "if not alive and total > 1_000_000:\n"
                    "    kept.append(client.sock.dup())")

    def test_drops_a_client(self):
        self.caught("lost its connection", "if total > 1_000_000:\n    total = 0\n"
                    "    return False")

    def test_crashes(self):
        self.caught("SIGSEGV", "if total > 1_000_000:\n"
                    "    os.kill(os.getpid(), signal.SIGSEGV)")

    def test_hangs(self):
        self.caught("get no more|goes in circles|comes to rest",
                    "if total > 1_000_000:\n    signal.pause()")


class CommandLine(unittest.TestCase):
    """What it says, and its exit status."""

    def test_a_failure_says_how_to_see_it_again(self):
        with tempfile.TemporaryDirectory() as folder:
            server = make(folder, "if total > 1_000_000:\n"
                          "    os.kill(os.getpid(), signal.SIGSEGV)")
            done = scripts.run("tests.loop.soak", "--stage", 6, "--seed", 7, "--steps", 300,
                               "--server", server)
            self.assertEqual((done.returncode, done.stderr), (1, ""), done.stdout)
            self.assertRegex(done.stdout, r"(?m)^seed 7$")
            self.assertRegex(done.stdout, r"(?m)^FAIL  06-write-buffering: at step \d+: .*SIGSEGV")
            again = r"(?m)^      again: python3 -m tests.loop.soak --stage 6 --seed 7 --steps \d+"
            self.assertRegex(done.stdout, again)
            self.assertRegex(done.stdout, r"(?m)^0 passed, 1 failed$")

    def test_bad_usage(self):
        done = scripts.run("tests.loop.soak", "--stage", "1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("01 serves one client at a time", done.stderr)


if __name__ == "__main__":
    unittest.main()
