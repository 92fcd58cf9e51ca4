"""Child processes: none outlives what has started it."""

import contextlib
import ctypes
import os
import resource
import signal
import time

from tests.outside import host, kernel

_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent(starter):
    """In a child: SIGKILL when the parent dies, however that comes."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter:  # it died before prctl()
        os._exit(1)


def tied(command):
    """A command line that runs `command`, and ends it when this process dies.

    For a process with threads, which may not call Python code between fork() and exec(): another
    thread may have held a lock at that moment, and nobody would ever open it (subprocess, "Popen
    Constructor", preexec_fn). setpriv(1) and its fellows are of util-linux, which every Debian has.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)]


def adopt_orphans():
    """Whoever loses its parent below this process becomes a child of it, and not of init."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_descendants():
    """Kill all that was started from here, also what has put itself into the background."""
    kill_all(kernel.descendants(os.getpid()))
    while has_children():
        time.sleep(0.001)  # dying, or begun while we looked: look again, never wait for it
        kill_all(kernel.descendants(os.getpid()))


def kill_all(pids):
    """SIGKILL for each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def has_children():
    """Is there a child that has not ended? Those that have are zombies no more."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
        return True
    except ChildProcessError:
        return False


def end_family(pid):
    """Kill a child with all that it has started, and wait for them: they become ours, if adopted.

    Parents come first. Who has another parent than us is not waited for.
    """
    family = [pid, *kernel.descendants(pid)]
    kill_all(family)
    for each in family:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(each, 0)


@contextlib.contextmanager
def ended(process):
    """A Popen that is over when we leave, also if we leave because its end has not come."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def heed_interrupts():
    """In a child: let SIGINT end it. What a shell starts with "&" ignores it, and all it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_fd_limit():
    """As many descriptors as this process may have. Returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def gigabytes():
    """The memory that may be used here, of the machine or of this control group."""
    return host.available() // 10**9
