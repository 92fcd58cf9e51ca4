#!/usr/bin/env python3
"""Put every probe of a stage to a server: ours, or one that you wrote. This is `make check-N`.

    python3 -m tests.learn.check 4                    our stage 4
    python3 -m tests.learn.check 4 --server ./mine    your own server, in any language
    python3 -m tests.learn.check 4 --server ./mine --hint 7    row 7 alone, and what to write

A server of yours takes --port N, and prints a line that ends in `listening on HOST:PORT` when it
can be connected to. That is all it has to know of this course. A command with arguments is fine,
too: --server "python3 mine.py".
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import textwrap

from tests import harness
from tests import probes
from tests.harness import argument, runner

WIDTH = 80

# A server that fails the one can hardly pass the other.
FIRST = {2: (1,), 3: (1,), 4: (1, 3), 6: (5,), 8: (5, 6), 10: (5,), 12: (11,), 13: (11, 12),
         14: (5, 6), 16: (1,), 17: (5,), 19: (9,), 31: (1, 3, 4), 32: (5, 6, 9)}
FOOTING = {33, 34, 35, 36}  # rows about what a server itself stands on: no client brings them about


def passes(probe, number, verdict, own):
    """Does it count as passed? None when it was not tried."""
    if verdict.outcome == "-":
        return None
    if not harness.judge(probe, number, verdict):
        return True
    if own:
        return False
    if uncounted(probe, number, verdict):
        return True
    if verdict.outcome == "L":  # of another stage, and as bad as this one's
        return probe.expect[number][2:] != "" and f"L:{verdict.kind}" in probe.expect.values()
    return verdict.outcome == "P"


def uncounted(probe, number, verdict):
    """Why a failure of a reader's server is shown, and does not count; '' if it does."""
    if not harness.judge(probe, number, verdict) or verdict.outcome == "P":
        return ""
    if verdict.kind == "runtime":
        return "because it is your runtime's"
    if probe.row in FOOTING and number < 7 and verdict.kind != "probe":
        return "because no client brings it about"
    return ""


def describe(probe, number, verdict, own, before=(), hints=False):
    """The lines for one probe. `before`: the (probe, verdict) pairs that have failed so far."""
    passed, title = passes(probe, number, verdict, own), probe.title
    if passed is None:
        text = line(probe, "-", title) + indented("not tried", verdict.seen)
    elif passed and verdict.outcome == "P":
        more = probe.expect[number] != "P"
        text = line(probe, "P", title + f" (more than stage {number} asks)" * more)
    elif passed:
        text = line(probe, "L", title) + indented(lesson_told(probe, number, verdict), verdict.seen)
    else:
        text = failure(probe, number, verdict, before)
    if hints:
        text += indented("hint", "; ".join(filter(None, (verdict.hint, probe.hint))))
    return text


def lesson_told(probe, number, verdict):
    """What to call a lesson."""
    if why := uncounted(probe, number, verdict):
        return f"not counted, {why}"
    chapter = told_in(probe, number, verdict.kind)
    if verdict.kind != probe.expect[number][2:]:
        return f"lesson, no worse than what chapter {chapter} shows"
    return f"lesson, as chapter {chapter} says"


def failure(probe, number, verdict, before):
    """The lines for a probe that has failed."""
    text = line(probe, "FAIL", probe.title)
    problem = harness.judge(probe, number, verdict)
    if verdict.outcome == "P":
        return text + indented("expected", "the lesson: it " + probe.expect[number][2:]) + \
            indented("received", problem)
    same, first = same_before(verdict, before), first_before(probe, verdict, before)
    says = [("received", problem)]
    if first and first.row == 0:  # all the rest may follow from that, and need not be long
        return text + indented("received", problem) + indented("mend first", "row 0")
    asked_before = any(its.expected == verdict.expected for _, its in before)
    if not same or same.row == probe.row and not asked_before:
        says = [("sent", verdict.sent), ("expected", verdict.expected), *says]
    says += [("look at", look) for look in places(probe, verdict, before)]
    if stops(probe, verdict):  # it is about our agreement, which is no exercise
        says += [("hint", verdict.hint)]
    if same and same.row != probe.row:
        says += [("mend first", f"row {same.row}, where the same happens")]
    elif first:
        says += [("mend first", f"row {first.row}: this one may only follow from it")]
    return text + "".join(indented(name, value) for name, value in says if value)


def places(probe, verdict, before):
    """What to look at. What was seen tells more than the row does, and the row more than an end.

    Row 0 is about everything: it has nothing to add.
    """
    seen = [verdict.look] * (verdict.look not in [its.look for _, its in before])
    told = probe.row == 0 and (verdict.look or verdict.kind == "no start")
    asked = [probe.look] * (verdict.kind != "probe" and not told)
    looks = asked + seen if verdict.look == harness.ENDED else seen + asked
    return dict.fromkeys(look for look in looks if look)


def same_before(verdict, before):
    """The probe that has failed before in the same way, or None."""
    return next((other for other, its in before if pattern(its) == pattern(verdict)), None)


def first_before(probe, verdict, before):
    """The probe that has failed before, and that this one may only follow from; None if none."""
    def explains(row, its):
        return row == 0 and not re.match("room for|when it writes", its.seen) or \
            row == 1 and waits(its) and waits(verdict) or \
            row in FIRST.get(probe.row, ()) and manner(its) == manner(verdict)
    return next((other for other, its in before
                 if other.row != probe.row and explains(other.row, its)), None)


def pattern(verdict):
    """What has been seen, without its numbers and without what had been done to bring it about.

    A 0 stays: it makes a difference whether bytes were left unread.
    """
    seen = re.sub(r"[\d,.]*[1-9][\d,.]*", "N", re.sub(r" \(while .*\)$", "", verdict.seen))
    return re.sub(r"\b(N \w+?)s\b", r"\1", seen)


def manner(verdict):
    """Did the server end, leave a client waiting or early, or its descriptors to a child?"""
    return (waits(verdict), *(bool(re.search(kind, verdict.seen)) for kind in (
        "the server (exited|was killed)", "end of file|connection ended|reset by peer",
        "in a child process")))


def waits(verdict):
    """Did it leave a client alone, whose bytes were there? (And was not busy with others.)"""
    return not re.search(r"goes in circles|is running \(state", verdict.seen) and bool(re.search(
        r"[1-9][\d,]* bytes? of [\w ]+ unread|gets? no |left in the queue", verdict.seen))


def follows(failed, row):
    """Have all failures of a row others before them that they may only follow from?"""
    return all(any(other.row != row for other in (same_before(verdict, failed[:at]),
                                                  first_before(probe, verdict, failed[:at]))
                   if other)
               for at, (probe, verdict) in enumerate(failed) if probe.row == row)


def stops(probe, verdict):
    """Is there nothing to try after this? It did not start, and it was its first time."""
    return verdict.kind == "no start" and probe.row == 0


def told_in(probe, number, kind):
    """The chapter that speaks of a lesson: the nearest that teaches it, or where it is urgent."""
    teaching = [stage for stage, expected in probe.expect.items() if expected == f"L:{kind}"]
    nearest = min(teaching, key=lambda stage: abs(stage - number))
    return {12: max(nearest, 4), 27: 7, 28: 7}.get(probe.row, nearest)


def line(probe, outcome, text):
    """The first line of a probe."""
    return f"{probe.row:>2}  {outcome:<4}  {text}\n"


def indented(name, text):
    """A line below it, wrapped."""
    return textwrap.fill(f"{name}: {text}", WIDTH, initial_indent=" " * 10, break_on_hyphens=False,
                         subsequent_indent=" " * 14) + "\n"


def reached(results, rows, below):
    """The highest stage below `below` whose every probe (of the chosen rows) was passed, or 0."""
    def meets(number):
        asked = harness.probes(rows, number)
        return asked and all(p in results and passes(p, number, results[p], False) for p in asked)

    return max((number for number in harness.STAGES if number < below and meets(number)), default=0)


def find_server(path):
    """The reader's server as a command that exec() takes; ValueError says why there is none."""
    path = os.path.expanduser(path)
    if os.path.isfile(path):  # whatever its name has in it
        return [os.path.abspath(path)]
    words = [path] if os.path.lexists(path) else shlex.split(path)  # "python3 mine.py", perhaps
    if not words:
        raise ValueError("no program is named")
    program = os.path.expanduser(words[0])
    found = program if os.path.lexists(program) else shutil.which(program)
    if not found:
        raise ValueError("there is no such program")
    if os.path.isdir(found):
        raise ValueError("that is a directory: which program in it?")
    if not os.path.isfile(found):
        raise ValueError("that is a link to a file that is gone" if os.path.islink(found) else
                         "that is no file")
    return [os.path.abspath(found), *words[1:]]


def run(number, rows, command, build, hints=False):
    """Run the probes and print a line or more for each, in order. Returns {probe: Verdict}."""
    chosen = harness.probes(rows, number)
    results, printed, failed, own = {}, 0, [], command is None
    if rows and not own and (silent := does_not_start(number, command, build)):
        return silent
    with runner.progress(len(chosen)) as step:
        for (probe, *_), verdict in runner.run_all([(p, number, command, build) for p in chosen]):
            step(probe.title)
            results[probe] = verdict
            if stops(probe, verdict):
                return stopped(number, verdict, own)
            while printed < len(chosen) and chosen[printed] in results:
                probe = chosen[printed]
                verdict = results[probe]
                show(probe, describe(probe, number, verdict, own, failed, hints), verdict)
                if passes(probe, number, verdict, own) is False:
                    failed.append((probe, verdict))
                printed += 1
    return results


def does_not_start(number, command, build):
    """What run() returns if row 0 finds that, so that each row need not; None if it starts."""
    probe = harness.probes([0], number)[0]
    verdict = harness.run_cell(probe, number, command, build)
    return stopped(number, verdict, False) if stops(probe, verdict) else None


def stopped(number, verdict, own):
    """It does not start: nothing else can be said about it. Row 0 is about how it says that."""
    probe = harness.probes([0], number)[0]
    show(probe, describe(probe, number, verdict, own), verdict)
    return {probe: verdict}


def show(probe, text, verdict):
    """Print what a probe has shown."""
    runner.say(text, end="")
    for note in verdict.notes:
        print(indented("note", note), end="")


def listed(rows):
    """'row 7', or 'rows 7, 12 and 13'."""
    *most, last = map(str, sorted(rows))
    return f"rows {', '.join(most)} and {last}" if most else f"row {last}"


def distance(number, results, rows):
    """How far a reader's server is from the stage that it was checked for, in words."""
    verdicts = {p: passes(p, number, verdict, False) for p, verdict in results.items()}
    failed = [(p, results[p]) for p in harness.probes(rows, number) if verdicts.get(p) is False]
    missing = {p.row for p, _ in failed}
    shown = {p.row for p, verdict in results.items() if uncounted(p, number, verdict)} - missing
    untried = {p.row for p, passed in verdicts.items() if passed is None} - missing
    asked = {p.row for p in results}
    later = {row for row in missing if follows(failed, row)}
    if set(verdicts.values()) == {None}:
        return f"Nothing of stage {number} could be tried."
    if rows and asked == missing == {p.row for p in harness.probes(rows, number)}:
        return f"This server fails {listed(missing)} of stage {number}."
    if True not in verdicts.values():
        return f"This server has not passed anything of stage {number} yet."
    if 2 * len(missing) > len(asked):
        text = (f"This server passes {len(asked - missing - untried)} of the "
                f"{harness.counted(len(asked), 'row')} of stage {number}; "
                f"not {listed(missing - later)}")
        text += f", and not {listed(later)}, which may only follow." if later else "."
    else:
        text = f"This server is stage {number}, {harness.STAGES[number]}"
        text += f", but for {listed(missing - later)}" if missing else ""
        text += f", and for {listed(later)}, which may only follow" if later else ""
        text += ", as far as these rows show" if rows else ""
        text += f"; {listed(untried)} could not be tried" if untried else ""
        text += "."
    lower = reached(results, rows, number) if missing and not rows else 0
    if lower:
        text += f" It is all of stage {lower}."
    if shown:
        text += f" {listed(shown).capitalize()} {'do' if len(shown) > 1 else 'does'} not count."
    elif not missing and not untried and not rows:
        text += " Everything as its chapter says."
    if not missing and not rows and number < 7:
        text += f" Next: make check-{number + 1} SERVER=..."
    return text


def summary(number, results, rows, own, hints):
    """The last lines. Returns the exit status."""
    outcomes = [passes(p, number, v, own) for p, v in results.items()]
    failed, left_out = outcomes.count(False), outcomes.count(None)
    passed, not_run = outcomes.count(True), len(set(harness.probes(rows, number)) - set(results))
    if not own:
        print("\n" + textwrap.fill(distance(number, results, rows), WIDTH))
    elif not failed:
        untried = {p.row for p, v in results.items() if passes(p, number, v, own) is None}
        print(f"\n{harness.STAGES[number]}: " + (
            f"as its chapter says; {listed(untried)} could not be tried" if untried else
            "everything as its chapter says"))
    if failed and not own and not not_run and not hints:
        row = min(p.row for p, v in results.items() if passes(p, number, v, own) is False)
        print(f"What to write for a row: make check-{number} SERVER=... HINT={row}")
    print(f"{passed} passed, {failed} failed" + f", {left_out} not tried" * (left_out > 0)
          + f", {not_run} not run because it does not start" * (not_run > 0))
    return 1 if failed or not passed else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, choices=list(harness.STAGES))
    arguments.add_argument("--server", help="your own server (default: ours)")
    arguments.add_argument("--rows", type=argument.numbers, help="only these: 1,7,9")
    arguments.add_argument("--hint", type=argument.numbers,
                           help="only these, and say what to write")
    arguments.add_argument("--build", default=harness.BUILD, help="where our servers are")
    options = arguments.parse_args()

    command = None
    if options.server is not None:
        try:
            command = find_server(options.server)
        except ValueError as error:
            print(f"{options.server}: {error}\n0 passed, 1 failed")
            return 1
    elif not (pathlib.Path(options.build) / harness.STAGES[options.stage]).exists():
        print(f"{harness.STAGES[options.stage]} is not built: make\n0 passed, 1 failed")
        return 1
    probes.load()
    rows = options.hint or options.rows
    if not harness.probes(rows, options.stage):
        print(f"none of these rows is asked of stage {options.stage}\n0 passed, 1 failed")
        return 1
    print("P: passes.  L: a lesson, the stage is meant to fail there.  -: not tried.\n")
    results = run(options.stage, rows, command, options.build, bool(options.hint))
    return summary(options.stage, results, rows, command is None, bool(options.hint))


if __name__ == "__main__":
    runner.main(main)
