"""What machine this is, and how much of it programs may still have."""

import math
import pathlib
import platform
import re

from tests.outside import kernel


def cpu():
    """The name of its processor."""
    found = re.search(r"^model name\s*: (.*)", kernel.read_file("/proc/cpuinfo"), re.M)
    return found[1] if found else platform.machine()


def system():
    """The kernel, as in "Linux 6.1.0"."""
    return f"{platform.system()} {platform.release()}"


def ready():
    """How many threads run, or could if there were a core for them (proc(5), /proc/loadavg)."""
    words = kernel.read_file("/proc/loadavg").split()
    return max(1, int(words[3].partition("/")[0])) if len(words) > 3 else 1


def number_in(path, index=0):
    """A number in a file of /proc/sys or a cgroup; infinite if there is none, or no limit."""
    words = kernel.read_file(path).split()
    return int(words[index]) if len(words) > index and words[index].isdigit() else math.inf


def meminfo():
    """/proc/meminfo in bytes."""
    return {key: int(kib) * 1024
            for key, kib in re.findall(r"^(\w+): +(\d+) kB", kernel.read_file("/proc/meminfo"),
                                       re.M)}


def cgroup_room():
    """How many bytes the control groups of this process still give it."""
    room = math.inf
    for line in kernel.read_file("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = pathlib.Path("/sys/fs/cgroup", controllers)
        limit, used = (("memory.max", "memory.current") if not controllers else
                       ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        for folder in [top / path.lstrip("/"), *(top / path.lstrip("/")).parents]:
            if folder == top.parent:
                break
            room = min(room, number_in(folder / limit) - min(number_in(folder / used), 1 << 60))
    return room


def available():
    """Bytes that programs can have before anything is killed for them."""
    return min(meminfo()["MemAvailable"], cgroup_room())
