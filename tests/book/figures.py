#!/usr/bin/env python3
"""Draw the figures of the chapters: `make prose` writes them, `make lint` asks whether they fit.

One function for each. What has a number has it from the code or from the recorded story.
"""

import argparse
import re
import sys

from tests.book import markdown
from tests.book.drawing import NARROW, Drawing
from tests.book.recorded import recorded
from tests.story import story


def queues():
    """Chapter 1: the kernel accepts connections and bytes while the program sleeps."""
    d = Drawing(262, "The kernel holds a queue of connections that are not accepted yet, and a "
                     "receive buffer for each. The program sleeps in recv() of the first client.",
                NARROW)
    d.box(92, 30, 314, 218, kind="room")
    d.text(249, 22, "the kernel", "title", "middle")
    d.text(474, 22, "our program", "title", "middle")
    d.box(2, 56, 66, 48, "your\nfirst nc")
    d.box(2, 160, 66, 48, "your\nsecond", "key", "keyed")
    d.box(104, 50, 92, 60, "socket 4\nconnected")
    d.box(104, 154, 92, 60, "socket 3\nthe listener")
    for y, words, kind in ((50, "receive buffer: empty", "box"), (84, "send buffer: empty", "box"),
                           (154, "accept queue: second nc", "key"),
                           (188, "its receive buffer: “hi”", "key")):
        d.box(212, y, 182, 28, words, kind, "small " + ("keyed" if kind == "key" else "quiet"))
    d.arrow([(68, 80), (100, 80)])
    d.arrow([(68, 184), (100, 184)], "way")
    d.arrow([(394, 64), (426, 64)])
    d.arrow([(426, 98), (398, 98)])
    d.arrow([(394, 168), (426, 168)])
    d.text(430, 62, "recv(4)", "code")
    d.text(430, 78, "asleep here", "small badly")
    d.text(430, 102, "send(4)", "code quiet")
    d.text(430, 166, "accept(3)", "code quiet")
    d.text(430, 182, "not called:", "small quiet")
    d.text(430, 198, "we’re asleep", "small quiet")
    d.text(249, 236, "here your second nc and its bytes wait", "small quiet", "middle")
    return d


def bits():
    """Chapter 2: a set with a bit for each descriptor, and the end of it."""
    d = Drawing(258, "An fd_set has 1,024 bits. Bit n stands for descriptor n. We hand in the set "
                     "of all we watch, and select() leaves only the bits of those that are ready.",
                NARROW)
    left, wide = 80, 39
    names = ["0", "1", "2", "3", "4", "5", "6", "7", "…", "1023"]
    d.text(0, 24, "descriptor", "small quiet")
    for number, name in enumerate(names):
        d.text(left + wide * (number + .5), 24, name, "code quiet", "middle")
    d.text(506, 24, "1024", "code badly", "middle")
    d.text(0, 58, "we ask for")
    d.cells(left, 36, wide, 34, ["0", "0", "0", ("1", "key"), ("1", "key"), ("1", "key"),
                                 ("1", "key"), "0", "…", "0"])
    d.box(486, 36, 40, 34, "?", "bad", "badly")
    d.arrow([(177, 78), (177, 130)], words="select() sleeps, then overwrites", at=(187, 122),
            anchor="start")
    d.text(528, 88, "no such bit: FD_SET", "small badly", "end")
    d.text(528, 104, "writes beyond the set", "small badly", "end")
    d.text(0, 160, "it leaves")
    d.cells(left, 138, wide, 34, ["0", "0", "0", "0", "0", "0", ("1", "key"), "0", "…", "0"])
    d.arrow([(333, 204), (333, 178)], "way")
    d.text(333, 222, "only client 6 has sent something", "keyed", "middle")
    d.text(265, 250, "at each call, the kernel and we look at every bit up to the highest",
           "small quiet", "middle")
    return d


def array():
    """Chapter 3: question and answer in one array, handed over whole each time."""
    d = Drawing(212, "poll() takes an array with an entry of 8 bytes for each client: the "
                     "descriptor, what we ask, and what the kernel answers.", NARROW)
    fds = ["3", "4", "6", "1500", "…"]
    left, wide = 64, 70
    d.text(0, 46, "fd", "code")
    d.text(0, 80, "events", "code")
    d.text(0, 114, "revents", "code")
    for number, fd in enumerate(fds):
        hot, x = fd == "6", left + wide * number
        d.box(x, 24, wide, 34, fd, text="code")
        d.box(x, 58, wide, 34, "…" if fd == "…" else "POLLIN", text="code small")
        d.box(x, 92, wide, 34, "POLLIN" if hot else "…" if fd == "…" else "0",
              "key" if hot else "box", "code small" + (" keyed" if hot else ""))
    d.text(424, 46, "any number fits", "small quiet")
    d.text(424, 80, "our question", "small quiet")
    d.text(424, 114, "the answer", "small keyed")
    end = left + wide * len(fds)
    d.arrow([(left, 138), (left, 158), (end, 158), (end, 138)])
    d.text(265, 180, "handed over whole at each call, and walked through twice", "", "middle")
    d.text(265, 202, "8 bytes for every client, to find the one that has spoken", "small quiet",
           "middle")
    return d


def level():
    """Chapter 3: bytes are left in the buffer, and poll() returns each time, until none is left."""
    d = Drawing(252, "Six bytes arrive. A server that reads one at a time calls poll() again, and "
                     "poll() returns at once as long as bytes are left. With none left, it sleeps.",
                NARROW)
    left, step, bottom = 142, 60, 130
    d.text(0, 70, "bytes in the")
    d.text(0, 88, "receive buffer")
    points = [(100, bottom), (left - 34, bottom), (left - 34, bottom - 90)]
    for number in range(1, 7):
        x = left + step * number - 16
        points += [(x, bottom - 90 + 15 * (number - 1)), (x, bottom - 90 + 15 * number)]
    d.line([*points, (528, bottom)], "way")
    d.text(left - 34, 26, "“hello” and Return arrive", "small", "start")
    d.text(0, 176, "poll()", "code")
    d.text(0, 214, "recv()", "code")
    for number, byte in enumerate(["h", "e", "l", "l", "o", "\\n"]):
        x = left + step * number
        d.box(x - 34, 156, 56, 30, "returns", "key", "small keyed")
        d.box(x - 4, 194, 44, 30, f"“{byte}”", text="code small")
    d.text(left + step * 6 - 28, 176, "sleeps", "small quiet")
    d.text(265, 246, "poll() returns as long as bytes are there, whenever they arrived",
           "small quiet", "middle")
    return d


def lists():
    """Chapter 4: the interest list stays with the kernel; a packet puts its socket on the other."""
    d = Drawing(326, "The kernel keeps the interest list. When a packet arrives for socket 6, the "
                     "kernel puts its bytes into the buffer and 6 on the ready list. epoll_wait() "
                     "returns the ready list only.", NARROW)
    d.box(74, 30, 314, 284, kind="room")
    d.text(231, 22, "the kernel", "title", "middle")
    d.text(470, 22, "our program", "title", "middle")
    d.text(87, 58, "interest list: all we care about", "title")
    d.cells(87, 70, 48, 32, ["3", "5", ("6", "key"), "7", "8", "…"])
    d.box(160, 140, 215, 62, "socket 6\nreceive buffer: “hi”", "key")
    d.arrow([(0, 171), (156, 171)], "way")
    d.text(0, 146, "a packet", "keyed")
    d.text(0, 162, "arrives", "keyed")
    d.arrow([(207, 106), (207, 136)], words="“wake me for this one”", at=(217, 125),
            anchor="start")
    d.arrow([(300, 202), (300, 228), (111, 228), (111, 264)], "way")
    d.text(290, 221, "6 goes on the list", "small keyed", "end")
    d.text(128, 254, "ready list: who has something", "title")
    d.cells(87, 268, 48, 32, [("6", "key"), "", ""])
    d.arrow([(410, 86), (379, 86)])
    d.text(414, 84, "epoll_ctl(ADD)", "code")
    d.text(414, 102, "once per client", "small quiet")
    d.arrow([(237, 284), (408, 284)], "way")
    d.text(414, 280, "epoll_wait()", "code")
    d.text(414, 298, "returns 6, only 6", "small keyed")
    return d


def edges():
    """Chapter 5: the same bytes, reported as a level and as an edge."""
    d = Drawing(330, "Bytes arrive twice and are read once. Level-triggered epoll reports the "
                     "socket at each wait while bytes are left; edge-triggered once per arrival.")
    left, right = 150, 700
    d.text(0, 70, "bytes in the")
    d.text(0, 88, "receive buffer")
    d.line([(left, 110), (230, 110), (230, 80), (370, 80), (370, 50), (470, 50), (470, 80),
            (600, 80), (600, 110), (right, 110)], "way")
    d.text(230, 130, "“hello” arrives", "small", "middle")
    d.text(370, 130, "“you” arrives", "small", "middle")
    d.text(470, 30, "we read a part", "small", "middle")
    d.text(600, 130, "we read the rest", "small", "middle")
    d.line([(230, 138), (230, 260)], "gone")
    d.line([(370, 138), (370, 188)], "gone")
    d.line([(370, 212), (370, 230)], "gone")
    d.line([(600, 138), (600, 260)], "gone")
    d.text(0, 176, "level-triggered", "title")
    for number in range(13):
        x = 238 + 29 * number
        d.parts.append(f'<polygon points="{x - 7},182 {x + 7},182 {x},166" class="wayhead"/>')
    d.text(0, 196, "“it is readable”", "small quiet")
    d.text(420, 206, "each epoll_wait() reports it, for as long as bytes are left",
           "small quiet", "middle")
    d.text(0, 246, "edge-triggered", "title")
    for x in (238, 378):
        d.parts.append(f'<polygon points="{x - 7},252 {x + 7},252 {x},236" class="wayhead"/>')
    d.text(0, 266, "“it has become so”", "small quiet")
    d.text(491, 248, "silence: the part that we", "badly", "middle")
    d.text(491, 266, "left is not reported again", "badly", "middle")
    d.text(420, 306, "So read until EAGAIN: then nothing is left that you would never hear of.",
           "small quiet", "middle")
    return d


def buffers():
    """Chapter 6: five buffers in a row, as full as they were in the story."""
    d = Drawing(330, "A client sends 8 MiB and reads nothing. Its bytes go through five buffers in "
                     "a row: its send buffer, our receive buffer, unsent, our send buffer, its "
                     "receive buffer. From the far end on, one after the other is full.")
    client = recorded(6, story.FLOOD, "C")
    there = client["in"] + client["held"] + client["out"] + client["back"] + client["got"]
    levels = [client["all"] - there, client["in"], client["held"], client["out"], client["back"]]
    names = ["client’s\nsend buffer", "our\nreceive buffer", "unsent\nin our process",
             "our\nsend buffer", "client’s\nreceive buffer"]
    full = ["fills last: then", "4th: it fills when", "3rd: a little over", "2nd: then send()",
            "fills first:"]
    why = ["its send() waits", "we stop reading", "the mark", "says EAGAIN", "it does not read"]
    top, bottom, wide = 84, 226, 92
    most = max(levels)
    for number, level in enumerate(levels):
        x = 46 + 134 * number
        for line, words in enumerate(names[number].split("\n")):
            d.text(x + wide / 2, 48 + 17 * line, words, "title" if not line else "small", "middle")
        height = (bottom - top) * level / most
        d.box(x, top, wide, bottom - top, kind="box")
        if height:
            d.box(x, bottom - height, wide, height, kind="water")
        d.text(x + wide / 2, 246, f"{level / 1024:,.0f} KiB", "keyed" if level else "quiet",
               "middle")
        d.text(x + wide / 2, 266, full[number], "small quiet", "middle")
        d.text(x + wide / 2, 282, why[number], "small quiet", "middle")
        d.arrow([(x - 38, 155), (x - 4, 155)], "way" if number else "arrow")
    d.arrow([(46 + 134 * 4 + wide, 155), (712, 155)], "gone")
    d.text(360, 22, f"A client has sent {client['all'] / 1024:,.0f} KiB to stage 6, and reads none "
           "of the answer", "title", "middle")
    d.text(360, 316, "as recorded when nothing moved any more, all to one scale: every byte is in "
           "one of them", "small quiet", "middle")
    return d


def turn():
    """Chapter 7: wait, dispatch, settle."""
    d = Drawing(330, "A turn of the loop: wait in epoll_wait(), dispatch what is ready to the "
                     "handler, settle what the handler asked for, and wait again.")
    d.text(150, 22, "the loop", "title", "middle")
    d.text(560, 22, "your handler", "title", "middle")
    steps = [("wait", "epoll_wait(): sleep until", "something is ready or due"),
             ("dispatch", "recv() for each that is ready,", "call you, send your answers"),
             ("settle", "tell epoll what has changed,", "close, destroy")]
    for number, (name, first, second) in enumerate(steps):
        y = 40 + 96 * number
        d.box(50, y, 220, 74, kind="key" if number == 1 else "box")
        d.text(160, y + 22, name, "title", "middle")
        d.text(160, y + 43, first, "small", "middle")
        d.text(160, y + 59, second, "small", "middle")
    d.arrow([(160, 114), (160, 132)])
    d.arrow([(160, 210), (160, 228)])
    d.arrow([(50, 269), (20, 269), (20, 77), (46, 77)])
    d.box(420, 126, 280, 104, kind="key")
    d.text(440, 150, "on_read(conn)", "code")
    d.text(440, 174, "conn.write(…)", "code")
    d.text(440, 194, "conn.close()", "code")
    d.text(440, 214, "conn.hold()", "code")
    d.text(580, 174, "is stored", "small quiet")
    d.text(580, 194, "sets a mark", "small quiet")
    d.text(580, 214, "sets a mark", "small quiet")
    d.arrow([(270, 160), (416, 160)], "way", "calls", at=(343, 152))
    d.arrow([(416, 214), (350, 214), (350, 252), (274, 252)], words="asks", at=(386, 206))
    d.text(440, 250, "nothing is destroyed in here,", "small quiet")
    d.text(440, 266, "no hook is called from a hook", "small quiet")
    d.arrow([(270, 296), (416, 296)], "way", "calls", at=(343, 288))
    d.box(420, 282, 280, 30, "on_close(conn)", text="code")
    return d


# Where the phases of a connection stand, and what leads from one to the next. Phases and edges
# themselves come from connection.h: an edge of it without words here is an error, and so is a
# phase without a place.
PLACES = {"connecting": (4, 40), "open": (201, 40), "closing": (398, 40),
          "lingering": (592, 40), "over": (398, 230), "gone": (592, 230)}
WIDE = 122  # of each
MEANING = {"connecting": "connect() is\nunder way", "open": "takes input,\nsends output",
           "closing": "all output\nis still sent", "lingering": "our FIN is out,\nwait for theirs",
           "over": "settle will\ndestroy it", "gone": "on_close(),\nclose(fd)"}
WAYS = {
    ("connecting", "open"): ([(126, 75), (197, 75)], "it is up", (161, 67)),
    ("open", "closing"): ([(323, 75), (394, 75)], "close() or", (358, 67)),
    ("closing", "lingering"): ([(520, 75), (588, 75)], "all sent", (554, 67)),
    ("connecting", "closing"): ([(65, 40), (65, 18), (459, 18), (459, 36)],
                                "it is up, and close() was called before", (262, 12)),
    ("connecting", "over"): ([(65, 110), (65, 275), (394, 275)], "refused, too late", (230, 268)),
    ("open", "over"): ([(262, 110), (262, 250), (394, 250)], "error, abort()", (330, 243)),
    ("closing", "over"): ([(459, 110), (459, 226)], "all sent, and", (467, 160)),
    ("lingering", "over"): ([(653, 110), (653, 200), (500, 200), (500, 226)], "their FIN,",
                            (645, 130)),
    ("over", "gone"): ([(520, 265), (588, 265)], "settle", (554, 257)),
}


def phases():
    """The phases and edges that connection.h has."""
    text = markdown.read("07-evloop/connection.h")
    names = re.search(r"enum class Phase[^{]*{(.*?)\n};", text, re.S)[1]
    table = re.search(r"constexpr Edge edges\[\] = {(.*?)\n};", text, re.S)[1]
    return (re.findall(r"^ +(\w+),", names, re.M),
            re.findall(r"{Phase::(\w+), Phase::(\w+)}", table))


def states():
    """Chapter 7, a connection's life: its phases, and the ways between them."""
    names, edges = phases()
    if set(names) != set(PLACES) or set(edges) != set(WAYS):
        odd = (set(names) ^ set(PLACES)) | (set(edges) ^ set(WAYS))
        raise ValueError(f"connection.h and its figure differ: {sorted(map(str, odd))}")
    ways = ", ".join(f"{a} to {b}" for a, b in edges)
    d = Drawing(332, f"The phases of a connection: {', '.join(names)}. It may go from {ways}.")
    for name in names:
        x, y = PLACES[name]
        kind, text = ("key", "title keyed") if name == "open" else ("box", "title")
        d.box(x, y, WIDE, 70, kind=kind)
        lines = MEANING[name].split("\n")
        d.text(x + WIDE / 2, y + 21, name, text, "middle")
        for number, line in enumerate(lines):
            d.text(x + WIDE / 2, y + 41 + 16 * number, line, "small quiet", "middle")
    for edge in edges:
        points, words, at = WAYS[edge]
        anchor = {("closing", "over"): "start", ("lingering", "over"): "end"}.get(edge, "middle")
        main_road = "over" not in edge and edge != ("connecting", "closing")
        d.arrow(points, "way" if main_road else "arrow", words, at, anchor)
    d.text(358, 93, "their FIN", "small quiet", "middle")
    d.text(467, 175, "their FIN is here", "small quiet")
    d.text(645, 145, "or a deadline", "small quiet", "end")
    d.text(4, 324, "An error, abort() or a deadline leads to “over” from anywhere.", "small quiet")
    return d


FIGURES = {
    "01-blocking/queues.svg": queues,
    "02-select/bits.svg": bits,
    "03-poll-lt/array.svg": array,
    "03-poll-lt/level.svg": level,
    "04-epoll-lt/lists.svg": lists,
    "05-epoll-et/edges.svg": edges,
    "06-write-buffering/buffers.svg": buffers,
    "07-evloop/states.svg": states,
    "07-evloop/turn.svg": turn,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="draw them (else: compare)")
    write = arguments.parse_args().write
    stale = 0
    for name, draw in FIGURES.items():
        path, new = markdown.ROOT / name, draw().svg()
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old == new:
            continue
        if write:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: drawn")
        else:
            stale += 1
            print(f"{name}: is not what figures.py draws; run: make prose")
    print(f"{len(FIGURES) - stale} passed, {stale} failed")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
