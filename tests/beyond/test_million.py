"""A few thousand idle clients instead of a million: does it do what it has said?"""

import ctypes
import re
import resource
import unittest
from unittest import mock

from tests import harness
from tests.beyond import million
from tests.harness import KIB, MIB
from tests.self import scripts

CLIENTS = 2000
PR_CAPBSET_DROP = CAP_SYS_RESOURCE = 24  # linux/prctl.h, linux/capability.h: the same by accident


def few_descriptors(count):
    """In a child: not more than so many, and no right to raise that."""
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE)  # root has it, others need not
    return limit


def run(*arguments, nofile=None):
    """Its exit status, and what it has said."""
    done = scripts.run("tests.beyond.million", "--reserve", 100, *arguments,
                       timeout=harness.CELL_FAILSAFE,
                       preexec_fn=few_descriptors(nofile) if nofile else None)
    return done.returncode, done.stdout, done.stderr


class Million(unittest.TestCase):
    """The whole of it, briefly."""

    def test_all_connect_and_each_has_its_price(self):
        status, out, err = run("--clients", CLIENTS)
        self.assertEqual((status, err), (0, ""), out)
        self.assertRegex(out, rf"(?m)^{CLIENTS:,} clients, because of --clients: \d+ servers, ")
        self.assertRegex(out, rf"(?m)^{CLIENTS:,} clients are connected, and \d\d of them have ")
        user = re.search(r"^ +([\d,]+)  in the server's own memory$", out, re.M)
        if not harness.SAN:  # a sanitizer has memory of its own beside each object
            self.assertLess(int(user[1].replace(",", "")), KIB)
        self.assertLessEqual(max(map(len, out.splitlines())), 80, out)

    def test_few_descriptors_more_servers(self):
        """The descriptors of the process that asks are a limit as well: three for each server."""
        status, out, err = run("--clients", CLIENTS, nofile=264)
        self.assertEqual((status, err), (0, ""), out)
        self.assertRegex(out, r"(?m)ulimit -Hn: 264 descriptors in a process, 50 servers$")
        self.assertRegex(out, rf"(?m)^{CLIENTS:,} clients, because of --clients: 10 servers, ")

    def test_what_sets_the_limit_is_said(self):
        status, out, err = run(nofile=104)
        self.assertEqual((status, err), (0, ""), out)
        self.assertRegex(out, r"(?m)^400 clients, because of ulimit -Hn: 10 servers, ")
        self.assertRegex(out, r"(?m)^400 clients are connected")

    def test_no_memory_to_spare(self):
        status, out, err = run("--reserve", 10**9)
        self.assertEqual((status, out), (1, ""))
        self.assertRegex(err, r"^no room for a single client, because of memory: .*\n$")

    def test_ctrl_c_leaves_no_process_behind(self):
        ended = scripts.ended_early(
            "tests.beyond.million", "--reserve", 100, "--clients", 10**6,
            ready=lambda names: names.count("07-evloop") > 2, preexec_fn=few_descriptors(2000))
        self.assertEqual(ended, (130, ""))

    def test_it_stops_when_memory_runs_short(self):
        """While it opens them, and not only in the plan."""
        crowd = mock.Mock(number=0, count=0)
        measurement = million.Measurement(harness.BUILD, 100 * MIB)
        measurement.crowds = [crowd]

        def connect(_, count, __):
            crowd.answer.return_value = (crowd.count + count, "")
        crowd.ask = connect
        left = iter([300 * MIB, 300 * MIB, 200 * MIB, 200 * MIB, 99 * MIB])
        with mock.patch.object(million, "available", lambda: next(left, 99 * MIB)):
            self.assertEqual(measurement.open(10**6, 1000), "99 MiB of memory are left")
        self.assertEqual(crowd.count, 2 * million.BATCH)


class Addresses(unittest.TestCase):
    """Clients from as many addresses as their ports ask for."""

    def test_no_two_crowds_share_one(self):
        crowds = [million.Crowd.__new__(million.Crowd) for _ in range(million.MOST_PROCESSES)]
        seen = set()
        for number, crowd in enumerate(crowds):
            crowd.number = number
            seen |= {crowd.address(i) for i in range(1000)}
        self.assertEqual(len(seen), 1000 * len(crowds))
        for address in seen:
            parts = list(map(int, address.split(".")))
            self.assertTrue(parts[0] == 127 and max(parts) < 255 and parts[3] > 0, address)

    def test_enough_of_them(self):
        plan = million.Plan(60_000, 0, 1)
        self.assertGreaterEqual(plan.sources * plan.processes * plan.per_address, plan.clients)
        self.assertLess((plan.sources - 1) * plan.processes * plan.per_address, plan.clients)


if __name__ == "__main__":
    unittest.main()
