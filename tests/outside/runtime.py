"""Which runtime a server runs on, if any: that part of it was not written by its author.

A runtime is known by the libraries that its process has mapped, by the name of the program, by what
compilers leave in it, or by what a script imports.
"""

import collections
import mmap
import re

from tests.outside import kernel

# `collects`: its heap is collected late, so it levels off late.
Runtime = collections.namedtuple("Runtime", "name collects")

MAPPED = {  # by the end of a path in /proc/PID/maps
    r"/libjvm\.so": Runtime("Java", True),
    r"/(node|nodejs|libnode\.so[.\d]*)": Runtime("Node", True),
    r"/deno": Runtime("Deno", True),
    r"/bun": Runtime("Bun", True),
    r"/libcoreclr\.so": Runtime(".NET", True),
    r"/beam\.smp": Runtime("Erlang", True),
    r"/IO_Event\.so|/nio4r_ext\.so": Runtime("a reactor of Ruby", True),
    r"/rubyeventmachine\.so": Runtime("EventMachine", True),
    r"/(libruby\S*\.so[.\d]*|ruby[.\d]*)": Runtime("Ruby", True),
    r"/(swoole|event|ev)\.so": Runtime("an event loop of PHP", False),
    r"/php[\d.]*": Runtime("PHP", False),
    r"/uvloop/\S+\.so": Runtime("uvloop", False),
    r"/gevent/\S+\.so": Runtime("gevent", False),
    r"/zope/interface/\S+\.so": Runtime("Twisted", False),
    r"/_asyncio\.\S+\.so": Runtime("asyncio", False),
    r"/racket[-\w.]*": Runtime("Racket", True),
    r"/libuv\.so[.\d]*": Runtime("libuv", False),
    r"/libevent(_core)?-[-.\d]*so[.\d]*": Runtime("libevent", False),
    r"/libev\.so[.\d]*|/EV/EV\.so": Runtime("libev", False),
}
COMPILED = {  # by bytes in the program
    b"\xff Go buildinf:": Runtime("Go", True),
    b"GHCziEvent": Runtime("GHC", True),
    b"/tokio-": Runtime("Tokio", False),
    b"/mio-": Runtime("mio", False),
    b"5muduo3net": Runtime("muduo", False),
    b"4asio6detail": Runtime("Asio", False),
}
IMPORTED = {name: Runtime(name, False) for name in ("trio", "curio", "eventlet")}  # no library
EVENT_LOOPS = {known.name for known in [*MAPPED.values(), *COMPILED.values(), *IMPORTED.values()]
               } - {"Ruby", "PHP"}

# These call accept() themselves, and their users never see what it says.
ACCEPTING = {"asyncio", "uvloop", "Twisted", "Node", "Deno", "Bun"}


def of(pid):
    """The Runtime of a process, or None."""
    paths = {line.split(maxsplit=5)[-1] for line in
             kernel.read_file(f"{kernel.home(pid)}/maps").splitlines() if "/" in line}
    for pattern, runtime in MAPPED.items():
        if any(re.search(f"(?:{pattern})$", path) for path in paths):
            return runtime
    return compiled_in(f"{kernel.home(pid)}/exe") or imported(pid)


def compiled_in(path):
    """The runtime that is part of a program, or None."""
    try:
        with open(path, "rb") as file, \
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
            return next((known for mark, known in COMPILED.items()
                         if program.find(mark) != -1), None)
    except (OSError, ValueError):
        return None


def imported(pid):
    """The event loop in Python that the script of a process imports, or None."""
    for path in kernel.read_file(f"/proc/{pid}/cmdline").split("\0")[1:2]:
        path = path if path.startswith("/") else f"/proc/{pid}/cwd/{path}"
        found = re.search(rf"^\s*(?:import|from) (?:.*[ ,])?({'|'.join(IMPORTED)})\b",
                          kernel.read_file(path), re.MULTILINE)
        if found:
            return IMPORTED[found.group(1)]
    return None


def name(pid):
    """The name of the runtime of a process, '' if it is none that we know."""
    found = of(pid)
    return found.name if found else ""


def event_loop(pid):
    """The name of the event loop that a process runs on, if it is one that we know."""
    return name(pid) if name(pid) in EVENT_LOOPS else ""


def collects(pid):
    """Does its runtime collect garbage when it sees fit?"""
    found = of(pid)
    return bool(found and found.collects)
