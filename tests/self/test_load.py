"""Tests of the load generator and of the script around it. Bytes and structure; times never.

The generator is shown servers that err in one way each: it has to notice every one of them.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
import xml.etree.ElementTree
from unittest import mock

from tests import harness
from tests.bench import load
from tests.bench import rounds
from tests.bench import scenarios
from tests.outside import kernel
from tests.self import scripts
from tests.self.run import busy

HEADER = 8  # bytes


class Fake:
    """An echo server on threads. `answer` turns the frame that has come into what is sent back.

    It is called with the frame, its number on this connection, and the frame before it, which may
    have come from another client. None ends the connection.
    """

    def __init__(self, answer=lambda frame, number, before: frame):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.before = b""
        self.acted = 0  # when it had its last answer, which may be to end a connection
        self.sockets, self.threads = [], [threading.Thread(target=self.accept, daemon=True)]

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        for s in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:  # the list grows until the first of them has ended
            thread.join()
        self.listener.close()

    def accept(self):
        """Until the listener is shut down."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.sockets.append(client)
                self.threads.append(threading.Thread(target=self.serve, args=(client,),
                                                     daemon=True))
                self.threads[-1].start()

    def serve(self, client):
        """One client until it or the answer function has enough."""
        with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
            number = 0
            while header := stream.read(HEADER):
                frame = header + stream.read(struct.unpack(">4xI", header)[0])
                before, self.before = self.before, frame
                reply = self.answer(frame, number, before)
                if reply is None:
                    client.shutdown(socket.SHUT_RDWR)
                else:
                    client.sendall(reply)
                self.acted = time.monotonic()
                number += 1


def flip(frame, number, _):
    """One bit of frame 11 is another."""
    return frame[:-1] + bytes([frame[-1] ^ 1]) if number == 11 else frame


def mix(frame, number, before):
    """The middle of frame 11 is that of frame 10."""
    half = len(frame) // 2
    return frame[:half] + before[half:half + 256] + frame[half + 256:] if number == 11 else frame


WRONG = {  # what comes back, and the load by which it is seen
    "frames 10 and 11 change places": (
        lambda frame, number, before: b"" if number == 10 else
        frame + before if number == 11 else frame, ["--in-flight", "4"]),
    "frame 11 is frame 10 again": (
        lambda frame, number, before: before if number == 11 else frame, []),
    "what another client has sent": (
        lambda frame, number, before: before if number >= 10 else frame, ["--connections", "2"]),
    "a part of the frame before": (mix, ["--size", "65536"]),
    "a bit is flipped": (flip, []),
    "a bit at the end of a long frame": (flip, ["--size", "65536"]),
    "one byte too many": (lambda frame, number, _: frame + b"E" * (number == 11), []),
    "a frame too many": (lambda frame, number, _: frame + frame * (number == 11), []),
}


def run(port, *options, lines=None):
    """build/load. Returns its exit status and its lines of JSON.

    Unless the options name its process, the server is one of those in this file.
    """
    command = [str(load.BUILD / "load"), "--port", str(port), "--pid", str(os.getpid()),
               "--patience", "2000", *options]
    if lines:
        command += ["--lines", "1"]
    done = subprocess.run(command, input="\n".join(lines or []), encoding="utf-8", check=False,
                          stdout=subprocess.PIPE)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def run_in_time(make, *options):
    """The same with little patience, but so much that the server on this machine was in time."""
    for ms in (300 << doubled for doubled in itertools.count()):
        began = time.monotonic()
        with make() as server:
            status, (result,) = run(server.port, "--patience", str(ms), *options)
            in_time = server.acted - began < ms / 1000
        if in_time:
            return status, result


class Generator(unittest.TestCase):
    """build/load against servers that are written here."""

    def test_counts_exactly(self):
        """A phase of --count is that many frames, however many connections share them."""
        with Fake() as server:
            for options in (["--count", "1"], ["--count", "100", "--connections", "7"],
                            ["--count", "200", "--in-flight", "9", "--connections", "3"],
                            ["--count", "50", "--churn", "4"],
                            ["--count", "100", "--rate", "2000", "--connections", "3"]):
                with self.subTest(options=options):
                    status, (result,) = run(server.port, *options)
                    self.assertEqual(status, 0, result)
                    self.assertEqual(result["messages"], int(options[1]), result)
                    self.assertEqual(result["late"], 0, result)

    def test_every_size(self):
        """From an empty payload to the largest there is."""
        with Fake() as server:
            for size in (0, 1, 7, 8, 9, 255, 256, 257, 65536, 1 << 20):
                with self.subTest(size=size):
                    status, (result,) = run(server.port, "--size", str(size), "--count", "5",
                                            "--in-flight", "2")
                    self.assertEqual((status, result["messages"]), (0, 5), result)

    def test_timed_phases_keep_their_connections(self):
        """--lines: each line is a phase, on the connections of the one before."""
        with Fake() as server:
            for ms in (30, 300, 3000):  # on a busy machine not one echo may come in time
                status, results = run(server.port, "--ms", str(ms), "--warm-up", "10", lines=[
                    "--connections 2", "--connections 3 --idle 10", "--churn 2", "--rate 500",
                    "--bulk 1 --bulk-size 10000"])
                if all(r["messages"] for r in results) and results[-1]["bulk_messages"]:
                    break
            self.assertEqual(status, 0, results)
            self.assertEqual([r["mode"] for r in results],
                             ["closed", "closed", "churn", "open", "closed"])
            self.assertEqual([r["served"] for r in results], [2, 13, 13, 13, 13])
            for result in results:
                self.assertGreater(result["messages"], 0, result)
            self.assertGreater(results[-1]["bulk_messages"], 0)

    def test_wrong_bytes_are_noticed(self):
        for name, (answer, options) in WRONG.items():
            with self.subTest(name), Fake(answer) as server:
                status, (result,) = run(server.port, "--count", "100", *options)
                self.assertEqual(status, 1, result)
                self.assertGreaterEqual(result["wrong"], 1, result)

    def test_what_does_not_come_is_missing(self):
        """The tail of a frame, and all behind it. Reported, and the run has an end."""
        def make():
            return Fake(lambda f, n, _: f if n < 11 else f[:-1] if n == 11 else b"")

        status, result = run_in_time(make, "--count", "100", "--in-flight", "4")
        self.assertEqual(status, 1, result)
        self.assertEqual((result["messages"], result["missing"]), (10, 4), result)

    def test_a_server_that_has_no_core_is_waited_for(self):
        """It shares one with others that come first: for long nothing comes, and then it does."""
        core = min(os.sched_getaffinity(0))
        command = ["nice", "-n", "15", str(load.BUILD / "07-evloop")]
        with harness.Server(command, cpu=core) as server, busy(4, core):
            status, (result,) = run(server.port, "--pid", str(server.pid), "--patience", "200",
                                    "--connections", "5", "--count", "60")
        self.assertEqual((status, result["messages"], result["missing"]), (0, 60, 0), result)

    def test_an_answer_that_came_while_the_generator_had_no_core(self):
        """It wakes up, its patience is over, the server sleeps: and the answer is in its socket."""
        def answer(frame, number, _):
            if number == 11:
                generator, = kernel.children(os.getpid())
                os.kill(generator, signal.SIGSTOP)
                threading.Timer(0.5, os.kill, (generator, signal.SIGCONT)).start()
            return frame

        with Fake(answer) as server:
            status, (result,) = run(server.port, "--count", "100", "--patience", "300")
        self.assertEqual((status, result["messages"], result["missing"]), (0, 100, 0), result)

    def test_a_server_that_closes(self):
        """In the middle of the load: the connection is lost, with what was on its way."""
        status, result = run_in_time(lambda: Fake(lambda f, n, _: f if n < 11 else None),
                                     "--count", "100", "--connections", "2")
        self.assertEqual(status, 1, result)
        self.assertEqual((result["lost"], result["missing"]), (2, 2), result)

    def test_a_server_that_serves_only_some(self):
        """The rest is counted, and nothing is measured."""
        def make():
            served = itertools.count(1)
            return Fake(lambda frame, *_: frame if next(served) <= 3 else b"")

        status, result = run_in_time(make, "--connections", "5")
        self.assertEqual((status, result["failed"]), (1, "3 of 5 served"), result)

    def test_nobody_listens(self):
        """The reason is in the report."""
        with socket.socket() as bound:  # it does not listen, and nobody else can, there
            bound.bind(("127.0.0.1", 0))
            status, (result,) = run(bound.getsockname()[1])
        self.assertEqual((status, result["failed"]), (1, "0 of 1 served"), result)
        self.assertEqual(result["errors"], {"Connection refused": 1})

    def test_too_many_connections_for_the_limit(self):
        """Said, and not tried."""
        with Fake() as server:
            status, (result,) = run(server.port, "--idle", "1000000")
        self.assertEqual(status, 1)
        self.assertRegex(result["failed"], r"^the limit is \d+ descriptors$")

    def test_open_loop_does_not_hide_a_stall(self):
        """One stall of 400 ms in 400 frames: in the open loop, many are late by much of it."""
        def stall(frame, number, _):
            if number == 100:
                time.sleep(0.4)
            return frame

        for options, many in ((["--rate", "500"], True), ([], False)):
            with self.subTest(options=options), Fake(stall) as server:
                _, (result,) = run(server.port, "--warm-up", "0", "--count", "400", *options)
                self.assertGreaterEqual(result["latency_us"]["max"], 350_000, result)
                if many:
                    self.assertGreaterEqual(result["latency_us"]["p90"], 150_000, result)

    def test_usage_of_the_server(self):
        """--pid: what it has used up is in the report."""
        with Fake() as server:
            _, (result,) = run(server.port, "--pid", str(os.getpid()), "--count", "500")
        self.assertGreater(result["server_cpu"], 0)
        self.assertGreater(result["rss_kib"], 1000)
        self.assertGreater(result["switches"] + result["preemptions"], 0)
        self.assertGreater(result["load_cpu"], 0)

    def test_bad_usage(self):
        """One line on stderr, exit status 2."""
        for options in (["--connections", "x"], ["--size", "1048577"], ["--what"], ["more"],
                        ["--churn", "5", "--rate", "100"]):
            with self.subTest(options=options):
                done = subprocess.run([load.BUILD / "load", *options], capture_output=True,
                                      encoding="utf-8", check=False)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


class Arithmetic(unittest.TestCase):
    """What the tables are made of."""

    def test_change(self):
        """A difference counts when it is larger than what varies."""
        self.assertEqual(rounds.change([10, 11, 10], [10, 10, 11]), "=")
        self.assertEqual(rounds.change([10, 10, 10], [12, 12.1, 12]), "+20 %")
        self.assertEqual(rounds.change([10, 10, 10], [5, 5, 5.1]), "-50 %")
        self.assertEqual(rounds.change([10, 10, 10], [40, 41, 42]), "x4.1")
        self.assertEqual(rounds.change([10], [20]), "")  # one round has no spread
        self.assertEqual(rounds.change([10, 20, 30], [11, 22, 33]), "+10 %")  # pairs: drift cancels

    def test_spread(self):
        """The range of a few, the middle half of many."""
        self.assertEqual(rounds.spread([1, 2, 4]), 3)
        self.assertAlmostEqual(rounds.spread([1, 2, 3, 4, 5, 6, 7, 8, 1000]), 5)

    def test_titles(self):
        """They follow from the options."""
        titles = {s.key: s.title for s in scenarios.SCENARIOS}
        self.assertEqual(titles["c1"], "1 connection, 64 B frames")
        self.assertEqual(titles["bulk"], "10 connections, 64 KiB frames")
        self.assertLessEqual(max(map(len, titles.values())), 80)
        self.assertEqual(titles["idle10000"], "100 connections, 64 B frames, among 10,000 idle")


class Phases(unittest.TestCase):
    """On a machine so busy that a phase was too short."""

    def run_phases(self, *results):
        """The result that counts, and how long each phase was to be."""
        session = load.Session(["a server"])
        results = [{"messages": m, "server_cpu": cpu, "why": why} for m, cpu, why in results]
        with mock.patch.object(session, "_phase", side_effect=results) as phase:
            return session.run({"ms": 10}), [call.args[0]["ms"] for call in phase.call_args_list]

    def test_it_goes_on_until_a_server_that_has_worked_has_answered(self):
        result, lengths = self.run_phases((0, 0.1, None), (3, 0, None), (5, 0.1, None))
        self.assertEqual((result["messages"], lengths), (5, [10, 40, 160]))

    def test_but_not_where_something_went_wrong(self):
        _, lengths = self.run_phases((0, 0, "1 of 5 served"))
        self.assertEqual(lengths, [10])


class Script(unittest.TestCase):
    """`make compare` as a whole, on the real stages."""

    charts = {}  # of the last run: {name: root element}

    def run_script(self, *options):
        """Returns what has ended, and its JSON."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "out.json"
            done = scripts.run("tests.bench.compare", "--quick", "--json", path, *options)
            self.charts = {chart.stem: xml.etree.ElementTree.parse(chart).getroot()
                           for chart in pathlib.Path(folder).glob("*.svg")}
            return done, json.loads(path.read_text("utf-8")) if path.exists() else None

    def test_quick(self):
        """All stages and scenarios: every cell is a number, or says why there is none."""
        done, data = self.run_script()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(self.charts), {"idle-curve", "throughput", "latency", "cost"})
        for name, chart in self.charts.items():
            self.assertIn("07-evloop", "".join(chart.itertext()), name)
        self.assertEqual(data["stages"], list(load.STAGES))
        for scenario in data["scenarios"]:
            self.assertEqual(list(scenario["results"]), list(load.STAGES))
            for stage, result in scenario["results"].items():
                with self.subTest(scenario=scenario["key"], stage=stage):
                    if stage == "01-blocking" and scenario["key"] not in ("c1", "churn"):
                        self.assertRegex(result["failed"], r"^1 of \d+ served$")
                        continue
                    self.assertNotIn("failed", result)
                    self.assertGreater(result["throughput"]["median"], 0)
                    self.assertGreater(result["rss_mib"]["median"], 0)
        for line in done.stdout.splitlines():
            self.assertLessEqual(len(line), 100, line)

    @unittest.skipUnless((load.BUILD / "shim.so").exists(), "make build/shim.so")
    def test_calls(self):
        """One recv and one send per frame; LT waits once for it, ET reads once more."""
        _, data = self.run_script("--no-charts", "--scenarios", "c1", "--stages", "4,5")
        results = data["scenarios"][0]["results"]
        for stage, recvs in (("04-epoll-lt", 1), ("05-epoll-et", 2)):
            calls = results[stage]["calls_by_name"]
            self.assertAlmostEqual(calls["recv"], recvs, delta=0.2)
            self.assertAlmostEqual(calls["send"], 1, delta=0.05)
            self.assertAlmostEqual(calls["epoll_wait"], 1, delta=0.2)

    def test_servers_that_err_or_do_not_start_fail_the_run(self):
        """Their cells say so, the others are measured, and the exit status is 1."""
        with tempfile.TemporaryDirectory() as build:
            for name, target in (("load", load.BUILD / "load"), ("02-select", "/bin/false"),
                                 ("04-epoll-lt", load.BUILD / "04-epoll-lt")):
                os.symlink(target, pathlib.Path(build) / name)
            wrong = pathlib.Path(build) / "03-poll-lt"
            wrong.write_text(textwrap.dedent(f"""\
                #!{sys.executable}
                import sys, time
                sys.path.insert(0, {str(load.ROOT)!r})
                from tests.self.test_load import Fake, flip
                with Fake(flip) as server:
                    print(f"03-poll-lt listening on 127.0.0.1:{{server.port}}", flush=True)
                    time.sleep(60)
                """), "utf-8")
            wrong.chmod(0o755)
            done, data = self.run_script("--no-charts", "--build", build, "--stages", "2,3,4",
                                         "--scenarios", "c1")
        self.assertEqual(done.returncode, 1, done.stderr)
        results = data["scenarios"][0]["results"]
        self.assertEqual(results["02-select"]["failed"], "does not start")
        self.assertRegex(results["03-poll-lt"]["failed"], "WRONG BYTES")
        self.assertIn("throughput", results["04-epoll-lt"])

    def test_bad_usage(self):
        """Exit status 2, and a word about it."""
        for options in (["--stages", "8"], ["--stages", "x"], ["--scenarios", "nothing"],
                        ["--build", "/nowhere"]):
            with self.subTest(options=options):
                done, _ = self.run_script(*options)
                self.assertEqual(done.returncode, 2)
                self.assertNotIn("Traceback", done.stderr)

    def test_nothing_is_left_behind(self):
        """However it is ended, the servers and the generator end with it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number.name), tempfile.TemporaryDirectory() as folder:
                scripts.ended_early("tests.bench.compare", "--json", f"{folder}/out.json",
                                    ready=lambda names: len(names) >= 2, number=number)


class PerClient(unittest.TestCase):
    """`make per-client`: stage 04 beside a thread for each client."""

    def test_a_thread_for_each(self):
        """Of 120 clients and the listener in one server, and one for all of them in the other."""
        done = scripts.run("tests.bench.per_client", "--rounds", 1, "--messages", 200, "--idle", 20)
        self.assertEqual(done.returncode, 0, done.stderr)
        threads = dict(re.findall(r"^(\S+) +20 +(\d+) ", done.stdout, re.M))
        self.assertEqual(threads, {"04-epoll-lt": "1", "thread_per_client": "121"}, done.stdout)


if __name__ == "__main__":
    unittest.main()
