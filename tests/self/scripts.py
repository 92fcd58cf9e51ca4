"""Scripts as a reader runs them, for tests: by their command line, to their end or to Ctrl-C."""

import os
import signal
import subprocess
import sys

from tests import harness
from tests.outside import kernel

PATIENCE = 10 * harness.CELL_FAILSAFE  # at a load of 30 it takes minutes until a script has begun


def command(module, *arguments):
    """How to run it."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(module, *arguments, **more):
    """What has ended. `more` is for subprocess.run()."""
    return subprocess.run(command(module, *arguments), cwd=harness.ROOT, stdin=subprocess.DEVNULL,
                          capture_output=True, encoding="utf-8", check=False, **more)


def ended_early(module, *arguments, ready, number=signal.SIGINT, **more):
    """Start a script, and send it a signal once ready(names of all that it has started) holds.

    Returns its exit status and stderr, when all of those have ended, too. Ctrl-C is for all that
    run in a terminal, so SIGINT goes to its whole process group.
    """
    with harness.ended(subprocess.Popen(
            # What a shell starts with "&" ignores SIGINT, and so does all that is started here.
            ["env", "--default-signal=INT", *command(module, *arguments)], cwd=harness.ROOT,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            encoding="utf-8", start_new_session=True, **more)) as process:
        harness.wait_for(lambda: ready(names_below(process.pid)), "it has begun",
                         failsafe=PATIENCE)
        children = kernel.descendants(process.pid)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        harness.wait_for(lambda: all(map(kernel.is_over, [process.pid, *children])),
                         "no process is left", failsafe=PATIENCE)
        return process.wait(), process.stderr.read()


def names_below(pid):
    """What the processes are called that this one has started."""
    return [kernel.read_file(f"/proc/{child}/comm").strip() for child in kernel.descendants(pid)]
