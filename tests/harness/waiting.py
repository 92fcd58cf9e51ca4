"""Waiting for a condition, and the certainty that it will never come."""

import os
import time

from tests.harness.course import SLOWER
from tests.harness.verdict import Fail, Untried
from tests.outside import kernel

FAILSAFE = 30.0 * SLOWER  # seconds; a loaded machine may let a process wait long for its turn
SPIN_MS = 6000 * SLOWER  # CPU time that no answer needs: a server that uses it up goes in circles


def wait_for(condition, what, server=None, failsafe=FAILSAFE, spin_ms=SPIN_MS):
    """Wait until condition() is true and return its value. Fail says what did not come."""
    end, pause = time.monotonic() + failsafe, 0.0002
    spin_ms += server.cpu_ms() if server else 0
    while True:
        value = condition()
        if value:
            return value
        if server and server.exited():
            raise Fail(server.describe(), expected=what)
        if server and server.cpu_ms() > spin_ms:
            raise Fail(f"the server goes in circles: it uses CPU time without end; "
                       f"{server.describe()}", expected=what)
        if time.monotonic() > end:
            require_cores(server, failsafe)
            raise Fail(f"not within {failsafe:.0f} s; " + (server.describe() if server else ""),
                       expected=what)
        time.sleep(pause)  # lets others run; no verdict depends on how long
        pause = min(pause * 1.5, 0.02)


def require_cores(server, seconds):
    """After waiting so long in vain. Untried if it was for a core: that is nobody's fault."""
    waited = max(kernel.waiting_ns(os.getpid()), server.waiting_ns() if server else 0) / 1e9
    if waited > seconds / 2:
        raise Untried(f"this machine is too busy: {waited:.0f} s were spent waiting for a core")


class Stillness:
    """Has a server come to rest, so that waiting longer is pointless?

    All threads asleep, nothing in flight, and for `rounds` looks in a row not one of them has been
    woken. A server with timers wakes up and is waited for until the failsafe.
    """

    rounds = 15  # looks, 0.2 s apart in Client.wait()

    def __init__(self, client):
        self.client, self.same, self.last = client, 0, None

    def lasts(self):
        """Look once more."""
        server, near = self.client.server, self.client.near_end()
        now = (server.wake_ups(), near.unsent if near else 0) if server.asleep() else None
        self.same = self.same + 1 if now is not None and now == self.last else 0
        self.last = now
        return self.same >= self.rounds
