"""A line that says how far we are."""

import contextlib
import os
import sys
import time

PAUSE = 5  # seconds between two lines, where a line cannot be written over
CLEAR = "\r\033[K"


@contextlib.contextmanager
def progress(total, loud=False):
    """Show it on a terminal; if `loud`, elsewhere too. Yields a function to be called for each.

    `make test` reads it in a pipe: PROGRESS is its descriptor.
    """
    begin = shown = time.monotonic()
    pipe, terminal, done = os.environ.get("PROGRESS"), sys.stderr.isatty(), 0

    def step(what):
        nonlocal done, shown
        done += 1
        now = time.monotonic()
        minutes, seconds = divmod(int(now - begin), 60)
        line = f"[{done}/{total}] {minutes}:{seconds:02} {what}"
        if pipe:
            os.write(int(pipe), f"{done}/{total}\n".encode())
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
