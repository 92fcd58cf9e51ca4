#!/usr/bin/env python3
"""Random clients, for as long as you like: connect, talk, stall, read on, half-close, reset, leave.

    python3 -m tests.loop.soak --minutes 2          stages 02 to 07, one after the other
    python3 -m tests.loop.soak --stage 6 --seed 7 --steps 20000    the same clients, again

Every step is drawn from the seed and its number, whatever the server did before and however long it
took. Each byte that a client is owed is compared. Memory and descriptors are looked at when all the
clients have left, which is every ROUND steps.

What a stage says of itself is no failure here: 02 to 04 serve nobody while one client does not read
(so everybody reads on in the end), and 05 drops who reads too slowly, and says so.
"""

import argparse
import random
import select
import shlex
import signal
import sys
import time

from tests import harness
from tests.outside import kernel, runtime
from tests.harness import runner
from tests.harness import KIB, MIB, Fail, Gone, frame
from tests.probes.leaving import at_start

SLOTS = 24  # clients at a time; 02 has room for about 1,000
BIG = 4  # of them may be owed so much that no socket buffer holds it
OWED, OWED_BIG = 256 * KIB, 6 * MIB  # bytes that a client asks for until all are to catch up
ROUND = 200  # steps
WARM_UP = 4  # rounds until the server has all the memory that it needs
GROWTH_KIB = 6 * KIB  # later growth that is put down to the allocator, and to pools of buffers
LOOKS = 200  # at a server that sleeps: then it has closed all that it will
KEPT_FOR_SURE = 16 * KIB  # bytes: what a client of 05 may leave unread without being dropped
SIZES = (0, 1, 7, 50, 3000, 20_000)
BIG_SIZES = (3000, 60_000, 500_000)
ACTS = {"talk": 30, "read": 30, "read a little": 10, "stall": 3, "read on": 5, "half-close": 3,
        "leave": 3, "reset": 3, "catch up": 1}


class Guest:
    """A client, what it has yet to send, and what it is owed for that."""

    def __init__(self, server, number, slot):
        self.big = slot < BIG
        self.name = f"client {number}"
        # An address has 28,000 ports, and one that was used rests for a minute.
        self.client = server.connect(source=f"127.0.0.{2 + number // 4000 % 200}",
                                     rcvbuf=64 * KIB if self.big else None)
        self.to_send, self.owed = bytearray(), bytearray()
        self.asked = 0  # bytes, since all have last caught up
        self.total = self.received = 0
        self.stalled = False
        self.finished = self.shut = False  # to send no more; and the FIN is sent
        self.over = False  # no more will come. It keeps its place until all catch up

    def talk(self, dice):
        """Begin some more frames. One that 07 takes for work is among them now and then."""
        for _ in range(dice.randrange(1, 6)):
            size = dice.choice(BIG_SIZES if self.big else SIZES)
            payload = dice.randbytes(size) if dice.random() > 0.02 else b"sleep 1 please"
            if self.asked + size < (OWED_BIG if self.big else OWED) and not self.finished:
                self.asked += size
                self.total += size
                self.to_send += b"" if self.over else frame(payload)
                self.owed += b"" if self.over else frame(payload)

    def send(self, most=256 * KIB):
        """Send what fits. True if something moved; raises Gone."""
        if self.over:
            return False
        count = 0
        if self.to_send:
            count = self.client.try_send(self.to_send[:most])
            del self.to_send[:count]
        if self.finished and not self.to_send and not self.shut:
            self.client.half_close()
            self.shut = True
            return True
        return count > 0

    def read(self, most):
        """Receive and compare. True if something moved; raises Gone, unless that is all right."""
        if self.over:
            return False
        try:
            data = self.client.try_receive(most)
        except Gone as gone:
            if gone.how != "end of file" or self.owed or not self.shut:
                raise
            self.over = True
            return True
        expected = self.owed[:len(data)]
        if data != expected:
            raise Fail(f"{self.name}: " + harness.difference(bytes(self.owed[:len(data) + 64]),
                                                             data, self.received),
                       expected="every byte, in order", sent="random frames")
        del self.owed[:len(data)]
        self.received += len(data)
        return bool(data)

    def content(self):
        """Has it got all that it can get by now?"""
        return self.over or not (self.owed or self.to_send or self.finished)


class Soak:
    """Clients at one server, all from a seed."""

    def __init__(self, stage, server, seed):
        self.stage, self.server, self.seed = stage, server, seed
        self.guests = [None] * SLOTS
        self.steps = self.clients = 0
        self.counts = dict.fromkeys(("served", "left", "reset"), 0)
        self.dropped = 0  # by 05: when, is a matter of time, so it is none of the above
        self.asked = 0  # bytes, by those who have left
        self.descriptors = len(at_start(stage, server))
        self.memory = []  # KiB, after each round

    # Steps

    def step(self):
        """One act of one client. Nothing here waits but "catch up"."""
        dice = random.Random(f"{self.seed} {self.steps}")
        self.steps += 1
        slot = dice.randrange(SLOTS)
        act = dice.choices(list(ACTS), ACTS.values())[0]
        most = dice.choice((1, 100, 5000)) if act == "read a little" else 256 * KIB
        cut = dice.choice((1, 3, 9, 1000, 256 * KIB, 256 * KIB))
        if act == "catch up":
            return self.catch_up()
        guest = self.guests[slot] or self.arrive(slot)
        self.act(guest, act, dice)
        try:
            guest.send(cut)
            if not guest.stalled:
                guest.read(most)
        except Gone as gone:
            self.lost(guest, gone)

    def act(self, guest, act, dice):
        """What it has decided to do."""
        if act == "talk":
            guest.talk(dice)
        elif act in ("stall", "read on"):
            guest.stalled = act == "stall"
        elif act == "half-close":
            guest.finished = True
        elif act == "reset":
            if not guest.over:
                guest.client.reset()
            self.leave(guest, "reset")
        elif act == "leave":  # if it is owed something, that is a reset too
            self.leave(guest, "left")

    def arrive(self, slot):
        """A new client takes a free place."""
        self.clients += 1
        self.guests[slot] = Guest(self.server, self.clients, slot)
        return self.guests[slot]

    def leave(self, guest, how):
        """Its place is free."""
        guest.over = True
        guest.client.close()
        self.guests[self.guests.index(guest)] = None
        self.server.clients.remove(guest.client)
        self.counts[how] += 1
        self.asked += guest.total

    def lost(self, guest, gone):
        """The server has closed it. Only 05 may, if it was slow, and it says that it does so."""
        if self.stage.number == 5 and len(guest.owed) > KEPT_FOR_SURE and \
                "dropped" in self.server.stderr():  # not of each: what is said has a rate
            guest.over = True
            guest.to_send.clear()
            guest.owed.clear()
            self.dropped += 1
            return
        self.check_process()
        raise Fail(f"{guest.name} lost its connection ({gone.how}) after {guest.received:,} right "
                   f"bytes; {self.server.describe()}",
                   expected=f"{len(guest.owed):,} bytes more"
                   + ("" if guest.shut else ", and the connection stays"), sent="random frames")

    def check_process(self):
        """Fail if it has crashed, or is just about to be gone."""
        self.server.come_to_rest()
        if self.server.exited():
            raise Fail(f"{self.server.describe()}. {self.server.last_words()}",
                       expected="no client's behaviour ends the server")

    # Rounds

    def catch_up(self):
        """Everybody reads and sends until all have got what they are owed."""
        still = deadline = None
        while waiting := [g for g in self.guests if g and not g.content()]:
            moved = False
            for guest in waiting:
                try:
                    moved |= guest.send() | guest.read(MIB)
                except Gone as gone:
                    moved = True
                    self.lost(guest, gone)
            if moved:
                still = deadline = None
            elif not self.wait(waiting):
                still = still or harness.Stillness(self.server.pids)
                deadline = deadline or harness.Deadline(harness.FAILSAFE, self.server.pid)
                still.pids = self.server.processes()
                if self.server.exited() or still.lasts() or deadline.passed():
                    raise Fail(f"{len(waiting)} clients get no more; {self.server.describe()}",
                               expected=f"{sum(len(g.owed) for g in waiting):,} bytes, and the "
                               f"end for {sum(g.shut for g in waiting)}", sent="random frames")
        for guest in filter(None, list(self.guests)):
            guest.stalled, guest.asked = False, 0
            if guest.over:
                self.leave(guest, "served")

    def wait(self, guests):
        """Until one of them can receive, or send what it has; False after a while."""
        poll = select.poll()
        for guest in guests:
            poll.register(guest.client, select.POLLIN | (select.POLLOUT if guest.to_send else 0))
        return poll.poll(200)

    def fill_up(self):
        """The big ones send all they may without reading: the most that a server has to hold."""
        dice = random.Random(f"{self.seed} fill")
        for slot in range(BIG):
            guest = self.guests[slot] or self.arrive(slot)
            guest.stalled = True
            while guest.asked + max(BIG_SIZES) < OWED_BIG and not guest.finished:
                guest.talk(dice)

        def stuck():
            moved = False
            for guest in filter(None, self.guests[:BIG]):
                try:
                    moved |= guest.send()
                except Gone as gone:
                    self.lost(guest, gone)
            return not moved and self.server.asleep()
        harness.wait_for(stuck, "it comes to rest when nobody reads", self.server)

    def round(self, steps):
        """Some steps; then all finish and leave, and nothing of them is left."""
        if not self.memory:
            self.fill_up()
        for _ in range(steps):
            self.step()
        for guest in filter(None, self.guests):
            guest.finished = True
        self.catch_up()
        self.server.check_alive()
        self.check_descriptors()
        self.memory.append(kernel.memory_kib(self.server.pid))

    def check_descriptors(self):
        """As many are open as at the start, as soon as it has seen that all have left."""
        still = harness.Stillness(self.server.pids, LOOKS)
        deadline = harness.Deadline(harness.FAILSAFE, self.server.pid)
        while len(open_now := self.server.owed_fds()) > self.descriptors:
            still.pids = self.server.processes()
            if self.server.exited() or still.lasts() or deadline.passed():
                raise Fail(f"{len(open_now)} open descriptors when all have left; "
                           f"{self.server.describe()}",
                           expected=f"{self.descriptors}, as at the start")
            time.sleep(0.002)  # lets the server run; the verdict is that of `still`

    def check_memory(self):
        """The last rounds need no more than the first ones did.

        A heap that is collected late takes many more clients to level off: row 19 sends them.
        """
        if not self.stage.own and runtime.collects(self.server.pid):
            return
        first, last = max(self.memory[:WARM_UP]), min(self.memory[-2:])
        if len(self.memory) > WARM_UP + 1 and last > first + GROWTH_KIB:
            raise Fail(f"{last - first:,} KiB more memory after {self.clients:,} clients than "
                       f"after the first {WARM_UP} rounds of {ROUND} steps",
                       expected="memory does not grow with the number of clients served")

    def check_end(self):
        """It still serves; and 07 leaves when it is told to."""
        self.check_process()
        client = self.server.connect()
        client.roundtrip()
        client.close()
        if self.stage.number == 7 and self.stage.own:
            self.server.signal(signal.SIGTERM)
            status = self.server.wait_exit("the end of the process after SIGTERM")
            if status != 0:
                raise Fail(f"exit status {status} after SIGTERM", expected="0")

    def summary(self):
        """What has happened, in a line."""
        counts = ", ".join(f"{count:,} {what}" for what, count in
                           [*self.counts.items(), ("dropped", self.dropped)] if count)
        return (f"{self.steps:,} steps, {counts}, {self.asked / MIB:,.0f} MiB, "
                f"{self.memory[-1] if self.memory else 0:,} KiB, {self.descriptors} descriptors")


def run(stage, seed, steps=None, seconds=None, progress=None):
    """Soak a harness.Stage, for a number of steps or for some time (in whole rounds).

    Returns the Soak, for its counts; raises harness.Fail, which names the step.
    """
    harness.raise_fd_limit()
    # Whoever is idle for long is none of our concern; the tests of 07's deadlines are elsewhere.
    quiet = ["--idle-ms", 0] if stage.number == 7 and stage.own else []
    server = stage.start(*quiet)
    party = Soak(stage, server, seed)
    end = time.monotonic() + seconds if seconds is not None else None
    try:
        while (party.steps < steps) if end is None else (time.monotonic() < end):
            party.round(ROUND if end is not None else min(ROUND, steps - party.steps))
            party.check_memory()
            if progress:
                progress(party.summary())
        party.check_end()
        server.check_alive()
    except Gone as gone:
        raise Fail(f"at step {party.steps:,}: {gone.how}; {server.describe()}") from None
    except Fail as fail:
        fail.steps = party.steps
        fail.seen = f"at step {party.steps:,}: {fail.seen}"
        raise
    finally:
        for guest in filter(None, party.guests):
            guest.client.close()
    return party


def replay_command(number, seed, steps, options):
    """What shows the same again. A round ends with looks at the server: replay whole ones."""
    rounded = -(-max(steps, 1) // ROUND) * ROUND
    server = ["--server", options.server] if options.server else []
    return shlex.join(["python3", "-m", "tests.loop.soak", "--stage", str(number), "--seed",
                       str(seed), "--steps", str(rounded), *server])


def soak(number, options, seconds):
    """One stage. True if nothing was wrong."""
    name = harness.STAGES[number]
    stage = harness.Stage(number, [options.server] if options.server else None, options.build)
    started = shown = time.monotonic()

    def progress(summary):
        nonlocal shown
        if sys.stderr.isatty():
            print(f"\r\033[K{name}: {summary}"[:100], end="", file=sys.stderr, flush=True)
        elif time.monotonic() - shown > 15:
            shown = time.monotonic()
            print(f"      {name}: {shown - started:.0f} s, {summary}", flush=True)

    clear = "\r\033[K" if sys.stderr.isatty() else ""
    try:
        party = run(stage, options.seed, options.steps, seconds, progress)
        print(f"{clear}ok    {name}: {party.summary()}", flush=True)
        return True
    except Fail as fail:
        print(f"{clear}FAIL  {name}: {fail.seen}")
        if fail.expected:
            print(f"      expected: {harness.show(fail.expected)}")
        again = replay_command(number, options.seed, getattr(fail, "steps", 0), options)
        print(f"      again: {again}", flush=True)
        return False
    finally:
        stage.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=2, help="for all together (default 2)")
    arguments.add_argument("--steps", type=int, help="for each stage, instead of a time")
    arguments.add_argument("--seed", type=int, help="default: another one each time")
    arguments.add_argument("--stage", default="2,3,4,5,6,7", help="such as 4 or 2,3 (default all)")
    arguments.add_argument("--build", default=harness.BUILD, help="where the programs are")
    arguments.add_argument("--server", help="soak this program instead, as if it were the stage")
    options = arguments.parse_args()
    try:
        stages = [int(number) for number in options.stage.split(",")]
    except ValueError:
        stages = [0]
    if not set(stages) <= set(range(2, 8)):
        arguments.error("--stage: numbers from 2 to 7; 01 serves one client at a time")
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    print(f"seed {options.seed}", flush=True)
    seconds = options.minutes * 60 / len(stages) if options.steps is None else None
    passed = sum(soak(number, options, seconds) for number in stages)
    print(f"{passed} passed, {len(stages) - passed} failed")
    return 0 if passed == len(stages) else 1


if __name__ == "__main__":
    runner.main(main)
