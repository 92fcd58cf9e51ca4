#!/usr/bin/env python3
"""The README's commands on ordinary machines that are unlike this one: `make machines`.

    python3 -m tests.machines.run                          a quick selection on each machine
    python3 -m tests.machines.run --only no-ipv6,user      on these; a + makes one of several
    python3 -m tests.machines.run --full                   every command of the README: hours
    python3 -m tests.machines.run --write                  and put the results into README.md

A command succeeds, or says in one line what it needs. It must not hang, leave a process behind, or
end with a traceback. All that was printed is kept in build/machines/.
"""

import argparse
import datetime
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.harness import argument, runner
from tests.harness.processes import end_family
from tests.machines import enter
from tests.outside import kernel

PAGE = pathlib.Path(__file__).with_name("README.md")
LOGS = enter.ROOT / "build" / "machines"
BUILD = '--build "${B:-build}"'
MADE = "make -s && python3 -m"

QUICK = {  # a name for the table: the command
    "build": "make",
    "step": "make step-1",
    "check": "make check-4",
    "break": "make break-2",
    "trace": "make trace-4",
    "diff": "make diff-2",
    "rows": f"{MADE} tests.learn.matrix {BUILD} --rows 3,4,12,14,16,22,31",
    "unit": f"make -s ${{B:-build}}/unit && python3 -m tests.self.run {BUILD} unit",
    "sim": f"make -s ${{B:-build}}/sim && python3 -m tests.self.run {BUILD} sim",
    "prose": f"{MADE} tests.self.run {BUILD} prose",
    "scripts": f"{MADE} tests.self.run {BUILD} test_options test_shim test_streams test_run",
    "corpus": f"python3 -m tests.self.run {BUILD} 'fuzz corpus'",
    "compare": f"{MADE} tests.bench.compare {BUILD} --quick --no-charts",
    "peers": f"{MADE} tests.bench.peers {BUILD} --slices 1 --scenarios c1,c100",
}
FULL = {
    "build": "make",
    **{f"{name}-{n}": f"make {name}-{n}" for name in ("step", "check", "break", "trace")
       for n in range(1, 8)},
    "diff-2": "make diff-2", "matrix": f"python3 -m tests.learn.matrix {BUILD}",
    "compare": "make compare", "peers": "make peers", "threads": "make threads",
    "http": "make http SLICES=2", "soak": "make soak", "fuzz": "make fuzz MINUTES=1",
    "lint": "make lint", "test": "make test", "san": "make test SAN=address,undefined",
}
MACHINES = ["soft-1024", "hard-1024", "hard-4096", "no-ipv6", "no-inet6", "no-ptrace", "no-shm",
            "hidepid+user", "one-cpu", "1-gib", "read-only", "odd-path", "tarball+no-git", "bare",
            "german", "latin-1", "ascii", "far-away", "strict-python", "wrapped-compiler",
            "preloads", "noexec-tmp", "full-tmp", "few-ports", "small-mtu", "user+umask-077",
            "no-stdin", "no-stdout", "no-stderr", "no-reader", "full-disk"]
# What README.md shows of each machine.
SHOWN = ("step", "check", "break", "trace", "diff", "rows", "prose", "compare")
# Where a command may end with another status than 0, if it says this.
NEEDS = {
    **{("full-disk", name): "No space left on device" for name in QUICK},
    ("bare", "trace"): "strace is missing: apt-get install strace",
    ("no-ptrace", "trace"): "strace needs ptrace(), and this machine forbids it",
    ("no-stdout", "diff"): "sed: couldn't close stdout: Bad file descriptor",
}
SECONDS = {False: 600, True: 3600}  # that a command may take: then it hangs


class Result:
    """What a command did on a machine."""

    def __init__(self, outcome, text, seconds):
        self.outcome, self.text, self.seconds = outcome, text, seconds


def run(machine, name, command, limit, outside):
    """Run one command on one machine. `outside`: where it builds, if not in the tree."""
    log = LOGS / machine / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started, before = time.monotonic(), kernel.descendants(os.getpid())
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.machines.enter", machine, "sh", "-c", command],
            cwd=enter.ROOT, env={**os.environ, **outside}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        left = [pid for pid in kernel.descendants(os.getpid())
                if pid not in before and kernel.state(pid) not in ("Z", "")]
        names = [kernel.read_file(f"/proc/{pid}/comm").strip() for pid in left]
        for pid in left:
            end_family(pid)
    said = log.read_text(encoding="utf-8", errors="replace")
    outcome, text = judge(machine, name, status, said)
    if left and status is not None:
        outcome, text = "FAIL", f"left behind: {', '.join(names)}"
    return Result(outcome, text, time.monotonic() - started)


def built_in(place):
    """A folder to build in outside of the tree, which has what is built in the tree."""
    folder = pathlib.Path(place) / "build"
    if not folder.exists():
        shutil.copytree(enter.ROOT / "build", folder, ignore=shutil.ignore_patterns("machines"))
    return str(folder)


def judge(machine, name, status, said):
    """In a word and a line, what came of it."""
    if status is None:
        return "FAIL", "no end"
    if status == enter.SKIPPED:
        return "skipped", said.strip()[-100:]
    if "Traceback (most recent call last)" in said:
        return "FAIL", "a traceback"
    need = next((text for (where, what), text in NEEDS.items()
                 if where in machine.split("+") and what == name), None)
    if need and need in said:
        return "says", need
    if status != 0 and "no-reader" not in machine:
        return "FAIL", f"exit status {status}"
    counts = re.findall(r"^(?:\d+ of \d+ as|\d+ passed, \d+ failed.*|.*of \d+ quick)", said, re.M)
    return "ok", counts[-1] if counts else ""


def cell(result):
    """A result in a cell of the table."""
    skipped = re.search(r"(\d+) (?:skipped|not tried)", result.text)
    return {"ok": f"✓, {skipped[1]} skipped" if skipped and skipped[1] != "0" else "✓",
            "says": f"says: {result.text}", "skipped": f"not here: {result.text}",
            "FAIL": f"**{result.text}**"}[result.outcome]


def table(results):
    """A line for each machine, a column for each command."""
    found = dict.fromkeys(name for _, name in results)
    names = [name for name in dict.fromkeys([*SHOWN, *found]) if name in found]
    lines = [f"| machine | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for machine in dict.fromkeys(machine for machine, _ in results):
        cells = [cell(results[machine, name]) if (machine, name) in results else ""
                 for name in names]
        lines.append(f"| {machine} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def legend(names):
    """What the names in the head of the table stand for."""
    shown = {name: command.replace(f" {BUILD}", "").replace("${B:-build}", "build")
             for name, command in {**FULL, **QUICK}.items() if name in names}
    return "| name | command |\n|---|---|\n" + "".join(
        f"| {name} | `{command}` |\n" for name, command in shown.items())


def write(part, text):
    """Put a text into its place in README.md, with the day."""
    place = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.S)
    page = PAGE.read_text(encoding="utf-8")
    text = f"On {datetime.date.today().isoformat()}, Linux {platform.release()}.\n\n{text}"
    PAGE.write_text(place.sub(lambda m: m[1] + text + m[2], page), encoding="utf-8")


def shown():
    """The results that the page shows, by machine and command."""
    part = re.search(r"<!-- machines -->.*?\n(\|.*?)\n\n", PAGE.read_text(encoding="utf-8"), re.S)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")]
                      for line in part[1].splitlines()]
    return {(row[0], name): from_cell(text) for row in rows
            for name, text in zip(head[1:], row[1:]) if text}


def from_cell(text):
    """The Result that cell() has made this of."""
    word, _, more = text.partition(": ")
    if word in ("says", "not here"):
        return Result({"says": "says", "not here": "skipped"}[word], more, 0)
    return Result("ok", text[3:], 0) if text.startswith("✓") else Result("FAIL", text.strip("*"), 0)


def keep(results):
    """The results of this run, over those that the page shows: a machine can be run alone."""
    known = shown() | results
    order = [m for m in MACHINES if any(m == machine for machine, _ in known)]
    order += [m for m, _ in known if m not in order]
    return {(machine, name): known[machine, name] for machine in dict.fromkeys(order)
            for name in SHOWN if (machine, name) in known}


def machines(text):
    """The type of an argument that names some, with commas between; a + makes one of several."""
    if unknown := set(re.split("[,+]", text)) - set(enter.MACHINES):
        raise argparse.ArgumentTypeError(f"there is no machine {', '.join(sorted(unknown))}")
    return text.split(",")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", type=machines, default=MACHINES,
                           help="these machines: no-ipv6,user+umask-077")
    arguments.add_argument("--commands", type=argument.some_of({**QUICK, **FULL}),
                           help="only these: " + ",".join(QUICK))
    arguments.add_argument("--full", action="store_true", help="every command of the README")
    arguments.add_argument("--write", action="store_true", help="put the table into README.md")
    options = arguments.parse_args()
    commands = FULL if options.full else QUICK
    if options.commands:
        commands = {name: {**FULL, **QUICK}[name] for name in options.commands}

    results, count = {}, {"ok": 0, "FAIL": 0, "skipped": 0, "says": 0}
    with tempfile.TemporaryDirectory() as place:
        for machine in options.only:
            for name, command in commands.items():
                outside = {"B": built_in(place)} if "read-only" in machine else {}
                result = run(machine, name, command, SECONDS[options.full], outside)
                results[machine, name] = result
                count[result.outcome] += 1
                print(f"{result.outcome:7} {machine:16} {name:8} {result.seconds:4.0f} s  "
                      f"{result.text}", flush=True)
    known = keep(results)
    if options.write:
        write("machines", table(known) + "\n" + legend({name for _, name in known}))
    print(f"{count['ok'] + count['says']} passed, {count['FAIL']} failed, "
          f"{count['skipped']} skipped")
    return 1 if count["FAIL"] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    runner.main(main)
