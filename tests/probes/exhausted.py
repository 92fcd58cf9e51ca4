"""No descriptor is free, and clients are waiting."""

from tests.outside import kernel
from tests.harness import Fail, Lesson, NotTried, counted, frame, probe, wait_for
from tests.probes.sharing import ended
from tests.probes.syscalls import answer_or_end

ENOUGH_MS = 400  # of CPU time, without an answer to anybody: that is a spin
ASK = frame(b"is there room?")


@probe(row=12, title="no descriptor free: it waits or refuses, and goes on when one is freed",
       expect="P L:spins L:spins L:spins L:hangs L:hangs P",
       look="accept(2): EMFILE; epoll(7): the listener stays ready, or is not reported again",
       hint="stop watching the listener until a descriptor is closed; then accept again")
def table_full(stage):
    """The limit is lowered under a running server, and later raised again."""
    server = stage.start()
    first = server.connect()
    first.roundtrip()
    old = server.limit_fds()
    use_up_reserved(server)
    second = server.connect()
    second.try_send(ASK)
    spent = server.cpu_ms()
    wait_for(lambda: second.readable() or quiet(server) or server.cpu_ms() - spent > ENOUGH_MS,
             "the server refuses, sleeps or spins", server)
    if second.readable() and not ended(second):
        raise NotTried("it serves a further client, although it may open no further descriptor")
    spins = server.cpu_ms() - spent > ENOUGH_MS
    if first.server_fd() is None:
        return another_process_serves(server, first, second, old, spins)
    if ended(second):
        second = None
        not_spinning(server, first)
    elif not spins and not at_once(server, first):
        return one_at_a_time(server, first, second, old)
    resume(server, first, second, old, spins)


def use_up_reserved(server):
    """Threads that sleep in accept() have a descriptor each: it is taken before they sleep."""
    for name in wait_for(server.calls, "the server sleeps", server):
        if name in ("accept", "accept4") and server.own:
            server.connect().roundtrip()
        elif name in ("accept", "accept4"):  # what it starts for it has the same limit, and may end
            answer_or_end(server.connect(), ASK)


def quiet(server):
    """Asleep, several looks in a row: a server that spins is never found so."""
    return all(server.asleep() for _ in range(20))


def not_spinning(server, client):
    """A queue that has become empty must not keep it busy either."""
    client.roundtrip()
    spent = server.cpu_ms()
    wait_for(lambda: quiet(server) or server.cpu_ms() - spent > ENOUGH_MS, "it sleeps", server)
    if server.cpu_ms() - spent > ENOUGH_MS:
        raise Fail("it spins although nobody waits", expected="it sleeps until something happens")


def at_once(server, first):
    """Does it take more than one client at a time? Then it sleeps, but not for the first one only.

    Threads that wait for neither clients nor bytes do not count.
    """
    first.roundtrip()
    calls = wait_for(lambda: server.blocked_calls(), "the server sleeps", server)
    fd = first.server_fd()
    return (not any(name in kernel.RECEIVING and args[0] == fd for name, args in calls)
            or any(name in kernel.WAITING for name, _ in calls))


def another_process_serves(server, first, second, old, spins):
    """Who listens has no descriptor of the first client: its leaving makes no room for others."""
    first.roundtrip()
    refused = ended(second)
    server.lift_limit(old)
    if not refused:
        second.expect(ASK)
    server.connect().roundtrip()
    if spins:
        raise Lesson(f"more than {ENOUGH_MS} ms of CPU time while a client waits and nobody is "
                     "served. When there is room again, the next one is", "spins")


def one_at_a_time(server, first, second, old):
    """Serving one client it needs no other descriptor: take that one from it, too."""
    server.limit_fds(first.server_fd())
    first.close()
    spent = server.cpu_ms()
    wait_for(lambda: not first.accepted(), "the first client's descriptor is closed", server)
    if server.own:
        wait_for(lambda: "Too many open files" in server.stderr(),
                 "a line on stderr: accept: Too many open files", server)
    wait_for(lambda: quiet(server) or server.cpu_ms() - spent > ENOUGH_MS,
             "it sleeps before it tries again", server)
    if server.cpu_ms() - spent > ENOUGH_MS:
        raise Fail("it spins", expected="it sleeps before it tries again")
    server.lift_limit(old)
    second.expect(ASK)


def resume(server, first, second, old, spins):
    """One client leaves. Whoever waits must be served now; else, when is he?"""
    fds = len(server.fds())
    first.close()
    if second is None:
        wait_for(lambda: len(server.fds()) < fds, "the first client's descriptor is closed", server)
        second = server.connect()
        second.send(ASK)
    if hangs(server, second):
        left = f"{counted(second.unread(), 'byte')} of the queued client unread"
        seen = f"{server.describe()}; {left}"
        third = server.connect()
        third.send(ASK)
        second.expect(ASK)
        server.lift_limit(old)
        last = server.connect()
        last.roundtrip()
        third.expect(ASK)
        raise Lesson(f"one client has left, and yet {seen}. It is served when another one comes",
                     "hangs")
    second.expect(ASK)
    server.lift_limit(old)
    second.close()  # it may be one at a time that is served, and wait for it in poll()
    server.connect().roundtrip()
    if spins:
        raise Lesson(f"more than {ENOUGH_MS} ms of CPU time while a client waits and nobody is "
                     "served. When one has left, the next one is", "spins")


def hangs(server, client):
    """Is a queued client left there, although a descriptor is free?"""
    def left():
        # Who sleeps for a time only will look again.
        return quiet(server) and server.waits_for_ever() and \
            not client.readable() and client.unread() > 0

    wait_for(lambda: client.readable() or left(), "an answer to the queued client", server)
    return not client.readable()
