#!/usr/bin/env python3
"""Unit tests, simulator, all seven servers and the client under valgrind. This is `make valgrind`.

No invalid access, no value used before it was set, no memory lost, and at the end no descriptor
open but the inherited ones. Valgrind does not count a descriptor as an error, so its log is read.
The servers are put to those probes that ask for nothing which only a real kernel has, and are
ended by SIGTERM: stage 7 then must have given everything back; the others die of it, and may have
what they need without a client, their listener and their epoll instance.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

os.environ["SAN"] = "valgrind"  # harness.SLOWER: everything takes longer
from tests import harness
from tests import probes
from tests.harness import runner
from tests.harness import Fail, wait_for

VALGRIND = ["valgrind", "--track-fds=yes", "--leak-check=full", "--show-leak-kinds=all",
            "--fair-sched=yes", "--child-silent-after-fork=yes",
            "--soname-synonyms=somalloc=nouserintercepts"]  # the unit tests' own operator new
ROWS = [0, 1, 2, 5, 6, 9, 10, 11, 13, 14, 17, 18, 20, 28]
LEFT_OUT = {
    "unit FullTable*, row 12": "for EMFILE valgrind takes the client and closes it",
    "rows 3, 4, 7, 8, 15, 16, 19, 27, 31, 32": "too many bytes, clients or seconds",
}
UNIT = ["--gtest_brief=1", "--gtest_filter=-FullTable*"]
UNIT_FAILSAFE = 300  # seconds that a test may wait for what it expects
SIM_RUNS = 150
CLIENT = ["--connections", "20", "--count", "50", "--size", "3000"]


def under_valgrind(log, command, kinds="all"):
    """The command, and what it must not lose."""
    return [*VALGRIND, f"--errors-for-leak-kinds={kinds}", f"--log-file={log}", *command]


def findings(log, allowed=""):
    """What a log says that it should not; '' if nothing. `allowed`: what may be open at the end."""
    text = re.sub(r"^==\d+== ?", "", log.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    blocks = re.split(r"\n\s*\n|\n(?=Open )", text)
    errors = re.search(r"^ERROR SUMMARY: (\d+) errors", text, re.M)
    if not errors:
        return f"valgrind has not come to its end:\n{text[-1000:]}"
    bad = [block for block in blocks if re.match(r"\s*Open (file descriptor|\S+ socket)", block)
           and "<inherited from parent>" not in block
           and not (allowed and re.search(allowed, block))]
    if int(errors[1]):
        bad += [block for block in blocks if re.search(r"^\s+at 0x", block, re.M)
                and not re.match(r"\s*(Open |Process terminating)", block)]
        bad.append(errors[0])
    return "\n".join(block.strip("\n") for block in bad)[:4000]


class Stage(harness.Stage):
    """A stage whose servers run under valgrind, and have their logs read at the end."""

    def __init__(self, number, command=None, build=harness.BUILD):
        super().__init__(number, command, build)
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="valgrind-"))
        kinds = "all" if number == 7 else "definite,indirect,possible"
        self.command = under_valgrind(self.place / "log.%p", self.command, kinds)

    def start(self, *args, **options):
        server = super().start(*args, **options)
        wait_for(server.asleep, "the server sleeps", server)
        server.without_clients = len(server.fds())
        return server

    def finish(self, sent=""):
        super().finish(sent)
        for server in self.servers:
            if server.exited():
                if server.process.returncode != -signal.SIGKILL:
                    self.check(server, others_may="Open")  # in the middle of their work
                continue
            server.resume()
            for client in server.clients:
                client.close()
            self.let_go(server)
            server.signal(signal.SIGTERM)
            server.wait_exit()
            self.check(server, others_may=r"Open \S+ socket \d+: \S+ <-> unbound|epoll_create")

    def let_go(self, server):
        """Its clients have left: wait until it has closed them all, or sleeps without doing so."""
        still = harness.Stillness([server.pid])

        def done():
            if server.asleep() and len(server.fds()) <= server.without_clients:
                return True
            time.sleep(0.05)
            return still.lasts()

        wait_for(done, "the server closes what belonged to its clients", server)

    def check(self, server, others_may):
        """Read the log of a server that has ended. Not stage 7: what may be open."""
        allowed = "" if self.number == 7 else others_may
        found = findings(self.place / f"log.{server.process.pid}", allowed)
        if found:
            raise Fail(found, expected="nothing lost and nothing left open")

    def stop(self):
        super().stop()
        shutil.rmtree(self.place, ignore_errors=True)


def run(name, command, place, **environment):
    """Run a program to its end under valgrind. Returns what is wrong, or ''."""
    log = place / f"{name}.log"
    done = subprocess.run(under_valgrind(log, command), cwd=harness.ROOT,
                          env={**os.environ, **environment},
                          capture_output=True, encoding="utf-8", errors="replace")
    wrong = findings(log)
    if done.returncode != 0:
        wrong += f"\nexit status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
    return wrong


def programs(build, place):
    """Those that end by themselves. Yields name and what is wrong."""
    unit = [f"{build}/unit", *UNIT]
    yield "unit tests", run("unit", unit, place, TEST_FAILSAFE=str(UNIT_FAILSAFE))
    yield "simulator", run("sim", [f"{build}/sim", "--runs", str(SIM_RUNS)], place)
    yield "client", client(build, place)


def client(build, place):
    """The client of stage 7, and a server for it."""
    stage = Stage(7, build=build)
    try:
        server = stage.start()
        wrong = run("client", [f"{build}/07-client", *CLIENT, "--port", str(server.port)], place)
        stage.finish()
        return wrong
    except Fail as fail:
        return fail.seen
    finally:
        stage.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default=harness.BUILD, help="where the programs are")
    arguments.add_argument("--rows", help="only these rows of the matrix: 1,7,9")
    arguments.add_argument("--stages", default="1,2,3,4,5,6,7", help="only these: 1,7")
    arguments.add_argument("--servers", action="store_true", help="only the servers")
    options = arguments.parse_args()
    if not shutil.which("valgrind"):
        print("valgrind is missing: apt-get install valgrind", file=sys.stderr)
        return 1
    options.build = str(pathlib.Path(options.build).resolve())
    probes.load()
    rows = [int(row) for row in options.rows.split(",")] if options.rows else ROWS
    stages = [int(number) for number in options.stages.split(",")]
    for what, why in LEFT_OUT.items():
        print(f"left out: {what}: {why}")

    passed = failed = 0
    started = time.monotonic()

    def say(name, wrong):
        nonlocal passed, failed
        passed, failed = passed + (not wrong), failed + bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} {name}, {time.monotonic() - started:.0f} s"
              + "".join(f"\n     {line[:150]}" for line in wrong.splitlines()), flush=True)

    with tempfile.TemporaryDirectory() as place:
        for name, wrong in () if options.servers else programs(options.build, pathlib.Path(place)):
            say(name, wrong)
    tasks = [(probe, number, None, options.build, Stage) for number in stages
             for probe in harness.probes(rows, number)]
    with runner.progress(len(tasks)) as step:
        for (probe, number, *_), verdict in runner.run_all(tasks):
            step(f"{harness.STAGES[number]}: {probe.title}")
            say(f"{harness.STAGES[number]}: {probe.title}", harness.judge(probe, number, verdict))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    runner.main(main)
