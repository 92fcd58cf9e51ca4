"""The curve of the course as a picture: what a wake-up costs against how many clients are silent.

It follows the reader's light or dark mode. What was not measured is left out.
"""

import math

from tests.book.drawing import Drawing

NAME = "idle-curve.svg"
WIDTH, HEIGHT = 760, 500
LEFT, RIGHT, TOP, BOTTOM = 80, 540, 80, 400  # of what the axes enclose
COLOURS = {  # stage: on a light and on a dark background
    "01-blocking": ("#57606a", "#adbac7"),
    "02-select": ("#cf222e", "#ff7b72"),
    "03-poll-lt": ("#bc4c00", "#ffa657"),
    "04-epoll-lt": ("#0969da", "#79c0ff"),
    "05-epoll-et": ("#1a7f37", "#7ee787"),
    "06-write-buffering": ("#8250df", "#d2a8ff"),
    "07-evloop": ("#bf3989", "#ff9bce"),
}


def style():
    """Light first; dark where the reader has asked for it."""
    def rules(column, grid):
        return f".grid {{ stroke: {grid} }}\n" + "".join(
            f".{css(stage)} {{ fill: {both[column]} }} "
            f".{css(stage)}-line {{ stroke: {both[column]} }}\n" for stage, both in COLOURS.items())

    return ("<style>\npolyline { fill: none; stroke-width: 2; stroke-linejoin: round }\n"
            "polyline.grid, polyline.thin { stroke-width: 1 }\n" + rules(0, "#d1d9e0")
            + "@media (prefers-color-scheme: dark) {\n" + rules(1, "#3d444d") + "}\n</style>")


def css(stage):
    """The name of a stage as a class: these do not begin with a digit."""
    return "s" + stage[:2]


def micros(value):
    """Microseconds in three figures at most, and in a unit that fits."""
    return f"{value / 1000:.3g} ms" if value >= 1000 else f"{value:.3g} us"


class Log:
    """A logarithmic axis from `low` to `high`, drawn from pixel `begin` to `end`."""

    def __init__(self, low, high, begin, end):
        self.low, self.high = math.log10(low), math.log10(high)
        self.begin, self.end = begin, end

    def __call__(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)


def curves(data):
    """{stage: ([(idle clients, us), ...], why it ends or None)}."""
    found = {}
    for scenario in data["scenarios"]:
        if not scenario["key"].startswith("wake"):
            continue
        for stage, result in scenario["results"].items():
            points, end = found.setdefault(stage, ([], None))
            if "failed" not in result:
                points.append((scenario["options"]["idle"], result["cpu_us"]["median"]))
            elif end is None:
                found[stage] = (points, result["failed"])
    return {stage: curve for stage, curve in found.items() if len(curve[0]) > 1}


def spread_labels(places, distance):
    """Move labels apart: [(y, what)] in, the same with other y out, in the order from the top."""
    placed = []
    for y, what in sorted(places):
        y = max(y, placed[-1][0] + distance) if placed else y
        placed.append((y, what))
    shift = sum(y for y, _ in placed) - sum(y for y, _ in places)
    return [(y - shift / max(len(placed), 1), what) for y, what in placed]


def axes(d, found):
    """Draw a grid in which all points fit. The functions from clients to x, and from us to y."""
    counts = sorted({n for points, _ in found.values() for n, _ in points})
    costs = [us for points, _ in found.values() for _, us in points]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    x, y = Log(counts[0], counts[-1], LEFT, RIGHT), Log(10 ** low, 10 ** high, BOTTOM, TOP)
    for power in range(low, high + 1):
        d.line([(LEFT, y(10 ** power)), (RIGHT, y(10 ** power))], "grid")
        d.text(LEFT - 8, y(10 ** power) + 4, micros(10 ** power), "small quiet", "end")
    for count in counts:
        d.line([(x(count), BOTTOM), (x(count), BOTTOM + 5)])
        d.text(x(count), BOTTOM + 20, f"{count:,}", "small quiet", "middle")
    d.line([(LEFT, BOTTOM), (RIGHT, BOTTOM)])
    d.text((LEFT + RIGHT) / 2, BOTTOM + 40, "idle clients", "small quiet", "middle")
    return x, y


def draw(data):
    """The picture of what `make compare` has found, or None if that is too little."""
    found = curves(data)
    if not found:
        return None
    d = Drawing(HEIGHT, "What a wake-up costs", WIDTH)
    d.parts.append(style())
    d.text(24, 30, d.label, "title")
    d.text(24, 50, "Server CPU per message of the one client that talks, while others are "
           "connected and silent", "small quiet")
    x, y = axes(d, found)
    labels = []
    for stage, (points, end) in found.items():
        d.line([(x(n), y(us)) for n, us in points], f"{css(stage)}-line")
        for n, us in points:
            d.dot(x(n), y(us), css(stage))
        n, us = points[-1]
        if end is None:
            labels.append((y(us), (stage, us)))
        else:  # it ends where the next point would be
            d.text(x(n) - 12, y(us) - 16, f"{stage} ends:", f"title small {css(stage)}", "end")
            d.text(x(n) - 12, y(us) - 1, end, f"small {css(stage)}", "end")
    for place, (stage, us) in spread_labels(labels, 17):
        if abs(place - y(us)) > 3:
            d.line([(RIGHT + 5, y(us)), (RIGHT + 17, place)], f"thin {css(stage)}-line")
        d.text(RIGHT + 21, place + 4, f"{stage}  {micros(us)}", f"title small {css(stage)}")
    m = data["machine"]
    d.text(24, 470, f"{m['cpu']}, {m['cores']} cores, {m['kernel']}; {m['pinned']}; {data['date']}",
           "small quiet")
    d.text(24, 486, f"{data['command']}: medians of {data['rounds']} rounds", "small quiet")
    return d.svg()


def write(data, folder):
    """Beside the numbers that it is made of."""
    if picture := draw(data):
        (folder / NAME).write_text(picture, encoding="utf-8")
        print(f"wrote {folder / NAME}")
