"""Sweeps: the k-th call fails, for each call, each error that it may have, and each k.

A server has a path for every error, and no client can lead it into most of them. So they are all
walked here, on every stage: the first recv() fails with ECONNRESET, in the next run the second, and
so on until a run has no more such calls. After each run the server must be alive, have the
descriptors that it started with, and have answered everybody whom the error did not concern.

    python3 -m tests.loop.test_sweeps            all stages
    python3 -m tests.loop.test_sweeps Sweeps.test_04_epoll_lt
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BUILD", "build")
from tests import harness
from tests.outside.shim import LEGAL, SPIN, Shim

FAILSAFE = 60 * harness.SLOWER  # seconds after which a server that does not answer is said to hang
WORKERS = 4  # runs at a time

# Of accept(): not the error of one connection, so that it is not tried again at once. (EPERM is a
# firewall's, and the connection stays in the queue.)
OF_THE_LISTENER = {"EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"}

# After these the client whom the call was about may be gone. After all others nobody may.
FATAL = {
    "recv": {"ENOMEM", "ENETUNREACH", "EHOSTUNREACH", "ECONNRESET", "ETIMEDOUT"},
    "send": {"ENOMEM", "ENOBUFS", "ENETUNREACH", "EHOSTUNREACH", "ECONNRESET", "ETIMEDOUT",
             "EPIPE"},
    "epoll_ctl": {"ENOMEM", "ENOSPC"},
}  # fmt: skip


def clients_at_stake(stage, call, what):
    """How many clients may be lost by this error: 0 or 1."""
    if what in FATAL.get(call, ()):
        return 1
    if stage.startswith("05") and (call, what) == ("send", "EAGAIN"):
        return 1  # its header: a client that reads too slowly is dropped
    if stage.startswith("07") and call == "accept" and what in OF_THE_LISTENER:
        return 1  # the excess is refused or waits
    return 0


class Hang(Exception):
    """Something that must come did not."""


class Ended(Exception):
    """The server has exited, was killed, or takes no connection."""


def frame(size):
    """A message with that many bytes of payload, not all the same."""
    pattern = bytes(range(251))
    return harness.frame((pattern * (size // len(pattern) + 1))[:size])


class Run:
    """One server, under the shim, with the clients of one run."""

    def __init__(self, stage, call, k, what):
        self.stage, self.call, self.k, self.what = stage, call, k, what
        # With SIGUSR1 stage 01 can be woken when it sleeps a second because accept() failed.
        self.shim = Shim(f"{call}:{k}:{what} SIGUSR1")
        self.said = tempfile.TemporaryFile()
        self.server, self.clients, self.deadline = None, [], None

    def __str__(self):
        return f"{self.stage} with {self.call}:{self.k}:{self.what}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.socket.close()
        if self.server:
            self.server.close()
        self.shim.close()
        self.said.close()

    def happened(self):
        """Has the server come to the call? (What is not legal there is not done.)"""
        counter = self.shim[self.call]
        return counter.injected + counter.refused > 0

    def stderr(self):
        """What the server has said so far."""
        return os.pread(self.said.fileno(), 1 << 20, 0).decode()

    def check_time(self, what):
        """Raise if the server has ended, or the run takes too long."""
        if self.server.exited():
            raise Ended(f"{self}: {self.server.describe()} while waiting for {what}\n"
                        f"{self.stderr()}")
        if self.deadline.passed():
            raise Hang(f"{self}: waited {FAILSAFE} s for {what}\n{self.shim.report()}")

    def wait(self, condition, what):
        """Return once the condition holds."""
        while not condition():
            self.check_time(what)
            time.sleep(0.0005)

    def listening(self):
        """Start it, and wait until it sleeps. False if its set-up has failed, as it should."""
        try:
            self.server = harness.Server([str(BUILD / self.stage)], env=self.shim.variables(),
                                         stderr=self.said.fileno())
        except harness.NoStart as fail:
            self.check_set_up_failure(fail)
            return False
        self.deadline = harness.Deadline(FAILSAFE, self.server.pid)
        self.wait(lambda: self.shim["accept"].inside + self.shim["wait"].inside > 0, "sleep")
        self.fds = set(self.server.fds())
        return True

    def check_set_up_failure(self, fail):
        """It has ended before it listened: with status 1 and one line, and for a reason."""
        right = self.call == "epoll_ctl" and "exited with status 1," in fail.seen
        if not right or self.stderr().count("\n") != 1:
            raise AssertionError(f"{self}: {fail.seen}: {self.stderr()}")

    def connect(self):
        """A new client."""
        try:
            client = Client(self)
        except OSError as error:
            raise Ended(f"{self}: cannot connect: {error}\n{self.shim.report()}") from error
        self.clients.append(client)
        return client

    def help_along(self):
        """Do what the documented limits ask for when accept() failed for good.

        05 and 06 leave the client in the queue until another one comes, 01 sleeps for a second.
        """
        if self.call != "accept" or self.what not in OF_THE_LISTENER or not self.happened():
            return
        if self.stage.startswith("01"):
            self.server.signal(signal.SIGUSR1)
        elif self.stage[:2] in ("05", "06") and not any(c.helps for c in self.clients):
            self.connect().helps = True


class Client:
    """A client that expects its bytes back, and notices when the server drops it."""

    def __init__(self, run):
        self.run = run
        self.dropped = False
        self.helps = False
        self.socket = socket.socket()
        self.socket.settimeout(FAILSAFE)
        try:
            self.socket.connect((run.server.host, run.server.port))
        except ConnectionResetError:  # accepted and dropped before connect() could return
            self.dropped = True
        except OSError:
            self.socket.close()
            raise

    def receive(self, wanted):
        """Read until `wanted` is there. Drops are noted; a wrong byte is an error."""
        got = bytearray()
        while len(got) < len(wanted):
            if not select.select([self.socket], [], [], 0.02)[0]:
                self.run.help_along()
                self.run.check_time(f"an answer, {len(got)} of {len(wanted)} bytes are there")
                continue
            data = self.receive_once()
            if not data:
                break
            got += data
        if got != wanted[:len(got)]:
            raise AssertionError(f"{self.run}: wrong bytes")
        self.dropped = len(got) < len(wanted)

    def receive_once(self):
        """Some bytes; none when the server has closed or reset the connection."""
        try:
            return self.socket.recv(1 << 17)
        except ConnectionError:
            return b""

    def send(self, size):
        """Send a frame. True if the client is still served; returns what must come back."""
        message = frame(size)
        try:
            self.socket.sendall(message)
        except ConnectionError:
            self.dropped = True
        return message

    def exchange(self, size):
        """Send a frame and read it back."""
        if not self.dropped:
            message = self.send(size)
            self.receive(message)

    def half_close(self, size):
        """Send a frame and no more, read it back, and the end after it."""
        if self.dropped:
            return
        message = self.send(size)
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.dropped = True
        self.receive(message)
        if not self.dropped and self.receive_once():
            raise AssertionError(f"{self.run}: bytes after the end")
        self.socket.close()

    def reset(self):
        """Leave without a farewell: RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def one_after_another(run):
    """For stage 01, which serves one client at a time."""
    first = run.connect()
    first.exchange(100)
    first.exchange(70_000)
    first.half_close(10)
    second = run.connect()
    second.exchange(1000)
    second.reset()
    run.connect().half_close(0)


def side_by_side(run):
    """Three clients whose calls are mixed."""
    first = run.connect()
    first.exchange(100)
    second = run.connect()
    second.exchange(0)
    first.exchange(70_000)
    second.half_close(10)
    third = run.connect()
    third.exchange(1000)
    third.reset()
    first.half_close(1)
    run.connect().exchange(50)


def check_after(run):
    """The clients have gone: what must hold for the server."""
    for client in run.clients:
        client.socket.close()
    run.wait(lambda: set(run.server.fds()) == run.fds, f"the descriptors {sorted(run.fds)}")
    run.check_time("nothing")

    dropped = sum(client.dropped for client in run.clients)
    allowed = clients_at_stake(run.stage, run.call, run.what) if run.happened() else 0
    if dropped > allowed:
        raise AssertionError(f"{run}: {dropped} clients dropped, {allowed} may be")
    if run.shim.most_fruitless >= SPIN:
        raise AssertionError(f"{run}: a busy loop, {run.shim.most_fruitless} calls in vain")
    close = run.shim["close"]
    if close.failed > (close.injected if run.what == "EIO" else 0):
        raise AssertionError(f"{run}: closes a number that is not open")


def run_once(stage, call, k, what):
    """One run. True if there was a k-th call."""
    with Run(stage, call, k, what) as run:
        if not run.listening():
            return True
        workload = one_after_another if stage.startswith("01") else side_by_side
        workload(run)
        check_after(run)
        return run.happened()


def sweep(stage, call, what):
    """The k-th call fails, k = 1, 2, ... Returns the number of runs."""
    k = 1
    while run_once(stage, call, k, what):
        k += 1
    return k


def all_faults():
    """Each call with each way to alter it."""
    for call, errors in LEGAL.items():
        if call in ("recv", "send"):
            yield call, "short=1"
        for what in errors.split():
            yield call, what


def workers():
    """Processes, and not threads: each begins servers by fork(), which is not safe beside one."""
    return concurrent.futures.ProcessPoolExecutor(
        WORKERS, multiprocessing.get_context("fork"), harness.die_with_parent, [os.getpid()])


class Sweeps(unittest.TestCase):
    """One test for each stage, added below."""

    def sweep_stage(self, stage):
        """All faults on one stage; every failure is reported, not only the first."""
        begin = time.monotonic()
        runs = 0
        with workers() as pool:
            tasks = {pool.submit(sweep, stage, *fault): fault for fault in all_faults()}
            try:
                for task in concurrent.futures.as_completed(tasks):
                    with self.subTest(fault=":k:".join(tasks[task])):
                        runs += task.result()
            except BaseException:  # Ctrl-C: finish what runs, start nothing new
                pool.shutdown(cancel_futures=True)
                raise
        seconds = time.monotonic() - begin
        print(f"{stage}: {runs} runs in {seconds:.0f} s", file=sys.stderr, flush=True)
        self.assertGreater(runs, len(tasks))


def add_tests():
    """Sweeps.test_01_blocking and so on, for the stages that exist."""
    for source in sorted(ROOT.glob("0*/server.cpp")):
        stage = source.parent.name
        name = "test_" + stage.replace("-", "_")
        setattr(Sweeps, name, lambda self, stage=stage: self.sweep_stage(stage))


add_tests()

if __name__ == "__main__":
    unittest.main()
