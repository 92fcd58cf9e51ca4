"""The story that all seven servers live through: who comes, what they want, who is let down.

It is told twice. timeline.py plays it in real time and writes down what the clients see, which
makes the cover picture. steps.py plays it with the server held still between two system calls, and
writes down what the kernel knows, which makes the page. People, amounts and outcome are the same,
and stand here.

A connects, and says nothing. B connects, and says a word now and then. A crowd of 1,500 comes. C
sends 8 MB, and reads none of it until later. D has sent 6 MB and has not read its answer when
SIGTERM arrives.
"""

import collections
import datetime
import json
import os
import pathlib
import subprocess
import tempfile

from tests import harness
from tests.outside import host

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1024 * 1024
CROWD = 1500
C_BYTES = 8 * MIB  # more than both buffers of a connection hold
D_BYTES = 6 * MIB  # more than those and what stage 6 holds: some is unread when SIGTERM comes
FRAME = 64 * 1024  # bytes of C's and D's messages, header and all

NEW = {1: "one client at a time", 2: "asks who is ready", 3: "no limit of 1,024",
       4: "the kernel keeps the list", 5: "never blocks, but drops", 6: "keeps what is not sent",
       7: "a loop as a library"}


def messages(total, seed):
    """`total` bytes of frames, no two alike."""
    data = harness.frames(total, FRAME - 8, seed)
    assert len(data) == total
    return data


# The nine seconds of the picture

Scene = collections.namedtuple("Scene", "who title begin end")  # seconds

SCENES = (Scene("A", "A is silent", 0.0, 2.0), Scene("crowd", "1,500 connect", 2.6, 4.4),
          Scene("C", "C does not read", 5.0, 7.0), Scene("D", "SIGTERM, D waits", 8.0, 9.0))
FIRST_WORD, EVERY, LAST_WORD = 0.3, 0.1, 8.4  # seconds: B says ten words a second
STOP = 8.6  # SIGTERM, at the earliest
LENGTH = 9.2

# What each server does to them: the lesson of the picture. `make story` fails when it is not so.
LET_DOWN = {
    1: {"B waits for A", "crowd waits", "C gets nothing", "D is cut off"},
    2: {"B waits for C", "B waits for D", "crowd is refused", "D is cut off"},
    3: {"B waits for C", "B waits for D", "D is cut off"},
    4: {"B waits for C", "B waits for D", "D is cut off"},
    5: {"C is cut off", "D is cut off"},
    6: {"D is cut off"},
    7: set(),
}

# The steps of the page

Step = collections.namedtuple("Step", "title what")

STEPS = (
    Step("The server listens", "It has said so, and sleeps."),
    Step("A connects", "A will say nothing for a long time."),
    Step("B connects", "The kernel completes a connection by itself, and queues it."),
    Step("B says “hi”", "Ten bytes: the eight of a header, and two."),
    Step("C connects", "So far, C is a client like A and B."),
    Step("C sends 8 MB, and does not read", "The answers fill C's receive buffer, then the "
         "server's send buffer. And then?"),
    Step("B says “ho”", "Here the seven part company."),
    Step("C reads at last", "Is all of it still there?"),
    Step("A leaves", "An end of file: it will send no more."),
    Step("D sends 6 MB, and does not read", "Now D is owed an answer."),
    Step("SIGTERM", "The server is told to stop, with D's answer still under way."),
    Step("D reads", "Does it get every byte?"),
)
HI, FLOOD, HO, READS, LEAVES, OWED, SIGTERM, THE_END = 3, 5, 6, 7, 8, 9, 10, 11

# Asked by the page before a step: of whom, and at the end of which step one sees it.
QUESTIONS = (
    {"before": FLOOD, "reveal": HO, "client": "B",
     "text": "C will now send 8 MB and read nothing. Then B says “ho”. Which of these servers "
             "still answers B?"},
    {"before": SIGTERM, "reveal": THE_END, "client": "D",
     "text": "SIGTERM comes while D is owed 6 MB. From which of these servers does D still get "
             "every byte?"},
)

# The lessons of the page: (step, stage): the call that the server sleeps in at the end of the step,
# and the state of clients then. "-": it has ended.
LESSONS = {
    (HI, 1): ("recv", {"A": "silent", "B": "waits"}),
    (HI, 2): ("select", {"A": "silent", "B": "answered"}),
    (HI, 3): ("poll", {"B": "answered"}),
    (HI, 4): ("epoll_wait", {"B": "answered"}),
    (HO, 1): ("recv", {"A": "silent", "B": "waits", "C": "reads not"}),
    (HO, 2): ("send", {"B": "waits", "C": "reads not"}),
    (HO, 3): ("send", {"B": "waits", "C": "reads not"}),
    (HO, 4): ("send", {"B": "waits", "C": "reads not"}),
    (HO, 5): ("epoll_wait", {"B": "answered", "C": "cut off"}),
    (HO, 6): ("epoll_wait", {"B": "answered", "C": "reads not"}),
    (HO, 7): ("epoll_wait", {"B": "answered", "C": "reads not"}),
    (READS, 1): ("recv", {"B": "waits", "C": "waits"}),
    (READS, 2): ("select", {"B": "answered", "C": "answered"}),
    (READS, 3): ("poll", {"B": "answered", "C": "answered"}),
    (READS, 4): ("epoll_wait", {"B": "answered", "C": "answered"}),
    (READS, 6): ("epoll_wait", {"B": "answered", "C": "answered"}),
    (READS, 7): ("epoll_wait", {"B": "answered", "C": "answered"}),
    (LEAVES, 1): ("recv", {"A": "left", "B": "answered", "C": "waits"}),
    (OWED, 4): ("send", {"D": "reads not"}),
    (OWED, 5): ("epoll_wait", {"D": "cut off"}),
    (OWED, 6): ("epoll_wait", {"D": "reads not"}),
    (THE_END, 1): ("-", {"C": "cut off", "D": "cut off"}),
    (THE_END, 4): ("-", {"D": "cut off"}),
    (THE_END, 6): ("-", {"D": "cut off"}),
    (THE_END, 7): ("-", {"D": "answered"}),
}


def about():
    """Where and when something was recorded."""
    return {"machine": f"{host.cpu()}, {os.cpu_count()} cores", "kernel": host.system(),
            "date": datetime.date.today().isoformat()}


def sizes():
    """{what: bytes} of the structures of select(), poll() and epoll, as the compiler sees them."""
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "sizes")
        subprocess.run([*harness.CXX, HERE / "sizes.cpp", "-o", program], check=True)
        return json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
