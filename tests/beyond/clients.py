"""Clients that go on whatever happens to their server, and count what they did not get.

A request has failed when no whole answer has come, whatever the reason is. Nothing is sent twice: a
browser would repeat a GET that was lost with its connection, but may not repeat an order.
"""

import collections
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

from tests import harness
from tests.beyond import servers
from tests.beyond.servers import PATIENCE, Trouble, wait_for

PAUSE = 0.02  # seconds that a client thinks, if it does


class Failed(Exception):
    """No answer, or not a whole one. Says how."""


class Client:
    """One connection at a time: for `each` requests, or for as long as the server wants (0).

    With `thinks`, it is silent for a while before each request, the first one too.
    """

    def __init__(self, address, source, each=0, thinks=False):
        self.address, self.source, self.each, self.thinks = address, source, each, thinks
        self.socket, self.used = None, 0

    def request(self):
        """Send one and read its answer. Raises Failed."""
        new = self.socket is None
        try:
            if new:
                self.connect()
            if self.thinks:
                time.sleep(PAUSE)  # what this client does, and no time that decides anything
            self.used += 1
            keep = self.exchange() and self.used != self.each
        except OSError as error:
            self.close()
            raise Failed(("new connection: " if new else "kept connection: ")
                         + (error.strerror or str(error) or "no answer")) from None
        if not keep:
            self.close()

    def connect(self):
        """From an address that this client has for itself: no port is used up."""
        self.socket = socket.socket()
        self.used = 0
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind((self.source, 0))
        self.socket.connect(self.address)

    def close(self):
        """Leave."""
        if self.socket:
            self.socket.close()
            self.socket = None

    def exchange(self):
        """One request. False if the server says that it is the last one of this connection."""
        raise NotImplementedError


class Web(Client):
    """Asks 07-http for a page."""

    question = b"GET /bytes/1000 HTTP/1.1\r\nHost: here\r\n\r\n"

    def exchange(self):
        self.socket.sendall(self.question)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.more()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:])
        if not lines[0].startswith(b"http/1.1 200 "):
            raise OSError(lines[0].decode(errors="replace"))
        while len(body) < int(fields[b"content-length"]):
            body += self.more()
        return fields.get(b"connection") != b"close"

    def more(self):
        """Some bytes; an error when there are no more."""
        data = self.socket.recv(65536)
        if not data:
            raise OSError("closed without an answer")
        return data


class Echo(Client):
    """Sends 07-evloop a frame."""

    question = harness.frame(b"x" * 64)

    def exchange(self):
        self.socket.sendall(self.question)
        answer = servers.receive(self.socket, len(self.question))
        if len(answer) < len(self.question):
            raise OSError("closed without an answer")
        if answer != self.question:
            raise OSError("other bytes")
        return True


class Load:
    """Clients that go on until wait(), each on a thread of its own; `total` requests at least."""

    def __init__(self, clients, total):
        self.clients, self.total = clients, total
        self.answered = [0] * len(clients)  # by each
        self.failures = [collections.Counter() for _ in clients]
        self.ending = False
        self.threads = [threading.Thread(target=self.go_on, args=(number,), daemon=True)
                        for number in range(len(clients))]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending = True
        for thread in self.threads:
            thread.join()

    def go_on(self, number):
        """What each thread does."""
        client = self.clients[number]
        while not self.ending:
            try:
                client.request()
                self.answered[number] += 1
            except Failed as failed:
                self.failures[number][str(failed)] += 1
        client.close()

    def count(self):
        """Requests that have been answered, or have failed."""
        return self.answers() + self.failed().total()

    def answers(self):
        """Requests that have been answered."""
        return sum(self.answered)

    def failed(self):
        """{why: how many}"""
        copies = [each.copy() for each in self.failures]  # their threads go on counting
        return sum(copies, collections.Counter())

    def wait(self):
        """Until as many as were asked for have been made, if that is still to come."""
        wait_for(lambda: self.count() >= self.total, "no request is answered", self)
        self.__exit__()


class Wrk:
    """The same for pages behind the proxy, by a program that was not written here."""

    SCRIPT = """
        done = function(summary)
            local e = summary.errors
            print("seen", summary.requests, e.connect, e.read, e.write, e.status, e.timeout)
        end
    """
    ERRORS = ("connect", "read", "write", "status", "timeout")

    def __init__(self, proxy, clients, total):
        self.clients = clients
        self.proxy, self.before, self.total = proxy, proxy.requests(), total
        self.process = self.script = None
        self.answered, self.errors = [], {}

    def __enter__(self):
        self.script = tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8")
        self.script.write(self.SCRIPT)
        self.script.flush()
        host, port = self.proxy.address("web")
        self.process = servers.start(
            ["wrk", "-t", "1", "-c", str(self.clients), "-d", "1h", "--timeout", f"{PATIENCE:.0f}s",
             "-s", self.script.name, f"http://{host}:{port}/bytes/1000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.script.close()

    def count(self):
        """Requests, as the proxy counts them."""
        if self.process.poll() is not None:
            return self.total
        return self.proxy.requests() - self.before

    answers = count  # the proxy answers every one, well or not

    def failed(self):
        """{why: how many}, after wait()."""
        return collections.Counter({name: n for name, n in self.errors.items() if n})

    def wait(self):
        """Until as many as were asked for have been made. wrk itself knows a time only."""
        wait_for(lambda: self.count() >= self.total, "no request is answered", self)
        self.process.send_signal(signal.SIGINT)
        out = self.process.stdout.read()
        seen = re.search(r"^seen\t(.*)", out, re.M)
        if not seen:
            raise Trouble(f"wrk: {out.strip().rpartition(chr(10))[2] or 'killed'}")
        requests, *errors = map(int, seen[1].split())
        self.answered, self.errors = [requests], dict(zip(self.ERRORS, errors))
