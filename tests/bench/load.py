#!/usr/bin/env python3
"""Measure the seven stages beside each other: `make compare`.

    python3 -m tests.bench.load                       all stages, about two minutes
    python3 -m tests.bench.load --full                more rounds, and what needs more time to show
    python3 -m tests.bench.load --stages 3,4 --scenarios wake10,wake10000 --rounds 10

All stages run at the same time, and are measured in turn: one slice of each, then the next round.
The bytes are checked first, and every byte of the measured load too. What differs by less than it
varies between the rounds is printed as "=". tests/bench/MEASURING.md says how to read it.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import resource
import select
import shlex
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

from tests.harness import runner

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BUILD", "build")  # --build changes it
STAGES = ("01-blocking", "02-select", "03-poll-lt", "04-epoll-lt", "05-epoll-et",
          "06-write-buffering", "07-evloop")
START_SECONDS = 10  # for a server to say that it listens
PHASE_SECONDS = 120  # for one phase of the generator, which has shorter deadlines of its own
WRONG = "WRONG BYTES"
PATIENCE_MS = 1000  # without any progress: what is missing by then stays missing


# ---- what is measured ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One phase of the load generator."""

    key: str
    group: str  # scenarios of a group share a server and its connections; they only become more
    options: dict  # of build/load
    count: int  # frames of the run that counts system calls
    ms: int = 150  # of the timed part
    full: bool = False  # only with --full

    @property
    def title(self):
        """What a reader calls it."""
        o = {"connections": 1, "in-flight": 1, "size": 64, "idle": 0, "churn": 0, "bulk": 0,
             "rate": 0} | self.options
        if o["churn"]:
            return f"{o['churn']} at a time: connect, one frame of {o['size']} bytes, close"
        clients = "1 connection" if o["connections"] == 1 else f"{o['connections']:,} connections"
        title = f"{clients}, {size_name(o['size'])} frames"
        if o["in-flight"] > 1:
            title += f", {o['in-flight']} in flight on each"
        if o["idle"]:
            title += f", among {o['idle']:,} idle"
        if o["bulk"]:
            title += f", beside {o['bulk']} that sends 64 KiB frames"
        if o["rate"]:
            title += f", {o['rate']:,} a second"
        return title


def size_name(size):
    """64 -> "64 B", 65536 -> "64 KiB"."""
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"


def wake(idle):
    """One client talks, others are silent: each frame is one wake-up."""
    return Scenario(f"wake{idle}", "idle", {"connections": 1, "idle": idle}, 300)


SCENARIOS = (
    Scenario("c1", "connections", {"connections": 1}, 1000),
    Scenario("c100", "connections", {"connections": 100}, 5000),
    Scenario("c1000", "connections", {"connections": 1000}, 10000),
    Scenario("flight", "flight", {"connections": 50, "in-flight": 64}, 32000),
    Scenario("bulk", "bulk", {"connections": 10, "size": 65536}, 500),
    wake(10), wake(100), wake(1000),
    Scenario("idle1000", "idle", {"connections": 100, "idle": 1000}, 5000),
    wake(10000),
    Scenario("idle10000", "idle", {"connections": 100, "idle": 10000}, 5000),
    Scenario("churn", "churn", {"churn": 10}, 500),
    Scenario("rate", "rate", {"connections": 100, "rate": 10000}, 2000, ms=1000, full=True),
    Scenario("alone", "alone", {"rate": 1000}, 300, ms=1000, full=True),
    Scenario("beside", "beside", {"rate": 1000, "bulk": 1}, 300, ms=1000, full=True),
)
WAKES = tuple(s.key for s in SCENARIOS if s.key.startswith("wake"))

# Frames of these sizes, so many in flight, so many in all, are sent before anything is measured.
BYTE_CHECK = ((0, 1, 20), (1, 4, 40), (7, 64, 300), (64, 64, 1000), (4096, 16, 300),
              (65528, 2, 100), (65536, 2, 100))


def smaller(scenario):
    """The same with fewer connections and in less time: for a quick look whether it works."""
    options = dict(scenario.options)
    for name, most in (("connections", 30), ("idle", 60), ("in-flight", 8)):
        if name in options:
            options[name] = min(options[name], most)
    return dataclasses.replace(scenario, options=options, ms=30, count=60)


# ---- servers and the generator -------------------------------------------------------------------


def use_build(path):
    """Where the programs are."""
    global BUILD  # pylint: disable=global-statement
    BUILD = pathlib.Path(path).resolve()


def cpus():
    """One core for the server and one for the load, if there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def prepare_child(cpu):
    """Between fork and exec: pin it, raise its descriptor limit, let it end when we do."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class NoStart(Exception):
    """The server does not say that it listens."""


class Server:
    """A server that runs within a `with` block, and not a moment longer."""

    def __init__(self, command, env=None):
        self.command = command
        self.env = {**os.environ, **(env or {})}
        self.process = None
        self.port = None
        self.stderr = None

    def __enter__(self):
        self.stderr = tempfile.TemporaryFile()  # a pipe that nobody reads would fill up
        self.process = subprocess.Popen(
            [*self.command, "--port", "0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=self.stderr, env=self.env, preexec_fn=lambda: prepare_child(cpus()[0]))
        try:
            ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
            line = self.process.stdout.readline().decode() if ready else ""
            if " listening on " not in line:
                raise NoStart(self.said() or repr(line))
            self.port = int(line.rpartition(":")[2])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()

    @property
    def pid(self):
        """Its process id."""
        return self.process.pid

    def said(self):
        """What it has written to stderr."""
        return os.pread(self.stderr.fileno(), 1 << 20, 0).decode(errors="replace").strip()

    def rss(self):
        """Its resident memory in bytes."""
        pages = pathlib.Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()


class Session:
    """A server with a load generator that stays connected from phase to phase."""

    def __init__(self, command, env=None, counters=None):
        self.server = Server(command, env)
        self.env = {**os.environ, **({"SHIM_COUNTERS": counters} if counters else {})}
        self.process = None

    def __enter__(self):
        self.server.__enter__()
        try:
            self.process = subprocess.Popen(
                [str(BUILD / "load"), "--port", str(self.server.port),
                 "--pid", str(self.server.pid), "--patience", str(PATIENCE_MS), "--lines", "1"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.env,
                preexec_fn=lambda: prepare_child(cpus()[1]))
        except BaseException:
            self.server.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.server.__exit__()  # first: a server that is gone closes its connections at once
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def run(self, options):
        """One phase. What was measured; with "why" if it counts for nothing, and then the last."""
        line = " ".join(f"--{name} {value}" for name, value in options.items()) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PHASE_SECONDS)
        answer = self.process.stdout.readline() if ready else b""
        if ready and not answer:
            raise RuntimeError(f"build/load ended with {self.process.wait()} in: {line}")
        result = json.loads(answer) if ready else {"failed": f"no end within {PHASE_SECONDS} s"}
        result["why"] = why_not(result, self.server.said())
        return result


def why_not(phase, said):
    """Why this phase counts for nothing; None if it is good. `said` is the server's stderr."""
    if phase.get("wrong"):
        return WRONG
    if phase.get("failed") or phase.get("lost") or phase.get("missing"):
        if "fd_set" in said:
            return "fd >= 1024"
        if "reads too slowly" in said:
            return f"{phase['lost']} dropped: read too slowly"
        if phase.get("failed"):
            return phase["failed"]
        return f"{phase['lost']} lost, {phase['missing']} missing"
    return None


# ---- one run of the script -----------------------------------------------------------------------


class Progress:
    """One line on stderr that says what is going on."""

    def __init__(self, steps):
        self.steps = steps
        self.step = 0
        self.begin = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.printed = 0

    def __call__(self, text):
        self.step += 1
        seconds = int(time.monotonic() - self.begin)
        line = f"[{self.step}/{self.steps}] {seconds // 60}:{seconds % 60:02} {text}"
        if self.terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif self.step == 1 or time.monotonic() - self.printed > 5:
            print(line, file=sys.stderr, flush=True)
            self.printed = time.monotonic()

    def clear(self):
        """Before something else is printed."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Comparison:
    """What has been measured so far: of each stage and scenario, one sample for each round."""

    def __init__(self, options):
        self.stages = options.stages
        self.scenarios = options.chosen
        self.rounds = options.rounds
        self.full = options.full
        self.samples = {}  # (stage, key) -> [phase, ...]
        self.failed = {}  # (stage, key) -> why
        self.calls = {}  # (stage, key) -> {name: calls per message}
        self.broken = False
        self.extra = {}

    def groups(self):
        """The scenarios that share connections, together."""
        for name in dict.fromkeys(s.group for s in self.scenarios):
            yield [s for s in self.scenarios if s.group == name]

    def check_bytes(self, stage):
        """Frames of all sizes, before anything is measured."""
        try:
            with Session(command_of(stage)) as session:
                for size, flight, count in BYTE_CHECK:
                    why = session.run({"size": size, "in-flight": flight, "count": count})["why"]
                    if why:
                        return self.give_up(stage, f"frames of {size} bytes: {why}")
        except NoStart as reason:
            print(f"{stage}: {reason}", file=sys.stderr)
            self.give_up(stage, "does not start")
        return None

    def give_up(self, stage, why):
        """It is not measured at all, and that is a failure of the run."""
        self.broken = True
        for scenario in self.scenarios:
            self.failed[stage, scenario.key] = why

    def measure(self, group, progress):
        """All rounds of a group. All stages are up meanwhile, and idle unless it is their turn."""
        with contextlib.ExitStack() as stack:
            sessions = {}
            for scenario in group:
                for number in range(1, self.rounds + 1):
                    for stage in self.stages:
                        progress(f"{scenario.key}, round {number} of {self.rounds}: {stage}")
                        if (stage, scenario.key) in self.failed:
                            continue
                        if stage not in sessions:
                            sessions[stage] = stack.enter_context(Session(command_of(stage)))
                        if not self.slice(sessions[stage], stage, scenario):
                            sessions.pop(stage).__exit__()

    def slice(self, session, stage, scenario):
        """One sample. False if there is none, and the session is of no use any more."""
        for longer in (1, 4, 16):  # on a machine so busy that not one echo came
            result = session.run({**scenario.options, "ms": scenario.ms * longer})
            if result["why"] or result["messages"]:
                break
        if not result["why"] and not result["messages"]:
            result["why"] = "not one echo in time"
        if result["why"]:
            self.failed[stage, scenario.key] = result["why"]
            self.broken |= result["why"] == WRONG
            return False
        self.samples.setdefault((stage, scenario.key), []).append(result)
        return True

    def count_calls(self, group, progress):
        """The same under the shim, which slows the server down: so never what is timed."""
        for stage in self.stages:
            progress(f"{group[0].group}, counting system calls: {stage}")
            members = [s for s in group if (stage, s.key) not in self.failed
                       and (self.full or s.options.get("idle", 0) <= 1000)]
            if not members or load_shim() is None:
                continue
            with shim_session(stage) as session:
                for scenario in members:
                    result = session.run({**scenario.options, "count": scenario.count})
                    if result["why"]:
                        break
                    self.calls[stage, scenario.key] = per_message(result)

    def result(self, stage, key):
        """Medians and single values of one stage and scenario, for JSON."""
        if (stage, key) in self.failed:
            return {"failed": self.failed[stage, key]}
        samples = self.samples.get((stage, key), [])
        if not samples:
            return {"failed": "not measured"}
        calls = self.calls.get((stage, key))
        values = {name: [of(sample) for sample in samples] for name, of in METRICS.items()}
        return {name: {"median": statistics.median(v), "spread": spread(v), "rounds": v}
                for name, v in values.items()} | {
                    "calls": sum(calls.values()) if calls else None, "calls_by_name": calls or {}}


def command_of(stage):
    """How to start it. 07 would close clients that are idle for a minute."""
    return [str(BUILD / stage)] + (["--idle-ms", "0"] if stage == STAGES[-1] else [])


def load_shim():
    """tests/outside/shim.py, or None if the shim is not built."""
    try:
        from tests.outside import shim  # pylint: disable=import-outside-toplevel
    except ImportError:
        return None
    return shim if (BUILD / "shim.so").exists() else None


@contextlib.contextmanager
def shim_session(stage):
    """A session in which the server's calls are counted."""
    with load_shim().Shim(library=BUILD / "shim.so") as counters:
        env = counters.variables()
        with Session(command_of(stage), env, env["SHIM_COUNTERS"]) as session:
            yield session


def per_message(result):
    """Calls by name."""
    return {name: n / result["messages"] for name, n in result["calls"].items() if n}


METRICS = {
    "throughput": lambda p: p["messages"] / p["seconds"],  # per second
    "cpu_us": lambda p: p["server_cpu"] * 1e6 / max(p["messages"], 1),  # per message
    "p50_us": lambda p: p["latency_us"]["p50"],
    "p99_us": lambda p: p["latency_us"]["p99"],
    "p999_us": lambda p: p["latency_us"]["p999"],
    "rss_mib": lambda p: p["rss_kib"] / 1024,
    "server_busy": lambda p: p["server_cpu"] / p["seconds"],  # 1: its core had no pause
    "load_busy": lambda p: p["load_cpu"] / p["seconds"],
    "switches": lambda p: p["switches"] / max(p["messages"], 1),  # per message
}


def spread(values):
    """How far values lie apart: the middle half of many, the range of a few."""
    if len(values) < 5:
        return max(values) - min(values)
    low, _, high = statistics.quantiles(values, n=4)
    return high - low


def change(before, after):
    """How `after` differs from `before`: "=" if by less than that varies between the rounds."""
    ratios = [b / a for a, b in zip(before, after) if a]
    if not ratios:
        return ""
    ratio = statistics.median(ratios)
    if len(ratios) < 2:
        return ""
    if abs(ratio - 1) <= max(spread(ratios), 0.005):
        return "="
    return f"x{ratio:.1f}" if ratio >= 2 else f"{(ratio - 1) * 100:+.0f} %"


# ---- what only --full measures -------------------------------------------------------------------


def frame(payload):
    """A frame as in 07-evloop/frame.h."""
    return b"EVLP" + struct.pack(">I", len(payload)) + payload


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
    with Session(command_of(stage)) as session, SlowReader(session.server.port) as slow:
        time.sleep(0.5)  # until all buffers on its way are full
        result = session.run({"rate": 500, "ms": 1500})
        return {"fast": result["why"] or result["latency_us"],
                "slow": slow.ended or f"{slow.received} bytes", "said": session.server.said()}


def stalled_memory(stage, clients=50, most=12 << 20):
    """Bytes of memory per client that sends and never reads, and whether others are served."""
    data = memoryview(frame(bytes(65528)) * (most >> 16))
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session(command_of(stage)))
        before = session.server.rss()
        sockets = [stack.enter_context(connect(session.server.port)) for _ in range(clients)]
        sent, lost = push(sockets, data)
        result = session.run({"count": 100})
        return {"clients": clients, "bytes": (session.server.rss() - before) / clients,
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


def burst_calls(stage, bursts=300):
    """Calls for one burst of 64 KiB on an otherwise idle connection."""
    if load_shim() is None:
        return {}
    with shim_session(stage) as session:
        result = session.run({"size": 65528, "count": bursts})
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


# ---- tables --------------------------------------------------------------------------------------


def scenario_table(comparison, scenario):
    """One scenario: a line per stage, 80 columns."""
    lines = [scenario.title,
             f"{'':18}{'messages/s':>10}{'CPU us':>8}{'+-':>7}{'change':>7}"
             f"{'p50 us':>8}{'p99':>8}{'p99.9':>8}{'calls':>6}"]
    before = None
    for stage in comparison.stages:
        r = comparison.result(stage, scenario.key)
        if "failed" in r:
            lines.append(f"{stage:18}{'-':>10}  {r['failed']}")
            continue
        changed = change(before["cpu_us"]["rounds"], r["cpu_us"]["rounds"]) if before else ""
        calls = "-" if r["calls"] is None else f"{r['calls']:.{2 if r['calls'] < 100 else 1}f}"
        lines.append(
            f"{stage:18}{r['throughput']['median']:>10,.0f}"
            f"{r['cpu_us']['median']:>8.2f}{r['cpu_us']['spread']:>7.2f}{changed:>7}"
            f"{r['p50_us']['median']:>8,.0f}{r['p99_us']['median']:>8,.0f}"
            f"{r['p999_us']['median']:>8,.0f}{calls:>6}")
        before = r
    return "\n".join(lines)


def wake_table(comparison):
    """The curve of the course: what a wake-up costs among how many idle clients."""
    keys = [s for s in comparison.scenarios if s.key in WAKES]
    if not keys:
        return ""
    lines = ["Server CPU per wake-up, in us: one client talks, the others are idle",
             f"{'idle clients':18}" + "".join(f"{s.options['idle']:>14,}" for s in keys)]
    for stage in comparison.stages:
        line = f"{stage:18}"
        for s in keys:
            r = comparison.result(stage, s.key)
            if "failed" in r:
                line += f"   {r['failed']}"
                break  # with more clients it will be no better
            line += f"{r['cpu_us']['median']:>14,.2f}"
        lines.append(line)
    return "\n".join(lines)


def idle_memory(comparison):
    """Bytes of user memory per idle connection, from the ends of the curve."""
    keys = [s for s in comparison.scenarios if s.key in WAKES]
    result = {}
    for stage in comparison.stages:
        points = [(s.options["idle"], comparison.result(stage, s.key)["rss_mib"]["median"])
                  for s in keys if "failed" not in comparison.result(stage, s.key)]
        if len(points) > 1:
            (few, low), (many, high) = points[0], points[-1]
            result[stage] = (high - low) * (1 << 20) / (many - few)
    return result


def extra_tables(comparison):
    """What --full has found besides."""
    extra = comparison.extra
    if not extra:
        return
    print("\nA slow reader beside a fast client (500 frames a second)")
    print(f"{'':18}{'fast: p50 us':>14}{'p99.9':>10}   the slow one")
    for stage, r in extra["slow_reader"].items():
        fast = r["fast"]
        cells = (f"{fast['p50']:>14,.0f}{fast['p999']:>10,.0f}" if isinstance(fast, dict)
                 else f"{fast:>24}")
        print(f"{stage:18}{cells}   {r['slow']}")
    print("\nClients that send and never read")
    for stage, r in extra["stalled"].items():
        print(f"{stage:18}{r['bytes'] / 1024:>8,.0f} KiB each, {r['dropped']} of {r['clients']}"
              f" dropped, others: {r['others']}")
    print("\nCalls per burst of 64 KiB")
    for stage, calls in extra["burst"].items():
        text = ", ".join(f"{name} {n:.2f}" for name, n in calls.items())
        print(f"{stage:18}{sum(calls.values()):>6.2f}  {text or 'make build/shim.so'}")


def print_tables(comparison):
    """All of it, in the terminal."""
    print("CPU us, calls: of the server, per message. +-: spread of the rounds.\n"
          "change: of the CPU against the stage above; = is less than what varies.\n")
    for scenario in comparison.scenarios:
        if scenario.key not in WAKES:
            print(scenario_table(comparison, scenario), end="\n\n")
    print(wake_table(comparison))
    memory = idle_memory(comparison)
    if memory:
        print("Bytes of memory per idle connection:\n  "
              + ", ".join(f"{stage[:2]} {value:,.0f}" for stage, value in memory.items()))
    if load_shim() is None:
        print("\nSystem calls were not counted: make build/shim.so")
    busy = [(s.title, stage) for s in comparison.scenarios for stage in comparison.stages
            if comparison.result(stage, s.key).get("load_busy", {}).get("median", 0) > 0.95]
    if busy:
        print(f"\nIn {len(busy)} cells the load generator's core was busy for over 95 % of the"
              " time:\nthere the throughput is the generator's; compare CPU per message.")
    extra_tables(comparison)


def machine():
    """Where the numbers come from."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    server, load = cpus()
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(),
            "kernel": f"{platform.system()} {platform.release()}",
            "pinned": f"server to core {server}, load to core {load}" if server is not None
            else "one core for both"}


def as_json(comparison, arguments):
    """Everything, for tests/bench/chart.py and whoever wants to look closer."""
    return {
        "command": shlex.join(["tests/bench/load.py", *arguments]),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "rounds": comparison.rounds,
        "stages": list(comparison.stages),
        "scenarios": [{"key": s.key, "title": s.title, "options": s.options,
                       "results": {stage: comparison.result(stage, s.key)
                                   for stage in comparison.stages}}
                      for s in comparison.scenarios],
        "idle_bytes": idle_memory(comparison),
        "extra": comparison.extra,
    }


# ---- the command line ----------------------------------------------------------------------------


def numbered_stages(text):
    """"4,5" -> their names."""
    try:
        return tuple(STAGES[int(n) - 1] for n in text.split(",") if int(n) > 0)
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(f"{text}: stages are 1 to {len(STAGES)}") from None


def parse_arguments(arguments):
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=numbered_stages, default=STAGES, metavar="4,5")
    parser.add_argument("--scenarios", metavar="KEY,KEY", help="of: "
                        + " ".join(s.key for s in SCENARIOS))
    parser.add_argument("--rounds", type=int, help="of all stages (default 5, with --full 11)")
    parser.add_argument("--full", action="store_true", help="everything, in about 15 minutes")
    parser.add_argument("--quick", action="store_true", help="does it work? The numbers are none")
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="where the programs are")
    parser.add_argument("--json", type=pathlib.Path, help="where to write all numbers, and SVG"
                        " charts beside it (default compare.json in the build directory)")
    parser.add_argument("--no-charts", action="store_true", help="write no SVG files")
    options = parser.parse_args(arguments)
    options.json = options.json or options.build / "compare.json"
    options.rounds = options.rounds or (11 if options.full else 1 if options.quick else 5)

    keys = options.scenarios.split(",") if options.scenarios else [
        s.key for s in SCENARIOS if options.full or not s.full]
    unknown = set(keys) - {s.key for s in SCENARIOS}
    if unknown:
        parser.error(f"--scenarios: unknown: {', '.join(sorted(unknown))}")
    chosen = tuple(s for s in SCENARIOS if s.key in keys)
    options.chosen = tuple(map(smaller, chosen)) if options.quick else chosen
    return options


def compare(options):
    """Measure all that was asked for."""
    comparison = Comparison(options)
    groups = list(comparison.groups())
    progress = Progress(len(options.stages) * (
        1 + len(groups) + 3 * options.full + options.rounds * len(options.chosen)))
    for stage in options.stages:
        progress(f"checking bytes: {stage}")
        comparison.check_bytes(stage)
    for group in groups:
        comparison.measure(group, progress)
        comparison.count_calls(group, progress)
    if options.full:
        comparison.extra = measure_extra(options.stages, progress)
    progress.clear()
    return comparison


def write_charts(path):
    """The pictures beside the JSON, drawn by tests/bench/chart.py."""
    subprocess.run([sys.executable, "-m", "tests.bench.chart", str(path.resolve()), "--out",
                    str(path.resolve().parent)], cwd=ROOT, check=False)


def main(arguments):
    """Exit status 0 if every byte came back; what a stage cannot do by design is no failure."""
    options = parse_arguments(arguments)
    use_build(options.build)
    missing = [name for name in ("load", *options.stages) if not (BUILD / name).exists()]
    if missing:
        print(f"not in {BUILD}: {' '.join(missing)}. Run make first.", file=sys.stderr)
        return 2
    comparison = compare(options)
    print_tables(comparison)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(as_json(comparison, arguments), indent=1) + "\n",
                            encoding="utf-8")
    print(f"\nAll numbers: {options.json}")
    if not options.no_charts:
        write_charts(options.json)
    return 1 if comparison.broken else 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
