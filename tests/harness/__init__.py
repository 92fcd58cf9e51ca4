"""What every probe is built on: start a server, talk to it, judge what it does.

A probe is a function that plays one fault against a running server:

    @probe(row=1, title="the second client is served while the first one idles",
           expect="L:waits P P P P P P", look="accept(2), recv(2)", hint="...")
    def second_client(stage):
        server = stage.start()
        server.connect().roundtrip()

It returns (the server passes), raises Lesson (it fails in a way that a chapter teaches), raises
Fail (it fails in any other way) or NotTried (nothing can be said of it here). `expect` has a column
for each of the seven stages: P it must pass, L:kind it must fail as a Lesson of that kind, - the
probe does not apply.

Time decides nothing here: a probe waits for a byte, an exit, a state of the process. FAILSAFE only
ends what would wait for ever.

One file for each job:

    course      the stages, and where things are     server      started, watched, steered, ended
    verdict     the three ways a probe ends          client      sends, receives, waits
    registry    the list of all probes               stage       what a probe gets
    messages    frames, and bytes for people         cell        a probe in a process of its own
    waiting     for a condition, and not for ever    runner      many probes, a few at a time
    processes   none outlives what started it        cause       why a server gets no further
    argument    what scripts take as arguments
"""

from tests.harness.cause import ENDED, finding
from tests.harness.cell import CELL_FAILSAFE, Cell, run_cell, run_probe
from tests.harness.client import WHOSE, Client
from tests.harness.course import BUILD, CXX, KIB, MIB, ROOT, SAN, SLOWER, STAGES
from tests.harness.messages import (counted, difference, frame, frames, pattern, printable, right,
                                    show)
from tests.harness.processes import (adopt_orphans, die_with_parent, end_descendants, ended,
                                     gigabytes, heed_interrupts, raise_fd_limit, tied)
from tests.harness.registry import PROBES, Probe, probe, probes
from tests.harness.server import LINE, Server, plug
from tests.harness.stage import Stage
from tests.harness.verdict import (Fail, Gone, Lesson, NoStart, NotTried, QueueFull, Verdict,
                                   judge, untried)
from tests.harness.waiting import FAILSAFE, Deadline, Stillness, wait_for
