#!/usr/bin/env python3
"""Run every test suite, some at a time, and sum up. This is `make test`.

Each suite is a program that says on a line of its own how many of its checks passed and failed, and
exits with 0 when none failed. A suite that says nothing counts as one failure: silence is no pass.
What it prints is shown when it has ended; how far all are is said meanwhile. One that says nothing
for a long time, and makes no step, is ended as a failure, and the others go on. Its output ends
with the tracebacks of its threads, if it is Python, and with what each process below it was doing.

With SAN=address,undefined or SAN=thread in the environment (`make test SAN=thread`) the programs in
--build have these sanitizers. A finding ends the program, and so fails what it was part of.

    python3 -m tests.self.run --busy 20 matrix    beside 20 processes that do nothing but burn CPU:
                                                  a busy machine must not change a verdict
"""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import selectors
import signal
import subprocess
import sys
import time

from tests import harness
from tests.harness import runner
from tests.outside import host, kernel

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-X", "faulthandler"]  # no variable, which all servers would inherit
SAN = os.environ.get("SAN", "")
SAY_EVERY = 30  # seconds, where a line cannot be written over
SILENCE = 1200.0 * harness.SLOWER  # seconds without a word or a step, after which a suite hangs
LOOK_EVERY = 2  # seconds
LAST_WORDS = 10.0  # seconds for the tracebacks of one that does

# Suites whose result does not depend on SAN, and what they build.
SAME_WITH_SAN = {
    "prose": "nothing",
    "commands": "a copy of its own, as a reader does",
    "fuzz corpus": "its own programs, always with address,undefined",
    "mutants": "its own servers and tests, wrong ones, each with what it needs",
    "test_solutions": "its own servers",
}


# In this order, so that no core is idle before the end: what takes longest, what mostly waits, and
# what computes for a minute or so. The others are short.
ORDER = ["mutants", "test_wrong_servers", "test_right_servers",
         "test_sweeps", "test_load", "test_variants", "test_run", "unit", "test_restart",
         "test_story", "test_soak", "test_process", "test_http", "test_idle",
         "commands", "test_learn", "test_solutions", "matrix", "fuzz corpus"]


def suites(build):
    """Name and command of each suite, in the order in which they begin."""
    scripts = sorted(ROOT.glob("tests/*/test_*.py"))
    found = [
        ("mutants", PYTHON + ["-m", "tests.mutants", "--build", build]),
        ("matrix", PYTHON + ["-m", "tests.learn.matrix", "--build", build]),
        *((path.stem, PYTHON + ["-m", "unittest", ".".join(path.relative_to(ROOT).parts)[:-3]])
          for path in scripts),
        ("fuzz corpus", PYTHON + ["-m", "tests.loop.fuzz", "--replay", "--build", build]),
        ("commands", PYTHON + ["-m", "tests.book.commands"]),
        ("unit", [f"{build}/unit"]),
        ("prose", PYTHON + ["-m", "tests.book.prose"]),
        ("sim", [f"{build}/sim"]),
    ]
    return sorted(found, key=lambda suite: (ORDER + [suite[0]]).index(suite[0]))


def counts(output):
    """How many passed, failed, were skipped: in our words, GoogleTest's or unittest's."""
    if ours := re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?", output, re.M):
        return tuple(int(number or 0) for number in ours[-1])
    if google := re.search(r"\[==========\] (\d+) tests? from .* ran", output):
        passed, skipped = (sum(map(int, re.findall(rf"^\[  {word} *\] (\d+) tests?", output, re.M)))
                           for word in ("PASSED", "SKIPPED"))
        return passed, int(google[1]) - passed - skipped, skipped
    if unit := re.search(r"^Ran (\d+) tests? in", output, re.M):
        bad = re.findall(r"(?:failures|errors|unexpected successes)=(\d+)", output)
        failed = sum(int(n) for n in bad)
        skipped = sum(map(int, re.findall(r"^(?:OK|FAILED) .*skipped=(\d+)", output, re.M)))
        return int(unit[1]) - failed - skipped, failed, skipped
    return None


def in_words(passed, failed, skipped):
    """The sum as all suites say it."""
    return f"{passed} passed, {failed} failed" + f", {skipped} skipped" * (skipped > 0)


def failures(output):
    """The checks that have failed, by their names."""
    found = re.findall(r"^\[  FAILED  \] ([\w/]+\.[\w/]+)|^(?:FAIL|ERROR): (\w+ \([\w.]+\))"
                       r"|^FAIL +(.*)|^(row \d+ on .*)", output, re.M)
    begun = re.findall(r"^\[ RUN      \] (\S+)", output, re.M)
    ended = set(re.findall(r"^\[ +(?:OK|FAILED|SKIPPED) +\] ([\w/.]+)", output, re.M))
    return list(dict.fromkeys("".join(names) for names in found)) + \
        [f"{test}, which ended the program" for test in begun if test not in ended]


def worth_showing(output):
    """Without the tests of GoogleTest that have passed."""
    return re.sub(r"^\[ RUN      \] (\S+)\n\[       OK \] \1 .*\n|^\[-{10}\].*\n\n?", "", output,
                  flags=re.M)


def doing(pid):
    """What a process is, and where it sleeps or that it runs."""
    command = kernel.read_file(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    call = kernel.blocked_call(pid)
    return f"{pid} {kernel.state(pid)} in {call[0] if call else 'no call'}: {command[:200]}"


class Silence:
    """For how many seconds a suite has said nothing.

    While one of its processes is ready to run, a second counts as much as each that is ready gets
    of a core: on a busy machine that is little, and the suite is only slow.
    """

    def __init__(self, pid):
        self.pid = pid
        self.end()

    def end(self):
        """It has said something."""
        self.counted, self.looked = 0.0, time.monotonic()

    def seconds(self):
        """So far. From time to time this looks at its processes."""
        now = time.monotonic()
        if now - self.looked >= LOOK_EVERY:
            # If it is much longer than that ago, it is we who were stopped, or had no core.
            self.counted += min(now - self.looked, 2 * LOOK_EVERY) * self.share()
            self.looked = now
        return self.counted

    def share(self):
        """Of a core, for each that is ready; 1 if it is none of its processes."""
        family = [self.pid, *kernel.descendants(self.pid)]
        if not any("R" in kernel.thread_states(pid) for pid in family):
            return 1.0
        return min(1.0, len(os.sched_getaffinity(0)) / host.ready())


class Suite:
    """A suite at work: what it has printed, how far it says that it is, and whether it hangs."""

    def __init__(self, name, command, build):
        self.name, self.command = name, command
        self.began, self.output, self.step, self.result = time.monotonic(), b"", "", None
        self.below = None  # when it hangs: {each process below it: what that was doing}
        self.steps, steps_end = os.pipe()
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=[steps_end],
            env={**os.environ, "BUILD": str(build),
                 "PROGRESS": f"{steps_end}:{os.fstat(steps_end).st_ino}"})
        os.close(steps_end)
        self.silence, self.last_words = Silence(self.process.pid), None

    def read(self, descriptor):
        """More of its output, or of its steps. False when there will be no more."""
        data = os.read(descriptor, 1 << 16)
        self.silence.end()
        if descriptor != self.steps:
            self.output += data
        elif data:
            self.step = data.decode().split()[-1]
        return bool(data)

    def hopeless(self):
        """Has it hung for so long that even its last words are not waited for any more?

        The first time that it was silent for too long it is told to say where it is.
        """
        if self.last_words:
            return self.last_words.passed()
        if self.silence.seconds() >= SILENCE:
            self.below = {pid: doing(pid) for pid in kernel.descendants(self.process.pid)}
            self.last_words = harness.Deadline(LAST_WORDS)
            os.kill(self.process.pid, signal.SIGABRT)  # Python answers with all its tracebacks
        return False

    def end(self):
        """Wait for its end and print what it has said. Returns what has failed, in words."""
        hung = self.below is not None
        if hung:
            self.kill_all()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.read_the_rest()
        output = self.output.decode(errors="replace")
        passed, failed, skipped = counts(output) or (0, 0 if hung else 1, 0)
        if hung or self.process.returncode != 0 and failed == 0:
            failed += 1
        self.result = passed, failed, skipped
        print(f"==== {self.name}: {' '.join(self.command)}\n{worth_showing(output)}"
              + "".join(f"was below it: {what}\n" for what in (self.below or {}).values()) +
              f"==== {self.name}: {in_words(*self.result)}, exit status "
              f"{self.process.returncode}, {time.monotonic() - self.began:.0f} s, "
              f"{usage.ru_utime + usage.ru_stime:.0f} s of CPU\n", flush=True)
        names = failures(output)
        if hung:
            names.append(f"nothing new within {SILENCE / 60:.0f} minutes: it hangs")
        return [f"{self.name}: {text}" for text in names or ["see above"]] if failed else []

    def kill_all(self):
        """It, and what it has started, also what has lost its parent meanwhile."""
        for pid in {self.process.pid, *self.below, *kernel.descendants(self.process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def read_the_rest(self):
        """What is in the pipe now. What it has left behind may keep that open for ever."""
        os.set_blocking(self.process.stdout.fileno(), False)
        self.output += self.process.stdout.read() or b""
        self.process.stdout.close()
        os.close(self.steps)

    def kill(self):
        """End it, and let it end what it has started."""
        self.process.terminate()
        self.process.wait()


class Status:
    """A line that says how far all suites are."""

    def __init__(self, total):
        self.total, self.began, self.said = total, time.monotonic(), time.monotonic()
        self.terminal = sys.stderr.isatty()

    def say(self, done, active):
        """On a terminal it is written over, elsewhere it is said now and then."""
        now = time.monotonic()
        minutes, seconds = divmod(int(now - self.began), 60)
        line = f"[{done} of {self.total} suites] {minutes}:{seconds:02}  " + ", ".join(
            f"{suite.name} {suite.step}".strip() for suite in active)
        if self.terminal:
            print(f"\r\033[K{line[:79]}", end="", file=sys.stderr, flush=True)
        elif now - self.said > SAY_EVERY:
            print(line, file=sys.stderr, flush=True)
            self.said = now

    def clear(self):
        """Before something else is printed."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def run(chosen, build, jobs):
    """Run the suites, `jobs` at a time. Returns their counts, and what has failed, in words."""
    waiting, active, results, failed = list(chosen), [], [], []
    status, selector = Status(len(chosen)), selectors.DefaultSelector()
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                suite = Suite(*waiting.pop(0), build)
                active.append(suite)
                for descriptor in (suite.steps, suite.process.stdout.fileno()):
                    selector.register(descriptor, selectors.EVENT_READ, suite)
            over = set()
            # Stopped in it, it finds nothing, though much may have come meanwhile: ask once more.
            for key, _ in selector.select(1) or selector.select(0):
                if not key.data.read(key.fd):
                    selector.unregister(key.fd)
                    if key.fd != key.data.steps:
                        over.add(key.data)
            # Only now: what it has said may have waited for us, and not we for it.
            over |= {suite for suite in active if suite.hopeless()}
            for suite in over:
                for key in [key for key in selector.get_map().values() if key.data is suite]:
                    selector.unregister(key.fd)
                active.remove(suite)
                status.clear()
                failed += suite.end()
                results.append(suite.result)
            reap({suite.process.pid for suite in active})
            status.say(len(results), active)
    finally:
        status.clear()
        for suite in active:
            suite.kill()
    return results, failed


def reap(suites):
    """Wait for what has ended. Not for a suite: for what has lost its parent, and is ours since."""
    for pid in set(kernel.children(os.getpid())) - suites:
        if kernel.state(pid) == "Z":
            os.waitpid(pid, 0)


@contextlib.contextmanager
def busy(count, core=None):
    """So many processes that are never without work, on all cores or on one."""
    starter, cores = os.getpid(), os.sched_getaffinity(0) if core is None else {core}

    def prepare():
        harness.die_with_parent(starter)
        os.sched_setaffinity(0, cores)

    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=prepare)
               for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default="build", help="where the programs are")
    jobs = min(len(os.sched_getaffinity(0)), harness.gigabytes()) + 3
    arguments.add_argument("--jobs", type=int, default=jobs,
                           help="suites at a time: most of them wait for something half the time")
    arguments.add_argument("--busy", type=int, default=0, help="processes that burn CPU beside")
    arguments.add_argument("suite", nargs="*", help="only these")
    options = arguments.parse_args()

    known = suites(options.build)
    unknown = set(options.suite) - {name for name, _ in known}
    if unknown:
        names = ", ".join(name for name, _ in known)
        arguments.error(f"no suite {', '.join(unknown)}; there are {names}")
    chosen = [(name, command) for name, command in known
              if not options.suite or name in options.suite]
    if SAN and not options.suite:
        for name, what in SAME_WITH_SAN.items():
            print(f"==== {name}: left out with SAN={SAN}: it builds {what}\n")
        chosen = [(name, command) for name, command in chosen if name not in SAME_WITH_SAN]
    began = time.monotonic()
    with busy(options.busy):
        results, failed = run(chosen, options.build, options.jobs)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, cpu = time.monotonic() - began, spent.ru_utime + spent.ru_stime
    print(f"in {seconds:.0f} s, with {cpu:.0f} s of CPU")
    for text in failed:
        print(f"failed: {text}")
    passed, wrong, skipped = (sum(column) for column in zip(*results))
    print(in_words(passed, wrong, skipped))
    return 1 if wrong else 0


if __name__ == "__main__":
    runner.main(main)
