"""Child processes: all are ended, and none stays behind as a zombie."""

import os
import signal
import unittest
from unittest import mock

from tests import harness
from tests.harness import processes
from tests.outside import kernel


class Ended(unittest.TestCase):
    """Each in a copy of this process, which has no other children."""

    def in_a_child(self, function):
        """Call it there; what it returns must be true."""
        pid = os.fork()
        if pid == 0:
            try:
                harness.adopt_orphans()
                os._exit(0 if function() else 1)
            finally:
                harness.end_descendants()
                os._exit(2)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)

    def test_many_that_have_ended_need_one_look_at_all_processes(self):
        def end():
            for _ in range(300):
                if (pid := os.fork()) == 0:
                    os._exit(0)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            with mock.patch.object(kernel, "descendants", wraps=kernel.descendants) as looks:
                harness.end_descendants()
            return looks.call_count == 1 and not kernel.children(os.getpid())

        self.in_a_child(end)

    def test_no_grandchild_of_one_that_is_killed_is_a_zombie(self):
        def end():
            out, pipe = os.pipe()
            if (pid := os.fork()) == 0:
                os.fork()
                os.fork()
                os.write(pipe, b".")
                while True:
                    signal.pause()
            said = 0
            while said < 4:
                said += len(os.read(out, 4))
            processes.end_family(pid)
            return not kernel.children(os.getpid())

        self.in_a_child(end)


if __name__ == "__main__":
    unittest.main()
