"""Waiting for a condition, and the certainty that it will never come."""

import os
import time

from tests.harness.course import SLOWER
from tests.harness.verdict import Fail
from tests.outside import kernel

# Seconds, without those in which there was no core: see Deadline. The tests of mutants wait less
# long, because what is missing there will not come.
FAILSAFE = float(os.environ.get("TEST_FAILSAFE", 30)) * SLOWER
# CPU time that no answer needs: a server that uses it up goes in circles. The same holds here.
SPIN_MS = float(os.environ.get("TEST_SPIN_MS", 6000)) * SLOWER


class Deadline:
    """The end of all waiting, `seconds` from now.

    A busy machine is not a wrong server: time in which this process, or one of .pids, was ready to
    run and had no core does not count. A process that is named later has begun since.
    """

    def __init__(self, seconds, *pids):
        self.pids = (os.getpid(), *pids)
        self.before = {pid: kernel.waited_ns(pid) for pid in self.pids}
        self.end, self.waited = time.monotonic() + seconds, 0

    def left(self):
        """Seconds, 0 when it has passed."""
        left = self.end - time.monotonic()
        if left <= 0:
            # In this order: one that gets its core while we look has its waiting in the account.
            starved = any(kernel.is_starved(pid) for pid in self.pids[1:])
            waited = max(kernel.waited_ns(pid) - self.before.get(pid, 0) for pid in self.pids)
            self.end += max(0, waited - self.waited) / 1e9
            self.waited = max(waited, self.waited)
            left = self.end - time.monotonic()
            if left <= 0 and starved:
                left = 1  # look again then: its waiting goes on, and is not in the account yet
        return max(0, left)

    def passed(self):
        """Has it come?"""
        return self.left() == 0


class Stillness:
    """Have some processes come to rest, so that waiting longer is pointless?

    All threads asleep, and for `rounds` looks in a row not one of them has been woken. One with
    timers wakes up, and is waited for until the failsafe. Where processes come and go, .pids is to
    be told before each look.
    """

    rounds = 15  # looks

    def __init__(self, pids, rounds=None):
        self.pids, self.same, self.last = pids, 0, None
        self.enough = rounds or self.rounds

    def lasts(self, beside=None):
        """Look once more. `beside`: something else that must not change."""
        asleep = all(kernel.blocked_calls(pid) is not None for pid in self.pids)
        now = (sum(map(kernel.wake_ups, self.pids)), beside) if asleep else None
        self.same = self.same + 1 if now is not None and now == self.last else 0
        self.last = now
        return self.same >= self.enough


def wait_for(condition, what, server=None, failsafe=FAILSAFE, pids=()):
    """Wait until condition() is true and return its value. Fail says what did not come.

    pids: whose work is waited for, where it is no server's, or one's that may end.
    """
    deadline, pause = None, 0.0002
    spin_ms = server.cpu_ms() + server.spin_ms if server else 0
    while True:
        value = condition()
        if value:
            return value
        if server and server.exited():
            raise Fail(server.describe(), expected=what)
        if server and server.cpu_ms() > spin_ms:
            look, hint = server.why_stuck(True)
            raise Fail(f"the server goes in circles: it uses CPU time without end; "
                       f"{server.describe()}{server.said()}", expected=what, look=look, hint=hint)
        deadline = deadline or Deadline(failsafe, *(server.pids if server else pids))
        if deadline.passed():
            does = f"; {server.describe()}" if server else ""
            raise Fail(f"not within {failsafe:.0f} s{does}", expected=what)
        time.sleep(pause)  # lets others run; no verdict depends on how long
        pause = min(pause * 1.5, 0.02)
