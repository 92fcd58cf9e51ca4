"""A server and the load generator beside it: `build/load`, phase after phase."""

import contextlib
import datetime
import json
import os
import pathlib
import select
import shlex
import subprocess
import sys

from tests import harness
from tests.outside import host, shim

ROOT = pathlib.Path(harness.ROOT)
BUILD = pathlib.Path(harness.BUILD)  # --build changes it
STAGES = tuple(harness.STAGES.values())
PHASE_SECONDS = 120  # for one phase of the generator, which has shorter deadlines of its own
WRONG = "WRONG BYTES"
DROPPED = "dropped: read too slowly"  # stage 5 does so, where the kernel's buffers are small
LONGER = 4, 16, 64  # times
PATIENCE_MS = 1000  # without any progress: what is missing by then stays missing


def use_build(path):
    """Where the programs are."""
    global BUILD  # pylint: disable=global-statement
    BUILD = pathlib.Path(path).resolve()


def is_missing(*names):
    """Says which of these programs are not built, if one is not."""
    missing = [name for name in names if not (BUILD / name).exists()]
    if missing:
        print(f"not in {BUILD}: {' '.join(missing)}. Run make first.", file=sys.stderr)
    return bool(missing)


def cpus():
    """One core for the server and one for the load, if there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def pinned(command, cpu):
    """How to run it on this core, with all descriptors it may have, until this process ends."""
    harness.raise_fd_limit()  # for us, as it is inherited
    core = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
    return [*core, *harness.tied(command)]


def command_of(stage):
    """How to start it. 07 would close clients that are idle for a minute."""
    return [str(BUILD / stage)] + (["--idle-ms", "0"] if stage == STAGES[-1] else [])


def server(command, env=None):
    """A server on a core of its own, for a with block."""
    return harness.Server(command, env=env, cpu=cpus()[0])


class Session:
    """A server with a load generator that stays connected from phase to phase."""

    def __init__(self, command, env=None, counters=None):
        self.command, self.server_env = command, env
        self.env = {**os.environ, **({"SHIM_COUNTERS": counters} if counters else {})}
        self.server = self.process = None

    def __enter__(self):
        self.server = server(self.command, self.server_env)
        try:
            command = [BUILD / "load", "--port", self.server.port, "--pid", self.server.pid,
                       "--patience", PATIENCE_MS, "--lines", 1]
            self.process = subprocess.Popen(pinned(command, cpus()[1]), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, env=self.env)
        except BaseException:
            self.server.close()
            raise
        return self

    def __exit__(self, *_):
        self.server.close()  # first: a server that is gone closes its connections at once
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def run(self, options):
        """One phase. What was measured; with "why" if it counts for nothing, and then the last.

        On a machine so busy that within "ms" not one echo came, or only what the server had made
        before, it goes on for longer.
        """
        result = self._phase(options)
        for longer in LONGER:
            if result["why"] or "ms" not in options or result["messages"] and result["server_cpu"]:
                break
            result = self._phase({**options, "ms": options["ms"] * longer})
        return result

    def _phase(self, options):
        line = " ".join(f"--{name} {value}" for name, value in options.items()) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        ready = self.has_answered()
        answer = self.process.stdout.readline() if ready else b""
        if ready and not answer:
            raise RuntimeError(f"build/load ended with {self.process.wait()} in: {line}")
        result = json.loads(answer) if ready else {"failed": f"no end within {PHASE_SECONDS} s"}
        result["why"] = why_not(result, self.server.stderr())
        return result

    def measure(self, options):
        """The same, but the end of the script where it counts for nothing."""
        result = self.run(options)
        if result["why"]:
            sys.exit(f"{shlex.join(map(str, self.command))}: {result['why']}")
        return result

    def has_answered(self):
        """Wait for the generator; False if it takes too long, having had a core."""
        deadline = harness.Deadline(PHASE_SECONDS, self.process.pid, self.server.pid)
        while not (ready := select.select([self.process.stdout], [], [], deadline.left())[0]):
            if deadline.passed():
                break
        return bool(ready)


def why_not(phase, said):
    """Why this phase counts for nothing; None if it is good. `said` is the server's stderr."""
    if phase.get("wrong"):
        return WRONG
    if phase.get("failed") or phase.get("lost") or phase.get("missing"):
        if "fd_set" in said:
            return "fd >= 1024"
        if "reads too slowly" in said:
            return f"{phase['lost']} {DROPPED}"
        if phase.get("failed"):
            return phase["failed"]
        return f"{phase['lost']} lost, {phase['missing']} missing"
    return None


@contextlib.contextmanager
def shim_session(stage):
    """A session in which the server's calls are counted."""
    with shim.Shim(library=BUILD / "shim.so") as counters:
        env = counters.variables()
        with Session(command_of(stage), env, env["SHIM_COUNTERS"]) as session:
            yield session


def has_shim():
    """Can calls be counted?"""
    return (BUILD / "shim.so").exists()


def machine():
    """Where the numbers come from."""
    first, second = cpus()
    return {"cpu": host.cpu(), "cores": os.cpu_count(), "kernel": host.system(),
            "pinned": f"server to core {first}, load to core {second}" if first is not None
            else "one core for both"}


def keep(path, script, arguments, numbers):
    """Write what was measured as JSON, with where it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "command": shlex.join(["python3", "-m", script, *arguments]),
        "date": datetime.date.today().isoformat(), "machine": machine(), **numbers},
        indent=1) + "\n", encoding="utf-8")
    print(f"All numbers: {path}")
