#!/usr/bin/env python3
"""Stage N has just been built: check it, and say what to do with it. This is `make step-N`."""

import argparse
import textwrap

from tests import harness
from tests import probes
from tests.harness import runner

ROWS = (0, 1, 5, 7, 9)  # a second or two

TRY = {
    1: ("nc 127.0.0.1 9001             type a line, and leave it open",
        "nc 127.0.0.1 9001             in a third terminal: type a line",
        "The second nc is connected, and gets no answer until the first one ends."),
    2: ("nc 127.0.0.1 9002             twice, in two terminals",
        "make diff-2                   what has changed",
        "Both get their answers: the server sleeps in select(), for all at once."),
    3: ("ulimit -Sn 4096               in both terminals, and before the server",
        "python3 -c \"import socket as s; "
        "c = [s.create_connection(('127.0.0.1', 9003)) for _ in range(1100)]; input()\"",
        "The server says no word, and serves them all. Stage 2 serves 1,020 and refuses the rest."),
    4: ("nc 127.0.0.1 9004             it answers",
        "bash -c 'head -c 64000000 /dev/zero > /dev/tcp/127.0.0.1/9004'",
        "The second sends 64 MB and does not read. Now the nc gets no answer any more."),
    5: ("nc 127.0.0.1 9005             it answers",
        "bash -c 'head -c 64000000 /dev/zero > /dev/tcp/127.0.0.1/9005'",
        "The second is dropped, the server says so, and the nc still gets its answers."),
    6: ("head -c 8000000 /dev/zero | (nc -N 127.0.0.1 9006) | (sleep 2; wc -c)",
        "grep VmHWM /proc/$(pgrep -n 06-write)/status",
        "The client reads late, and gets all 8,000,000 bytes. The server's memory hardly "
        "grows."),
    7: ("python3 tests/learn/talk.py 9007    type a line, and then: sleep 5000 x",
        "python3 tests/learn/talk.py 9007    in a third terminal, while the first one waits",
        "A job of five seconds holds up its own client and nobody else. Press Ctrl-C in the "
        "server's terminal while one runs: it is answered first."),
}


def check(number, build):
    """Run the quick rows; returns what went wrong."""
    tasks = [(probe, number, None, build) for probe in harness.probes(ROWS, number)]
    wrong, lessons, untried = [], [], []
    with runner.progress(len(tasks)) as step:
        for (probe, *_), verdict in runner.run_all(tasks):
            step(probe.title)
            problem = harness.judge(probe, number, verdict)
            if problem:
                wrong.append(f"row {probe.row}, {probe.title}: {problem}")
            elif verdict.outcome == "L":
                lessons.append(f"meant to fail, row {probe.row}, {probe.title}: it {verdict.kind}")
            elif why := harness.untried(verdict):
                untried.append(f"row {probe.row}, {probe.title}: {why}")
    print(f"{harness.STAGES[number]} is built. {len(tasks) - len(wrong) - len(untried)} of "
          f"{harness.counted(len(tasks), 'quick probe')} came out as its chapter says.")
    for text in lessons + untried:
        print(textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="    "))
    for text in wrong:
        print(f"  FAIL  {text}")
    return wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, choices=list(harness.STAGES))
    arguments.add_argument("--build", default=harness.BUILD)
    options = arguments.parse_args()
    number, folder = options.stage, harness.STAGES[options.stage]

    probes.load()
    wrong = check(number, options.build)
    first, second, look = TRY[number]
    look = textwrap.fill(look, 80, initial_indent="Look for  ", subsequent_indent=" " * 10)
    print(f"""
Read      {folder}/README.md and {folder}/server.cpp
Run       make run-{number}
Try       {first}
          {second}
{look}
All of it make check-{number}""")
    print(f"Next      make step-{number + 1}" if number < 7 else
          "Next      write your own: make check-7 SERVER=./mine")
    return 1 if wrong else 0


if __name__ == "__main__":
    runner.main(main)
