"""Run many probes on many stages, a few at a time, and what to call the results."""

import errno
import os
import select
import signal
import stat
import sys

from tests import harness
from tests import probes
from tests.harness.progress import progress, say  # scripts use them from here, too
from tests.outside import tracing

JOBS = 2


def run_all(tasks, jobs=JOBS):
    """Run (probe, stage number, command or None, build) tasks; yield (task, Verdict) as they end.

    Each runs in a process of its own. A probe that must be alone is: the others wait.
    """
    waiting, active = sorted(tasks, key=lambda task: task[0].alone), {}
    try:
        while waiting or active:
            while waiting and may_start(waiting[0], active, jobs):
                task = waiting.pop(0)
                cell = harness.Cell(*task)
                active[cell.pipe] = task, cell
            for pipe in ended(active):
                task, cell = active.pop(pipe)
                yield task, cell.result()
    finally:
        for _, cell in active.values():
            cell.kill()


def may_start(task, active, jobs):
    """Is there room for this task beside those that run?"""
    if task[0].alone or any(other[0].alone for other, _ in active.values()):
        return not active
    return len(active) < jobs


def ended(active):
    """The pipes of the cells that have a result or no time left."""
    soon = min(cell.left() for _, cell in active.values())
    ready = select.select(list(active), [], [], soon)[0]
    return ready or [pipe for pipe, (_, cell) in active.items() if not cell.left()]


def cell_expected(row, number):
    """What the chapters say of a row on a stage: P, L, - or, from GoogleTest, unit."""
    columns = {p.expect[number][0] for p in harness.probes([row])} - {"-"}
    if not columns:
        return "unit" if row in probes.UNIT_ROWS and number == 7 else "-"
    return "L" if "L" in columns else "P"


def reader_is_gone(timeout=0):
    """Does nobody read our stdout any more, or not within so many milliseconds (None: for ever)?

    poll(2): POLLERR "is also set for a file descriptor referring to the write end of a pipe when
    the read end has been closed".
    """
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(timeout))


def watch_reader():
    """Have this process ended as soon as the reader of its stdout has gone.

    print() would notice, but the next line may be minutes away. It is no thread that watches:
    beside one, this process could not safely fork().
    """
    starter = os.getpid()
    if not is_pipe(1) or os.fork() != 0:
        return
    harness.die_with_parent(starter)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the other one to decide
    if reader_is_gone(None):
        os.kill(starter, signal.SIGTERM)
    os._exit(0)


def is_pipe(descriptor):
    """Is it a pipe, or a socket, which may stand for one?"""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # it is closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def drop_what_cannot_be_written():
    """To nobody, or on a full disk: Python would try again at its end, and complain."""
    try:
        if not reader_is_gone():
            return sys.stdout.flush()
    except OSError:
        pass
    return os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def not_twice(unraisable):
    """For what is thrown while a generator is closed: told to end once more, it says nothing."""
    if not isinstance(unraisable.exc_value, (SystemExit, KeyboardInterrupt)):
        sys.__unraisablehook__(unraisable)


def main(function):
    """Run a command of this course: its exit status; a quiet end on Ctrl-C or without a reader."""
    watch_reader()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(141 if reader_is_gone() else 143))
    sys.unraisablehook = not_twice
    harness.adopt_orphans()
    if not tracing.allowed():  # LeakSanitizer needs it, and would call its absence a failure
        os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    try:
        status = function()
        sys.stdout.flush()
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{error.filename or 'where this writes to'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # pressed twice: this is to be finished
            signal.signal(number, signal.SIG_IGN)
        drop_what_cannot_be_written()
        harness.end_descendants()
