#!/usr/bin/env python3
"""Run a server while a command runs, and end both: for the checks of the exercises.

    python3 -m tests.learn.beside build/01-blocking 'seq 9 | nc -N 127.0.0.1 $PORT'

The command begins when the server can be connected to, at $PORT, and $PID is the server. When the
command has ended and the server has nothing left to do, it gets SIGINT, and its end is waited for.
The exit status is that of the command. What the server has said on stderr is printed at the end.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys

from tests import harness
from tests.harness import runner


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("server", help="its program and options, as one word")
    arguments.add_argument("command", help="as one word, for bash")
    options = arguments.parse_args()
    try:
        with harness.Server(shlex.split(options.server)) as server:
            status = subprocess.run(
                ["bash", "-c", options.command], stdin=subprocess.DEVNULL,
                env={**os.environ, "PORT": str(server.port), "PID": str(server.pid)}).returncode
            server.come_to_rest()
            if not server.exited():
                server.signal(signal.SIGINT)
            server.process.wait(harness.FAILSAFE)
            print(server.stderr(), end="")
            return status
    except harness.Fail as fail:
        print(fail, file=sys.stderr)
        return 1


if __name__ == "__main__":
    runner.main(main)
