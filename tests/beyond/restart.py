#!/usr/bin/env python3
"""Servers are replaced while requests go on, and failures are counted: `make restart`.

    python3 -m tests.beyond.restart                      every way, some minutes
    python3 -m tests.beyond.restart --only announced     one of them
    python3 -m tests.beyond.restart --requests 5000 --restarts 4

Two instances of each server stand behind HAProxy (haproxy.cfg) and are replaced in turn: SIGTERM,
exit status 0, a new start on the same port. Then the same without a proxy, where the new instance
begins to listen before the old one stops. A restart comes after so many requests and not after so
many seconds, and the next one waits until the proxy has seen the last one go and come back.

The load is wrk where it is installed, and HTTP is spoken to the proxy; else clients.py. Exit status
0 if no request failed where none may.
"""

import argparse
import contextlib
import shutil
import sys

from tests import harness
from tests.beyond import servers
from tests.beyond.clients import Echo, Load, Web, Wrk
from tests.beyond.proxy import Proxy
from tests.beyond.servers import Instance, Trouble, say, wait_for
from tests.harness import runner

CLIENTS = 20
SESSION = 10  # frames of a client of 07-evloop before it leaves and comes again
NOTICE_MS = 1000  # between the first announcement of a stop and the stop


# ---- Ways to replace a server --------------------------------------------------------------------


class Behind:
    """Two instances behind the proxy, replaced in turn."""

    def __init__(self, proxy, service, command):
        self.proxy, self.service, self.command = proxy, service, command
        self.instances = {}

    def __enter__(self):
        try:
            for name in ("one", "two"):
                self.start(name)
            for name in self.instances:
                self.proxy.wait_until_up(self.service, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for instance in self.instances.values():
            instance.kill()

    def start(self, name):
        """An instance on the port that the proxy knows."""
        self.instances[name] = Instance(self.command, self.proxy.port(self.service, name))

    def replace(self, number, load):
        """One of them."""
        name = ("one", "two")[number % 2]
        self.prepare(name, load)
        self.end(self.instances[name])
        wait_for(lambda: not self.proxy.is_up(self.service, name),
                 f"HAProxy does not miss {self.service} {name}")
        self.start(name)
        self.resume(name)
        self.proxy.wait_until_up(self.service, name)

    def prepare(self, name, load):
        """Before it is told to stop."""

    def end(self, instance):
        """It leaves by itself, and says that all went well."""
        instance.terminate()
        status = instance.wait()
        if status != 0:
            raise Trouble(f"{instance.name} has ended with {status}: {instance.said()}")

    def resume(self, name):
        """When a new one is there."""


class Killed(Behind):
    """It is not even asked."""

    def end(self, instance):
        instance.kill()


class Drained(Behind):
    """The proxy is told first. It sends no new clients, and we wait until the others have left."""

    def prepare(self, name, load):
        self.proxy.tell(f"set server {self.service}/{name} state drain")
        wait_for(lambda: self.proxy.state(self.service, name)["scur"] == "0",
                 f"clients stay with {self.service} {name}", load)

    def resume(self, name):
        self.proxy.tell(f"set server {self.service}/{name} state ready")


class Beside:
    """No proxy: the new instance shares the port of the old one before that stops."""

    def __init__(self, command):
        self.command = [*command, "--reuse-port", 1]
        self.instance = None

    def __enter__(self):
        self.instance = self.start()
        return self

    def __exit__(self, *_):
        if self.instance:
            self.instance.kill()

    def start(self):
        """Another one, on the same port."""
        return Instance(self.command, self.instance.port if self.instance else 0)

    def address(self):
        """Where clients connect to."""
        return self.instance.host, self.instance.port

    def replace(self, *_):
        """The one that is there."""
        old, self.instance = self.instance, self.start()
        try:
            Behind.end(self, old)
        finally:
            old.kill()


class Inherited(Beside):
    """The same, but there is one listener for all, which was here before the first of them."""

    def __init__(self, command):
        super().__init__(command)
        self.command = command
        self.listener = None

    def __enter__(self):
        self.listener = servers.listen()
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.listener.close()

    def start(self):
        return Instance(self.command, listener=self.listener)


# ---- The tables ----------------------------------------------------------------------------------


class Way:
    """A line of a table: a way to replace servers under load.

    make(proxy) gives what replaces, clients(address) who asks. `often`: one restart after the other
    for as long as requests are made. `loses`: something may fail, because something is left out.
    """

    def __init__(self, key, title, make, clients, often=False, loses=True):
        self.key, self.title, self.make, self.clients = key, title, make, clients
        self.often, self.loses = often, loses


def commands(build):
    """07-http that announces its stop, 07-http that does not, 07-evloop."""
    http = [servers.program(build, "07-http"), "--idle-ms", 0]
    echo = [servers.program(build, "07-evloop"), "--idle-ms", 0]
    return [*http, "--notice-ms", NOTICE_MS], [*http, "--notice-ms", 0], echo


def behind_a_proxy(build):
    """{title of a table: its lines}"""
    told, untold, echo = commands(build)
    return {
        "07-http behind HAProxy": [
            Way("announced", "announced, then stopped",
                lambda proxy: Behind(proxy, "web", told), crowd(Web), loses=False),
            Way("stopped", "stopped without a word",
                lambda proxy: Behind(proxy, "web", untold), crowd(Web)),
            Way("killed", "killed", lambda proxy: Killed(proxy, "web", untold), crowd(Web))],
        f"07-evloop behind HAProxy, {SESSION} frames for each connection": [
            Way("drained", "the proxy is told, then stopped",
                lambda proxy: Drained(proxy, "echo", echo), crowd(Echo, SESSION), loses=False),
            Way("undrained", "stopped without a word",
                lambda proxy: Behind(proxy, "echo", echo), crowd(Echo, SESSION)),
            Way("stay", "the same, with clients that stay",
                lambda proxy: Behind(proxy, "echo", echo), crowd(Echo))],
    }


def without_a_proxy(build):
    """The same for one server and its successor."""
    told, untold, echo = commands(build)
    both = half(crowd(Web, thinks=True), crowd(Web, 1))  # those who stay, and those who do not
    web, frames = (half(crowd(kind, 1, thinks=True), crowd(kind, 1)) for kind in (Web, Echo))
    return {
        "No proxy: the new server listens beside the old one, on SO_REUSEPORT": [
            Way("beside", "07-http, announced, then stopped",
                lambda _: Beside(told), both),
            Way("beside-stopped", "07-http, stopped without a word",
                lambda _: Beside(untold), both),
            Way("beside-http", "07-http, one request for each connection",
                lambda _: Beside(untold), web, often=True),
            Way("beside-echo", "07-evloop, one frame for each connection",
                lambda _: Beside(echo), frames, often=True)],
        "No proxy: both servers have inherited the same listener": [
            Way("inherited", "07-http, announced, then stopped",
                lambda _: Inherited(told), both, loses=False),
            Way("inherited-stopped", "07-http, stopped without a word",
                lambda _: Inherited(untold), both),
            Way("inherited-http", "07-http, one request for each connection",
                lambda _: Inherited(untold), web, often=True, loses=False),
            Way("inherited-echo", "07-evloop, one frame for each connection",
                lambda _: Inherited(echo), frames, often=True, loses=False)],
    }


def crowd(kind, each=0, thinks=False):
    """Clients of a kind, each from an address of its own."""
    return lambda address: [kind(address, f"127.0.1.{1 + number}", each, thinks)
                            for number in range(CLIENTS)]


def half(one, other):
    """Clients of two crowds."""
    return lambda address: [*one(address)[::2], *other(address)[1::2]]


def load_for(way, group, proxy, options):
    """Who asks: wrk, where it can."""
    if not isinstance(group, Behind):
        return Load(way.clients(group.address()), options.requests)
    if group.service == "web" and options.wrk:
        return Wrk(proxy, CLIENTS, options.requests)
    return Load(way.clients(proxy.address(group.service)), options.requests)


def run(way, proxy, options):
    """Replace servers one after the other while requests go on: the load, and how many."""
    with way.make(proxy) as group, load_for(way, group, proxy, options) as load:
        done = 0
        with runner.progress(0 if way.often else options.restarts) as step:
            while load.count() < options.requests if way.often else done < options.restarts:
                due = options.requests * (done + 1) // (options.restarts + 1)
                answers = load.answers()
                wait_for(lambda: load.answers() > answers if way.often else load.count() >= due,
                         "no request is answered", load)
                group.replace(done, load)
                done += 1
                step(f"restarts, {load.count():,} requests: {way.title}")
        load.wait()
        return load, done


def show(way, load, restarts):
    """A line of the table, and why requests have failed, if some have."""
    failures = load.failed()
    say(f"  {way.title:48}{restarts:>8,}{sum(load.answered) + failures.total():>12,}"
        f"{failures.total():>8,}")
    for why, count in failures.most_common():
        say(f"      {count:,}: {why}")


def parse_arguments():
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=harness.BUILD)
    parser.add_argument("--requests", type=int, default=100_000, help="for each way")
    parser.add_argument("--restarts", type=int, default=10, help="for each way")
    parser.add_argument("--only", help="ways, such as announced,stopped")
    parser.add_argument("--port", type=int, default=0, help="of the proxy (default: any free one)")
    parser.add_argument("--own", action="store_true", help="no wrk, even if it is there")
    options = parser.parse_args()
    if options.requests < 1 or options.restarts < 0 or not 0 <= options.port <= 65535:
        parser.error("one request or more, a port up to 65535")
    options.wrk = not options.own and shutil.which("wrk")
    proxied = behind_a_proxy(options.build)
    options.tables = {**proxied, **without_a_proxy(options.build)}
    keys = [way.key for table in options.tables.values() for way in table]
    options.keys = options.only.split(",") if options.only else keys
    if unknown := set(options.keys) - set(keys):
        parser.error(f"--only: there is no {', '.join(unknown)}, but " + ", ".join(keys))
    options.proxied = any(way.key in options.keys for table in proxied.values() for way in table)
    return options


def main():
    """0 if nothing was lost where nothing may be."""
    options = parse_arguments()
    lost = 0
    with contextlib.ExitStack() as stack:
        proxy = Proxy(stack, options.port) if options.proxied else None
        say(f"{CLIENTS} clients" + (f", HAProxy {proxy.version()}" if proxy else "")
            + (", wrk for 07-http behind it" if proxy and options.wrk else ""))
        for title, table in options.tables.items():
            chosen = [way for way in table if way.key in options.keys]
            if chosen:
                say(f"\n{title}\n{'':50}{'restarts':>8}{'requests':>12}{'failed':>8}")
            for way in chosen:
                load, restarts = run(way, proxy, options)
                show(way, load, restarts)
                lost += 0 if way.loses else load.failed().total()
    if lost:
        print(f"{lost:,} requests have failed where none may", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    runner.main(servers.run(main))
