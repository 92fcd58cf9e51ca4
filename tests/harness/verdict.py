"""The three ways in which a probe ends, and what the chapters say of them."""

import collections

from tests.harness.course import STAGES

# outcome: P passes, L lesson, F fails, - not tried (seen says why).
Verdict = collections.namedtuple(
    "Verdict", "outcome kind seen expected sent notes seconds look hint", defaults=["", ""])


class Fail(Exception):
    """The server did something wrong. Bytes are compared, and the first difference is shown.

    `look`, `hint`: what to look at and what to write, beside what the probe says of itself.
    """

    def __init__(self, seen, expected="", sent="", look="", hint=""):
        super().__init__(seen)
        self.seen, self.expected, self.sent = seen, expected, sent
        self.look, self.hint = look, hint


class Lesson(Exception):
    """The server failed exactly as a chapter says. `kind` is the word for it in `expect`."""

    def __init__(self, seen, kind):
        super().__init__(seen)
        self.seen, self.kind = seen, kind


class NotTried(Exception):
    """The probe cannot be put to this server, or not on this machine: no verdict, and why."""


class NoStart(Fail):
    """The server did not start as agreed. No probe can pass then."""


class QueueFull(Fail):
    """A client found no room in the queue of those that wait for accept(), and nobody accepts.

    `room`: how many may wait there.
    """

    room = 0


class Gone(Exception):
    """The server closed the connection; `how` is EOF or the error."""

    def __init__(self, how):
        super().__init__(how)
        self.how = how


def untried(verdict):
    """Why the probe could do nothing, in words; '' if it was tried."""
    return f"not tried: {verdict.seen}" if verdict.outcome == "-" else ""


def judge(the_probe, number, verdict):
    """'' if the verdict is what the chapters say, or there is none; else what is wrong with it."""
    expected = the_probe.expect[number]
    got = verdict.outcome + (f":{verdict.kind}" if verdict.outcome == "L" else "")
    if got == expected or untried(verdict):
        return ""
    if expected.startswith("L") and verdict.outcome == "P":
        return (f"the lesson no longer shows: {STAGES[number]} should fail here "
                f"({expected[2:]}), but it passes")
    if verdict.outcome == "L":
        return f"it {verdict.kind}: {verdict.seen}"
    return verdict.seen
