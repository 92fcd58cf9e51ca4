"""Makes `tests` this folder, also where a package of that name is installed. See README.md.

All scripts pass here first, so here they are made independent of where they were started: a closed
stream, a locale with other letters or another language, a strict Python, a library that is loaded
into every program, a /tmp that is full or where no program may run.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = 200 << 20  # bytes: the mutants of the library, and what the compiler needs beside them


def begin_again_unless_plain():
    """The tools need their docstrings and asserts, and a warning is no error of a reader's."""
    asked = [os.environ.pop(name, "") for name in (
        "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONDEVMODE")]
    if any(asked):
        os.execv(sys.executable, sys.orig_argv)


def open_closed_streams():
    """Give closed standard streams back. The next socket would get their numbers otherwise."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))


def print_anything():
    """What the locale has no letter for becomes a "?", and not a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def speak_english():
    """What compilers, strace and our own scripts print is read: in UTF-8, and in one language."""
    os.environ["LC_ALL"] = "C.UTF-8"
    os.environ.pop("LANGUAGE", None)


def preload_nothing():
    """A server is judged, and measured, as it is: without jemalloc, libeatmydata or faketime."""
    os.environ.pop("LD_PRELOAD", None)


def find_room():
    """Temporary files need room, and those who compile run programs there: noexec forbids that.

    Where neither /tmp nor /var/tmp is right, build/ is: programs do run there.
    """
    places = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp",
              os.path.join(os.path.dirname(HERE), os.environ.get("BUILD", "build"))]
    os.environ["TMPDIR"] = next(filter(suits, filter(None, places)), "/tmp")


def suits(place):
    """May one write there, and run it, and is there room for some programs?"""
    try:
        system = os.statvfs(place)
    except OSError:
        return False
    room = system.f_bavail * system.f_frsize
    return os.access(place, os.W_OK | os.X_OK) and room >= ROOM and \
        not system.f_flag & os.ST_NOEXEC


begin_again_unless_plain()
open_closed_streams()
print_anything()
speak_english()
preload_nothing()
find_room()
