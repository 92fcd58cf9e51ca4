#!/usr/bin/env python3
"""Run a measurement and keep what it prints in tests/bench/MEASURED.md: `make measured`.

    python3 -m tests.bench.measured --keep peers make peers      run, show, and keep it as "peers"
    python3 -m tests.bench.measured --check                      is everything there that should be?

Beside each table stand the command, the machine and the date. Numbers of another machine are
others, so nothing compares them; what is checked is that no stage, scenario or peer is missing, and
that the pictures are of the same day. Chapters quote the tables with <!-- measured NAME: TITLE -->
(tests/book/prose.py).
"""

import argparse
import datetime
import os
import re
import shlex
import subprocess
import sys

from tests.bench import load
from tests.bench import peers
from tests.bench import scenarios
from tests.harness import runner

PAGE = load.ROOT / "tests" / "bench" / "MEASURED.md"
SECTION = re.compile(r"(<!-- measured (\w+) -->\n)(.*?)(<!-- /measured -->)", re.S)
PEERS = [*peers.STAGES, *(p for p in peers.LIBRARIES if p != peers.RAW)]
EXPECTED = {  # what must be found in each section, and nothing may be missing
    "compare": [*load.STAGES, *(s.title for s in scenarios.SCENARIOS
                                if not s.full and s.key not in scenarios.WAKES)],
    "full": [*load.STAGES, *(s.title for s in scenarios.SCENARIOS if s.key not in scenarios.WAKES)],
    "peers": [*PEERS, *peers.NAMES.values()],
    "per_client": ["04-epoll-lt", "thread_per_client"],
    "threads": ["--threads 1", "--threads 2"],
    "http": ["07-http", "nginx"],
    "restart": ["announced, then stopped", "killed", "SO_REUSEPORT", "inherited"],
    "processes": ["SO_REUSEPORT", "inherited", "hands over", "tcp_migrate_req"],
    "million": ["clients are connected", "server's own memory", "in the kernel"],
}

NOT_PINNED = {"threads", "restart", "processes", "million"}  # several share the cores

CHARTS = {"compare": ["idle-curve"], "full": ["throughput", "latency", "cost"]}  # of which run
NOT_DRAWN = {"idle-curve": {"01-blocking"}}  # it serves one client, so there are no idle ones


def sections():
    """{name: text} of the page."""
    return {name: body for _, name, body, _ in SECTION.findall(PAGE.read_text("utf-8"))}


def described(name, command, output):
    """A section's text: what, where and when, and then the output."""
    where = load.machine()
    pinned = "nothing pinned" if name in NOT_PINNED else where["pinned"]
    lines = "\n".join(line.rstrip() for line in output.strip().splitlines()
                      if not line.startswith(("All numbers:", "wrote ")))
    return (f"`{command}` on {datetime.date.today().isoformat()}: {where['cpu']}, "
            f"{where['cores']} cores, {where['kernel']}, {pinned}.\n\n"
            f"```text\n{lines.strip()}\n```\n")


def keep(name, command):
    """Run it, show what it prints, and put that into the page if it succeeds."""
    if name not in sections():
        print(f"{PAGE.name} has no section {name}", file=sys.stderr)
        return 2
    outside = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # as if typed
    done = subprocess.run(command, cwd=load.ROOT, stdout=subprocess.PIPE, encoding="utf-8",
                          check=False, env=outside)
    print(done.stdout, end="")
    if done.returncode != 0:
        return done.returncode
    text = described(name, shlex.join(command), done.stdout)
    page = PAGE.read_text("utf-8")
    PAGE.write_text(SECTION.sub(lambda m: m[1] + text + m[4] if m[2] == name else m[0], page),
                    encoding="utf-8")
    return 0


def problems():
    """What is missing from the page, or too wide for a terminal."""
    found = sections()
    for name, expected in EXPECTED.items():
        for text in expected:
            if text not in found.get(name, ""):
                yield f"{PAGE.name}: {name}: nothing about {text!r}; run: make measured"
        for line in found.get(name, "").partition("```text")[2].splitlines():
            if len(line) > 80:
                yield f"{PAGE.name}: {name}: wider than 80 columns: {line}"
        day = re.search(r" on (\d{4}-\d\d-\d\d): ", found.get(name, ""))
        for chart in CHARTS.get(name, []):
            path = PAGE.parent / "charts" / f"{chart}.svg"
            drawn = path.read_text("utf-8") if path.exists() else ""
            for text in (*load.STAGES, day[1] if day else "a day"):
                if text not in drawn and text not in NOT_DRAWN.get(chart, ()):
                    yield f"charts/{path.name}: nothing about {text!r}; run: make measured"


def main(arguments):
    """Exit status 0 if there is nothing to complain about."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--keep", metavar="NAME", help="of: " + " ".join(EXPECTED))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.keep and options.command:
        return keep(options.keep, options.command)
    wrong = list(problems())
    print("\n".join(wrong) if wrong else f"{PAGE.name}: complete")
    return 1 if wrong else 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
