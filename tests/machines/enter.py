#!/usr/bin/env python3
"""Make this machine a poorer one, for one command.

    python3 -m tests.machines.enter                                    which machines there are
    python3 -m tests.machines.enter no-ipv6 make check-4               one of them
    python3 -m tests.machines.enter no-ipv6+soft-1024+odd-path sh      several at once

Everything is taken away from a child and what it starts, and nothing outside of it changes. Most
of it asks for no privilege; where root is needed, or something that this kernel lacks, one line
says so and the exit status is 77, as usual for a test that was skipped.
"""

import argparse
import ctypes
import errno
import fcntl
import functools
import os
import pathlib
import pwd
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000  # CLONE_... of sched.h
MS_RDONLY, MS_NOEXEC, MS_REMOUNT = 1, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
ODD = "it's a \"Käse\": 1, 2 "  # a quote of each kind, spaces, a colon, a letter outside ASCII
GIB = 1 << 30
# The control groups of version 1 and 2 that count memory.
MEMORY = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """This machine cannot be made here; the text says what it needs."""


class Place:
    """Where the command will run, and what is to be cleaned up behind it."""

    def __init__(self):
        self.tree = ROOT
        self.temporary = pathlib.Path(tempfile.mkdtemp(prefix="machine-"))
        self.temporary.chmod(0o755)

    def copy(self, name):
        """A copy of the tree with what is built in it: make then has nothing to do."""
        self.tree = self.temporary / name
        shutil.copytree(ROOT, self.tree, symlinks=True,
                        ignore=shutil.ignore_patterns(".git", "__pycache__"))

    def clear(self):
        """Leave nothing behind."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        for hierarchy in MEMORY:
            if (hierarchy / self.temporary.name).exists():
                (hierarchy / self.temporary.name).rmdir()


# What a process does to itself

def call(name, *arguments):
    """A function of the C library that says -1 when it fails."""
    words = [os.fsencode(a) if isinstance(a, (str, pathlib.Path)) else a for a in arguments]
    if getattr(_libc, name)(*words) == -1:
        raise Unavailable(f"{name}: {os.strerror(ctypes.get_errno())}")


def unshare(flags):
    """Namespaces of one's own. A user gets them inside a user namespace, in which he stays who he
    is: what root could do ends with exec()."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        return call("unshare", flags)
    call("unshare", flags | NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"),
                       ("gid_map", f"{gid} {gid} 1")):
        pathlib.Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
    return None


def private_mounts():
    """Mounts that nobody else sees."""
    unshare(NEWNS)
    call("mount", "none", "/", None, MS_REC | MS_PRIVATE, None)


@functools.cache  # a second one would have nothing of what was made of the first
def own_network():
    """A network with nothing but a loopback interface: all ports are free."""
    unshare(NEWNET)
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def own_processes():
    """A process list with nothing but what is started from here. Returns in a child, which is
    process 1: when it ends, the kernel ends all that it has started, and this process with its
    status."""
    unshare(NEWPID)
    answer, asked = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call("prctl", 1, signal.SIGKILL)  # PR_SET_PDEATHSIG. In here getppid() says 0
            # Mounts of the child alone: its parent goes on to see its own /proc. A user must stay
            # in the user namespace that the process list belongs to, and so not private_mounts().
            call("unshare", NEWNS)
            call("mount", "none", "/", None, MS_REC | MS_PRIVATE, None)
            call("mount", "proc", "/proc", "proc", 0, None)
        except Unavailable as reason:
            os.write(asked, str(reason).encode())
            os._exit(SKIPPED)
        os.close(answer)
        os.close(asked)
        return
    os.close(asked)
    if reason := os.read(answer, 1000):
        os.waitpid(child, 0)
        raise Unavailable(reason.decode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(status if status >= 0 else 128 - status)


def limit(soft, hard):
    """The limits of open descriptors."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard is None:
        hard = most
    if os.getuid() != 0 and hard > most:
        raise Unavailable(f"the hard limit of descriptors here is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def filter_calls(*rules):
    """seccomp(2): (number, first argument or None, errno). All other calls go through."""
    if os.uname().machine != "x86_64":
        raise Unavailable("the numbers of the calls are those of x86_64")
    load, equal, answer, allow = 0x20, 0x15, 0x06, 0x7fff0000
    steps = []
    for number, argument, error in rules:
        steps += [(load, 0, 0, 0), (equal, 0, 1 if argument is None else 3, number)]
        if argument is not None:
            steps += [(load, 0, 0, 16), (equal, 0, 1, argument)]
        steps += [(answer, 0, 0, 0x00050000 | error)]
    steps += [(answer, 0, 0, allow)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps),
                                                      ctypes.addressof(buffer)))
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    call("prctl", 22, 2, program)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def path_without(place, *names):
    """A PATH that has all programs but these."""
    folder = place.temporary / "bin"
    folder.mkdir()
    for part in os.environ["PATH"].split(":"):
        for program in pathlib.Path(part).glob("*") if os.access(part, os.R_OK | os.X_OK) else ():
            if not any(program.match(name) for name in names) and \
                    not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    os.environ["PATH"] = str(folder)


def locale(place, name, charset):
    """A locale of its own, also where it is not installed."""
    made = place.temporary / "locales"
    made.mkdir()
    done = subprocess.run(["localedef", "-i", name, "-f", charset, str(made / name)],
                          capture_output=True, check=False)
    if not (made / name).exists():
        raise Unavailable(f"localedef cannot make {name} (apt-get install locales): "
                          + done.stderr.decode(errors="replace").strip()[:60])
    os.environ.update(LOCPATH=str(made), LC_ALL=name, LANG=name, LANGUAGE=name[:2])


# The machines

def odd_path(place):
    """the folder's path has quotes, spaces, a colon and a letter outside ASCII"""
    place.copy(ODD)


def other_tree(place):
    """a tarball and not a clone: no .git, and everything belongs to the user"""
    place.copy("course")


def read_only(place):
    """the tree is read-only, and B= says where to build"""
    private_mounts()
    call("mount", place.tree, place.tree, None, MS_BIND | MS_REC, None)
    call("mount", place.tree, place.tree, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)
    os.environ.setdefault("B", f"{place.temporary}/build")
    os.environ["MAKEFLAGS"] = f"B={os.environ['B']}"


def no_shm(place):
    """/dev without shm"""
    private_mounts()
    new = place.temporary / "dev"
    new.mkdir()
    call("mount", "none", new, "tmpfs", 0, "mode=755")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (new / name).touch()
        call("mount", f"/dev/{name}", new / name, None, MS_BIND, None)
    (new / "fd").symlink_to("/proc/self/fd")
    call("mount", new, "/dev", None, MS_BIND | MS_REC, None)


def another(folder, place, flags, options):
    """Mount a /tmp or /var/tmp that has nothing in it but what the machine is made of."""
    if place.tree == ROOT and ROOT.is_relative_to(folder):
        place.copy("course")
    private_mounts()
    new = place.temporary / folder.replace("/", "-")
    new.mkdir()
    call("mount", "none", new, "tmpfs", flags, options)
    (new / place.temporary.name).mkdir()
    call("mount", place.temporary, new / place.temporary.name, None, MS_BIND, None)
    call("mount", new, folder, None, MS_MOVE, None)


def noexec_tmp(place):
    """no program runs in /tmp and /var/tmp, as on many servers"""
    for folder in ("/tmp", "/var/tmp"):
        another(folder, place, MS_NOEXEC, "mode=1777")


def full_tmp(place):
    """/tmp is full"""
    another("/tmp", place, 0, "mode=1777,size=64k")


def hidepid(_place):
    """/proc shows the user's own processes and no others"""
    if os.getuid() != 0:
        raise Unavailable("needs root, to mount /proc anew")
    private_mounts()
    call("mount", "proc", "/proc", "proc", 0, "hidepid=2")


def gib(place):
    """1 GiB of memory, for all processes together, and no swap"""
    old, new = MEMORY
    hierarchy, name = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    group = hierarchy / place.temporary.name
    try:
        group.mkdir()
        (group / name).write_text(str(GIB), encoding="ascii")
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    except OSError as error:
        raise Unavailable(f"needs a control group: {error.strerror}: {group}") from None


def no_ipv6(_place):
    """a network without ::1, in a namespace"""
    own_network()
    setting = pathlib.Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    if setting.exists():
        try:
            setting.write_text("1", encoding="ascii")
        except OSError as error:
            raise Unavailable(f"{setting}: {error.strerror}") from None


def few_ports(_place):
    """1,000 ports for clients, in a network of its own"""
    own_network()
    setting = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
    setting.write_text("40000 40999", encoding="ascii")


def small_mtu(_place):
    """packets of 1,500 bytes, also on the loopback"""
    own_network()
    with socket.socket() as any_socket:
        request = struct.pack("16si12x", b"lo", 1500)
        fcntl.ioctl(any_socket, 0x8922, request)  # SIOCSIFMTU


def one_cpu(_place):
    """one core"""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def soft_1024(_place):
    """1,024 descriptors, and more for those who ask: the default of Debian and Ubuntu"""
    limit(1024, None)


def hard_1024(_place):
    """1,024 descriptors and no more"""
    limit(1024, 1024)


def hard_4096(_place):
    """4,096 descriptors and no more"""
    limit(1024, 4096)


def umask_077(_place):
    """new files are for their owner only"""
    os.umask(0o077)


def german(place):
    """German messages, German numbers, UTF-8"""
    locale(place, "de_DE", "UTF-8")


def latin_1(place):
    """a locale whose letters are ISO-8859-1"""
    locale(place, "fr_FR", "ISO-8859-1")


def ascii_only(_place):
    """LC_ALL=C, and Python takes it at its word"""
    os.environ.update(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")


def far_away(_place):
    """14 hours ahead of Greenwich"""
    os.environ["TZ"] = "Pacific/Kiritimati"


def strict_python(_place):
    """Python leaves out docstrings and asserts, and a warning is an error"""
    os.environ.update(PYTHONOPTIMIZE="2", PYTHONWARNINGS="error")


def wrapped_compiler(_place):
    """CXX is a command of two words, as in CXX='ccache g++'"""
    os.environ["CXX"] = "env g++"


def preloads(_place):
    """a library is loaded into every program, and it is not there"""
    os.environ["LD_PRELOAD"] = "/nonexistent/lib.so"


def no_git(place):
    """no git"""
    path_without(place, "git")


def bare(place):
    """g++, make and Python, but no git, strace, clang, nc, gdb, valgrind, nginx or wrk"""
    path_without(place, "git", "git-*", "strace", "clang*", "nc", "nc.*", "gdb", "valgrind",
                 "nginx", "wrk", "redis-*", "sudo")


def user(place):
    """not root, and no sudo"""
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        if place.tree == ROOT:
            place.copy("course")
        subprocess.run(["chown", "-R", f"{nobody.pw_uid}:{nobody.pw_gid}", place.temporary],
                       check=True)
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    os.environ.update(HOME="/nonexistent", USER="nobody", LOGNAME="nobody")
    if "machine-" not in os.environ["PATH"]:
        path_without(place, "sudo")


def no_inet6(_place):
    """a kernel without IPv6"""
    filter_calls((41, socket.AF_INET6, errno.EAFNOSUPPORT))


def no_ptrace(_place):
    """ptrace() is forbidden, as in many containers"""
    filter_calls((101, None, errno.EPERM))


def closed(number):
    """A machine whose descriptor `number` is closed."""
    def close(_place):
        os.close(number)
    close.__doc__ = f"{('stdin', 'stdout', 'stderr')[number]} is closed"
    return close


def no_reader(_place):
    """stdout and stderr are a pipe whose reader has gone"""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)


def full_disk(_place):
    """stdout is a file on a disk that is full"""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.close(full)


# In the order in which they must be made: what needs privileges or the old tree, first.
MACHINES = {
    "odd-path": odd_path, "tarball": other_tree,
    "german": german, "latin-1": latin_1, "ascii": ascii_only, "far-away": far_away,
    "strict-python": strict_python, "wrapped-compiler": wrapped_compiler, "preloads": preloads,
    "bare": bare, "no-git": no_git,
    "1-gib": gib, "one-cpu": one_cpu,
    "soft-1024": soft_1024, "hard-1024": hard_1024, "hard-4096": hard_4096,
    "no-ipv6": no_ipv6, "few-ports": few_ports, "small-mtu": small_mtu, "noexec-tmp": noexec_tmp,
    "full-tmp": full_tmp, "no-shm": no_shm, "hidepid": hidepid, "read-only": read_only,
    "user": user, "umask-077": umask_077,
    "no-inet6": no_inet6, "no-ptrace": no_ptrace,
    "no-stdin": closed(0), "no-stdout": closed(1), "no-stderr": closed(2), "no-reader": no_reader,
    "full-disk": full_disk,
}


def enter(names, command):
    """Run a command on the machine of these names; returns its exit status."""
    place = Place()
    child = os.fork()
    if child == 0:
        become(names, command, place)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the command to decide
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    place.clear()
    return status if status >= 0 else 128 - status


def become(names, command, place):
    """In the child: take everything away, and be the command."""
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would the command
        for name, make in MACHINES.items():
            if name in names:
                make(place)
        os.chdir(place.tree)
        os.execvp(command[0], command)
    except Unavailable as reason:
        print(f"{'+'.join(names)}: {reason}", file=sys.stderr, flush=True)
        os._exit(SKIPPED)
    except OSError as error:
        print(f"{'+'.join(names)}: {error}", file=sys.stderr, flush=True)
        os._exit(127)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="?", help="of machines, joined by +")
    arguments.add_argument("command", nargs=argparse.REMAINDER, help="to run there")
    options = arguments.parse_args()
    if not options.command:
        for name, make in MACHINES.items():
            print(f"{name:16} {make.__doc__}")
        return 2 if options.names else 0
    names = options.names.split("+")
    unknown = set(names) - set(MACHINES)
    if unknown:
        print(f"there is no machine {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    return enter(names, options.command)


if __name__ == "__main__":
    sys.exit(main())
