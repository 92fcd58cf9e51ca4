"""Random clients, replayable from a seed."""

import os
import random
import select

from tests.outside import kernel
from tests.harness import FAILSAFE, Fail, Gone, frame, probe, wait_for
from tests.probes.leaving import at_start

GROWTH_KIB = 4096  # memory that may come in later rounds: none is expected, some is rounding


class Guest:
    """A client that sends, reads, stalls and leaves, and knows what it is owed."""

    def __init__(self, server, dice):
        self.client, self.dice = server.connect(), dice
        self.to_send, self.owed = bytearray(), bytearray()

    def ask(self):
        """Begin another frame."""
        message = frame(self.dice.randbytes(self.dice.choice((0, 1, 50, 3000, 20_000))))
        self.to_send += message
        self.owed += message

    def send(self):
        """Send what fits."""
        count = self.client.try_send(self.to_send) if self.to_send else 0
        del self.to_send[:count]
        return count

    def read(self, most):
        """Read and compare. Returns how many bytes."""
        data = self.client.try_receive(most)
        if data != self.owed[:len(data)]:
            raise Fail("wrong bytes", expected=bytes(self.owed[:len(data)]), sent="random frames")
        del self.owed[:len(data)]
        return len(data)


class Soak:
    """The party."""

    def __init__(self, server, seed):
        self.server, self.dice = server, random.Random(seed)
        self.guests, self.counts = [], {"served": 0, "reset": 0, "dropped": 0}

    def step(self):
        """One random act of one random guest. Nothing here waits."""
        if len(self.guests) < 30 and self.dice.random() < 0.3:
            self.guests.append(Guest(self.server, self.dice))
        if not self.guests:
            return
        guest = self.dice.choice(self.guests)
        act = self.dice.choices(("ask", "read", "stall", "reset"), (6, 6, 1, 1))[0]
        try:
            if act == "reset":
                self.guests.remove(guest)
                self.counts["reset"] += 1
                return guest.client.reset()
            for _ in range(10 if act == "stall" else act == "ask"):
                guest.ask()
            guest.send()
            if act == "read":
                guest.read(self.dice.choice((1, 500, 50_000)))
        except Gone:
            self.lost(guest)

    def lost(self, guest):
        """The server has closed it: only stage 05 may, and says so."""
        self.guests.remove(guest)
        self.counts["dropped"] += 1
        if self.server.stderr().count("dropped") < self.counts["dropped"]:
            raise Fail("a connection was closed by the server, without a word",
                       expected="every byte", sent="random frames")

    def finish(self):
        """Everybody gets what he is owed, whoever is served first."""
        while self.guests:
            moved = 0
            for guest in list(self.guests):
                try:
                    moved += guest.send() + guest.read(1 << 20)
                    if not guest.owed:
                        guest.client.half_close()
                        guest.client.expect_end()
                        guest.client.close()
                        self.guests.remove(guest)
                        self.counts["served"] += 1
                        moved += 1
                except Gone:
                    self.lost(guest)
            if not moved:
                self.wait()

    def wait(self):
        """Until one of them can read, or send what it has."""
        poll = select.poll()
        for guest in self.guests:
            poll.register(guest.client.sock,
                          select.POLLIN | (select.POLLOUT if guest.to_send else 0))
        if not poll.poll(FAILSAFE * 1000):
            raise Fail(f"{len(self.guests)} clients get no more; {self.server.describe()}",
                       expected="every byte", sent="random frames")


@probe(row=32, title="soak: connect, talk, stall and reset at random", expect="- P P P P P P",
       look="/proc/PID/fd, /proc/PID/status", hint="free everything of a client when it leaves")
def soak(stage):
    """Six rounds from a seed (SEED= changes it). Later ones must not need more than early ones."""
    seed = int(os.environ.get("SEED", 1))
    stage.note(f"SEED={seed}")
    server = stage.start()
    before, memory = at_start(stage, server), 0
    for turn in range(6):
        party = Soak(server, seed + turn)
        for _ in range(400):
            party.step()
        party.finish()
        wait_for(lambda: len(server.owed_fds()) <= len(before), f"{len(before)} descriptors again",
                 server)
        server.clients.clear()
        if turn == 2:
            memory = server.memory_kib()
    grown = server.memory_kib() - memory
    if grown > GROWTH_KIB:
        raise Fail(f"{grown:,} KiB more memory after six rounds than after three (SEED={seed})",
                   expected="memory does not grow with the number of clients served")
