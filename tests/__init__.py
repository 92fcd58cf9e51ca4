"""Makes `tests` this folder, also where a package of that name is installed. See README.md.

All scripts pass here first, so here they are made independent of where they were started: a closed
stream, a locale with other letters or another language.
"""

import os
import sys


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


open_closed_streams()
print_anything()
speak_english()
