"""Follow the system calls of a server one by one: ptrace(2), without strace.

The server stands still whenever a call is handed out, so what a probe does meanwhile (send more,
read what came) happens at a known place in the server's life, in every run alike.
"""

import contextlib
import ctypes
import os
import signal
import struct
import time

from tests.outside import kernel

PTRACE_DETACH, PTRACE_SYSCALL = 17, 24
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_GET_SYSCALL_INFO = 0x4206, 0x4207, 0x420e
TRACE_SYSGOOD, TRACE_CLONE = 1, 8
WALL = 0x40000000  # waitpid: threads, too
ENTRY, EXIT = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request, tid, address=0, data=0):
    """One ptrace call; raises OSError."""
    result = _libc.ptrace(request, tid, address, data)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")
    return result


def allowed():
    """Can a process here trace a child of its own? Many containers forbid it, by seccomp(2)."""
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        ptrace(PTRACE_SEIZE, child)
        return True
    except OSError:
        return False
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Trace:
    """All threads of a process, stopped. Iterate over the calls that they make."""

    def __init__(self, pid):
        self.stopped, self.entered = {}, {}  # thread: signal to pass on; thread: call begun
        self.seized = set()
        for tid in kernel.threads(pid):
            ptrace(PTRACE_SEIZE, tid, 0, TRACE_SYSGOOD | TRACE_CLONE)
            self.seized.add(tid)
            ptrace(PTRACE_INTERRUPT, tid)
        while len(self.stopped) < len(self.seized):
            self._wait_stop()

    def _wait_stop(self, failsafe=20.0):
        """Wait for one thread to stop. Returns (thread, was it at a system call)."""
        end = time.monotonic() + failsafe
        while True:
            tid, status = os.waitpid(-1, WALL | os.WNOHANG)
            if tid and os.WIFSTOPPED(status):
                break
            if tid:
                self.seized.discard(tid)
            if not self.seized or time.monotonic() > end:
                raise TimeoutError("no system call")
            time.sleep(0.0002)
        self.seized.add(tid)
        number, event = os.WSTOPSIG(status), status >> 16
        at_call = number == signal.SIGTRAP | 0x80
        self.stopped[tid] = 0 if at_call or event else number
        return tid, at_call

    def calls(self, failsafe=20.0):
        """Yield (name, arguments, result) of each finished call. Ends when none comes any more."""
        while True:
            for tid, number in list(self.stopped.items()):
                del self.stopped[tid]
                ptrace(PTRACE_SYSCALL, tid, 0, number)
            try:
                tid, at_call = self._wait_stop(failsafe)
            except TimeoutError:
                return
            if at_call:
                finished = self._look(tid)
                if finished:
                    yield finished

    def _look(self, tid):
        """Remember a call that begins; return one that ends."""
        info = ctypes.create_string_buffer(128)
        ptrace(PTRACE_GET_SYSCALL_INFO, tid, 128, ctypes.addressof(info))
        if info.raw[0] == ENTRY:
            number, *args = struct.unpack_from("=7Q", info.raw, 24)
            self.entered[tid] = (kernel.CALLS.get(number, str(number)), args)
        elif info.raw[0] == EXIT and tid in self.entered:
            return (*self.entered.pop(tid), struct.unpack_from("=q", info.raw, 24)[0])
        return None

    def detach(self):
        """Let all threads go."""
        for tid in list(self.seized):
            with contextlib.suppress(OSError, TimeoutError):
                if tid not in self.stopped:
                    ptrace(PTRACE_INTERRUPT, tid)
                while tid not in self.stopped:
                    self._wait_stop(5.0)
                ptrace(PTRACE_DETACH, tid, 0, self.stopped.pop(tid))


@contextlib.contextmanager
def traced(server):
    """Stop a server and follow it: `with traced(server) as trace: for call in trace.calls()`."""
    trace = Trace(server.pid)
    try:
        yield trace
    finally:
        trace.detach()
