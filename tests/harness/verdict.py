"""The three ways in which a probe ends, and what the chapters say of them."""

import collections

from tests.harness.course import STAGES

Verdict = collections.namedtuple("Verdict", "outcome kind seen expected sent notes seconds hint",
                                 defaults=[""])


class Fail(Exception):
    """The server did something wrong. Bytes are compared, and the first difference is shown.

    `hint`: what to do about it, when that is not what the probe is about.
    """

    def __init__(self, seen, expected="", sent="", hint=""):
        super().__init__(seen)
        self.seen, self.expected, self.sent, self.hint = seen, expected, sent, hint


class Lesson(Exception):
    """The server failed exactly as a chapter says. `kind` is the word for it in `expect`."""

    def __init__(self, seen, kind):
        super().__init__(seen)
        self.seen, self.kind = seen, kind


class NotTried(Exception):
    """This machine does not allow what the probe is about. The text says what it would need."""


class NoStart(Fail):
    """The server did not start as agreed. No probe can pass then."""


class Gone(Exception):
    """The server closed the connection; `how` is EOF or the error."""

    def __init__(self, how):
        super().__init__(how)
        self.how = how


def untried(verdict):
    """Why the probe could do nothing, in words; '' if it was tried."""
    return next((note for note in verdict.notes if note.startswith("not tried")), "")


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
