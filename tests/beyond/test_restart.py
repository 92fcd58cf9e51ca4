"""Restarts that lose nothing, in short; restarts that do; and what else may go wrong."""

import argparse
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from tests import harness
from tests.beyond import clients, restart, servers
from tests.self import scripts

HAPROXY = shutil.which("haproxy", path=servers.PATH)


def run(*arguments, build=harness.BUILD):
    """Its exit status, and what it has said."""
    done = scripts.run("tests.beyond.restart", "--own", "--build", build, *arguments,
                       timeout=harness.CELL_FAILSAFE)
    return done.returncode, done.stdout, done.stderr


def lines(out):
    """{line of a table: (restarts, requests, failed)}"""
    found = re.findall(r"^  (\S.*?)  +([\d,]+) +([\d,]+) +([\d,]+)$", out, re.M)
    return {title: tuple(int(n.replace(",", "")) for n in numbers) for title, *numbers in found}


def fake(folder, name, text):
    """A program of a few lines in place of one of ours."""
    path = pathlib.Path(folder, name)
    path.write_text("#!/bin/sh\n" + text, "utf-8")
    path.chmod(0o755)


@unittest.skipUnless(HAPROXY, "no HAProxy here: apt-get install haproxy")
class Restart(unittest.TestCase):
    """With the servers as they are."""

    def test_nothing_is_lost_where_nothing_may_be(self):
        status, out, err = run("--requests", 4000, "--restarts", 4, "--only",
                               "announced,drained,inherited,inherited-http,inherited-echo")
        self.assertEqual((status, err), (0, ""), out)
        table = lines(out)
        self.assertEqual(len(table), 5, out)
        for title, (restarts, requests, failed) in table.items():
            self.assertGreaterEqual(restarts, 4 if "for each" not in title else 1, title)
            self.assertGreaterEqual(requests, 4000, title)
            self.assertEqual(failed, 0, title)

    def test_killed_servers_lose_requests_and_each_is_counted(self):
        status, out, err = run("--requests", 3000, "--restarts", 6, "--only", "killed,stay")
        self.assertEqual((status, err), (0, ""), out)
        for title, (_, requests, failed) in lines(out).items():
            self.assertGreaterEqual(requests, 3000, title)
            # A kill meets a request of those that come and go only now and then.
            self.assertGreaterEqual(failed, 1 if "stay" in title else 0, title)
        reasons = sum(int(n) for n in re.findall(r"^      (\d+): ", out, re.M))
        self.assertEqual(reasons, sum(failed for _, _, failed in lines(out).values()))

    def test_a_port_that_is_taken(self):
        with servers.listen() as listener:
            port = listener.getsockname()[1]
            self.assertEqual(run("--port", port),
                             (1, "", f"bind 127.0.0.1:{port}: Address already in use\n"))

    def test_a_server_that_does_not_come_up(self):
        with tempfile.TemporaryDirectory() as folder:
            fake(folder, "07-evloop", "")
            fake(folder, "07-http", "echo 'epoll_create1: no more' >&2; exit 1")
            status, _, err = run("--only", "announced", build=folder)
            self.assertEqual((status, err),
                             (1, "07-http does not come up: epoll_create1: no more\n"))

    def test_a_server_that_is_never_well(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack, \
                mock.patch.object(servers, "PATIENCE", 1):
            fake(folder, "07-evloop", "")
            fake(folder, "07-http", "echo 07-http listening on 127.0.0.1:$6; exec sleep 1000")
            way = restart.behind_a_proxy(folder)["07-http behind HAProxy"][0]
            group = way.make(restart.Proxy(stack))
            with self.assertRaisesRegex(servers.Trouble, "not find web one well within 1 s$"):
                stack.enter_context(group)
            self.assertEqual([i.process.poll() for i in group.instances.values()], [-9, -9])

    def test_ctrl_c_leaves_no_process_behind(self):
        ended = scripts.ended_early("tests.beyond.restart", "--own", "--only", "announced",
                                    ready=lambda names: {"haproxy", "07-http"} <= set(names))
        self.assertEqual(ended, (130, ""))


class Wrong(unittest.TestCase):
    """What is said when it cannot begin."""

    def test_no_haproxy(self):
        python = os.path.dirname(sys.executable)
        script = ("from tests.beyond import servers; servers.PATH = '/nonexistent'\n"
                  "from tests.beyond import restart; import sys\n"
                  f"sys.argv[1:] = ['--build', {harness.BUILD!r}]\n"
                  "restart.runner.main(servers.run(restart.main))")
        done = subprocess.run([sys.executable, "-c", script], cwd=harness.ROOT, encoding="utf-8",
                              capture_output=True, check=False, timeout=harness.FAILSAFE,
                              env={**os.environ, "PATH": python})
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (1, "", "no HAProxy here: apt-get install haproxy\n"))

    def test_nothing_is_built(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(run(build=folder),
                             (1, "", f"not in {folder}: 07-http. Run make first.\n"))

    def test_ways_that_there_are_not(self):
        status, out, err = run("--only", "announced,nonsense")
        self.assertEqual((status, out), (2, ""))
        self.assertIn("there is no nonsense, but announced, ", err)


class Ways(unittest.TestCase):
    """One way each, and in this process: what the mutants of a stop are caught by."""

    def run_way(self, key, build=harness.BUILD):
        """Some restarts: the load, and how many."""
        tables = restart.without_a_proxy(build)
        way = next(way for table in tables.values() for way in table if way.key == key)
        return restart.run(way, None, argparse.Namespace(requests=4000, restarts=4, wrk=None))

    def failed(self, key):
        """Requests that were lost."""
        load, restarts = self.run_way(key)
        self.assertGreater(restarts, 0)
        return load.failed()

    def test_who_stays_connected_is_told_in_time(self):
        self.assertEqual(self.failed("inherited"), {})

    def test_who_has_connected_may_still_ask(self):
        self.assertEqual(self.failed("inherited-http"), {})

    def test_who_has_asked_is_answered(self):
        self.assertEqual(self.failed("inherited-echo"), {})

    def test_a_server_that_never_answers_is_not_waited_for_without_end(self):
        """However many of its clients give up and ask again meanwhile."""
        with tempfile.TemporaryDirectory() as folder, \
                mock.patch.object(servers, "PATIENCE", 1), \
                mock.patch.object(clients, "PATIENCE", 0.1):
            port = "import socket; print(socket.socket(fileno=3).getsockname()[1])"
            for name in ("07-http", "07-evloop"):
                fake(folder, name, f"port=$({shlex.quote(sys.executable)} -c '{port}')\n"
                                   f"echo {name} listening on 127.0.0.1:$port; exec sleep 1000")
            for key in ("inherited", "inherited-echo"):
                with self.assertRaisesRegex(servers.Trouble, "^no request is answered within 1 s$"):
                    self.run_way(key, folder)

    def test_a_server_that_ends_badly_is_quoted(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("07-http", "07-evloop"):
                fake(folder, name, f"echo {name} listening on 127.0.0.1:9\n"
                                   "echo 'send: no such luck' >&2; exec sleep 1000")
            with self.assertRaisesRegex(servers.Trouble, "ended with -15: send: no such luck$"):
                self.run_way("inherited", folder)

    def test_who_is_not_told_loses_a_request(self):
        self.assertGreater(self.failed("inherited-stopped").total(), 0)


if __name__ == "__main__":
    unittest.main()
