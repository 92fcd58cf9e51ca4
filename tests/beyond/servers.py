"""Servers that are started beside each other, told to stop, and looked at: what this room shares.

An Instance is one process of 07-http or 07-evloop. It gets a port of its own, or one that another
instance has already (--reuse-port), or a listener that somebody else has opened for it: number 3,
announced by LISTEN_FDS and LISTEN_PID, as systemd does it (sd_listen_fds(3)).
"""

import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

from tests import harness
from tests.outside import kernel

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where haproxy is, also for those not root
START_SECONDS = 10  # for a server to say that it listens
PATIENCE = 30 * harness.SLOWER  # seconds without what must come

# A shell can hand on a listener: it arrives as number 0 and leaves as number 3.
INHERIT = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&0 </dev/null'


class Trouble(Exception):
    """Something outside of these scripts is not as it must be. Said in one line."""


def say(*words):
    """A line for people, at once."""
    print(*words, flush=True)


def wait_for(condition, what, load=None):
    """Until it holds. Trouble when it does not for long, and no request is answered meanwhile."""
    seen, end = -1, 0
    while not condition():
        answers = load.answers() if load else 0
        if answers != seen:
            seen, end = answers, time.monotonic() + PATIENCE
        if time.monotonic() > end:
            raise Trouble(f"{what} within {PATIENCE:.0f} s")
        time.sleep(0.002)  # lets the others run


def program(build, name):
    """The path of a program; Trouble if it is not built."""
    path = pathlib.Path(build, name).resolve()
    if not path.exists():
        raise Trouble(f"not in {build}: {name}. Run make first.")
    return str(path)


def listen():
    """A listening socket, for instances that inherit it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(socket.SOMAXCONN)
    return listener


def receive(connection, count):
    """So many bytes, or fewer where the connection ends before."""
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


class Instance:
    """One running server."""

    def __init__(self, command, port=0, listener=None):
        command = [*map(str, command)]
        self.name = pathlib.Path(command[0]).name
        if listener is None:
            command += ["--port", str(port)]
        else:
            command = ["/bin/sh", "-c", INHERIT, *command]
        self.stderr = tempfile.TemporaryFile()  # a pipe that nobody reads would fill up
        self.last_words = ""  # when that is closed
        self.process = start(
            command, stdin=listener or subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=self.stderr)
        try:
            self.host, self.port = self.address()
        except BaseException:
            self.kill()
            raise

    def address(self):
        """Wait for the one line on stdout, which says where it listens."""
        ready = select.select([self.process.stdout], [], [], START_SECONDS * harness.SLOWER)[0]
        line = self.process.stdout.readline().decode(errors="replace") if ready else ""
        host, colon, port = line.rpartition(" listening on ")[2].strip().rpartition(":")
        if not colon:
            ended = self.process.poll() is not None or (ready and not line)
            why = self.said() or ("it has ended" if ended else f"it says {line!r}")
            raise Trouble(f"{self.name} does not come up: {why}")
        return host, int(port)

    @property
    def pid(self):
        """Its process id."""
        return self.process.pid

    def said(self):
        """The last line that it wrote to stderr."""
        if self.stderr.closed:
            return self.last_words
        text = os.pread(self.stderr.fileno(), 1 << 20, 0).decode(errors="replace").strip()
        return harness.printable(text.rpartition("\n")[2])

    def terminate(self):
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """Its exit status, once it has ended."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{self.name} has not ended {PATIENCE:.0f} s after SIGTERM: "
                          f"{self.said()}") from None
        finally:
            self.kill()

    def kill(self):
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.last_words = self.said()
        self.process.stdout.close()
        self.stderr.close()

    def user_bytes(self):
        """Memory that belongs to this process alone, and not to the files that it has mapped."""
        return kernel.memory_kib(self.pid, "RssAnon") * harness.KIB


def start(command, **more):
    """A process with every descriptor that it may have, and an end with ours. Clients run beside.

    It is out of the way of a Ctrl-C, too. Who ends it knows in which order.
    """
    harness.raise_fd_limit()  # for us, as it is inherited
    return subprocess.Popen(harness.tied(command), process_group=0, **more)


def run(main):
    """Run a command of this room: Trouble is one line, and exit status 1."""
    def function():
        try:
            return main()
        except (Trouble, OSError) as trouble:
            print(trouble, file=sys.stderr)
            return 1
    return function
