#!/usr/bin/env python3
"""Four processes on one port, in four ways: who gets whom, and who is lost: `make processes`.

Two things are counted:

- 1,000 clients of 50 addresses connect, have an echo, and stay. How many has each process? And had
  each process a cache of what it knows about an address: how often would it know nothing? (50 is
  the least.) How often was a process woken up for all this?
- All processes stand still (SIGSTOP) while 100 clients connect and send, so these wait in the
  queue of a listener. One process dies (SIGKILL), the others go on. How many are never answered?

Which process has a connection is read from outside: sock_diag(7) knows the inode of its socket, and
/proc/PID/fd who has that.
"""

import argparse
import collections
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys

from tests import harness
from tests.beyond import servers
from tests.beyond.servers import Instance, Trouble, say
from tests.harness import runner
from tests.outside import kernel

PROCESSES = 4
ADDRESSES, EACH = 50, 20  # of the clients, and how many have the same one
WAITING = 100  # clients in the queues when a process dies
HELLO = harness.frame(b"who has me?")
MIGRATE = "/proc/sys/net/ipv4/tcp_migrate_req"
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


class Client:
    """A connection that stays."""

    def __init__(self, server, source):
        self.socket = socket.socket()
        self.socket.settimeout(30 * harness.SLOWER)
        self.socket.bind((source, 0))
        self.socket.connect(server)
        self.socket.sendall(HELLO)

    def answered(self):
        """Has the echo come? False if the connection ended before it."""
        try:
            return servers.receive(self.socket, len(HELLO)) == HELLO
        except ConnectionError:
            return False

    def owner_inode(self):
        """Of the server's end."""
        return kernel.find_socket(self.socket.getpeername(), self.socket.getsockname()).inode


class Group:
    """Four processes that share a port, within a `with` block."""

    def __init__(self, build):
        self.build = build
        self.instances = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for instance in self.instances:
            instance.kill()

    def program(self):
        """What each of them runs."""
        return [servers.program(self.build, "07-evloop"), "--idle-ms", 0]

    def start(self):
        """All of them."""
        raise NotImplementedError

    @property
    def address(self):
        """Where clients connect to."""
        return self.instances[0].host, self.instances[0].port

    def serving(self):
        """The processes that have clients."""
        return [instance.pid for instance in self.instances]

    def all(self):
        """All that there are."""
        return self.serving()


class Shared(Group):
    """Each has a listener of its own on the same port."""

    def start(self):
        for _ in range(PROCESSES):
            port = self.instances[0].port if self.instances else 0
            self.instances.append(Instance([*self.program(), "--reuse-port", 1], port))


class Inherited(Group):
    """All have the same listener."""

    def start(self):
        with servers.listen() as listener:
            for _ in range(PROCESSES):
                self.instances.append(Instance(self.program(), listener=listener))


class HandedOver(Group):
    """One accepts for all."""

    def __init__(self, build, by):
        super().__init__(build)
        self.by = by

    def start(self):
        self.instances.append(Instance([sys.executable, "-m", "tests.beyond.handover", "--workers",
                                        PROCESSES, "--by", self.by]))

    def serving(self):
        return sorted(kernel.descendants(self.instances[0].pid))

    def all(self):
        return [self.instances[0].pid, *self.serving()]


# ---- What is counted -----------------------------------------------------------------------------


def spread(group):
    """Connections of each process; how many were new to its cache; how often any was woken."""
    before = sum(map(kernel.wake_ups, group.all()))
    clients = []
    for number in range(ADDRESSES * EACH):
        clients.append(Client(group.address, f"127.0.2.{1 + number % ADDRESSES}"))
        if not clients[-1].answered():
            raise Trouble("a client has no echo although nothing happens to its server")
    woken = sum(map(kernel.wake_ups, group.all())) - before
    owners = {inode: pid for pid in group.serving() for inode in kernel.socket_inodes(pid)}
    counts, known = collections.Counter(dict.fromkeys(group.serving(), 0)), set()
    for client in clients:
        owner = owners[client.owner_inode()]
        counts[owner] += 1
        known.add((owner, client.socket.getsockname()[0]))
        client.socket.close()
    return sorted(counts.values(), reverse=True), len(known), woken


def lost(group, victim):
    """How many of those who wait in a queue are not answered when the process `victim` dies."""
    everyone = group.all()
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    for pid in everyone:
        harness.wait_for(lambda: set(kernel.thread_states(pid)) == {"T"}, "all stand still")
    clients = [Client(group.address, f"127.0.2.{1 + number % ADDRESSES}")
               for number in range(WAITING)]
    os.kill(victim, signal.SIGKILL)
    harness.wait_for(lambda: kernel.is_over(victim), "one dies")
    for pid in set(everyone) - {victim}:
        with contextlib.suppress(ProcessLookupError):  # it was to end with the other
            os.kill(pid, signal.SIGCONT)
    answers = [client.answered() for client in clients]
    for client in clients:
        client.socket.close()
    return answers.count(False)


# ---- The table -----------------------------------------------------------------------------------

WAYS = {
    "SO_REUSEPORT, a listener each": Shared,
    "one listener, inherited by all": Inherited,
    "one hands over, in turn": lambda build: HandedOver(build, "turn"),
    "one hands over, by client": lambda build: HandedOver(build, "client"),
}


def show(build):
    """A line for each way."""
    say(f"{ADDRESSES * EACH:,} clients of {ADDRESSES} addresses, {PROCESSES} processes; "
        f"{WAITING} more in the queues when one dies")
    say(f"{'':31}{'clients of each process':>24}{'new to it':>11}{'woken':>8}{'lost':>6}")
    for title, make in WAYS.items():
        with make(build) as group:
            counts, misses, woken = spread(group)
        with make(build) as group:
            gone = lost(group, group.serving()[-1])
        say(f"{title:31}{' '.join(map(str, counts)):>24}{misses:>11,}"
            f"{woken:>8,}{gone:>6}")
    with HandedOver(build, "turn") as group:
        say(f"{'  if the one who accepts dies':31}{'':43}{lost(group, group.all()[0]):>6}")


def show_migration(build):
    """In a network of its own, where this switch may be turned."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    with open(MIGRATE, "w", encoding="ascii") as switch:
        switch.write("1")
    with Shared(build) as group:
        say(f"{'  with tcp_migrate_req = 1':31}{'':43}{lost(group, group.serving()[-1]):>6}")


def migration(options):
    """The same switch in the network of others stays as it is. True if it was tried."""
    unshare = shutil.which("unshare", path=servers.PATH)
    if not unshare or not os.path.exists(MIGRATE):
        return False
    flags = "--net" if os.geteuid() == 0 else "--map-root-user --net"
    done = subprocess.run([unshare, *flags.split(), sys.executable, "-m", "tests.beyond.processes",
                           "--build", options.build, "--migration"],
                          capture_output=True, encoding="utf-8", check=False)
    sys.stdout.write(done.stdout)
    return done.returncode == 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default=harness.BUILD)
    arguments.add_argument("--migration", action="store_true", help="that line only; needs lo")
    options = arguments.parse_args()
    if options.migration:
        show_migration(options.build)
        return 0
    show(options.build)
    if not migration(options):
        say("  (tcp_migrate_req not tried: it takes root, or a network of one's own)")
    return 0


if __name__ == "__main__":
    runner.main(servers.run(main))
