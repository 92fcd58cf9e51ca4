"""What a probe gets: the stage it is about, and servers."""

import os

from tests.harness.course import BUILD, SAN, STAGES
from tests.harness.server import Server
from tests.harness.verdict import Fail


class Stage:
    """What a probe gets: the stage's number, and servers."""

    def __init__(self, number, command=None, build=BUILD):
        self.number = number
        self.own = command is None  # one of ours, not a reader's
        self.build = build
        self.name = STAGES[number]
        self.command = command or [os.path.join(build, self.name)]
        self.servers, self.notes = [], []
        self.situation = lambda: ""  # what had been done to the server, to be said if it fails

    def start(self, *args, env=None, nofile=None, port=0, plugged=False, stderr=None, closed=()):
        """Start a server on a free port and wait until it listens.

        plugged: it finds stdout full when it writes its line, and we look what it does meanwhile.
        stderr: a descriptor in the place of the file that Server.stderr() shows.
        closed: of 0, 1 and 2, those that it finds closed, as after `2>&-`.
        """
        server = Server(self.command, args, env, nofile, port, plugged, stderr=stderr,
                        closed=closed, own=self.own)
        self.servers.append(server)
        return server

    def event_loop(self):
        """The event loop of a reader's server, '' if it is none that we know."""
        if self.own:
            return ""
        if not any(server.event_loop for server in self.servers):
            try:
                self.start()  # with its calls altered, it may have ended too early to be known
            except Fail:
                pass
        return next((server.event_loop for server in self.servers if server.event_loop), "")

    def note(self, text):
        """Something to show beside the verdict."""
        self.notes.append(text)

    def finish(self, sent=""):
        """After the probe: is everything alive that should be?"""
        for server in self.servers:
            try:
                server.check_alive()
            except Fail as fail:
                fail.sent = sent
                raise
        if self.own and "address" in SAN:
            for server in self.servers:
                server.check_leaks()

    def require_no_surplus(self):
        """After a probe that was passed: no client has got more than it has sent."""
        for server in self.servers:
            if not server.ending:
                server.come_to_rest()
                for client in server.clients:
                    if client.fileno() != -1:
                        client.require_no_surplus()

    def stop(self):
        """End all servers, and close what was opened for them."""
        for server in self.servers:
            server.close()
