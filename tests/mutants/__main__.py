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
import concurrent.futures
import contextlib
import os
import textwrap

from tests import harness
from tests import probes
from tests.harness import runner
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
    numbers = [int(text) for text in what if text.isdigit()]
    names = [text for text in what if not text.isdigit()]
    found = [m for number in numbers for m in mutants.of_stage(number)]
    found += mutants.of_library(names) if names else []
    return (found, in_full) if found else (mutants.of_stage() + mutants.of_library(), in_a_line)


@contextlib.contextmanager
def workers():
    """As many threads as there are cores, and memory. Ctrl-C ends what they run."""
    jobs = min(len(os.sched_getaffinity(0)), harness.gigabytes() + 1)
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        yield pool
    except BaseException:  # nobody wants the results: do not compile the rest
        pool.shutdown(wait=False, cancel_futures=True)
        harness.end_descendants()
        raise
    pool.shutdown()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", nargs="*", help="stages, library, or names of its mutants")
    arguments.add_argument("--build", default=harness.BUILD)
    arguments.add_argument("--exact", choices=Notice.EXACT, default="no",
                           help="that no other of the quick rows turns, too, or of all")
    options = arguments.parse_args()
    probes.load()
    (todo, show), passed, failed, skipped = chosen(options.what), 0, 0, 0
    with Workshop(todo, options.build) as workshop, runner.progress(len(todo)) as step, \
            workers() as pool:
        notices = [Notice(mutant, workshop, options) for mutant in todo]
        for notice in notices:
            notice.begin(pool)
        for mutant, notice in zip(todo, notices):
            notice.end()
            step(mutant.name)
            runner.say(show(mutant, notice))
            failed += bool(notice.problem)
            skipped += bool(notice.untried and not notice.problem)
            passed += not (notice.problem or notice.untried)
    print(f"{passed} passed, {failed} failed" + f", {skipped} skipped" * (skipped > 0))
    return 1 if failed or not passed + skipped else 0


if __name__ == "__main__":
    runner.main(main)
