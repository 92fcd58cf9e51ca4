"""Run a server under build/shim.so: rules for its calls, and counters while it runs.

    with Shim("accept:2:EMFILE send:*:short=1") as shim:
        server = start(..., env=shim.env())
        ...
        shim["send"].amount          # bytes sent so far
        shim.wait(lambda: shim.signals == 3)

shim.cpp says what the rules mean. Nothing is built here: `make build/shim.so` does that.
"""

import collections
import mmap
import os
import pathlib
import struct
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = ROOT / os.environ.get("BUILD", "build") / "shim.so"

# The layout of struct Shared and struct Counter in tests/outside/shim.cpp.
HEADER = struct.Struct("16s4Q")
COUNTER = struct.Struct("16s8Q")
CALLS = ("accept", "recv", "send", "epoll_wait", "poll", "select", "epoll_ctl", "close")
WAITS = ("epoll_wait", "poll", "select")
SPIN = 1000  # calls without progress in a row

# The errors that the shim knows for each call: the table `errors` in tests/outside/shim.cpp.
LEGAL = {
    "accept": "EINTR EAGAIN ENOMEM ENOBUFS EMFILE ENFILE ECONNABORTED EPERM EPROTO ENETDOWN "
    "ENETUNREACH EHOSTUNREACH",
    "recv": "EINTR EAGAIN ENOMEM ENETUNREACH EHOSTUNREACH ECONNRESET ETIMEDOUT",
    "send": "EINTR EAGAIN ENOMEM ENOBUFS ENETUNREACH EHOSTUNREACH ECONNRESET ETIMEDOUT EPIPE",
    "epoll_wait": "EINTR",
    "poll": "EINTR ENOMEM",
    "select": "EINTR ENOMEM",
    "epoll_ctl": "ENOMEM ENOSPC",
    "close": "EINTR EIO",
}

FIELDS = ("calls", "done", "amount", "interrupted", "again", "failed", "injected", "refused")


class Counter(collections.namedtuple("Counter", FIELDS)):
    """What was counted for one call: see struct Counter in tests/outside/shim.cpp."""

    @property
    def inside(self):
        """Threads that are in this call now; they sleep, or are about to return."""
        return self.calls - self.done


class Shim:
    """The rules for one run of a server, and the counters of that run."""

    def __init__(self, rules="", library=None):
        self.rules = rules
        self.library = pathlib.Path(library or LIBRARY)
        try:
            self.library_file = os.open(self.library, os.O_RDONLY)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.library} is missing: make build/shim.so") from None
        # A file without a name: nothing stays behind, however this process ends.
        self.file = os.memfd_create("shim")
        size = HEADER.size + len(CALLS) * COUNTER.size
        os.truncate(self.file, size)
        self.memory = mmap.mmap(self.file, size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Forget the counters. The server may still be running."""
        self.memory.close()
        os.close(self.file)
        os.close(self.library_file)

    def variables(self):
        """The environment variables that put a server under the shim."""
        ours = f"/proc/{os.getpid()}/fd"
        return {
            # By its descriptor: spaces and colons in a path would part it, see ld.so(8).
            "LD_PRELOAD": f"{ours}/{self.library_file}",
            "SHIM": self.rules,
            "SHIM_COUNTERS": f"{ours}/{self.file}",
            # A server built with -fsanitize=address wants its own library to be the first.
            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", ""),
            # Erlang writes megabytes into its directory when SIGUSR1 ends it.
            "ERL_CRASH_DUMP_BYTES": "0",
        }

    def env(self):
        """A whole environment for subprocess.Popen."""
        return {**os.environ, **self.variables()}

    def _header(self):
        name, *numbers = HEADER.unpack_from(self.memory)
        if numbers[0] and name.rstrip(b"\0") != b"shim 1":
            raise ValueError(f"{self.library} is not the one that this file can read")
        return numbers

    @property
    def pid(self):
        """The process that counts; 0 when no server came under the shim."""
        return self._header()[0]

    @property
    def signals(self):
        """How often the server has caught SIGUSR1."""
        return self._header()[1]

    @property
    def most_fruitless(self):
        """The longest row of calls without progress; SPIN or more is a busy loop."""
        return self._header()[3]

    def __getitem__(self, call):
        """The Counter of one call; of "wait" the sum of the three."""
        if call == "wait":
            return Counter(*map(sum, zip(*(self[name] for name in WAITS))))
        offset = HEADER.size + CALLS.index(call) * COUNTER.size
        return Counter(*COUNTER.unpack_from(self.memory, offset)[1:])

    def injected(self):
        """How many calls were altered."""
        return sum(self[call].injected for call in CALLS)

    def report(self):
        """One line for each call that was made, for a message about a failure."""
        lines = []
        for call in CALLS:
            values = self[call]
            if values.calls:
                text = " ".join(f"{n}={v}" for n, v in zip(FIELDS, values) if v)
                lines.append(f"{call}: {text}")
        return "\n".join(lines)

    def wait(self, condition, what="the counters", seconds=60):
        """Return once condition() holds. The time is for servers that never get there."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds} s for {what}\n{self.report()}")
            time.sleep(0.0005)
