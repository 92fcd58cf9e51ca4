"""Several processes on one port: what must hold of the counts, whoever is faster."""

import unittest

from tests import harness
from tests.beyond import processes, servers
from tests.self import scripts


class Processes(unittest.TestCase):
    """Each way by itself."""

    def group(self, make):
        """Four processes, until the test is over."""
        return self.enterContext(make(harness.BUILD))

    def spread(self, make):
        """Of a thousand clients."""
        counts, new, woken = processes.spread(self.group(make))
        self.assertEqual(sum(counts), processes.ADDRESSES * processes.EACH)
        self.assertEqual(len(counts), processes.PROCESSES)
        self.assertGreaterEqual(new, processes.ADDRESSES)
        self.assertGreater(woken, 0)
        return counts, new

    def test_reuseport_is_fair_and_knows_no_client(self):
        counts, new = self.spread(processes.Shared)
        self.assertGreater(min(counts), 150)  # 250 and 13.7 for a hash: seven times that
        self.assertGreater(new, 3 * processes.ADDRESSES)

    def test_handed_over_in_turn_is_exact(self):
        counts, _ = self.spread(processes.WAYS["one hands over, in turn"])
        self.assertEqual(counts, [250] * 4)

    def test_handed_over_by_client_finds_its_cache(self):
        _, new = self.spread(processes.WAYS["one hands over, by client"])
        self.assertEqual(new, processes.ADDRESSES)

    def test_inherited_serves_all(self):
        self.spread(processes.Inherited)

    def test_a_crash_takes_its_own_queue_along(self):
        group = self.group(processes.Shared)
        self.assertGreater(processes.lost(group, group.serving()[1]), 0)

    def test_a_queue_of_all_survives_a_crash(self):
        group = self.group(processes.Inherited)
        self.assertEqual(processes.lost(group, group.serving()[1]), 0)

    def test_who_hands_over_replaces_a_worker(self):
        group = self.group(processes.WAYS["one hands over, by client"])
        self.assertEqual(processes.lost(group, group.serving()[1]), 0)

    def test_who_hands_over_is_the_one_that_must_not_die(self):
        group = self.group(processes.WAYS["one hands over, in turn"])
        self.assertEqual(processes.lost(group, group.all()[0]), processes.WAITING)

    def test_the_table(self):
        done = scripts.run("tests.beyond.processes", timeout=harness.CELL_FAILSAFE)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for title in processes.WAYS:
            self.assertIn(title, done.stdout)
        self.assertIn("tcp_migrate_req", done.stdout)
        self.assertLessEqual(max(map(len, done.stdout.splitlines())), 80)

    def test_a_listener_arrives_as_number_3_and_stays_ours(self):
        with servers.listen() as listener:
            command = [servers.program(harness.BUILD, "07-http")]
            for _ in range(2):
                instance = servers.Instance([*command, "--notice-ms", 0], listener=listener)
                self.addCleanup(instance.kill)
                self.assertEqual(instance.port, listener.getsockname()[1])
                instance.terminate()
                self.assertEqual(instance.wait(), 0)

    def test_a_queue_waits_for_a_server(self):
        with servers.listen() as listener:
            client = processes.Client(listener.getsockname(), "127.0.0.1")
            self.addCleanup(client.socket.close)
            command = [servers.program(harness.BUILD, "07-evloop")]
            self.addCleanup(servers.Instance(command, listener=listener).kill)
            self.assertTrue(client.answered())


if __name__ == "__main__":
    unittest.main()
