"""Play the story step by step, and write down what the kernel knows between any two system calls.

The server stands still whenever a frame is taken (ptrace), so what a frame says belongs together:
the call from ptrace, what went into select() and poll() from the memory of the process at the
call's entry (the kernel overwrites it), both queues of each connection from sock_diag, the accept
queue from /proc/net/tcp, the interest list from /proc/PID/fdinfo. What a server holds itself is
what it received less what it sent. The kernel's ready list cannot be seen from outside.
"""

import contextlib
import itertools
import re
import signal
import struct
import time

from tests import harness
from tests.outside import kernel, tracing
from tests.story import story

SHOWN = {"accept4", "recvfrom", "sendto", "select", "pselect6", "poll", "ppoll", "epoll_ctl",
         "epoll_wait", "epoll_pwait", "read", "close", "shutdown"}
IN_C = {**kernel.IN_C, "ppoll": "poll", "epoll_pwait": "epoll_wait"}
WAITS = {"select", "poll", "epoll_wait"}
OWN_STREAMS = {0, 1, 2}
QUIET = 5  # looks in a row at which nothing moved
LOOK = 0.02  # seconds between two
TOO_MANY = 20_000  # frames
LONGEST_ROUND = 6  # calls
KEPT = ("queue", "list", "epoll", "handed")  # of a frame: said only when they change
EPOLLIN = 1
FIN_WAIT1, LAST_ACK, CLOSING = 4, 9, 11  # include/net/tcp_states.h


class StepTrace(tracing.Trace):
    """Also keeps what is handed to select() and poll(), and with which status a server exits."""

    def __init__(self, pid):
        self.pid, self.handed, self.status = pid, None, None
        self.of_its_own = False  # the last poll() asked whether a line can be written on stderr
        super().__init__(pid)

    def _look(self, tid):
        finished = super()._look(tid)
        if tid in self.entered:
            name, args = self.entered[tid]
            if name in ("select", "pselect6", "poll", "ppoll"):
                asked = handed(self.pid, IN_C.get(name, name), args)
                self.of_its_own = set(asked["set"]) <= OWN_STREAMS
                self.handed = self.handed if self.of_its_own else asked
            if name == "exit_group":
                self.status = args[0] & 0xff
        return finished


def memory(pid, address, count):
    """Bytes of another process that we trace."""
    with open(f"/proc/{pid}/mem", "rb") as file:
        file.seek(address)
        return file.read(count)


def handed(pid, name, args):
    """{"set": descriptors, "bytes": how many of them the kernel has to copy in}."""
    if name == "select":
        count = (args[0] + 63) // 64 * 8  # in whole longs
        bits = int.from_bytes(memory(pid, args[1], count), "little")
        return {"set": [fd for fd in range(args[0]) if bits >> fd & 1], "bytes": count}
    raw = memory(pid, args[0], 8 * args[1])
    return {"set": [fd for fd, _ in struct.iter_unpack("=iI", raw)], "bytes": len(raw)}


def ready(pid, name, args, result):
    """The descriptors that select() or poll() has called ready."""
    if result <= 0:
        return []
    if name == "select":
        return handed(pid, name, args)["set"]  # the kernel has overwritten it
    raw = memory(pid, args[0], 8 * args[1])
    return [fd for fd, _, events in struct.iter_unpack("=iHH", raw) if events]


def payload(sock, queue):
    """The bytes in a queue of a socket. The kernel counts the end, FIN, as one more."""
    if sock is None:
        return 0
    ends = {"unread": (kernel.CLOSE_WAIT, LAST_ACK, CLOSING), "unsent": (FIN_WAIT1, LAST_ACK,
                                                                        CLOSING)}[queue]
    return max(0, getattr(sock, queue) - (sock.state in ends))


def interest_list(pid):
    """(descriptor of the epoll object, [[descriptor, events], ...]), or (None, None)."""
    for fd, what in sorted(kernel.open_fds(pid).items()):
        if "eventpoll" in what:
            lines = kernel.read_file(f"/proc/{pid}/fdinfo/{fd}").splitlines()
            rows = (line.split() for line in lines if line.startswith("tfd:"))
            return fd, sorted([int(row[1]), int(row[3], 16)] for row in rows)
    return None, None


class Actor:
    """A client of the story. It acts by itself as far as that is possible without waiting."""

    def __init__(self, server, reads=True):
        self.client = server.connect()
        self.fd = None  # in the server, once it was accepted
        self.stream = b""  # all it has to say
        self.sent = self.got = 0
        self.reads, self.broken, self.over, self.left = reads, "", "", False

    def act(self):
        """Send and receive what goes at once. Did anything move?"""
        before = self.sent, self.got, self.over, self.broken
        if self.sent < len(self.stream) and not self.broken and not self.over:
            try:
                self.sent += self.client.try_send(self.stream[self.sent:self.sent + story.FRAME])
            except harness.Gone as gone:
                self.broken = gone.how
        if self.reads and not self.over:
            try:
                data = self.client.try_receive()
                if data != self.stream[self.got:self.got + len(data)]:
                    raise harness.Fail("other bytes come back than were sent")
                self.got += len(data)
            except harness.Gone as gone:
                self.over = self.broken or gone.how
                self.client.close()
        return before != (self.sent, self.got, self.over, self.broken)

    def state(self, is_there):
        """What it is like for this client, in a word."""
        owed = self.got < max(self.sent, len(self.stream))
        if self.broken or self.over or not is_there:
            return "left" if self.left else "cut off" if owed else "answered"
        if owed:
            return "waits" if self.reads else "reads not"
        return "answered" if self.got else "silent"


class Recorder:
    """One stage, from its first client to its end."""

    def __init__(self, stage):
        self.stage = stage
        # No tick while we look, and no deadline either: here a second is a long time.
        quiet = ["--tick-ms", "3600000", "--drain-ms", "60000"] if stage.number == 7 else []
        self.server = stage.start(*quiet)
        self.server.come_to_rest()
        self.listener = self._listener()
        self.named = self._named()
        self.trace = StepTrace(self.server.pid)
        self.actors, self.frames, self.held = {}, [], {}
        self.step, self.over, self.handed, self.queue = 0, False, None, 0

    def _listener(self):
        inodes = {inode for port, inode, *_ in kernel.listeners() if port == self.server.port}
        return next(fd for fd, what in self.server.fds().items()
                    if what in {f"socket:[{inode}]" for inode in inodes})

    def _named(self):
        """{descriptor: what it is} of those that are neither the listener nor a client."""
        found = {}
        for fd, what in self.server.fds().items():
            kind = re.match(r"(?:anon_inode:\[)?(signalfd|eventfd|pipe|timerfd)", what)
            if kind and fd > 2:
                found[fd] = kind[1]
        return found

    # What is seen

    def frame(self, **what):
        """Write down the moment."""
        if len(self.frames) > TOO_MANY:
            raise harness.Fail("the server makes calls without end", "it comes to rest")
        epoll, rows = (None, None) if self.over else interest_list(self.server.pid)
        handed_in = None if self.over else self.handed
        if handed_in:
            rows = [[fd, EPOLLIN] for fd in handed_in["set"]]
        inodes = {what[8:-1]: fd for fd, what in self.server.fds().items()
                  if what.startswith("socket:[")}
        self.frames.append({
            "step": self.step, **what, "queue": self._accept_queue(what),
            "list": rows, "epoll": epoll, "handed": handed_in and handed_in["bytes"],
            "clients": {who: self._client(actor, inodes) for who, actor in self.actors.items()}})

    def _accept_queue(self, what):
        """How many wait to be accepted. /proc/net/tcp is slow: it is read when that may change."""
        if self.over or what.get("call", {}).get("name", "accept4") == "accept4":
            self.queue = kernel.accept_queue(self.server.port)
        return self.queue

    def _client(self, actor, inodes):
        far, near = actor.client.far_end(), actor.client.near_end()
        there = bool(far and far.inode and str(far.inode) in inodes)
        if there:
            actor.fd = inodes[str(far.inode)]
        queued = bool(far) and not far.inode and not self.over and actor.fd is None
        back = payload(near, "unread")
        return {"state": actor.state(there or queued or bool(back)), "queued": queued,
                "fd": actor.fd if there else None,
                "in": payload(far, "unread") if there or queued else 0,
                "held": self.held.get(actor.fd, 0) if there else 0,
                "out": payload(far, "unsent"), "back": back,
                "end": bool(far) and far.state == kernel.CLOSE_WAIT and far.unread > 0,
                "sent": actor.sent, "got": actor.got, "all": len(actor.stream),
                "how": "" if actor.left else actor.over or actor.broken}

    def _call(self, name, args, result):
        """A finished call, for the recording."""
        name = IN_C.get(name, name)
        fd = args[2] if name == "epoll_ctl" else None if name in WAITS else args[0]
        what = {"name": name, "result": result}
        if fd is not None:
            what["fd"] = fd
        if name in ("send", "recv"):
            what["size"] = args[2]
        if name == "epoll_ctl":
            what["size"] = args[1]
        if name in ("select", "poll"):
            self.handed = self.trace.handed
            what["ready"] = ready(self.server.pid, name, args, result)
        if name in ("recv", "send") and result > 0:
            self.held[fd] = self.held.get(fd, 0) + (result if name == "recv" else -result)
        if name == "close":
            self.held.pop(fd, None)
        return what

    # How it goes on

    def run(self):
        """Play all steps; returns the frames."""
        try:
            self.frame(act=True)
            self.settle()
            for self.step, act in enumerate(self._acts(), 1):
                act()
                self.frame(act=True)
                self.settle()
            return {"stage": self.stage.number, "name": self.stage.name, "listener": self.listener,
                    "named": self.named,
                    "calls": sum("call" in frame for frame in self.frames),
                    "frames": changes(fold(self.frames))}
        finally:
            with contextlib.suppress(OSError):
                self.trace.detach()

    def settle(self):
        """Let the server and its clients go on until all of them sleep and nothing is under way."""
        quiet, last, moved_at = 0, None, time.monotonic()
        while quiet < QUIET:
            moved = any([actor.act() for actor in self.actors.values()])
            moved = self._follow() or moved
            now = self._rests()
            quiet = quiet + 1 if not moved and now is not None and now == last else 0
            last, moved_at = now, time.monotonic() if moved else moved_at
            if time.monotonic() > moved_at + harness.FAILSAFE:
                raise harness.Fail(f"{self.stage.name} does not come to rest in step {self.step}")
        if self.over:
            status = self.trace.status
            self.frame(ended=f"exit status {status}" if status is not None else "killed by SIGTERM")
            return
        name, args = kernel.blocked_call(self.server.pid)
        name = IN_C.get(name, name)
        if name == "restart_syscall":
            name = "poll"
        if name in ("select", "poll"):
            self.handed = self.trace.handed
        self.frame(asleep={"name": name, **({} if name in WAITS else {"fd": args[0]})})

    def _follow(self):
        """Take a frame of each call that the server makes by now. Did it make any?"""
        moved = False
        if self.over:
            time.sleep(LOOK)
            return False
        try:
            for name, args, result in self.trace.calls(failsafe=LOOK):
                moved = True
                own = IN_C.get(name, name) == "poll" and self.trace.of_its_own
                if name in SHOWN and not own:
                    self.frame(call=self._call(name, args, result))
                for actor in self.actors.values():
                    actor.act()
        except (ProcessLookupError, FileNotFoundError):
            moved = True  # it has ended
        if not self.trace.seized and not self.over:
            self.over = moved = True
        return moved

    def _rests(self):
        """What would change if anything were still under way; None while it is."""
        ends = [(actor, actor.client.far_end(), actor.client.near_end())
                for actor in self.actors.values() if not actor.over]
        if not self.over and kernel.blocked_calls(self.server.pid) is None:
            return None  # it runs, or stands still and we have not been told yet
        for actor, far, near in ends:
            if actor.reads and (near and near.unread or far and far.unsent):
                return None
        return [(far and (far.unread, far.unsent), near and (near.unread, near.unsent))
                for _, far, near in ends], kernel.wake_ups(self.server.pid)

    # The steps of the story

    def _acts(self):
        return (self.connects("A"), self.connects("B"), self.says("B", harness.frame(b"hi")),
                self.connects("C", reads=False),
                self.says("C", story.messages(story.C_BYTES, seed=3)),
                self.says("B", harness.frame(b"ho")), self.reads("C"), self.leaves("A"),
                self.comes_and_says("D", story.messages(story.D_BYTES, seed=4)), self.sigterm,
                self.reads("D"))

    def connects(self, who, reads=True):
        """A step: a client comes."""
        return lambda: self.actors.update({who: Actor(self.server, reads)})

    def says(self, who, data):
        """A step: a client has something to send."""
        def act():
            self.actors[who].stream += data
            self.actors[who].act()
        return act

    def comes_and_says(self, who, data):
        """A step: a client comes and sends, and does not read."""
        def act():
            self.connects(who, reads=False)()
            self.says(who, data)()
        return act

    def reads(self, who):
        """A step: a client begins to read."""
        return lambda: setattr(self.actors[who], "reads", True)

    def leaves(self, who):
        """A step: a client has said all it wanted to, and waits for the end."""
        def act():
            self.actors[who].left = True
            self.actors[who].client.half_close()
        return act

    def sigterm(self):
        """A step: the server is told to stop."""
        self.server.signal(signal.SIGTERM)


# From frames to a recording


def fold(frames):
    """Leave out what repeats: a round of calls that is the same as the one before it.

    The last of the rounds is kept, with how many there were ("times") and how many bytes each call
    moved in all.
    """
    kept = []
    for frame in frames:
        kept.append(frame)
        for length in range(1, LONGEST_ROUND + 1):
            first, second = kept[-2 * length:-length], kept[-length:]
            if len(first) == length and [kind(f) for f in first] == [kind(f) for f in second] \
                    and all("call" in f for f in second):
                for old, new in zip(first, second):
                    new["times"] = old.get("times", 1) + new.get("times", 1)
                    if new["call"]["name"] in ("recv", "send"):
                        new["moved"] = sum(max(0, f.get("moved", f["call"]["result"]))
                                           for f in (old, new))
                del kept[-2 * length:-length]
                break
    return kept


def kind(frame):
    """What makes two calls alike: the same call on the same descriptor, and it worked or not."""
    call = frame.get("call")
    if not call:
        return frame["step"], id(frame)
    result = call["result"]
    return frame["step"], call["name"], call.get("fd"), result if result <= 0 else 1


def changes(frames):
    """Each frame with only what is not as in the frame before it."""
    slim, before = [], {"clients": {}}
    for frame in frames:
        new = {key: value for key, value in frame.items()
               if key in ("step", "act", "call", "asleep", "ended", "times", "moved")
               or key in KEPT and before.get(key, "") != value}
        clients = {}
        for who, seen in frame["clients"].items():
            old = before["clients"].get(who, {})
            if different := {key: value for key, value in seen.items()
                             if old.get(key, "") != value}:
                clients[who] = different
        slim.append({**new, "clients": clients} if clients else new)
        before = frame
    return slim


def whole(frames):
    """The opposite of changes(): each frame complete."""
    state, clients = {}, {}
    for frame in frames:
        for who, seen in frame.get("clients", {}).items():
            clients = {**clients, who: {**clients.get(who, {}), **seen}}
        state |= {key: frame[key] for key in KEPT if key in frame}
        yield {**frame, **state, "clients": clients}


def record(number, build=harness.BUILD):
    """Record a stage. Raises PermissionError where ptrace is not allowed."""
    stage = harness.Stage(number, build=build)
    try:
        return Recorder(stage).run()
    finally:
        stage.stop()


# What a recording must be like


def problems(recording):
    """What is wrong with a recording: its form, its numbers, or a lesson that does not show."""
    found = []
    if [stage["stage"] for stage in recording["stages"]] != list(harness.STAGES):
        found.append("not all seven stages are there")
    for stage in recording["stages"]:
        found += [f"{stage['name']}: {what}" for what in itertools.chain(
            wrong_steps(stage), wrong_numbers(stage), wrong_lessons(stage))]
    return found


def wrong_steps(stage):
    """Each step is there, in order; it begins with what the clients do, and ends at rest."""
    steps = [(step, list(frames)) for step, frames in
             itertools.groupby(stage["frames"], key=lambda frame: frame["step"])]
    if [step for step, _ in steps] != list(range(len(story.STEPS))):
        yield f"its steps are {[step for step, _ in steps]}"
    for step, frames in steps:
        if not frames[0].get("act"):
            yield f"step {step} does not begin with what the clients do"
        if not ("asleep" in frames[-1] or "ended" in frames[-1]):
            yield f"step {step} does not end at rest"
        if not all("call" in frame for frame in frames[1:-1]):
            yield f"step {step} has a frame without a call"


def wrong_numbers(stage):
    """No queue is negative, nothing comes back that was not sent, and no answer lacks a byte."""
    received, sent = {}, {}
    frames = list(whole(stage["frames"]))
    for at, frame in enumerate(frames):
        where = f"frame {at} of step {frame['step']}"
        yield from (f"{where}: {what}" for what in wrong_moment(frame))
        call = frame.get("call", {})
        if call.get("name") in ("recv", "send") and call["result"] > 0:
            total = received if call["name"] == "recv" else sent
            who = owner(frames[max(at - 1, 0)], call["fd"])
            total[who] = total.get(who, 0) + frame.get("moved", call["result"])
        if "call" not in frame:  # between calls that are folded, the sums are not comparable
            for who in sent:
                if sent[who] > received.get(who, 0):
                    yield f"{where}: more was sent to {who} than was received"
    for who, client in frames[-1]["clients"].items():
        if not client["got"] + client["back"] <= sent.get(who, 0) <= received.get(who, 0) \
                <= client["sent"]:
            yield (f"{who} sent {client['sent']}, the server received {received.get(who, 0)} and "
                   f"sent {sent.get(who, 0)}, and {client['got']} came back")


def wrong_moment(frame):
    """The same of one frame."""
    if frame["queue"] < 0:
        yield f"{frame['queue']} in the accept queue"
    for who, client in frame["clients"].items():
        for key in ("in", "out", "held", "back", "sent", "got"):
            if client[key] < 0:
                yield f"{who}: {key} is {client[key]}"
        if client["got"] > client["sent"]:
            yield f"{who} got {client['got']} bytes and sent {client['sent']}"
        if client["state"] == "answered" and client["got"] != client["all"]:
            yield f"{who} is called answered, with bytes missing"


def owner(frame, fd):
    """Whose connection a descriptor is."""
    return next((who for who, client in frame["clients"].items() if client["fd"] == fd), None)


def end_of(stage, step):
    """The last frame of a step, or None."""
    frames = [frame for frame in whole(stage["frames"]) if frame["step"] == step]
    return frames[-1] if frames else None


def wrong_lessons(stage):
    """What the story teaches shows at the end of its steps."""
    for (step, number), (call, states) in story.LESSONS.items():
        frame = end_of(stage, step) if number == stage["stage"] else None
        if frame is None:
            continue
        sleeps = frame["asleep"]["name"] if "asleep" in frame else "-"
        seen = {who: frame["clients"][who]["state"] for who in states}
        if (sleeps, seen) != (call, states):
            yield (f"the lesson of step {step} no longer shows: {sleeps} and {seen}, "
                   f"and not {call} and {states}")
