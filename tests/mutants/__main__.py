"""Take lines away, and see who notices: `make break-N`, `make patches`.

    python3 -m tests.mutants 4                   the mutants of stage 4
    python3 -m tests.mutants eof-not-closed      this one of the library
    python3 -m tests.mutants library             all of the library, a line each
    python3 -m tests.mutants                     these and those of all stages, a line each

Each mutant must apply and compile, each row or test that its head names must notice, and row 0,
which only asks for an echo, must not: a server that does not even start proves nothing. With
--exact, no other row may turn but those behind "Also:".
"""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import textwrap

from tests import harness
from tests import probes
from tests.harness import argument, runner
from tests.mutants import mutant as mutants
from tests.mutants.notice import Notice
from tests.mutants.workshop import Workshop


def paragraph(text):
    """A paragraph below the first line of a mutant."""
    return textwrap.fill(text, 76, initial_indent="    ", subsequent_indent="    ")


def in_full(mutant, notice):
    """One mutant for people: what is missing, what it does to them, who has seen it."""
    said = [f"{row_name(row)}: {seen}" for row, seen in notice.rows.items()]
    said += [f"Test {test} fails." for test in notice.tests]
    return "\n".join([str(mutant), paragraph(f"A user sees: {mutant.seen}"), *map(paragraph, said),
                      f"    {'FAIL: ' + notice.problem if notice.problem else outcome(notice)}\n"])


def outcome(notice):
    """In a word, when there is no problem."""
    return "skipped" if notice.untried else "caught"


def in_a_line(mutant, notice):
    """The same in a line."""
    who = ", ".join([*(f"row {row}" for row in notice.rows), *notice.tests])
    of_library = mutant.path.parent == mutants.LIBRARY
    name = mutant.name if of_library else f"{mutant.folder[:2]} {mutant.name}"
    word = "FAIL" if notice.problem else "skip" if notice.untried else "ok  "
    return f"{word} {name:36} " + (notice.problem or notice.untried or f"caught by {who}")


def row_name(row):
    """Row 14, short reads and short writes."""
    return f"Row {row}, {probes.ROWS[row]}"


def chosen(what):
    """The mutants that were asked for, and how to show them."""
    if what == ["library"]:
        return mutants.of_library(), in_a_line
    if not what:
        return mutants.of_stage() + mutants.of_library(), in_a_line
    stages = [mutant for text in what if text.isdigit() for mutant in mutants.of_stage(text)]
    names = [text for text in what if not text.isdigit()]
    return stages + (mutants.of_library(names) if names else []), in_full


def judged(todo, workshop, options):
    """Each mutant and what came of it, in their order. Each is judged in a process of its own.

    There are two more at work than there are cores, because they wait at times, or fewer where
    there is little memory. They are no threads, because judging forks.
    """
    jobs = min(len(os.sched_getaffinity(0)) + 2, harness.gigabytes() + 1)
    waiting, active, notices = list(todo), {}, {}
    for mutant in todo:
        while mutant not in notices:
            while waiting and len(active) < jobs:
                beginner = waiting.pop(0)
                active[begin(beginner, workshop, options)] = beginner
            for end in multiprocessing.connection.wait(list(active)):
                notices[active.pop(end)] = end.recv()
        yield mutant, notices[mutant]


def begin(mutant, workshop, options):
    """Have a mutant judged. Returns the end of a pipe from which its Notice will come."""
    notice, (result, to) = Notice(mutant, options.build, options.exact), multiprocessing.Pipe(False)
    starter = os.getpid()

    def judge():
        harness.die_with_parent(starter)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends us
        notice.take(workshop)
        to.send(notice)

    multiprocessing.get_context("fork").Process(target=judge).start()
    to.close()
    return result


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["library", *map(str, harness.STAGES), *(m.name for m in mutants.of_library())]
    arguments.add_argument("what", nargs="*", type=argument.one_of(names),
                           help="stages, or library, or names of its mutants")
    arguments.add_argument("--build", default=harness.BUILD)
    arguments.add_argument("--exact", choices=Notice.EXACT, default="no",
                           help="that no other of the quick rows turns, too, or of all")
    options = arguments.parse_args()
    probes.load()
    (todo, show), passed, failed, skipped = chosen(options.what), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as place, \
            runner.progress(len(todo)) as step:
        for mutant, notice in judged(todo, Workshop(place, todo, options.build), options):
            step(mutant.name)
            runner.say(show(mutant, notice))
            failed += bool(notice.problem)
            skipped += bool(notice.untried and not notice.problem)
            passed += not (notice.problem or notice.untried)
    print(f"{passed} passed, {failed} failed" + f", {skipped} skipped" * (skipped > 0))
    return 1 if failed or not passed + skipped else 0


if __name__ == "__main__":
    runner.main(main)
