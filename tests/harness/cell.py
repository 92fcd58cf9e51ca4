"""One probe on one stage, in a process of its own, and the verdict that comes of it."""

import os
import pickle
import select
import signal
import sys
import time

from tests.harness.client import WHO_CLOSES
from tests.harness.course import BUILD, SLOWER
from tests.harness.messages import show
from tests.harness.processes import (adopt_orphans, die_with_parent, end_descendants, end_family,
                                     raise_fd_limit)
from tests.harness.stage import Stage
from tests.harness.verdict import (Fail, Gone, Lesson, NoStart, NotTried, QueueFull,
                                   Verdict)
from tests.harness.waiting import Deadline
from tests.outside import kernel

CELL_FAILSAFE = 120.0 * SLOWER  # seconds for one probe on one stage, whatever it does


def run_probe(the_probe, stage):
    """Run one probe in this process; returns a Verdict."""
    start = time.monotonic()

    def verdict(outcome, kind="", seen="", expected="", sent="", look="", hint=""):
        return Verdict(outcome, kind, show(seen), show(expected), show(sent), list(stage.notes),
                       time.monotonic() - start, look, hint)

    def failed(fail, kind=""):
        seen = show(fail.seen) + stage.situation()
        if any(server.forbids_the_shim() for server in stage.servers):
            return verdict("-", "", "its seccomp filter forbids a call that build/shim.so makes")
        return of_runtime(seen) or verdict("F", kind, seen, fail.expected, fail.sent, fail.look,
                                           fail.hint)

    def of_runtime(seen):
        """The verdict if it is an event loop that has failed, and not its user; else None."""
        name = the_probe.of_runtime and stage.event_loop()
        if name and (the_probe.runtimes is None or name in the_probe.runtimes):
            return verdict("L", "runtime",
                           f"{seen.rstrip('.')}. {the_probe.of_runtime.format(name)}")
        return None

    try:
        try:
            the_probe.run(stage)
        except NoStart:
            raise
        except Fail as fail:
            stage.finish(fail.sent)  # a server that has died explains everything else
            raise
        stage.finish()
        stage.require_no_surplus()
        return verdict("P")
    except Lesson as lesson:
        try:
            stage.finish()
        except Fail as fail:
            return failed(fail)
        taught = the_probe.expect[stage.number] == f"L:{lesson.kind}"
        return (None if taught else of_runtime(lesson.seen)) or \
            verdict("L", lesson.kind, lesson.seen)
    except NotTried as why:
        return verdict("-", "", str(why))
    except NoStart as fail:
        return failed(fail, "no start")
    except QueueFull as fail:
        if not stage.own and fail.room < 100:
            return verdict("-", "", "there is too little room in its queue: see row 0")
        return failed(fail)
    except Fail as fail:
        return failed(fail)
    except (Gone, ProcessLookupError) as gone:
        try:
            stage.finish()  # it may be about to end
        except Fail as fail:
            return failed(fail)
        how = gone.how if isinstance(gone, Gone) else gone.strerror
        return failed(Fail(f"the connection ended ({how}); {stage.servers[-1].describe()}",
                           expected="the connection lasts", look=WHO_CLOSES))
    except Exception as error:  # a fault of the probe itself must be seen, too
        line = error.__traceback__
        while line.tb_next:
            line = line.tb_next
        where = f"{os.path.basename(line.tb_frame.f_code.co_filename)}:{line.tb_lineno}"
        return verdict("F", "probe", f"the probe itself failed: {error!r} at {where}")
    finally:
        stage.stop()


def give_up_late(stage):
    """Have no_verdict() called before the parent loses its patience."""
    deadline = Deadline(CELL_FAILSAFE - 10)

    def alarm(_, at):
        deadline.pids = (os.getpid(), *(pid for server in stage.servers
                                         for pid in server.pids))
        if left := deadline.left():
            signal.setitimer(signal.ITIMER_REAL, left)
        else:
            no_verdict(stage, at)

    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, deadline.left())


def no_verdict(stage, at):
    """The probe takes too long: say where it is, and what the server does."""
    while at and os.path.basename(os.path.dirname(at.f_code.co_filename)) != "probes":
        at = at.f_back
    where = f" (the probe is at line {at.f_lineno} of {at.f_code.co_filename})" if at else ""
    does = stage.servers[-1].describe() if stage.servers else "no server yet"
    if not stage.own and stage.servers:  # who gives no answer at all is found out much sooner
        raise NotTried(f"this server is too slow for it: after {CELL_FAILSAFE - 10:.0f} s it gets "
                       f"on, and is not at the end; {does}")
    raise Fail(f"no verdict within {CELL_FAILSAFE - 10:.0f} s; {does}{where}")


class Cell:
    """One probe on one stage, in a process of its own, so that it cannot disturb the others."""

    def __init__(self, the_probe, number, command=None, build=BUILD, stage_class=Stage):
        self.probe, self.number = the_probe, number
        starter = os.getpid()
        self.pipe, write_end = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            self._work(starter, write_end, stage_class(number, command, build))
        os.close(write_end)
        self.deadline = Deadline(CELL_FAILSAFE)

    def left(self):
        """Seconds until it must have a result."""
        left = self.deadline.left()
        if left:
            return left
        self.deadline.pids = (os.getpid(), self.pid, *kernel.descendants(self.pid))
        return self.deadline.left()

    def _work(self, starter, write_end, stage):
        """In the child."""
        try:
            die_with_parent(starter)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends us
            adopt_orphans()
            kernel.forget_netlink()
            raise_fd_limit()
            give_up_late(stage)
            result = pickle.dumps(run_probe(self.probe, stage))
            signal.setitimer(signal.ITIMER_REAL, 0)
            end_descendants()
            with os.fdopen(write_end, "wb") as file:
                file.write(result)
        finally:
            os._exit(0)

    def result(self):
        """The Verdict; waits for it."""
        data = b""
        while True:
            if not select.select([self.pipe], [], [], self.left())[0]:
                if self.left():
                    continue
                self.kill()
                return Verdict("F", "", f"no verdict within {CELL_FAILSAFE:.0f} s", "", "", [],
                               CELL_FAILSAFE)
            more = os.read(self.pipe, 65536)
            if not more:
                break
            data += more
        self.kill()
        if not data:
            return Verdict("F", "", "the probe's process died", "", "", [], 0.0)
        return pickle.loads(data)

    def kill(self):
        """End the child and, with it, its servers."""
        if self.pid:
            end_family(self.pid)
            os.close(self.pipe)
            self.pid = 0


def run_cell(the_probe, number, command=None, build=BUILD):
    """Run one probe on one stage and return its Verdict."""
    cell = Cell(the_probe, number, command, build)
    try:
        return cell.result()
    finally:
        cell.kill()
