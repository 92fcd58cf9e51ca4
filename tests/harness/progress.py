"""A line that says how far we are."""

import contextlib
import os
import sys
import time

PAUSE = 5  # seconds between two lines, where a line cannot be written over
CLEAR = "\r\033[K"


def pipe_to_make_test():
    """The descriptor to write to, if `make test` has started this process itself."""
    try:
        descriptor, inode = map(int, os.environ["PROGRESS"].split(":"))
        return descriptor if os.fstat(descriptor).st_ino == inode else None
    except (KeyError, ValueError, OSError):
        return None


def say(text, end="\n"):
    """Print this, where a line stands that says how far we are, in its place."""
    if sys.stderr.isatty() and not pipe_to_make_test():
        print(CLEAR, end="", file=sys.stderr, flush=True)
    print(text, end=end, flush=True)


@contextlib.contextmanager
def progress(total, loud=False):
    """Show it on a terminal; if `loud`, elsewhere too. Yields a function to be called for each.

    `make test` reads it in a pipe.
    """
    begin = shown = time.monotonic()
    pipe, terminal, done = pipe_to_make_test(), sys.stderr.isatty(), 0

    def step(what):
        nonlocal done, shown
        done += 1
        now = time.monotonic()
        minutes, seconds = divmod(int(now - begin), 60)
        line = f"[{done}/{total}] {minutes}:{seconds:02} {what}"
        if pipe:
            os.write(pipe, f"{done}/{total}\n".encode())
        elif terminal:
            print(f"{CLEAR}{line[:79]}", end="", file=sys.stderr, flush=True)
        elif loud and (done == 1 or now - shown > PAUSE):
            print(line, file=sys.stderr, flush=True)
            shown = now

    try:
        yield step
    finally:
        if terminal and not pipe:
            print(CLEAR, end="", file=sys.stderr, flush=True)
