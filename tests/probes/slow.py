"""Clients that do not read, and a server that has nothing to do."""

import time

from tests.outside import kernel, runtime
from tests.harness import MIB, Fail, Gone, Lesson, Stillness, counted, frame, probe, wait_for
from tests.probes.flood import Flood, finish_dropped

MOST = 64 * MIB  # nobody needs to take so much from a client that does not read
MEMORY_KIB = 16 * 1024  # by which the server may grow meanwhile
OTHER = frame(bytes(150_000))  # more than a server receives at once
TICKS = 20  # a second: so often the runtime of a reader's server may look at its clock


@probe(row=7, title="one client sends and does not read; another one talks",
       expect="L:freezes L:freezes L:freezes L:freezes L:drops P P",
       look="send(2): it blocks, or EAGAIN", hint="never wait in send(): buffer, and stop reading")
def sends_without_reading(stage):
    """Push until the server takes no more; the other client must be answered all the same."""
    server = stage.start()
    greedy = server.connect(rcvbuf=64 * 1024)
    greedy.roundtrip()
    other = None
    flood = Flood(greedy, MOST)
    memory = server.memory_kib()
    try:
        held = 0
        while held < 20 and flood.sent < flood.total:
            held = 0 if flood.push(MOST) else held + 1
            other = other or server.connect()
            other.send(frame(b"and me?"))
            if frozen(server, flood, other):
                thaw(server, flood, other)
            other.expect(frame(b"and me?"))
        other.exchange(OTHER)  # would it overwrite what is kept for the first one?
    except Gone as gone:
        finish_dropped(flood, server, gone)
    check_bounded(server, flood, memory)
    flood.stop()  # it reads at last, and is owed all that it has sent
    flood.drain()


def frozen(server, flood, other):
    """Does the server sleep in send() while the other client has bytes there? False: answered.

    A reader's server may wait for room in other calls: then it is enough that it rests.
    """
    still = Stillness([])

    def stopped():
        if other.readable() or flood.push():
            return False
        still.pids = server.processes()
        if not server.own and other.unread() > 0 and still.lasts() and not other.readable():
            return True
        calls = server.calls()
        if other.server_fd() is None and not server.others_asleep():
            return False  # who listens does not serve it
        return (calls and other.unread() > 0 and not other.readable()
                and (len(calls) > 1 or calls[0] in kernel.SENDING))

    return wait_for(lambda: other.readable() or stopped(), "an answer to the other client",
                    server) and not other.readable()


def thaw(server, flood, other):
    """It is frozen. When the first client reads, and leaves, everything must be right again."""
    seen = f"{server.describe()}; {counted(other.unread(), 'byte')} of the other client unread"
    flood.stop()
    flood.drain()
    flood.client.close()
    other.expect(frame(b"and me?"))
    raise Lesson(f"{seen}. When the first one reads on and leaves, the other is served", "freezes")


def check_bounded(server, flood, memory):
    """A server that buffers must stop somewhere."""
    grown = server.memory_kib("VmHWM") - memory
    # A heap that is collected late grows in steps, some of them of 16 MiB (Netty's).
    most = MEMORY_KIB * (4 if not server.own and runtime.collects(server.pid) else 1)
    if flood.sent >= flood.total or grown > most:
        raise Fail(f"it took {counted(flood.sent, 'byte')}, and its memory grew by {grown:,} KiB",
                   sent=f"{counted(flood.sent, 'byte')}, of which nothing was read",
                   expected=f"it stops reading; less than {MOST // MIB} MB, "
                            f"{most // 1024} MiB of memory")


class Waiters:
    """The threads of a server that wait for clients.

    A reader's server has others, perhaps: its runtime's, which wake up when they like. Where no
    thread waits for the network, all of them are looked at.
    """

    def __init__(self, server):
        self.server, self.before, self.calls = server, {}, []
        everybody, asleep = {}, {}
        for pid in server.pids:
            for tid in kernel.threads(pid):
                everybody[pid, tid] = call = kernel.blocked_call(pid, tid)
                if call and call[0] in kernel.NETWORK:
                    asleep[pid, tid] = call
        chosen = everybody if server.own or not asleep else asleep
        self.calls = [call for call in chosen.values() if call]
        self.before = {thread: kernel.wake_ups_of_thread(*thread) for thread in chosen}
        self.cpu = server.cpu_ms()

    def count(self):
        """How often they have woken up since."""
        return sum(kernel.wake_ups_of_thread(*thread) - before
                   for thread, before in self.before.items())

    def cpu_ms(self):
        """The CPU time used since, but for other threads than these."""
        return self.server.cpu_ms() - self.cpu if len(self.server.threads()) == len(self.before) \
            else 0

    def timeouts(self):
        """The timeouts of a second at most with which they sleep. None: it cannot be seen."""
        times = [kernel.timeout_ms(*call) for call in self.calls]
        return [ms for ms in times if ms is None or 0 <= ms <= 1000]


def rest(server):
    """Wait until it sleeps and nothing wakes it up for a while. Returns those who wait."""
    last = [None]

    def same():
        if not server.asleep():
            return False
        now = Waiters(server)
        last[0], before = now, last[0]
        return before is not None and now.before == before.before
    wait_for(same, "the server comes to rest", server)
    return last[0]


@probe(row=15, title="no wake-up while nothing is to do", expect="P P P P P P P",
       look="epoll_wait(2), poll(2), select(2): the timeout; EPOLLOUT while nothing is pending",
       hint="ask for EPOLLOUT only while output is pending; never poll in a loop with a timeout")
def wakes_only_when_needed(stage):
    """All idle; then with output pending; then after that output has gone."""
    quiet = ["--tick-ms", 3_600_000, "--idle-ms", 0] if stage.own and stage.number == 7 else []
    server = stage.start(*quiet)
    clock = stage.start().connect()
    first = server.connect()
    first.roundtrip()
    require_quiet(server, clock, "a client idle")
    idle = Waiters(server)
    ticks = wake_ups_in_a_second(server, clock, of_its_own=True)
    flood = Flood(server.connect(rcvbuf=64 * 1024) if stage.number > 1 else first, 16 * MIB)
    try:
        flood.push_until_stuck()
        require_quiet(server, clock, "a client's output pending")
        require_no_polling(server, clock, idle, ticks)
        flood.stop()
        flood.drain()
    except Gone:
        stage.note("the client that does not read is dropped")
    require_quiet(server, clock, "all output sent")


def require_quiet(server, clock, when):
    """Fail if something wakes the server up again and again, while another one answers 300 times.

    While output is pending, the last acknowledgements may still be on their way: what counts is
    that it becomes quiet. A server that sleeps in send() is left alone: when memory for sockets is
    short, the kernel itself looks again and again, within that call. A reader's runtime may look at
    its clock now and then, as EventMachine does; on a busy machine that falls into the 300 answers.
    """
    if sleeps_in_send(server):
        return
    for _ in range(6):
        waiters, begin = rest(server), time.monotonic()
        for _ in range(300):
            clock.roundtrip()
        ticks = 0 if server.own else (time.monotonic() - begin) * TICKS
        count, cpu = waiters.count(), waiters.cpu_ms()
        if count <= ticks and cpu < 1 + count:
            return
    raise Fail(f"{counted(count, 'wake-up')} and {cpu:.1f} ms of CPU time while another server "
               "answered 300 times", expected=f"none: {when}")


def sleeps_in_send(server):
    """Does it hold nothing, and wait in the kernel until it can send?"""
    calls = server.calls()
    return bool(calls) and set(calls) <= kernel.SENDING


class OwnSecond:
    """A second, without the time in which the server was ready to run and had no core."""

    def __init__(self, server):
        self.server = server
        self.end = time.monotonic() + 1 - self._waited(server)

    @staticmethod
    def _waited(server):
        return sum(map(kernel.waited_ns, server.pids)) / 1e9

    def lasts(self):
        """One that waits now has its waiting in the account when that is over."""
        if time.monotonic() < self.end + self._waited(self.server):
            return True
        return (any(map(kernel.is_starved, self.server.pids))
                or time.monotonic() < self.end + self._waited(self.server))


def wake_ups_in_a_second(server, clock, of_its_own=False):
    """How often it looks in a second, if it sleeps with a timeout; else 0.

    The time only bounds it: on a busy machine the server wakes up less often in it, not more. Where
    that would make too little of it, it gets a second of its own.
    """
    waiters = rest(server)
    end, second = time.monotonic() + 1, OwnSecond(server)
    while waiters.timeouts() and (second.lasts() if of_its_own else time.monotonic() < end):
        clock.roundtrip()
    return waiters.count() if waiters.timeouts() else 0


def require_no_polling(server, clock, idle, ticks):
    """Fail if, with output pending, it wakes up again and again to look, and did not without."""
    if sleeps_in_send(server):
        return
    seen = [ms for ms in rest(server).timeouts() if ms is not None]
    if seen and not idle.timeouts():
        raise Fail(f"it sleeps with a timeout of {min(seen)} ms, and with none when no output was "
                   "pending", expected="none: that there is room will be said to it")
    count = wake_ups_in_a_second(server, clock)
    if count >= ticks + 5:
        raise Fail(f"it sleeps with a timeout: {counted(count, 'wake-up')} in a second, and "
                   f"{ticks} when no output was pending",
                   expected="none: that there is room will be said to it")
