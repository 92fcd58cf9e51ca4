"""What the Linux kernel says about a process and its sockets.

Everything here looks from outside, so it works for a server in any language. These are facts and
not guesses: a probe that waits for one of them needs no sleep.
"""

import atexit
import contextlib
import errno
import itertools
import os
import platform
import re
import signal
import socket
import struct
import time
import typing

# The calls that a server can be found in, by their numbers. restart_syscall is a poll() or the like
# that goes on after the process was stopped.
if platform.machine() == "x86_64":
    CALLS = {0: "read", 1: "write", 3: "close", 7: "poll", 19: "readv", 20: "writev", 23: "select",
             34: "pause", 35: "nanosleep", 43: "accept", 44: "sendto", 45: "recvfrom",
             46: "sendmsg", 47: "recvmsg", 48: "shutdown", 61: "wait4", 128: "rt_sigtimedwait",
             130: "rt_sigsuspend", 202: "futex", 219: "restart_syscall", 230: "clock_nanosleep",
             231: "exit_group", 232: "epoll_wait", 233: "epoll_ctl", 247: "waitid",
             270: "pselect6", 271: "ppoll", 281: "epoll_pwait", 288: "accept4",
             426: "io_uring_enter", 441: "epoll_pwait2"}
else:  # aarch64, riscv64 and the other newer ones share a table
    CALLS = {63: "read", 64: "write", 57: "close", 73: "ppoll", 65: "readv", 66: "writev",
             72: "pselect6", 101: "nanosleep", 202: "accept", 206: "sendto", 207: "recvfrom",
             211: "sendmsg", 212: "recvmsg", 98: "futex", 115: "clock_nanosleep",
             260: "wait4", 137: "rt_sigtimedwait", 133: "rt_sigsuspend", 95: "waitid",
             22: "epoll_pwait", 21: "epoll_ctl", 242: "accept4", 210: "shutdown",
             128: "restart_syscall", 94: "exit_group", 426: "io_uring_enter",
             441: "epoll_pwait2"}

RECEIVING = {"read", "readv", "recvfrom", "recvmsg"}
SENDING = {"write", "writev", "sendto", "sendmsg"}
WAITING = {"accept", "accept4", "select", "pselect6", "poll", "ppoll", "epoll_wait", "epoll_pwait",
           "epoll_pwait2", "io_uring_enter"}  # for clients
NETWORK = RECEIVING | SENDING | WAITING
ENDLESS = {"accept", "accept4", "pause", "rt_sigsuspend", "wait4", "waitid"}  # without a timeout
TIMEOUT = {"epoll_wait": 3, "epoll_pwait": 3, "poll": 2}  # which argument has it, in ms
TIMEOUT_AT = {"select": 4, "pselect6": 4, "ppoll": 2, "epoll_pwait2": 3, "futex": 3,
              "rt_sigtimedwait": 2}  # which points to it
IN_C = {"recvfrom": "recv", "sendto": "send", "pselect6": "select",
        "rt_sigtimedwait": "sigwait", "rt_sigsuspend": "sigsuspend"}  # what programs call them

ESTABLISHED, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LISTEN = 1, 5, 6, 8, 10  # include/net/tcp_states.h


def read_file(path):
    """The text of a file in /proc; empty when the process has gone meanwhile."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# Processes

def stat_fields(pid, tid=None):
    """The fields of its stat file from the third on (the second may contain anything)."""
    text = read_file(f"/proc/{pid}/task/{tid}/stat" if tid else f"/proc/{pid}/stat")
    return text[text.rfind(")") + 1:].split()


def state(pid):
    """One letter: R running, S asleep, T stopped, Z dead and not yet waited for. '' if gone."""
    fields = stat_fields(pid)
    if fields[:1] == ["Z"]:  # so is a main thread that has ended before the others
        others = thread_states(pid).strip("Z")
        return others[:1] or "Z"
    return fields[0] if fields else ""


def is_over(pid):
    """Has it ended? A zombie has, and its parent has not asked for its status yet."""
    return state(pid) in ("", "Z")


def threads(pid):
    """The ids of the threads of a process, without a main thread that has ended before others."""
    try:
        found = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
    if len(found) > 1 and stat_fields(pid, pid)[:1] == ["Z"]:
        found.remove(pid)
    return found


def home(pid):
    """Where /proc shows what all threads share.

    Of a main thread that has called pthread_exit() it shows no descriptors and no memory.
    """
    found = threads(pid)
    return f"/proc/{pid}" if not found or pid in found else f"/proc/{pid}/task/{found[0]}"


def thread_states(pid):
    """The states of all threads, as one string."""
    found = (stat_fields(pid, tid) for tid in threads(pid))
    return "".join(fields[0] for fields in found if fields)


def blocked_call(pid, tid=None):
    """(name, arguments) of the system call that a thread sleeps in, or None while it runs."""
    words = read_file(f"/proc/{pid}/task/{tid or pid}/syscall").split()
    if not words or words[0] in ("running", "-1"):
        return None
    number = int(words[0])
    return CALLS.get(number, f"system call {number}"), [int(word, 16) for word in words[1:7]]


def blocked_calls(pid):
    """The calls that the threads sleep in: a list, or None if any of them is running.

    Threads are looked at one after the other, so two that wake each other could both be found
    asleep. Then they have used CPU time in between.
    """
    calls, tids = [], threads(pid)
    spent = cpu_ns(pid) if len(tids) > 1 else 0
    for tid in tids:
        call = blocked_call(pid, tid)
        fields = stat_fields(pid, tid)
        if call is None or not fields or fields[0] != "S":
            return None
        calls.append(call)
    if len(tids) > 1 and cpu_ns(pid) != spent:
        return None
    return calls or None


def timeout_ms(name, args):
    """After which time a sleeping call returns in any case; -1 never; None cannot be seen."""
    if without_timeout(name, args):
        return -1
    return args[TIMEOUT[name]] & 0xffffffff if name in TIMEOUT else None


def without_timeout(name, args):
    """Does this sleeping call wait until something happens, however long that takes?"""
    if name in TIMEOUT:
        return args[TIMEOUT[name]] & 0xffffffff == 0xffffffff
    if name in TIMEOUT_AT:
        return args[TIMEOUT_AT[name]] == 0
    return name in RECEIVING | SENDING | ENDLESS


def epoll_events(pid, fd):
    """What a process asks of epoll for this descriptor: masks, one for each list that it is in.

    proc(5), "/proc/pid/fdinfo/": epoll. None where the process has no epoll descriptor.
    """
    polls = [each for each, what in open_fds(pid).items() if what == "anon_inode:[eventpoll]"]
    found = [int(mask, 16) for each in polls for mask in re.findall(
        rf"^tfd: +{fd} events: +([0-9a-f]+)", read_file(f"{home(pid)}/fdinfo/{each}"), re.M)]
    return found if polls else None


def has_timer(pid):
    """Has it a timerfd that is going to expire? proc(5), "/proc/pid/fdinfo/"."""
    timers = [fd for fd, what in open_fds(pid).items() if what == "anon_inode:[timerfd]"]
    return any(re.search(r"^it_value: \((?!0, 0\))", read_file(f"{home(pid)}/fdinfo/{fd}"), re.M)
               for fd in timers)


def cpu_ns(pid):
    """CPU time of all threads, in nanoseconds; 0 when the process has gone."""
    try:  # the clock of another process: MAKE_PROCESS_CPUCLOCK() in the kernel's sources
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def waited_ns(pid):
    """How long it was ready to run and had no core: of its threads, the one that waited most."""
    found = (read_file(f"/proc/{pid}/task/{tid}/schedstat").split() for tid in threads(pid))
    return max((int(words[1]) for words in found if len(words) > 1), default=0)


def is_starved(pid):
    """Has it been ready to run for a while and got no core? waited_ns() learns of it afterwards."""
    def ready():
        return {tid: read_file(f"/proc/{pid}/task/{tid}/schedstat").split()[:1]
                for tid in threads(pid)
                if stat_fields(pid, tid)[:1] == ["R"]}

    before = ready()
    if not before:
        return False
    time.sleep(0.05)
    after = ready()
    return any(after.get(tid) == ran for tid, ran in before.items())


def signals(pid, key):
    """The signals in a set of a status file, as a mask: SigIgn is what it ignores."""
    found = re.search(rf"^{key}:\s+([0-9a-f]+)", read_file(f"/proc/{pid}/status"), re.MULTILINE)
    return int(found.group(1), 16) if found else 0


def ignores(pid, number):
    """Does the process ignore this signal?"""
    return bool(signals(pid, "SigIgn") >> (number - 1) & 1)


def catches(pid, number):
    """Has the process a handler for this signal?"""
    return bool(signals(pid, "SigCgt") >> (number - 1) & 1)


def is_pending(pid, number):
    """Has the process not yet been given this signal?"""
    return bool(signals(pid, "ShdPnd") >> (number - 1) & 1)


def status_number(path, key):
    """A number in a status file; 0 if it is not there."""
    found = re.search(rf"^{key}:\s+(\d+)", read_file(path), re.MULTILINE)
    return int(found.group(1)) if found else 0


def wake_ups(pid):
    """How many times the threads of a process went to sleep of their own accord."""
    return sum(wake_ups_of_thread(pid, tid) for tid in threads(pid))


def wake_ups_of_thread(pid, tid):
    """The same of one thread."""
    return status_number(f"/proc/{pid}/task/{tid}/status", "voluntary_ctxt_switches")


def endless_sleepers(pid):
    """{thread: how often it went to sleep} of those that sleep in a call without a timeout."""
    found = {}
    for tid in threads(pid):
        call = blocked_call(pid, tid)
        if call and without_timeout(*call):
            found[tid] = wake_ups_of_thread(pid, tid)
    return found


def memory_kib(pid, key="VmRSS"):
    """Memory in KiB: VmRSS is what is resident now, VmHWM the most that ever was."""
    return status_number(f"{home(pid)}/status", key)


def open_fds(pid):
    """{descriptor: what it is}, for instance {4: 'socket:[12345]'}."""
    found, folder = {}, f"{home(pid)}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}")
        except OSError:
            pass  # closed meanwhile
    return found


def fd_limit(pid):
    """How many descriptors a process may have: prlimit(2) would need its user for that."""
    found = re.search(r"^Max open files +(\d+)", read_file(f"/proc/{pid}/limits"), re.MULTILINE)
    return int(found.group(1)) if found else 0


def fd_flags(pid, fd):
    """The flags of a descriptor as open(2) names them, O_CLOEXEC among them."""
    found = re.search(r"^flags:\s+([0-7]+)", read_file(f"{home(pid)}/fdinfo/{fd}"), re.MULTILINE)
    return int(found.group(1), 8) if found else 0


def parent(pid):
    """The parent's id, 0 if the process has gone."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def children(pid):
    """The ids of a process's children; [] where the kernel does not list them."""
    return [int(word) for tid in threads(pid)
            for word in read_file(f"/proc/{pid}/task/{tid}/children").split()]


def descendants(pid):
    """The ids of a process's children, their children, and so on."""
    below = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            below.setdefault(parent(int(name)), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        more = below.get(todo.pop(), [])
        found += more
        todo += more
    return found


# Sockets

class Sock(typing.NamedTuple):
    """One end of a TCP connection as the kernel keeps it."""

    state: int
    unread: int  # bytes received, not yet read by the program; of a listener: clients in its queue
    unsent: int  # bytes written by the program, not yet acknowledged
    inode: int  # 0 while nobody has accepted it


PROC_NET_TCP = ("/proc/net/tcp", "/proc/net/tcp6")


def sockets_in(path):
    """(local port, remote port, Sock) of each line of a file like /proc/net/tcp."""
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        next(file)  # the names of the columns
        for line in file:
            _, local, remote, number, queues, _, _, _, _, inode, *_ = line.split()
            unsent, unread = queues.split(":")
            yield int(local[-4:], 16), int(remote[-4:], 16), \
                Sock(int(number, 16), int(unread, 16), int(unsent, 16), int(inode))


def from_proc(wanted):
    """The sockets of /proc/net/tcp for which wanted(local port, remote port) holds."""
    return [sock for path in PROC_NET_TCP for local, remote, sock in sockets_in(path)
            if wanted(local, remote)]


class SocketDiagnosis:
    """Asks the kernel for one socket by its two addresses: sock_diag(7).

    /proc/net/tcp gives the same, but walks through the sockets of the whole system each time.
    """

    NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
    NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 0x300, 2, 3

    def __init__(self):
        self.netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self.NETLINK_SOCK_DIAG)
        self.netlink.settimeout(5)

    def _ask(self, family, states, ends, flags=0):
        """Send a question: a struct nlmsghdr, and a struct inet_diag_req_v2 behind it."""
        question = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, states)
        question += ends + struct.pack("=III", 0, 0xffffffff, 0xffffffff)
        header = struct.pack("=IHHII", 16 + len(question), self.SOCK_DIAG_BY_FAMILY,
                             self.NLM_F_REQUEST | flags, 1, 0)
        self.netlink.send(header + question)

    def listeners(self):
        """(port, inode, connections in the queue, room in the queue) of each listening socket."""
        for family in (socket.AF_INET, socket.AF_INET6):
            self._ask(family, 1 << LISTEN, bytes(36), self.NLM_F_DUMP)
            for kind, message in list(self._messages()):
                if kind == self.SOCK_DIAG_BY_FAMILY:
                    queue, room, _, inode = struct.unpack_from("=IIII", message, 4 + 48 + 4)
                    yield struct.unpack_from("!H", message, 4)[0], inode, queue, room

    def _messages(self):
        """(type, payload) of each message of an answer, to its end."""
        while True:
            answer, at = self.netlink.recv(1 << 20), 0
            while at < len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind in (self.NLMSG_DONE, self.NLMSG_ERROR):
                    return
                yield kind, answer[at + 16:at + length]
                at += (length + 3) & ~3

    def find(self, local, remote):
        """The connection from `local` to `remote`, both (address, port); None if none."""
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        self._ask(family, 0xffffffff, struct.pack(
            "!HH16s16s", local[1], remote[1], socket.inet_pton(family, local[0]),
            socket.inet_pton(family, remote[0])))
        answer = self.netlink.recv(65536)
        kind = struct.unpack_from("=H", answer, 4)[0]
        if kind == self.NLMSG_ERROR:
            code = -struct.unpack_from("=i", answer, 16)[0]
            if code == errno.ENOENT:
                return None
            raise OSError(code, os.strerror(code))
        if answer[16 + 1] == LISTEN:
            return None  # the connection is gone, and the kernel has found who would take another
        # struct inet_diag_msg: 4 bytes, 48 of addresses, then expires, rqueue, wqueue, uid, inode
        unread, unsent, _, inode = struct.unpack_from("=IIII", answer, 16 + 4 + 48 + 4)
        return Sock(answer[16 + 1], unread, unsent, inode)


_diagnosis = None


def find_socket(local, remote):
    """The end of a connection that sits at `local`; both are (address, port)."""
    global _diagnosis
    try:
        _diagnosis = _diagnosis or SocketDiagnosis()
        return _diagnosis.find(local, remote)
    except OSError:  # not in this kernel
        forget_netlink()
        found = from_proc(lambda *ports: ports == (local[1], remote[1]))
        return found[0] if found else None


def backlog(port):
    """How many connections may wait in the queue of a port; None if the kernel does not say."""
    return max((room for listening, _, _, room in listeners()
                if listening == port and room is not None), default=None)


def forget_netlink():
    """After fork(): two processes must not share one netlink socket."""
    global _diagnosis
    if _diagnosis:
        _diagnosis.netlink.close()
    _diagnosis = None


atexit.register(forget_netlink)


def listening_ports(inodes):
    """The ports on which the sockets with these inodes listen."""
    return [port for port, inode, *_ in listeners() if inode in inodes]


def accept_queue(port):
    """How many connections wait in the queue of whoever listens on this port."""
    return max((queue for listening, _, queue, _ in listeners() if listening == port), default=0)


def listeners():
    """(port, inode, connections in the queue, room there or None) of each listening socket.

    sock_diag walks through these alone.
    """
    global _diagnosis
    try:
        _diagnosis = _diagnosis or SocketDiagnosis()
        return list(_diagnosis.listeners())
    except OSError:  # not in this kernel
        forget_netlink()
        return list(listeners_of_proc())


def listeners_of_proc():
    """The same, from /proc.

    These files show them before all others, of which there may be 60,000 in TIME_WAIT.
    """
    for path in PROC_NET_TCP:
        for port, _, sock in itertools.takewhile(lambda row: row[2].state == LISTEN,
                                                 sockets_in(path)):
            yield port, sock.inode, sock.unread, None


def socket_inodes(pid):
    """The inodes of the sockets that a process has open."""
    return {int(what[8:-1]) for what in open_fds(pid).values() if what.startswith("socket:[")}


def signal_name(number):
    """SIGSEGV for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
