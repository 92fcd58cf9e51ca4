"""Play the story in real time against one server, and write down what its clients see.

A word of B that is not answered at once is judged by what the server does meanwhile, and not by the
clock: it `waits` when the server is seen asleep in a call on another connection while the word lies
unread in the kernel, or when the server spends its own CPU time on others. When neither is so, the
machine was busy, and not the server: that play says nothing about the word. Each story is played
several times, and a word's verdict is that of most plays that have one.
"""

import concurrent.futures
import contextlib
import select
import signal
import socket
import statistics
import threading
import time

from tests import harness
from tests.harness.client import IP_BIND_ADDRESS_NO_PORT
from tests.outside import kernel
from tests.story import story

LATE = 0.05  # seconds; a word unanswered for so long is looked into
PLAYS = 3
BEHIND = 0.3  # seconds; a play that is later than that is not the same story
RETRIES = 4  # further plays, where the machine was too busy in all of these
LOOK = 0.1  # seconds between two looks at a server from which nothing comes
GIVE_UP = 10  # looks in a row at which nothing had moved
GIVE_UP_EARLY, GIVE_UP_LATE = 5, 30  # of who was never accepted, and of who was
WORD = harness.frame(b"a word of B, and no more than that")
AT_ONCE, WAITS, MACHINE = "at once", "waits", "machine"


class Word:
    """One message of B."""

    def __init__(self, due):
        self.due, self.sent, self.answered, self.waits, self.cpu = due, None, None, False, 0

    def verdict(self):
        """What it was like for B."""
        if self.waits:
            return WAITS
        return AT_ONCE if self.answered and self.answered - self.sent <= LATE else MACHINE


def wait(client, events, seconds=LOOK):
    """Wait for a client's socket, and return the events that came.

    Not with select(): beside a crowd, the number of the socket may be too high for it.
    """
    poll = select.poll()
    poll.register(client, events)
    return sum(came for _, came in poll.poll(1000 * seconds))


class Patience:
    """How long a client waits: as long as something moves, or may move soon."""

    def __init__(self, looks=GIVE_UP):
        self.looks, self.quiet, self.looked = looks, 0, 0
        self.end = time.monotonic() + harness.FAILSAFE

    def lasts(self, moved):
        """Did anything move since the last look? Does it make sense to go on?"""
        self.quiet = 0 if moved else self.quiet + 1
        if not moved:
            time.sleep(max(0, self.looked + LOOK - time.monotonic()))
        self.looked = time.monotonic()
        return self.quiet < self.looks and self.looked < self.end


class Play:
    """The nine seconds, once. Each client has a thread of its own, and waits for its turn."""

    def __init__(self, server):
        self.server = server
        self.over = {scene.who: threading.Event() for scene in story.SCENES}
        self.asking = threading.Lock()  # sock_diag has one socket for all
        self.b_is_judged = threading.Event()  # no word is still to be looked into
        self.begin = time.monotonic()

    def now(self):
        """Seconds since the story began."""
        return time.monotonic() - self.begin

    def until(self, moment):
        """Sleep until this second of the story."""
        time.sleep(max(0, moment - self.now()))

    def run(self):
        """Returns what became of everyone."""
        roles = {"A": self.is_silent, "B": self.talks, "crowd": self.comes, "C": self.reads_late,
                 "D": self.is_owed}
        with concurrent.futures.ThreadPoolExecutor(len(roles)) as threads:
            futures = {who: threads.submit(self._act, who, role) for who, role in roles.items()}
            return {who: future.result() for who, future in futures.items()}

    def _act(self, who, role):
        try:
            return role()
        finally:
            if who in self.over:
                self.over[who].set()

    def _enter(self, who):
        """Wait for the time of a scene, and for the end of the one before. Returns the scene."""
        number = [scene.who for scene in story.SCENES].index(who)
        self.until(story.SCENES[number].begin)
        if number:
            self.over[story.SCENES[number - 1].who].wait(harness.FAILSAFE)
        return story.SCENES[number]

    # The clients

    def is_silent(self):
        """A: connects, and leaves after two seconds."""
        scene = self._enter("A")
        begin, client = self.now(), self.server.connect()
        self.until(scene.end)
        client.close()
        return {"begin": round(begin, 3), "end": round(self.now(), 3)}

    def talks(self):
        """B: a word every tenth of a second. Returns [sent, answered, verdict] of each."""
        count = round((story.LAST_WORD - story.FIRST_WORD) / story.EVERY) + 1
        words = [Word(story.FIRST_WORD + i * story.EVERY) for i in range(count)]
        self.until(words[0].due)
        client = self.server.connect()
        echo = b""
        try:
            while self.now() < story.LENGTH + harness.FAILSAFE:  # until the server closes
                self._say(client, words)
                wait(client, select.POLLIN, self._pause(words))
                with contextlib.suppress(BlockingIOError):
                    echo = self._hear(words, echo + client.try_receive())
                self._look_into(client, words)
        except harness.Gone:
            pass  # the server has ended
        finally:
            self.b_is_judged.set()
            client.close()
        return [[round(word.sent, 4), word.answered and round(word.answered, 4), word.verdict()]
                for word in words if word.sent]

    def _say(self, client, words):
        for word in words:
            if not word.sent and word.due <= self.now():
                word.cpu = kernel.cpu_ns(self.server.pid)
                word.sent = self.now()
                client.send(WORD)

    def _pause(self, words):
        """How long until the next word, or the next look at one that waits."""
        now = self.now()
        moments = [word.due for word in words if not word.sent][:1]
        moments += [max(word.sent + LATE, now + 0.01) for word in words
                    if word.sent and not word.answered and not word.waits][:1]
        return max(0, min(moments, default=now + 0.1) - now)

    def _hear(self, words, echo):
        """Note which words were answered; returns what is left of the bytes."""
        while len(echo) >= len(WORD):
            if not echo.startswith(WORD):
                raise harness.Fail("B is answered something else")
            next(word for word in words if not word.answered).answered = self.now()
            echo = echo[len(WORD):]
        return echo

    def _look_into(self, client, words):
        """Find out why what is not answered is not, and tell D when all is known."""
        late = [word for word in words if word.sent and not word.answered
                and self.now() - word.sent > LATE]
        elsewhere = bool(late) and self._is_elsewhere(client)
        for word in late:
            busy = kernel.cpu_ns(self.server.pid) - word.cpu > LATE * 1e9
            word.waits = word.waits or elsewhere or busy
        if all(word.answered or word.waits for word in words):
            self.b_is_judged.set()

    def _is_elsewhere(self, client):
        """Does the server sleep for another client's sake, although B's bytes are there?"""
        pid = self.server.pid
        before = kernel.wake_ups(pid)
        call = kernel.blocked_call(pid)
        if not call or call[0] not in kernel.RECEIVING | kernel.SENDING:
            return False
        with self.asking:
            elsewhere = call[1][0] != client.server_fd() and client.unread() > 0
        return elsewhere and kernel.blocked_call(pid) == call and kernel.wake_ups(pid) == before

    def comes(self):
        """1,500 clients at once, a word each. Returns how many were served, refused and neither."""
        scene = self._enter("crowd")
        begin, waiting, poll = self.now(), {}, select.epoll()
        for _ in range(story.CROWD):
            one = socket.socket()
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            one.bind(("127.0.0.2", 0))
            with contextlib.suppress(BlockingIOError):
                one.connect((self.server.host, self.server.port))
            waiting[one.fileno()] = one
            poll.register(one, select.EPOLLOUT)
        everyone, served, refused = list(waiting.values()), 0, 0
        patience, events = Patience(), [None]
        while waiting and patience.lasts(bool(events)):
            events = poll.poll(LOOK)
            for fd, event in events:
                try:
                    if event & select.EPOLLIN:
                        answer = waiting[fd].recv(100)
                    else:  # it is connected
                        waiting[fd].send(harness.frame(b"x"))
                        poll.modify(fd, select.EPOLLIN)
                        continue
                except OSError:
                    answer = b""
                poll.unregister(waiting.pop(fd))
                served, refused = served + bool(answer), refused + (not answer)
        self.until(scene.end)
        for one in everyone:
            one.close()
        poll.close()
        return {"begin": round(begin, 3), "end": round(self.now(), 3), "served": served,
                "refused": refused, "waiting": len(waiting)}

    def reads_late(self):
        """C: sends 8 MB, and begins to read after two seconds."""
        scene = self._enter("C")
        client = self.server.connect()
        data, begin = story.messages(story.C_BYTES, seed=3), self.now()
        sent, broken = self._push(client, data, scene.end)
        self.until(scene.end)
        got, sent, how = self._pull(client, data, sent, broken)
        client.close()
        return {"begin": round(begin, 3), "reads": scene.end, "end": round(self.now(), 3),
                "total": len(data), "sent": sent, "got": got, "how": how}

    def is_owed(self):
        """D: sends 6 MB and does not read. Then SIGTERM comes, and D reads."""
        self._enter("D")
        client = self.server.connect()
        data, begin = story.messages(story.D_BYTES, seed=4), self.now()
        sent, broken = self._push(client, data)
        self.until(story.STOP)
        self.b_is_judged.wait(harness.FAILSAFE)
        self.server.signal(signal.SIGTERM)
        stop = self.now()
        self.until(stop + 0.2)
        got, _, how = self._pull(client, data[:sent], sent, broken, until_end=True)
        status = self.server.wait_exit()
        return {"begin": round(begin, 3), "stop": round(stop, 3), "end": round(self.now(), 3),
                "total": len(data), "sent": sent, "got": got, "how": how, "status": status}

    def _push(self, client, data, until=0):
        """Send what the server takes, until all is sent or nothing moves (and `until` has come).

        Returns (bytes sent, how it broke or "").
        """
        sent, count, patience = 0, 1, Patience(GIVE_UP_EARLY)
        try:
            while sent < len(data) and (patience.lasts(count > 0) or self.now() < until):
                writable = wait(client, select.POLLOUT)
                count = client.try_send(data[sent:sent + story.FRAME]) if writable else 0
                sent += count
        except harness.Gone as gone:
            return sent, gone.how
        return sent, ""

    def _pull(self, client, data, sent, broken, until_end=False):
        """Read `data` back, and send the rest meanwhile. Returns (bytes back, bytes sent, how).

        `how` is "" when all came back, else why not. With `until_end`, the server is to close.
        """
        with self.asking:
            looks = GIVE_UP_LATE if client.accepted() else GIVE_UP_EARLY
        got, more, count, patience = 0, b"", 0, Patience(looks)
        while (got < len(data) or until_end) and patience.lasts(more or count):
            pushing = sent < len(data) and not broken
            came = wait(client, select.POLLIN | select.POLLOUT * pushing)
            try:
                writable = pushing and came & ~select.POLLIN
                count = client.try_send(data[sent:sent + story.FRAME]) if writable else 0
                sent += count
            except harness.Gone as gone:
                count, broken = 0, gone.how
            try:
                more = client.try_receive()
            except harness.Gone as gone:
                return got, sent, "" if got == len(data) else (broken or gone.how).lower()
            if data[got:got + len(more)] != more:
                raise harness.Fail("other bytes come back than were sent")
            got += len(more)
        return got, sent, "" if got == len(data) else "nothing comes"


def play(number, build):
    """One play of one stage."""
    stage = harness.Stage(number, build=build)
    try:
        return Play(stage.start()).run()
    finally:
        stage.stop()


def behind(one):
    """How many seconds the machine was behind the story, at most."""
    return max(one[scene.who]["begin"] - scene.begin for scene in story.SCENES)


def unjudged(one):
    """How many of B's words say more of the machine than of the server."""
    return sum(verdict == MACHINE for _, _, verdict in one["B"])


def record(number, build):
    """Play a stage several times.

    It is played more often when the machine could not keep up, or while there are words that no
    play could judge.
    """
    kept, tries = [], 0
    while (len(kept) < PLAYS or unjudged(merged(kept))) and tries < PLAYS + RETRIES:
        kept.append(play(number, build))
        tries += 1
        if behind(kept[-1]) > BEHIND and tries < PLAYS + RETRIES:
            print(f"  this machine is busy, and {behind(kept.pop()):.1f} s behind the story: again")
    return {"stage": number, "name": harness.STAGES[number], "plays": len(kept),
            "behind": round(max(map(behind, kept)), 2), **merged(kept)}


def merged(plays):
    """What most plays say, or the one in the middle."""
    def middle(who, *keys):
        ranked = sorted((one[who] for one in plays), key=lambda seen: [seen[key] for key in keys])
        return ranked[len(ranked) // 2]

    words = [most(list(same)) for same in zip(*(one["B"] for one in plays))]
    return {"B": words, "crowd": middle("crowd", "served", "refused"), "C": middle("C", "got"),
            "D": middle("D", "got")}


def most(same):
    """One word in several plays: the verdict of most that have one, and of those the middle one."""
    judged = [word for word in same if word[2] != MACHINE] or same
    verdict = statistics.mode(verdict for *_, verdict in judged)
    agree = sorted((word for word in judged if word[2] == verdict),
                   key=lambda word: (word[1] or story.LENGTH) - word[0])
    return agree[len(agree) // 2]


# What it means


def scene_of(moment):
    """The last scene that has begun by then."""
    return [scene for scene in story.SCENES if scene.begin <= moment][-1]


def late_words(data, who=None):
    """The words of B that had to wait, all or those of a scene."""
    return [word for word in data["B"]
            if word[2] == WAITS and who in (None, scene_of(word[0]).who)]


def let_down(data):
    """What a server did to its clients, in the words of story.LET_DOWN."""
    found = set()
    for scene in story.SCENES:
        inside = [word for word in data["B"] if scene.begin <= word[0] <= scene.end]
        if late := len(late_words(data, scene.who)):
            found.add(f"B waits for {scene.who}" if late > len(inside) / 2 else
                      f"B waits {late} times in the scene of {scene.who}")
    crowd, c, d = data["crowd"], data["C"], data["D"]
    found |= {"crowd waits"} if crowd["waiting"] else set()
    found |= {"crowd is refused"} if crowd["refused"] else set()
    if c["got"] < c["total"]:
        found.add("C is cut off" if c["got"] else "C gets nothing")
    if d["got"] < d["sent"] or d["how"] or d["status"] != 0:
        found.add("D is cut off")
    return found


def problems(timeline):
    """What of the lesson does not show in a recording; nothing when all does."""
    found = []
    for data in timeline["stages"]:
        seen, expected = let_down(data), story.LET_DOWN[data["stage"]]
        found += [f"{data['name']}: the lesson no longer shows: {what}"
                  for what in sorted(expected - seen)]
        found += [f"{data['name']}: {what}, and it should not" for what in sorted(seen - expected)]
        if unjudged(data):
            found.append(f"{data['name']}: the machine was too busy to judge {unjudged(data)} of "
                         f"{len(data['B'])} words: try again when it is quiet")
        if data["behind"] > BEHIND:
            found.append(f"{data['name']}: the machine was too busy, and {data['behind']} s behind "
                         "the story: try again when it is quiet")
    if [data["stage"] for data in timeline["stages"]] != list(harness.STAGES):
        found.append("not all seven stages were recorded")
    return found
