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

    def start(self, *args, env=None, nofile=None, port=0, plugged=False, stderr=None, closed=()):
        """Start a server on a free port and wait until it listens.

        plugged: it finds stdout full when it writes its line, and we look what it does meanwhile.
        stderr: a descriptor in the place of the file that Server.stderr() shows.
        closed: of 0, 1 and 2, those that it finds closed, as after `2>&-`.
        """
        server = Server(self.command, args, env, nofile, port, plugged, stderr=stderr,
                        closed=closed)
        self.servers.append(server)
        return server

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

    def stop(self):
        """End all servers, and close what was opened for them."""
        for server in self.servers:
            server.close()
