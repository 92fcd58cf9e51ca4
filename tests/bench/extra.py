"""What only `make compare FULL=1` measures, and what no phase of the generator alone can show."""

import contextlib
import select
import socket
import threading
import time

from tests.bench import load
from tests.bench.rounds import per_message
from tests.harness import frame
from tests.outside import kernel

STALLED, STALLED_BYTES = 50, 12 << 20  # clients that never read, and the most that each may send
BURSTS = 300


def connect(port):
    """A client with a small receive buffer: the kernel's default would take megabytes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


class SlowReader:
    """A client that sends all it can and reads 16 KiB every 20 ms, on a thread of its own."""

    def __init__(self, port):
        self.socket = connect(port)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.received = 0
        self.ended = None  # how the server ended it
        self.out = frame(bytes(65528)) * 16

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()
        self.socket.close()

    def run(self):
        """Send and read until stopped or ended."""
        at = 0
        while not self.stopped.wait(0.02):
            try:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        at = (at + self.socket.send(self.out[at:])) % len(self.out)
                with contextlib.suppress(BlockingIOError):
                    part = self.socket.recv(16384)
                    self.received += len(part)
                    if not part:
                        self.ended = "closed"
                        return
            except OSError as error:
                self.ended = error.strerror
                return


def beside_slow_reader(stage):
    """Who suffers when one client reads slowly and another is fast?"""
    with load.Session(load.command_of(stage)) as session, SlowReader(session.server.port) as slow:
        time.sleep(0.5)  # until all buffers on its way are full
        result = session.run({"rate": 500, "ms": 1500})
        return {"fast": result["why"] or result["latency_us"],
                "slow": slow.ended or f"{slow.received} bytes",
                "said": session.server.stderr().strip()}


def stalled_memory(stage):
    """Bytes of memory per client that sends and never reads, and whether others are served."""
    data = memoryview(frame(bytes(65528)) * (STALLED_BYTES >> 16))
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(load.Session(load.command_of(stage)))
        before = kernel.memory_kib(session.server.pid)
        sockets = [stack.enter_context(connect(session.server.port)) for _ in range(STALLED)]
        sent, lost = push(sockets, data)
        result = session.run({"count": 100})
        grown = kernel.memory_kib(session.server.pid) - before
        return {"clients": STALLED, "bytes": grown * 1024 / STALLED,
                "sent": sent, "dropped": lost, "others": result["why"] or "served"}


def push(sockets, data):
    """Send until nobody takes any more for half a second. How many bytes, how many were dropped."""
    at = dict.fromkeys(sockets, 0)
    lost = 0
    while at:
        _, writable, _ = select.select([], list(at), [], 0.5)
        if not writable:
            break
        for s in writable:
            try:
                at[s] += s.send(data[at[s]:at[s] + 65536])
            except BlockingIOError:
                continue
            except OSError:
                lost += 1
                del at[s]
                continue
            if at[s] == len(data):
                del at[s]
    return sum(at.values()), lost


def burst_calls(stage):
    """Calls for one burst of 64 KiB on an otherwise idle connection."""
    if not load.has_shim():
        return {}
    with load.shim_session(stage) as session:
        result = session.run({"size": 65528, "count": BURSTS})
        return {} if result["why"] else per_message(result)


def measure_extra(stages, progress):
    """Everything that only --full shows and that is no scenario of the generator alone."""
    extra = {"slow_reader": {}, "stalled": {}, "burst": {}}
    for stage in stages:
        progress(f"{stage}: beside a slow reader")
        extra["slow_reader"][stage] = beside_slow_reader(stage)
        progress(f"{stage}: memory of clients that never read")
        extra["stalled"][stage] = stalled_memory(stage)
        progress(f"{stage}: calls per burst")
        extra["burst"][stage] = burst_calls(stage)
    return extra
