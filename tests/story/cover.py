"""Draw the recorded timeline: cover.svg, and cover-narrow.svg for a phone.

One row for each server. Nothing is told by colour alone: an answer is a tick and a wait is an arc;
served is a full bar with a check mark, cut off is a hatched one with a cross, never served is an
empty one. Light and dark follow the reader's mode, and the playhead stands still on request.
"""

import itertools
from xml.sax.saxutils import escape

from tests.story import story, timeline

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LIGHT = {"ink": "#1f2328", "muted": "#59636e", "line": "#d1d9e0", "good": "#1a7f37",
         "bad": "#cf222e", "wait": "#9a6700", "play": "#0969da", "paper": "#ffffff"}
DARK = {"ink": "#f0f6fc", "muted": "#9198a1", "line": "#3d444d", "good": "#3fb950",
        "bad": "#f85149", "wait": "#d29922", "play": "#58a6ff", "paper": "#0d1117"}

TITLE = "The same clients, seven servers"
LEGEND = (("tick", "answered at once"), ("arc", "had to wait"), ("good", "served"),
          ("bad", "cut off or refused"), ("wait", "never served"))


class Wide:
    """Beside each other: name, timeline, words."""

    width, top, size, title = 760, 122, 11.5, 19
    left, right = 166, 556  # of the timeline
    heads = {"A": ["A is silent"], "crowd": ["1,500 connect"], "C": ["C does not read"],
             "D": ["SIGTERM"]}
    margin = 16
    subtitle = ["Recorded, not drawn. B says ten words a second to each server: a tick is an "
                "answer at once, an arc is a wait.",
                "A connects and is silent, then 1,500 come at once. C sends 8 MB, and reads two "
                "seconds later.", "D is owed 6 MB when SIGTERM tells the server to stop."]
    axis, words_x, lead = 34, 572, 14.5

    @classmethod
    def row(cls, _):
        """How tall a row is, with so many lines of words."""
        return 66

    @classmethod
    def words_y(cls, y, count):
        """The first baseline of so many lines, in the middle of the row."""
        return y + (66 - count * cls.lead) / 2 + 11

    @classmethod
    def name(cls, svg, y, number, name):
        """The server, left of its timeline."""
        svg.text(cls.margin, y + 29, name, "name")
        svg.text(cls.margin, y + 45, story.NEW[number], "muted")

    @classmethod
    def foot(cls, recording):
        """What a picture of waits cannot show, and where it comes from."""
        return ("What a wait cannot show is a cost: beside 10,000 silent clients, stage 3 hands "
                "the kernel", f"{handed(recording)} bytes for each wait, and stage 4 none.",
                f"{source(recording)}, {plays(recording)}")


class Narrow(Wide):
    """Below each other."""

    width, top, size, title, margin = 360, 176, 12, 18, 12
    left, right = 12, 348
    heads = {"A": ["A is", "silent"], "crowd": ["1,500", "connect"], "C": ["C does", "not read"],
             "D": ["SIG-", "TERM"]}
    subtitle = ["Recorded, not drawn. B says ten words a second",
                "to each server: a tick is an answer at once, an", "arc is a wait. A is silent, "
                "then 1,500 come at once.", "C sends 8 MB, and reads two seconds later.",
                "D is owed 6 MB when SIGTERM comes."]
    axis, words_x, lead = 56, 12, 15

    @classmethod
    def row(cls, count):
        """The words stand below the bars."""
        return 84 + count * cls.lead

    @classmethod
    def words_y(cls, y, _):
        """Below the bars."""
        return y + 91

    @classmethod
    def name(cls, svg, y, number, name):
        """The server, above its timeline."""
        svg.text(cls.margin, y + 19, name, "name")
        svg.text(cls.width - cls.margin, y + 19, story.NEW[number], "muted", "end")

    @classmethod
    def foot(cls, recording):
        """The same, in shorter lines."""
        return ("What a wait cannot show is a cost: beside 10,000", "silent clients, stage 3 hands "
                "the kernel", f"{handed(recording)} bytes for each wait, and stage 4 none.",
                source(recording), plays(recording))


def handed(recording):
    """The array of pollfd for 10,000 clients, A, B, C and the listener."""
    return f"{(10_000 + 4) * recording['sizes']['pollfd']:,}"


def source(recording):
    """Kernel and date."""
    return f"{recording['kernel']}, {recording['date']}"


def plays(recording):
    """How often each story was played."""
    counts = {stage["plays"] for stage in recording["stages"]}
    few, many = min(counts), max(counts)
    return f"the middle of {few if few == many else f'{few} to {many}'} plays"


class Svg:
    """A picture, made of lines of text."""

    def __init__(self, width):
        self.width, self.parts = width, []

    def text(self, x, y, words, kind="", anchor="start"):
        """A line of text; y is its baseline."""
        where = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{where}>{escape(words)}'
                          '</text>')

    def path(self, shape, kind):
        """Lines and curves."""
        self.parts.append(f'<path d="{shape}" class="{kind}"/>')

    def bar(self, left, right, y, kind, height=8):
        """What became of a client, or of many: from when to when."""
        self.parts.append(f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(right - left, 2):.1f}" '
                          f'height="{height}" rx="2" class="{kind}"/>')

    def mark(self, x, y, kind):
        """A check mark or a cross, 7 wide, whatever fonts there are; (x, y) is its middle."""
        shape = {"good": f"M{x - 3.5:.1f} {y:.1f}l2.5 3 4.5 -6",
                 "bad": f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6",
                 "wait": f"M{x - 3:.1f} {y:.1f}h0m3 0h0m3 0h0"}[kind]
        self.path(shape, f"mark {kind}-mark")

    def write(self, path, height, label, description, animation):
        """With the styles, and with words for a reader who does not see it."""
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height:.0f}" '
            f'width="{self.width}" height="{height:.0f}" role="img" aria-labelledby="t d">\n'
            f'<title id="t">{escape(label)}</title>\n<desc id="d">{escape(description)}</desc>\n'
            f"<style>\n{animation}</style>\n<defs>{HATCH}</defs>\n" + "\n".join(self.parts)
            + "\n</svg>\n", encoding="utf-8")


HATCH = ('<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
         'patternTransform="rotate(45)"><rect width="5" height="5" class="hatch-paper"/>'
         '<rect width="2.4" height="5" class="hatch-line"/></pattern>')


def style(layout, length, travel):
    """Light first, dark where the reader has asked for it."""
    def colours(c):
        return f"""text {{ fill: {c['ink']} }} .muted {{ fill: {c['muted']} }}
.grid, .base {{ stroke: {c['line']} }} .band {{ fill: {c['muted']} }}
.tick {{ stroke: {c['good']} }} .arc {{ stroke: {c['bad']} }} .unsure {{ stroke: {c['muted']} }}
.good {{ fill: {c['good']}; stroke: {c['good']} }}
.bad {{ stroke: {c['bad']} }} .wait {{ stroke: {c['wait']} }}
.hatch-paper {{ fill: {c['paper']} }} .hatch-line {{ fill: {c['bad']} }}
.good-mark {{ stroke: {c['good']} }} .bad-mark {{ stroke: {c['bad']} }}
.wait-mark {{ stroke: {c['wait']} }} .nobody {{ fill: {c['good']} }}
.play {{ stroke: {c['play']} }} .play-knob {{ fill: {c['play']} }}
"""
    return f"""text {{ font: {layout.size}px {FONT} }}
.title {{ font-size: {layout.title}px }} .name {{ font-size: 13.5px }}
.title, .name {{ font-weight: 650 }} .head, .nobody {{ font-weight: 600 }}
.band {{ opacity: .1 }} .base {{ stroke-width: 1 }} .tick, .unsure {{ stroke-width: 1.6 }}
.unsure {{ stroke-dasharray: 2 2 }}
.arc {{ fill: none; stroke-width: 1.1 }}
.bad {{ fill: url(#hatch) }} .wait {{ fill: none; stroke-dasharray: 3 2 }}
.mark {{ fill: none; stroke-width: 1.8; stroke-linecap: round }}
.play {{ stroke-width: 1.5 }} .playhead {{ animation: sweep {length}s linear infinite }}
@keyframes sweep {{ to {{ transform: translateX({travel:.1f}px) }} }}
@media (prefers-reduced-motion: reduce) {{ .playhead {{ display: none }} }}
{colours(LIGHT)}@media (prefers-color-scheme: dark) {{
{colours(DARK)}}}
"""


# What became of them, in words


def size(count):
    """4 KB, 113 KB, 8 MB."""
    return f"{count / story.MIB:.3g} MB" if count >= story.MIB else f"{int(count / 1024 + 0.5)} KB"


def got(who, data):
    """How a client fared that did not get all its bytes."""
    return f"{who} gets {size(data['got'])} of {size(data['total'])}" if data["got"] else \
        f"{who} gets nothing"


def words(data):
    """Who was let down by a server, a line each."""
    lines, crowd = [], data["crowd"]
    if late := timeline.late_words(data):
        longest = max((answered or data["D"]["stop"]) - sent for sent, answered, _ in late)
        lines.append(f"B: {len(late)} words wait, up to {longest:.1f} s")
    if crowd["refused"]:
        lines.append(f"{crowd['refused']:,} of {story.CROWD:,} refused")
    if crowd["waiting"]:
        lines.append(f"{crowd['waiting']:,} of {story.CROWD:,} never served")
    for who in ("C", "D"):
        if data[who]["how"]:
            lines.append(got(who, data[who]))
    return lines


def nobody(data):
    """What is said of a server that lets no client down."""
    return ["no client", f"D gets all {data['D']['got']:,} bytes,",
            f"then it exits with {data['D']['status']}"]


def description(stages):
    """The picture for a reader who does not see it."""
    return " ".join(f"{data['name']}: {'; '.join(words(data) or nobody(data))}."
                    for data in stages)


# The picture


def draw(recording, layout, path):
    """Draw a whole recording."""
    svg = Svg(layout.width)

    def x(moment):
        return layout.left + moment / story.LENGTH * (layout.right - layout.left)

    stages = recording["stages"]
    lines = [words(data) or nobody(data) for data in stages]
    tops = list(itertools.accumulate((layout.row(len(some)) for some in lines), initial=layout.top))
    bottom = tops[-1]
    svg.text(layout.margin, 30, TITLE, "title")
    for line, sentence in enumerate(layout.subtitle):
        svg.text(layout.margin, 51 + 16 * line, sentence, "muted")
    draw_scenes(svg, layout, x, bottom)
    for data, some, y in zip(stages, lines, tops):
        if y > layout.top:
            svg.path(f"M12 {y}H{layout.width - 12}", "grid")
        layout.name(svg, y, data["stage"], data["name"])
        draw_words(svg, x, y + layout.axis, data)
        draw_fates(svg, x, y + layout.axis + 11, data)
        for number, line in enumerate(some):
            svg.text(layout.words_x, layout.words_y(y, len(some)) + number * layout.lead, line,
                     "" if words(data) else "nobody")
    svg.parts.append(f'<g class="playhead"><path d="M{x(0):.1f} {layout.top - 4}V{bottom}" '
                     f'class="play"/><circle cx="{x(0):.1f}" cy="{layout.top - 4}" r="3.5" '
                     'class="play-knob"/></g>')
    height = draw_foot(svg, layout, x, bottom, recording)
    svg.write(path, height, TITLE, description(stages),
              style(layout, story.LENGTH, x(story.LENGTH) - x(0)))


def draw_scenes(svg, layout, x, bottom):
    """What the clients do, at the top."""
    for scene in story.SCENES:
        left, right = x(scene.begin), x(scene.end)
        svg.bar(left, right, layout.top - 4, "band", bottom - layout.top + 4)
        lines = layout.heads[scene.who]
        middle = min((left + right) / 2, layout.width - 24)
        for number, line in enumerate(lines):
            svg.text(middle, layout.top - 12 - 14 * (len(lines) - 1 - number), line, "head",
                     "middle")
    if layout is Wide:
        svg.text(layout.words_x, layout.top - 12, "who is let down", "head")


def draw_words(svg, x, axis, data):
    """B's words: ticks and arcs."""
    svg.path(f"M{x(story.FIRST_WORD):.1f} {axis}H{x(story.STOP):.1f}", "base")
    ticks, arcs, unsure = [], [], []
    for sent, answered, verdict in data["B"]:
        if verdict == timeline.WAITS:
            end = answered or data["D"]["stop"]
            height = min(26, 8 + (end - sent) * 11)
            arcs.append(f"M{x(sent):.1f} {axis}C{x(sent):.1f} {axis - height:.1f} {x(end):.1f} "
                        f"{axis - height:.1f} {x(end):.1f} {axis}")
        else:
            where = ticks if verdict == timeline.AT_ONCE else unsure
            where.append(f"M{x(sent):.1f} {axis - 5}v10")
    for shapes, kind in ((arcs, "arc"), (ticks, "tick"), (unsure, "unsure")):
        if shapes:
            svg.path("".join(shapes), kind)


def draw_fates(svg, x, y, data):
    """What became of the crowd, of C and of D: bars."""
    scenes = {scene.who: scene for scene in story.SCENES}
    crowd, c, d = data["crowd"], data["C"], data["D"]
    left, whole = x(scenes["crowd"].begin), x(scenes["crowd"].end) - x(scenes["crowd"].begin)
    for share, kind in (("served", "good"), ("refused", "bad"), ("waiting", "wait")):
        if crowd[share]:
            right = left + whole * crowd[share] / story.CROWD
            svg.bar(left, right, y, kind)
            left = right
    fates = [("crowd", "wait" if crowd["waiting"] else "bad" if crowd["refused"] else "good"),
             ("C", fate(c)), ("D", fate(d))]
    for who, kind in fates:
        begin, end = x(scenes[who].begin), x(scenes[who].end)
        if who != "crowd":
            svg.bar(begin, end, y, kind)
        svg.mark(end + 7, y + 4, kind)


def fate(data):
    """Was a client served, cut off, or never served at all?"""
    return "good" if not data["how"] else "bad" if data["got"] else "wait"


def draw_foot(svg, layout, x, bottom, recording):
    """Seconds, the legend, and what a picture of waits cannot show. Returns the height."""
    for second in range(0, 10):
        svg.text(x(second), bottom + 15, f"{second} s" if second else "0", "muted", "middle")
    y, at = bottom + 42, layout.margin
    for kind, meaning in LEGEND:
        wide = 27 + len(meaning) * layout.size * 0.56
        if at + wide > layout.width - 8:
            at, y = layout.margin, y + 20
        draw_sample(svg, kind, at, y)
        svg.text(at + 27, y, meaning, "muted")
        at += wide + 14
    y += 8
    for line in layout.foot(recording):
        y += 17
        svg.text(layout.margin, y, line, "muted")
    return y + 14


def draw_sample(svg, kind, x, y):
    """A thing of the legend, 22 wide."""
    if kind == "tick":
        svg.path("".join(f"M{x + 3 + 6 * i:.1f} {y - 9}v10" for i in range(4)), "tick")
    elif kind == "arc":
        svg.path("".join(f"M{x + 5 * i:.1f} {y}C{x + 5 * i:.1f} {y - 12} {x + 22} {y - 12} "
                         f"{x + 22} {y}" for i in range(3)), "arc")
    else:
        svg.bar(x, x + 22, y - 8, kind)
