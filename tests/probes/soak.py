"""Random clients, replayable from a seed: `make soak` in short."""

import os

from tests.harness import probe
from tests.loop import soak as party

STEPS = 7 * party.ROUND  # so many that memory is looked at, too


@probe(row=32, title="soak: connect, talk, stall and reset at random", expect="- P P P P P P",
       look="/proc/PID/fd, /proc/PID/status", hint="free everything of a client when it leaves")
def soak(stage):
    """Seven rounds from a seed (SEED= changes it). Later ones need no more than early ones."""
    seed = int(os.environ.get("SEED", 1))
    stage.note(f"SEED={seed}")
    party.run(stage, seed, STEPS)
