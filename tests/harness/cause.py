"""Why a server does not run, ends, or gets no further: what to look at, and what to write."""

import errno
import os
import re
import select
import shlex
import shutil
import signal

from tests.harness.messages import printable
from tests.outside import kernel

BUG = "where it is when it dies: the probe has only triggered it. "
DOS = "a carriage return at its end: save it with the line ends of Unix (sed -i 's/\\r$//')"
BY_HAND = "what it says when you start it so yourself"
ENDED = "why it ends: a server goes on when a client has left, and stays in the foreground"
DEATHS = {  # what to look at, and what to write
    **dict.fromkeys((signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL),
                    (BUG, "")),  # and with what to see it: debugger()
    signal.SIGPIPE: ("send(2): EPIPE; signal(7): SIGPIPE ends a process that does not handle it",
                     "give send() MSG_NOSIGNAL, or ignore SIGPIPE: then it fails with EPIPE"),
    signal.SIGSYS: ("seccomp(2): its filter forbids a call; strace -f shows the last one", ""),
    signal.SIGKILL: ("who sends SIGKILL: the kernel does it when memory is short (dmesg)", ""),
}

ABORTED = (  # SIGABRT with these words: what to look at, and what to write
    ("terminate called without an active exception",
     "std::thread: it ends the program if it goes out of scope before join() or detach()",
     "detach() it; or keep it, and join() it when its client has left"),
    ("terminate called", "the exception in its last words: nothing catches it",
     "catch it where it is thrown, and let it cost no more than the client that it is about"),
    ("[Aa]ssert", "the assertion in its last words: it names the line, and what is not so there",
     ""),
    (r"^\*\*\* |free\(\)|alloc\(\)|chunk|corrupt",
     "memory that it writes to and does not own: -fsanitize=address names the line",
     "look at the length of each copy into a buffer, and at what is freed twice"),
    ("", "abort(3): who calls it, and why? ", ""),
)
ASLEEP = (  # what to look at when all sleep in these calls, and a client's bytes are there
    ({"accept", "accept4"},
     "accept(2): without O_NONBLOCK on the listener it sleeps until another client comes"),
    ({"select", "pselect6"},
     "select(2): it overwrites the sets. Is this client in those that you give it?"),
    ({"poll", "ppoll"}, "poll(2): is this client in the array, with POLLIN?"),
    ({"epoll_wait", "epoll_pwait"},
     "epoll(7): is it in the list? With EPOLLET, has it been read until EAGAIN?"),
    (kernel.RECEIVING, "recv(2): without O_NONBLOCK it sleeps until that client sends"),
    (kernel.SENDING, "send(2): without O_NONBLOCK it sleeps until that client reads"),
)
SHARED = ("pthread_create(3): two threads wait for the bytes of one client",
          "give each thread the number itself, not a pointer to a variable that changes")
CLOSED = ("select(2), poll(2): EBADF and POLLNVAL: is a closed descriptor still in the set?",
          "take it out of the set when you close it")
BUSY = ("poll(2): which event comes again and again? POLLOUT, while nothing is to be sent? "
        "POLLHUP, which comes unasked? POLLNVAL, of a number that is closed?", "")


def of_death(code, command, said):
    """(what to look at, what to write) after an end with this status, or by a signal: -6.

    said: on stderr.
    """
    if code > 0 and re.search(r"(?i)unicode|utf-?8|codec|encoding", last_words(said)):
        return "recv(2): it returns bytes, which may be no text", "send back what came, as it is"
    number = -code if code < 0 else code - 128  # a shell that has run it adds 128
    if number == signal.SIGABRT:
        look, hint = next((look, hint) for words, look, hint in ABORTED
                          if re.search(words, said, re.MULTILINE))
    else:
        look, hint = DEATHS.get(number, (ENDED, "") if code >= 0 else (
            f"signal(7): who sends {kernel.signal_name(-code)}", ""))
    return look + (debugger(command) if look.endswith(" ") else ""), hint


def of_no_start(command, words):
    """What to look at where it has ended before it listened, with these last words."""
    dos = "\\r" in words and is_script(command[0])
    return f"its first line, which has {DOS}" if dos else BY_HAND


def debugger(command):
    """With what to see where a program dies."""
    if is_script(command[0]):
        return "Such a signal comes from C code: of the interpreter, or of a module"
    get = "" if shutil.which("gdb") else " (apt-get install gdb)"
    return f"gdb --args {shlex.join(command)}{get}; then run and, where it stops, backtrace. " \
        "Or build it with -fsanitize=address"


def is_script(path):
    """Does an interpreter run this file?"""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:  # who may run it may not be allowed to read it
        return False


def finding(text, limit=30):
    """The report of a sanitizer in what a program has said: its first lines."""
    lines = text.splitlines()
    begin = next((at for at, line in enumerate(lines)
                  if re.search("Sanitizer|runtime error", line)), len(lines))
    return "\n".join(line[:200] for line in lines[begin:begin + limit] if line.strip("= "))


def error_line(lines):
    """Which of a program's last lines says what went wrong? Many print a stack below it."""
    kinds = (r"\b[\w.:]*(Error|Exception)\b|\bpanic|what\(\):|\b[Aa]ssert|\b[Ff]atal",
             r"(?i)\berror\b|fail|cannot|can't|unable|denied|invalid|no such|not found")
    stack = r"\s+(at|from|File)\b|Traceback|Node\.js v|\d+: \(|stack traceback|\s+\S+: (in|at) "
    own = [line for line in lines if not re.match(stack, line)]
    for kind in kinds:
        if found := [line for line in own if re.search(kind, line)]:
            return found[-1]
    return (own or lines)[-1]


def last_words(said):
    """The end of what a program has said on stderr, for a message."""
    if finding(said):
        return f"A sanitizer says:\n{finding(said)}"
    lines = re.sub(r"\x1b\[[\d;]*m", "", said).strip().splitlines()  # no colours
    if not lines:
        return "It said nothing on stderr."
    return f"Its last words: {printable(error_line(lines[-500:]).strip()[:200])}"


def why_not(path, error):
    """Why exec() fails, in words that lead to the cause: its own are about something else."""
    try:
        with open(path, "rb") as file:
            begin = file.read(256)
    except OSError:
        return ""
    if error.errno == errno.EACCES:
        no_programs = os.statvfs(path).f_flag & os.ST_NOEXEC
        return "; its folder is mounted noexec, and no program runs there" if no_programs else \
            "; chmod +x makes it executable"
    if not begin:
        return "; the file is empty"
    if begin.startswith(b"\x7fELF"):
        return why_not_elf(begin[16:18], begin[18:20], error)
    if error.errno == errno.ENOEXEC:
        return "; a script needs a first line such as #!/usr/bin/env python3"
    first = begin.partition(b"\n")[0].decode(errors="replace")
    return f"; its first line asks for {first[2:].split()[0]}" + (
        f", and has {DOS}" if first.endswith("\r") else "")


def why_not_elf(kind, machine, error):
    """The same of a program or a part of one. Where these two fields are: elf(5)."""
    with open("/proc/self/exe", "rb") as file:
        if machine != file.read(20)[18:]:
            return "; it was built for another kind of processor"
    if error.errno == errno.ENOEXEC:
        return "; it has been compiled, and not linked" if kind in (b"\1\0", b"\0\1") else \
            "; the file is damaged"
    return "; the loader that it asks for is missing (readelf -l says which)"


def why_not_reported(events):
    """What to look at when epoll has these masks for a client whose bytes nobody reads."""
    if events is None or any(mask & select.EPOLLIN for mask in events):
        return ""
    if not events:
        return "epoll_ctl(2): this client is not in the list. Was it added, or removed too early?"
    if events[0] & select.EPOLLONESHOT:
        return "epoll_ctl(2): EPOLLONESHOT has fired, and it has not been armed again for EPOLLIN"
    return "epoll_ctl(2): for this client it does not ask for EPOLLIN. When is it to ask again?"


def in_words(name, args):
    """A system call, and the descriptor that it is about."""
    about = kernel.RECEIVING | kernel.SENDING | {"accept", "accept4"}
    return f"{kernel.IN_C.get(name, name)}()" + f" on descriptor {args[0]}" * (name in about)
