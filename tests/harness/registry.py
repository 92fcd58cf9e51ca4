"""The list of all probes: @probe adds one, with what readers are told about it."""

from tests.harness.course import STAGES


class Probe:
    """One registered function, with what readers are told about it."""

    def __init__(self, run, row, title, expect, look, hint, alone, of_runtime, runtimes=None):
        self.run, self.row, self.title = run, row, title
        self.expect = dict(zip(STAGES, expect.split()))
        self.look, self.hint, self.alone = look, hint, alone
        self.of_runtime, self.runtimes = of_runtime, runtimes
        assert len(self.expect) == len(STAGES), f"{run.__name__}: a column for each stage"

    def __repr__(self):
        return f"{self.row}:{self.run.__name__}"


PROBES = []


def probe(row, title, expect, look, hint="", alone=False, of_runtime="", runtimes=None):
    """Register a probe. `alone`: nothing else may run while it measures.

    look, hint: what to look at when it fails, and, said later, what to write.
    of_runtime: where a reader's server runs on an event loop that we know, the loop decides about
    this, and not its user: then a failure is shown, with this sentence, and not counted.
    runtimes: the names of those of which that is true; all of them if it is None.
    """
    def register(run):
        PROBES.append(Probe(run, row, title, expect, look, hint, alone, of_runtime, runtimes))
        return run
    return register


def probes(rows=None, stage=None):
    """The registered probes in the order of their rows, those that apply to `stage`."""
    chosen = [p for p in PROBES if rows is None or p.row in rows]
    if stage is not None:
        chosen = [p for p in chosen if p.expect[stage] != "-"]
    return sorted(chosen, key=lambda p: p.row)
