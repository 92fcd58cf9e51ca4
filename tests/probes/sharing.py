"""Many clients: who is served, when, and at what price."""

import contextlib
import os
import socket
import time

from tests.outside import kernel, tracing
from tests.harness import (KIB, MIB, Deadline, Fail, Gone, Lesson, NotTried, QueueFull, counted,
                           frame, probe, raise_fd_limit, wait_for)
from tests.probes.flood import Flood


def still(server):
    """What stays as it is while a server waits for nothing but clients.

    Where a thread sleeps in recv() or send() without a timeout, those that have one may be timers,
    and do not count: the helper threads of Java are never still.
    """
    calls = server.blocked_calls() or []
    if len(calls) > 1 and any(name in kernel.RECEIVING | kernel.SENDING for name, _ in calls):
        return [kernel.endless_sleepers(pid) for pid in server.pids]
    return sum(map(kernel.wake_ups, server.processes()))


def starves(client):
    """Nobody reads what `client` has sent: it is there, and every thread of the server sleeps.

    On loopback, bytes that somebody waits for wake him up before send() returns. A server may be on
    its way to them all the same, and sleep a little in between: then it wakes up while we look, a
    process of its own for this client sooner or later. (On a busy machine, a thread that waits for
    a core is not asleep.)
    """
    server = client.server
    before = still(server)

    def rests():
        return server.asleep() and server.others_asleep() and client.unread() > 0
    if not rests():
        return False
    time.sleep(3 if client.accepted() and client.server_fd() is None else 0.5)
    return rests() and still(server) == before


@probe(row=1, title="the second client is served while the first one idles",
       expect="L:waits P P P P P P", look="accept(2), recv(2)",
       hint="recv() on one client waits for that client alone; ask select() who is ready")
def second_client(stage):
    """The first client has talked and is silent. The second one wants an answer."""
    server = stage.start()
    first, second = server.connect(), None
    first.roundtrip()
    second = server.connect()
    second.send(frame(b"me too"))
    patience = Deadline(10, *server.pids)  # with one that has timers, and is never still

    def is_alone():
        return starves(second) or patience.passed() and second.unread() and not second.readable()
    while not second.readable():
        server.check_alive()
        if is_alone():
            first.roundtrip()  # the server is well, and yet:
            if not is_alone():
                continue
            left = f"{counted(second.unread(), 'byte')} of the second client unread"
            seen = f"{server.describe()}; {left}"
            first.close()
            second.expect(frame(b"me too"))
            raise Lesson(f"{seen}. When the first has left, the second is served", "waits")
    second.expect(frame(b"me too"))
    first.roundtrip()


@probe(row=2, title="100 clients connect in one burst, and each is answered",
       expect="P P P P P P P", look="accept(2), epoll(7): EPOLLET",
       hint="one event may stand for several clients: accept until EAGAIN, or be level-triggered")
def burst(stage):
    """All are in the queue, with their requests, before the server looks."""
    server = stage.start()
    server.pause()
    clients = [server.connect() for _ in range(100)]
    for i, client in enumerate(clients):
        client.send(frame(b"client %d" % i))
    server.resume()
    for i, client in enumerate(clients):
        client.expect(frame(b"client %d" % i))
        client.close()


@probe(row=2, title="new clients, and the words and the ends of others, all in one turn",
       expect="- P P P P P P", look="epoll_wait(2): which event is about whom? accept(2)",
       hint="take each event from where it is reported; change nothing that is not looked at yet")
def one_turn(stage):
    """All of it is there before the server looks, and some are new and silent."""
    server = stage.start()
    clients = [server.connect() for _ in range(6)]
    for turn in range(4):
        for client in clients:
            client.roundtrip()
        speakers = clients[turn % 2::2]
        server.pause()
        early = [server.connect() for _ in range(turn)]
        for i, client in enumerate(speakers):
            client.send(frame(b"turn %d, %d" % (turn, i)))
        clients += early + [server.connect() for _ in range(2)]
        server.resume()
        for i, client in enumerate(speakers):
            client.expect(frame(b"turn %d, %d" % (turn, i)))
        server.pause()
        leaving, clients = clients[:2], clients[2:] + [server.connect()]
        for client in leaving:  # in good order: what a reset does is row 9's
            client.close()
        clients[0].send(frame(b"and I stay"))
        server.resume()
        clients[0].expect(frame(b"and I stay"))


def crowd(server, count):
    """`count` clients, from several loopback addresses, because one may have few ports.

    Fewer where nobody accepts them, and the queue has no room for more.
    """
    own = 1 + os.getpid() % 250  # other probes run at the same time
    clients = []
    try:
        for _ in range(count):
            source = f"127.{own}.0.{2 + len(server.clients) // 500}"
            clients.append(server.connect(source=source))
    except QueueFull:
        if len(clients) < 2:
            raise
    return clients


def require_few_processes(stage):
    """Thousands of processes, one for each client, would be a test of the machine."""
    if stage.own:
        return
    server = stage.start()
    before = len(kernel.descendants(server.process.pid))
    for client in [server.connect() for _ in range(5)]:
        client.roundtrip()
    more = len(kernel.descendants(server.process.pid)) - before
    server.kill()
    if more >= 5:
        raise NotTried("it has a process for each client, and thousands are too many for a test")


FEW = 4  # descriptors that are not enough for one more client, where it needs several


@contextlib.contextmanager
def descriptors_for(server, clients):
    """What fails in here may fail because a reader's server needs several for each client."""
    try:
        yield
    except Fail:
        if server.own:
            raise
        limit = kernel.fd_limit(server.pid)
        opened = len(kernel.open_fds(server.pid))
        if opened < limit - FEW:
            raise
        raise NotTried(f"it has {counted(opened, 'descriptor')} open for "
                       f"{counted(len(clients), 'client')}, and the limit is {limit:,} "
                       "(ulimit -Hn)") from None


def leave(clients):
    """All leave at once, without TIME_WAIT."""
    for client in clients:
        client.reset()


def fd_room(wanted, stage, least=0, spare=200):
    """How many of the wanted clients the descriptor limit allows; a note if fewer.

    With less than `least` the probe would show nothing.
    """
    limit = raise_fd_limit()
    room = min(wanted, limit - spare)
    if room < least:
        raise NotTried(f"it needs {counted(least + spare, 'descriptor')}, and the limit is "
                       f"{limit:,} (ulimit -Hn)")
    if room < wanted:
        stage.note(f"{counted(room, 'client')}: the limit of descriptors allows no more "
                   "(ulimit -Hn)")
    return room


def ended(client):
    """Has the server closed this connection, with nothing left to read?"""
    try:
        return client.sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def refusals(server, clients):
    """The clients that the server has refused. It must say so, though perhaps not of each."""
    gone = [client for client in clients if ended(client)]
    if gone and "refused" not in server.stderr():
        raise Fail(f"the end of {counted(len(gone), 'client')}, without a word on stderr; "
                   f"{server.describe()}", expected="all are served, or a line: refused")
    return gone


@probe(row=3, title="1,500 clients at once", expect="L:one L:refuses P P P P P",
       look="select(2): FD_SETSIZE; poll(2)", hint="an fd_set holds descriptors below 1,024 only")
def fifteen_hundred(stage):
    """All are connected at the same time, each asks once."""
    server = stage.start()
    clients = crowd(server, fd_room(1500, stage, least=1500))
    count = len(clients)
    if count < 1500:
        stage.note(f"{counted(count, 'client')}: its queue has no room for more")
    for i, client in enumerate(clients):
        try:
            client.try_send(frame(b"client %d" % i))
        except Gone:
            pass  # refused; seen below
    last = clients[-1]
    wait_for(lambda: last.readable() or starves(last),
             "an answer to the last client", server)
    if not last.readable():
        only_one(server, clients)
    gone = set(refusals(server, clients))
    for i, client in enumerate(clients):
        if client not in gone:
            client.expect(frame(b"client %d" % i))
    if gone:
        served = next(client for client in clients if client not in gone)
        fds = server.fds()
        served.close()
        wait_for(lambda: len(server.fds()) < len(fds), "the first client's descriptor is closed",
                 server)
        server.connect().roundtrip()
        raise Lesson(f"{len(gone):,} of {counted(count, 'client')} refused, and stderr says so; "
                     "the others are served. When one has left, there is room for another",
                     "refuses")


def only_one(server, clients):
    """Nobody but the first is served: the others wait in the kernel's queue.

    A reader's server may have some processes or threads, each of which serves one.
    """
    waiting = sum(not client.accepted() for client in clients)
    seen = f"{waiting:,} of {counted(len(clients), 'client')} left in the queue while " \
        f"{server.describe()}"
    served = len(clients) - waiting
    if not waiting:
        raise Fail(f"the last of {counted(len(clients), 'client')} is accepted and gets no "
                   f"answer; {server.describe()}", expected="an answer to each, or its end",
                   look="close(2): whom you cannot watch has to be closed, or waits for ever")
    if served != 1 and (server.own or not 1 <= served < 100):
        raise Fail(seen, expected="an answer to each",
                   look="accept(2): who calls it? A runtime may limit the number of clients")
    for i, client in enumerate(clients[:served]):
        client.expect(frame(b"client %d" % i))
    clients[0].close()
    clients[served].expect(frame(b"client %d" % served))
    raise Lesson(f"{seen}. When one leaves, the next one is served", "one")


def cost(server, active):
    """Server CPU, in microseconds, for a message of each active client."""
    done(server)
    before = server.cpu_ms()
    for client in active:
        client.roundtrip()
    done(server)
    return (server.cpu_ms() - before) * 1000 / len(active)


def done(server):
    """Wait until it sleeps. Where threads are many, it is enough that no CPU time is used."""
    if len(server.threads()) <= 100:
        wait_for(server.asleep, "the server sleeps", server)
        return
    last = -1
    while last != (last := server.cpu_ms()):
        os.sched_yield()


def on_one_core(*servers):
    """Put the servers and this process on the same core.

    To wake a process on another core costs its waker several times as much as a small message
    does, and where the scheduler puts whom is not what is to be measured.
    """
    core = {min(os.sched_getaffinity(0))}
    for server in servers:
        for thread in server.threads():
            os.sched_setaffinity(thread, core)
    os.sched_setaffinity(0, core)


FLAT, GROWS = 4, 8  # times the CPU; between the two it is measured again


def compare_cost(few, many):
    """The least that a message costs on two (server, clients), measured in turn.

    What else runs on this machine can only make it more. So the least of many is what it needs.
    """
    costs = []
    for _ in range(5):
        costs += [(cost(*few), cost(*many)) for _ in range(20)]
        few_cost, many_cost = (min(column) for column in zip(*costs))
        if not FLAT * few_cost <= many_cost <= GROWS * few_cost:
            break
    return few_cost, many_cost


@probe(row=4, title="CPU per message does not grow with idle clients",
       expect="- L:refuses L:grows P P P P", look="poll(2), select(2): the whole set, each time",
       hint="let the kernel keep the list: epoll_ctl() once per client")
def idle_clients(stage):
    """Two servers, one with 100 idle clients and one with up to 10,000, take turns.

    It ends as soon as it is clear that the cost grows: accepting 10,000 would take long, then.
    """
    most = fd_room(10_000, stage, least=3000)
    require_few_processes(stage)
    few, many = stage.start(), stage.start()
    on_one_core(few, many)
    few_active = [few.connect() for _ in range(10)]
    many_active = [many.connect() for _ in range(10)]
    crowd(few, 100)
    idle = []
    for count in (3000, most):
        idle += crowd(many, count - len(idle))
        idle[-1].try_send(frame())
        with descriptors_for(many, many.clients):
            for client in idle[::250]:  # one that is slow takes them all the same
                taken(many, client, idle[-1])
            wait_for(lambda: idle[-1].readable() or starves(idle[-1]),
                     "an answer to the last idle client", many, 100)
            if not idle[-1].readable():
                raise Fail(f"the last of {counted(len(idle), 'idle client')} gets no answer; "
                           f"{many.describe()}", expected="an answer to each")
        gone = refusals(many, idle)
        if gone:
            talk(many_active)
            raise Lesson(f"{len(gone):,} of {counted(count, 'idle client')} refused, and stderr "
                         "says so", "refuses")
        few_cost, many_cost = compare_cost((few, few_active), (many, many_active))
        if not few_cost:
            stage.note("not measured: the process that listens does not serve the clients itself")
            return
        growth = many_cost / few_cost
        seen = (f"{many_cost:.0f} us of CPU per message with {counted(count, 'idle client')}, "
                f"{few_cost:.0f} with 100: {growth:.1f} times as much")
        if growth > GROWS:
            raise Lesson(seen, "grows")
    stage.note(f"{growth:.1f} times the CPU per message with {counted(count, 'idle client')}")
    if growth >= FLAT:
        raise Fail(seen, expected=f"less than {FLAT} times as much (flat), or more than {GROWS} "
                                  "(it grows)")


def taken(server, client, last):
    """Wait until this client is accepted or refused, or left alone with the last of them."""
    wait_for(lambda: client.accepted() or client.readable() or starves(last),
             "the idle clients are accepted", server, 100)


@probe(row=16, title="a small request beside 4 MB from another client",
       expect="- P P P L:hogs L:hogs P", look="recv(2) until EAGAIN",
       hint="bound the work per client and turn: one recv(), then the next client")
def fast_sender(stage):
    """Follow the server's calls: how much does it read of one before it reads of the other?"""
    if not tracing.allowed():
        raise NotTried("it needs ptrace(), and this machine forbids it (a container may: "
                       "--cap-add=SYS_PTRACE)")
    server = stage.start()
    fast, small = server.connect(), server.connect()
    fast.roundtrip()
    small.roundtrip()
    wait_for(server.asleep, "the server sleeps", server)  # it has looked for more of the small one
    flood = Flood(fast, 4 * MIB)
    fast_fd, small_fd = fast.server_fd(), small.server_fd()
    if None in (fast_fd, small_fd):
        return stage.note("not followed: who listens does not serve the clients itself")
    read = calls = 0
    try:
        with tracing.traced(server) as trace:
            flood.push()
            small.send(frame(b"small"))
            for name, args, result in trace.calls():
                if name in kernel.RECEIVING and result > 0:
                    if args[0] == small_fd:
                        break
                    if args[0] == fast_fd:
                        read, calls = read + result, calls + 1
                flood.push()
                flood.pull()
        flood.drain()
    except Gone:  # stage 5 drops it if we, on a busy machine, read too slowly
        if stage.number != 5 or read <= 256 * KIB:
            raise
    small.expect(frame(b"small"))
    seen = f"{counted(read, 'byte')} of the fast one read first, in {counted(calls, 'call')}"
    if read > 256 * KIB:
        raise Lesson(seen, "hogs")
    stage.note(seen)


@probe(row=31, title="10,000 clients, a tenth of them talking", expect="- - - P P P P",
       look="getrlimit(2): RLIMIT_NOFILE", hint="no table of fixed size, no buffer per idle client")
def ten_thousand(stage):
    """10,000 connected, 1,000 of them talk; then as many idle ones as the limit allows."""
    require_few_processes(stage)
    server = stage.start()
    before = server.memory_kib()
    with descriptors_for(server, server.clients):
        clients = crowd(server, fd_room(10_000, stage))
        for turn in range(2):
            talk(clients[turn::10])
        each = (server.memory_kib() - before) * KIB / len(clients)
        more = crowd(server, min(18_000, raise_fd_limit() - 200) - len(clients))
        talk(more[-100:] + clients[:100])
    stage.note(f"{counted(round(each), 'byte')} of memory for each of "
               f"{counted(len(clients), 'client')}; "
               f"{len(clients) + len(more):,} at once")


def talk(clients):
    """Each asks, then each is answered."""
    for i, client in enumerate(clients):
        client.send(frame(b"client %d" % i))
    for i, client in enumerate(clients):
        client.expect(frame(b"client %d" % i))
