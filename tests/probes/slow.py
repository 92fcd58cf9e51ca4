"""Clients that do not read, and a server that has nothing to do."""

from tests.outside import kernel
from tests.harness import MIB, Fail, Gone, Lesson, frame, probe, wait_for
from tests.probes.flood import Flood, finish_dropped

MOST = 64 * MIB  # nobody needs to take so much from a client that does not read
MEMORY_KIB = 16 * 1024  # by which the server may grow meanwhile


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
    except Gone as gone:
        finish_dropped(flood, server, gone)
    check_bounded(server, flood, memory)
    flood.stop()  # it reads at last, and is owed all that it has sent
    flood.drain()


def frozen(server, flood, other):
    """Does the server sleep in send() while the other client has bytes there? False: answered."""
    def stopped():
        if other.readable() or flood.push():
            return False
        calls = server.calls()
        return (calls and other.unread() > 0 and not other.readable()
                and (len(calls) > 1 or calls[0] in kernel.SENDING))

    return wait_for(lambda: other.readable() or stopped(), "an answer to the other client",
                    server) and not other.readable()


def thaw(server, flood, other):
    """It is frozen. When the first client reads, and leaves, everything must be right again."""
    seen = f"{server.describe()}; the other client's {other.unread()} bytes are unread"
    flood.stop()
    flood.drain()
    flood.client.close()
    other.expect(frame(b"and me?"))
    raise Lesson(f"{seen}. When the first one reads on and leaves, the other is served", "freezes")


def check_bounded(server, flood, memory):
    """A server that buffers must stop somewhere."""
    grown = server.memory_kib("VmHWM") - memory
    if flood.sent >= flood.total or grown > MEMORY_KIB:
        raise Fail(f"it took {flood.sent:,} bytes, and its memory grew by {grown:,} KiB",
                   sent=f"{flood.sent:,} bytes, of which nothing was read",
                   expected=f"it stops reading; less than {MOST // MIB} MB, "
                            f"{MEMORY_KIB // 1024} MiB of memory")


def rest(server):
    """Wait until the server sleeps and nothing wakes it up for a while. Returns its count."""
    last = [None]

    def same():
        now = (server.asleep(), server.wake_ups())
        last[0], before = now, last[0]
        return now[0] and now == before
    wait_for(same, "the server comes to rest", server)
    return last[0][1]


def count_wake_ups(server, clock):
    """How often `server` wakes up while another server answers 300 times."""
    before, cpu = rest(server), server.cpu_ms()
    for _ in range(300):
        clock.roundtrip()
    return server.wake_ups() - before, server.cpu_ms() - cpu


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
    flood = Flood(server.connect(rcvbuf=64 * 1024) if stage.number > 1 else first, 16 * MIB)
    try:
        flood.push_until_stuck()
        require_quiet(server, clock, "a client's output pending")
        flood.stop()
        flood.drain()
    except Gone:
        stage.note("the client that does not read is dropped")
    require_quiet(server, clock, "all output sent")


def require_quiet(server, clock, when):
    """Fail if something wakes the server up again and again.

    While output is pending, the last acknowledgements may still be on their way: what counts is
    that it becomes quiet. A server that sleeps in send() is left alone: when memory for sockets is
    short, the kernel itself looks again and again, within that call.
    """
    calls = server.calls()
    if calls and set(calls) <= kernel.SENDING:
        return
    for _ in range(6):
        count, cpu = count_wake_ups(server, clock)
        if count == 0 and cpu < 1:
            return
    raise Fail(f"{count} wake-ups and {cpu:.1f} ms of CPU time while another server answered "
               "300 times", expected=f"none: {when}")
