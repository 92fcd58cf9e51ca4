#!/usr/bin/env python3
"""As many idle clients as this machine can hold, and what each of them costs: `make million`.

    python3 -m tests.beyond.million --clients 20000      not more than so many
    python3 -m tests.beyond.million --reserve 6000       leave 6,000 MiB of memory alone

Before it starts it says how many that will be, and what sets the limit. Then it opens them, from as
many processes and source addresses as it takes, to as many servers (07-evloop) as it takes. Each
sends one frame and reads its echo while it is new, every hundredth once more when all are there.

Both ends of each connection are on this machine, so the kernel's memory is that of two sockets. Of
the servers' own memory, and of the clients', only the growth counts.
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import resource
import signal
import socket
import struct
import sys

from tests import harness
from tests.beyond import servers
from tests.beyond.servers import Trouble, say
from tests.harness import KIB, MIB, runner
from tests.harness.client import IP_BIND_ADDRESS_NO_PORT
from tests.outside import kernel
from tests.outside.host import available, meminfo, number_in

BATCH = 1000  # clients that a crowd opens before all look at the memory again
PILOT = 10_000  # clients by which the cost of one is estimated
LEAST_COST, MOST_COST = 9 * KIB, 16 * KIB  # bytes: not believed below; assumed of the first ones
SAMPLE = 100  # one client in so many talks again at the end
SPARE_FILES = 4096  # files that are left to the rest of the system
SPARE_FDS = 64  # descriptors that a process needs beside those of its clients
MOST_PROCESSES = 128  # servers, and as many crowds
MOST_CLIENTS = 1_000_000  # of one server: Limits::max_connections of evloop.h
HELLO = harness.frame(b"one of a million")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset, and leaves no TIME_WAIT
PATIENCE = 300  # seconds for one echo, where a hundred processes want two cores

KERNEL = ("Slab", "VmallocUsed", "PageTables", "KernelStack")  # its memory, in /proc/meminfo

# What it keeps for a connection, by the names of its slabs (slabinfo(5)), and at how many
# of the two ends it does so. Only epoll's two are the server's alone.
SLABS = {"TCP": 2, "sock_inode_cache": 2, "dentry": 2, "filp": 2, "eventpoll_epi": 1,
         "eventpoll_pwq": 1}


# ---- Limits --------------------------------------------------------------------------------------


def descriptors():
    """How many one process may have: more than `ulimit -Hn`, for those who may raise that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = number_in("/proc/sys/fs/nr_open")
    with contextlib.suppress(ValueError, OSError):  # it takes CAP_SYS_RESOURCE: getrlimit(2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return most, "fs.nr_open"
    harness.raise_fd_limit()
    return hard, "ulimit -Hn"


def ports():
    """How many one address has for connections to one server."""
    low, high = (number_in("/proc/sys/net/ipv4/ip_local_port_range", i) for i in (0, 1))
    return high - low + 1


class Plan:
    """How many clients, over how many processes, and what does not let there be more.

    Some may be there `already`, and what they need is not free any more.
    """

    def __init__(self, asked, reserve, cost, already=0):
        self.fds, fd_name = descriptors()
        self.ports = ports()
        per_process = min(self.fds - SPARE_FDS, MOST_CLIENTS)
        most = min(MOST_PROCESSES, per_process // 4)  # each is three or four descriptors to us
        open_files = number_in("/proc/sys/fs/file-nr")
        self.limits = [
            (already + int((available() - reserve) // cost),
             f"memory: {available() / MIB:,.0f} MiB, {reserve / MIB:,.0f} left alone, "
             f"{cost:,.0f} bytes a client"),
            (already + self.most("/proc/sys/fs/file-max", open_files + SPARE_FILES) // 2,
             "fs.file-max: open files of the system, two for each client"),
            (self.most("/proc/sys/fs/epoll/max_user_watches"),
             "fs.epoll.max_user_watches: one for each client"),
            (most * per_process,
             f"{fd_name}: {self.fds:,} descriptors in a process, {most} servers"),
        ]
        if asked:
            self.limits.append((asked, "--clients"))
        if number_in("/proc/sys/net/netfilter/nf_conntrack_count") not in (0, math.inf):
            self.limits.append((self.most("/proc/sys/net/netfilter/nf_conntrack_max"),
                                "net.netfilter.nf_conntrack_max: connections that it tracks"))
        self.clients, self.limit = min(self.limits)
        self.clients = max(self.clients, 0)
        self.processes = min(max(os.cpu_count() or 1, math.ceil(self.clients / per_process)), most)

    @staticmethod
    def most(path, used=0):
        """A limit of the kernel's, less what is used of it."""
        limit = number_in(path)
        return int(limit - used) if limit != math.inf else sys.maxsize

    @property
    def sources(self):
        """Addresses that each crowd needs."""
        return math.ceil(self.clients / self.processes / self.per_address)

    @property
    def per_address(self):
        """Clients of one. connect() tries every other port first, and finds half of them free."""
        return self.ports // 4

    def show(self):
        """All limits, the lowest first, and what follows."""
        for count, why in sorted(self.limits):
            say(f"  {count if count < sys.maxsize else 'any':>13,}  {why}")
        say(f"{self.clients:,} clients, because of {self.limit.partition(':')[0]}: "
            f"{self.processes} servers, {self.processes * self.sources} source addresses")


# ---- Clients -------------------------------------------------------------------------------------


class Crowd:
    """A process that has many clients of one server. Also what is done in it."""

    def __init__(self, number, server):
        self.number, self.server = number, (server.host, server.port)
        self.count = 0  # clients that are connected
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=self.obey, args=(theirs, os.getpid()), daemon=True)
        # It is born deaf to Ctrl-C, which is for us: we end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    # Here

    def ask(self, *order):
        """Begin something."""
        self.pipe.send(order)

    def answer(self):
        """What has come of it."""
        try:
            count, trouble = self.pipe.recv()
        except EOFError:
            raise Trouble(f"the clients of server {self.number + 1} are gone: killed?") from None
        return count, trouble

    # There

    def obey(self, orders, starter):
        """Do what the parent asks for, until it has left."""
        harness.die_with_parent(starter)
        os.closerange(3, orders.fileno())  # what we have inherited is not ours
        os.closerange(orders.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        clients = []
        while True:
            try:
                what, *arguments = orders.recv()
            except EOFError:
                return
            try:
                getattr(self, what)(clients, *arguments)
                orders.send((len(clients), ""))
            except OSError as error:
                orders.send((len(clients), f"{what}: {error.strerror or error}"))

    def open(self, clients, count, per_address):
        """Connect so many more. The last one has an echo: those before it are accepted, too."""
        for _ in range(count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((self.address(len(clients) // per_address), 0))
            client.connect(self.server)
            clients.append(client.detach())  # only the number: the object is our memory
        self.echo(clients, len(clients) - 1, 1)

    def address(self, number):
        """Each crowd has 127.x.y.* of its own; 127.0.*.* is for others."""
        return f"127.{1 + self.number}.{number // 250}.{1 + number % 250}"

    def echo(self, clients, first, step):
        """These talk. Raises what is wrong."""
        for fd in clients[first::step]:
            client = socket.socket(fileno=fd)
            try:
                client.settimeout(PATIENCE)
                client.sendall(HELLO)
                answer = servers.receive(client, len(HELLO))
                if answer != HELLO:
                    raise OSError("the echo has other bytes" if len(answer) == len(HELLO) else
                                  "closed instead of an echo")
            finally:
                client.detach()


# ---- The measurement -----------------------------------------------------------------------------


def slabs():
    """{name: bytes} of the kernel's objects; only root may see them."""
    found = {}
    for line in kernel.read_file("/proc/slabinfo").splitlines()[2:]:
        name, _, total, size = line.split()[:4]
        found[name] = int(total) * int(size)
    return found


class Memory:
    """What is used at this moment."""

    def __init__(self, programs, crowds):
        info = meminfo()
        self.kernel = sum(info.get(key, 0) for key in KERNEL)
        self.servers = sum(program.user_bytes() for program in programs)
        self.crowds = sum(kernel.memory_kib(crowd.process.pid, "RssAnon") * KIB
                          for crowd in crowds)
        self.slabs = slabs()


class Measurement:
    """Servers, crowds, and how far they are."""

    def __init__(self, build, reserve):
        self.build, self.reserve = build, reserve
        self.programs, self.crowds = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """The clients go first: who closes first is in TIME_WAIT, unless it was by a reset."""
        for crowd in self.crowds:
            crowd.process.kill()
        for crowd in self.crowds:
            crowd.process.join()
        for server in self.programs:
            server.kill()

    @property
    def count(self):
        """Clients that are connected."""
        return sum(crowd.count for crowd in self.crowds)

    def start(self, processes):
        """So many servers, each with its crowd."""
        command = [servers.program(self.build, "07-evloop"), "--idle-ms", 0, "--tick-ms", 10_000]
        while len(self.programs) < processes:
            self.programs.append(servers.Instance(command))
            self.crowds.append(Crowd(len(self.crowds), self.programs[-1]))

    def open(self, total, per_address):
        """Open clients, evenly, until there are `total`. What has stopped it before, or ''."""
        with runner.progress(math.ceil((total - self.count) / BATCH)) as step:
            while self.count < total:
                if available() < self.reserve:
                    return f"{available() / MIB:,.0f} MiB of memory are left"
                trouble = self.round(total, per_address, step)
                if trouble:
                    return trouble
        return ""

    def round(self, total, per_address, step):
        """A batch for each crowd, all at the same time."""
        troubles = []
        share, more = divmod(total, len(self.crowds))
        missing = {crowd: min(BATCH, share + (crowd.number < more) - crowd.count)
                   for crowd in self.crowds}
        asked = [crowd for crowd in self.crowds if missing[crowd] > 0]
        for crowd in asked:
            crowd.ask("open", missing[crowd], per_address)
        for crowd in asked:
            crowd.count, trouble = crowd.answer()
            troubles.append(trouble)
            step(f"thousand clients, {available() / MIB:,.0f} MiB of memory left")
        return next(filter(None, troubles), "")

    def talk(self):
        """Every SAMPLE-th client. How many did; Trouble if one could not."""
        for crowd in self.crowds:
            crowd.ask("echo", 0, SAMPLE)
        for crowd in self.crowds:
            _, trouble = crowd.answer()
            if trouble:
                raise Trouble(f"a client of {crowd.server[0]}:{crowd.server[1]}: {trouble}")
        return sum(math.ceil(crowd.count / SAMPLE) for crowd in self.crowds)

    def memory(self):
        """What is used at this moment."""
        return Memory(self.programs, self.crowds)


def show(count, before, after):
    """What one client costs."""
    grown = {name: (getattr(after, name) - getattr(before, name)) / count
             for name in ("kernel", "servers", "crowds")}
    say("\nbytes for each client")
    say(f"  {grown['servers']:>7,.0f}  in the server's own memory")
    say(f"  {grown['kernel']:>7,.0f}  in the kernel, for both ends")
    ours = 0
    for name, ends in SLABS.items():
        if name in before.slabs:
            size = (after.slabs[name] - before.slabs[name]) / count
            ours += size / ends
            say(f"      {size:>7,.0f}  {name}" + (", the server's alone" if ends == 1 else ""))
    if ours:
        say(f"  {ours:>7,.0f}  of these for the server's end")
    say(f"  {grown['crowds']:>7,.0f}  in the clients' own memory")


def cost_of_one(measurement, plan):
    """Bytes, by the first clients. Trouble if not even those can be had."""
    before, slab = available(), meminfo()["Slab"]
    stopped = measurement.open(plan.clients, plan.per_address)
    if stopped:
        raise Trouble(f"at client {measurement.count:,}: {stopped}")
    # What others do at the same time is in the first figure, so it is not believed below the other.
    used = max(before - available(), meminfo()["Slab"] - slab)
    return max(used / plan.clients, LEAST_COST)


def parse_arguments():
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=harness.BUILD)
    parser.add_argument("--clients", type=int, default=0, help="not more than so many")
    tenth = max(1024, meminfo()["MemTotal"] // 10 // MIB)
    parser.add_argument("--reserve", type=int, default=tenth,
                        help="MiB of memory that are left alone (default %(default)s)")
    options = parser.parse_args()
    if options.clients < 0 or options.reserve < 0:
        parser.error("numbers from 0")
    return options


def main():
    """0 if all that were planned have connected, and the sample has talked."""
    options = parse_arguments()
    reserve = options.reserve * MIB
    with Measurement(options.build, reserve) as measurement:
        pilot = Plan(min(options.clients or PILOT, PILOT), reserve, MOST_COST)
        if pilot.clients == 0:
            raise Trouble(f"no room for a single client, because of {pilot.limit}")
        measurement.start(pilot.processes)
        before = measurement.memory()
        say(f"{pilot.clients:,} clients first, to see what one costs. Then there may be")
        cost = cost_of_one(measurement, pilot)
        plan = Plan(options.clients, reserve, cost, measurement.count)
        plan.show()
        measurement.start(plan.processes)
        stopped = measurement.open(plan.clients, plan.per_address)
        if stopped:
            say(f"stopped at {measurement.count:,}: {stopped}")
        say(f"{measurement.count:,} clients are connected, and {measurement.talk():,} of them have "
            "had another echo")
        show(measurement.count, before, measurement.memory())
        return 1 if stopped else 0


if __name__ == "__main__":
    runner.main(servers.run(main))
