#!/usr/bin/env python3
"""Draw the numbers of load.py: python3 -m tests.bench.chart build/compare.json --out DIR

Writes idle-curve.svg, throughput.svg, latency.svg and cost.svg. The background is transparent, and
the colours follow the reader's light or dark mode. What was not measured is left out.
"""

import argparse
import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

from tests.harness import runner

WIDTH = 760
MARGIN = 24
ROW = 19  # height of a line with a bar, in a panel
COLOURS = {  # stage: on a light and on a dark background
    "01-blocking": ("#57606a", "#adbac7"),
    "02-select": ("#cf222e", "#ff7b72"),
    "03-poll-lt": ("#bc4c00", "#ffa657"),
    "04-epoll-lt": ("#0969da", "#79c0ff"),
    "05-epoll-et": ("#1a7f37", "#7ee787"),
    "06-write-buffering": ("#8250df", "#d2a8ff"),
    "07-evloop": ("#bf3989", "#ff9bce"),
}
PANELS = ("c1", "c100", "c1000", "flight", "bulk", "idle1000", "idle10000", "churn")
SHORT = {
    "c1": "1 connection", "c100": "100 connections", "c1000": "1,000 connections",
    "flight": "50 connections, 64 frames in flight", "bulk": "10 connections, 64 KiB frames",
    "idle1000": "100 among 1,000 idle", "idle10000": "100 among 10,000 idle",
    "churn": "connect, one frame, close",
}


class Svg:
    """A picture that grows downwards."""

    def __init__(self, title, subtitle):
        self.parts = []
        self.height = 0
        self.label = title
        self.text(MARGIN, 30, title, "title")
        self.text(MARGIN, 50, subtitle, "muted")

    def text(self, x, y, words, kind="", anchor="start"):
        """A line of text; y is its baseline."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" '
                          f'text-anchor="{anchor}">{escape(words)}</text>')
        self.height = max(self.height, y)

    def line(self, points, kind):
        """Straight from point to point."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="{kind}"/>')

    def bar(self, x, y, width, height, kind):
        """A rectangle."""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" '
                          f'height="{height:.1f}" rx="2" class="{kind}"/>')
        self.height = max(self.height, y + height)

    def dot(self, x, y, kind, radius=3.5):
        """A point."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{kind}"/>')

    def write(self, path, footer):
        """With where the numbers come from in small print."""
        y = self.height + 30
        for words in footer:
            self.text(MARGIN, y, words, "small")
            y += 14
        height = self.height + 14
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{escape(self.label)}">\n'
            f"<style>\n{style()}</style>\n" + "\n".join(self.parts) + "\n</svg>\n",
            encoding="utf-8")


def style():
    """Light first; dark where the reader has asked for it."""
    def colours(column, ink, muted, grid):
        rules = [f"text {{ fill: {ink} }} .muted, .small {{ fill: {muted} }}",
                 f".grid {{ stroke: {grid} }} .axis {{ stroke: {muted} }}"]
        for stage, both in COLOURS.items():
            name = css(stage)
            rules.append(f".{name} {{ fill: {both[column]} }} "
                         f".{name}-line {{ stroke: {both[column]} }}")
        return "\n".join(rules) + "\n"

    return (
        "text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }\n"
        ".title { font-size: 17px; font-weight: 600 } .head { font-weight: 600 }\n"
        ".small { font-size: 10.5px }\n"
        "polyline { fill: none; stroke-width: 2; stroke-linejoin: round }\n"
        "polyline.grid, polyline.axis, polyline.thin { stroke-width: 1 }\n"
        + colours(0, "#1f2328", "#59636e", "#d1d9e0")
        + "@media (prefers-color-scheme: dark) {\n"
        + colours(1, "#f0f6fc", "#9198a1", "#3d444d") + "}\n")


def css(stage):
    """The name of a stage as a class: these do not begin with a digit."""
    return "s" + stage[:2]


def number(value):
    """Three figures at most: 0.17, 8.9, 71, 8,100, 1.2 M."""
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def micros(value):
    """Microseconds in a unit that fits."""
    return f"{number(value / 1000)} ms" if value >= 1000 else f"{number(value)} us"


class Log:
    """A logarithmic axis from `low` to `high`, drawn from pixel `begin` to `end`."""

    def __init__(self, low, high, begin, end):
        self.low, self.high = math.log10(low), math.log10(high)
        self.begin, self.end = begin, end

    def __call__(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def powers(self):
        """Powers of ten within it."""
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        return [10.0 ** n for n in range(first, last + 1)]


def footer(data):
    """Machine, kernel, date and command."""
    m = data["machine"]
    return (f"{m['cpu']}, {m['cores']} cores, {m['kernel']}; {m['pinned']}; {data['date']}",
            f"{data['command']}: medians of {data['rounds']} rounds")


def results(data, key):
    """Of one scenario: {stage: result}, or nothing."""
    for scenario in data["scenarios"]:
        if scenario["key"] == key:
            return scenario["results"]
    return {}


# ---- the curve of the course ---------------------------------------------------------------------


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


def axes(svg, found):
    """Draw a grid in which all points fit. The axes, from clients to x and from us to y."""
    costs = [us for points, _ in found.values() for _, us in points]
    counts = [n for points, _ in found.values() for n, _ in points]
    bottom = 400
    x = Log(min(counts), max(counts), 80, WIDTH - 220)
    y = Log(10 ** math.floor(math.log10(min(costs))), 10 ** math.ceil(math.log10(max(costs))),
            bottom, 80)
    for value in y.powers():
        svg.line([(x.begin, y(value)), (x.end, y(value))], "grid")
        svg.text(x.begin - 8, y(value) + 4, micros(value), "muted", "end")
    for value in sorted(set(counts)):
        svg.line([(x(value), bottom), (x(value), bottom + 5)], "axis")
        svg.text(x(value), bottom + 20, f"{value:,}", "muted", "middle")
    svg.line([(x.begin, bottom), (x.end, bottom)], "axis")
    svg.text((x.begin + x.end) / 2, bottom + 40, "idle clients", "muted", "middle")
    return x, y


def idle_curve(data):
    """What a wake-up costs against how many clients are silent."""
    found = curves(data)
    if not found:
        return None
    svg = Svg("What a wake-up costs",
              "Server CPU per message of the one client that talks, while others are connected and"
              " silent")
    x, y = axes(svg, found)
    labels = []
    for stage, (points, end) in found.items():
        svg.line([(x(n), y(us)) for n, us in points], f"{css(stage)}-line")
        for n, us in points:
            svg.dot(x(n), y(us), css(stage))
        last = (x(points[-1][0]), y(points[-1][1]))
        if end is None:
            labels.append((last[1], (stage, points[-1][1], last)))
        else:  # it ends where the next point would be
            svg.text(last[0] - 12, last[1] - 16, f"{stage} ends:", f"head {css(stage)}", "end")
            svg.text(last[0] - 12, last[1] - 1, end, css(stage), "end")
    for place, (stage, us, last) in spread_labels(labels, 17):
        if abs(place - last[1]) > 3:
            svg.line([(last[0] + 5, last[1]), (last[0] + 17, place)], f"thin {css(stage)}-line")
        svg.text(last[0] + 21, place + 4, f"{stage}  {micros(us)}", f"head {css(stage)}")
    return svg


# ---- panels: a scenario each ---------------------------------------------------------------------


def panels(data, svg, draw):
    """Call draw(svg, results, x, y, width) for each scenario, two a row; it returns its height."""
    keys = [key for key in PANELS if results(data, key)]
    width = (WIDTH - 2 * MARGIN - 28) / 2
    y = 70
    for first in range(0, len(keys), 2):
        heights = []
        for column, key in enumerate(keys[first:first + 2]):
            x = MARGIN + column * (width + 28)
            svg.text(x, y + 14, SHORT[key], "head")
            heights.append(draw(svg, results(data, key), x, y + 22, width))
        y += 22 + max(heights) + 20
    return svg


def name_column(svg, stage, x, y):
    """The name of a row."""
    svg.text(x, y + 13, stage, css(stage))
    return x + 122


def bars(measure, show):
    """A panel: a bar for each stage, and its value behind it."""
    def draw(svg, rows, x, y, width):
        most = max((measure(r) for r in rows.values() if "failed" not in r), default=1)
        room = width - 122 - 52
        for i, (stage, r) in enumerate(rows.items()):
            at = name_column(svg, stage, x, y + i * ROW)
            if "failed" in r:
                svg.text(at, y + i * ROW + 13, r["failed"], "muted")
                continue
            length = room * measure(r) / most
            svg.bar(at, y + i * ROW + 3, length, ROW - 6, css(stage))
            svg.text(at + length + 5, y + i * ROW + 13, show(measure(r)))
        return len(rows) * ROW

    return draw


def throughput(data):
    """Messages per second of every stage and scenario."""
    svg = Svg("Throughput", "Messages per second. With both cores busy the load generator limits"
              " it too: compare CPU per message")
    return panels(data, svg, bars(lambda r: r["throughput"]["median"], number))


def latency(data):
    """Percentiles on a logarithmic axis, the same for all panels of a picture."""
    values = [r[p]["median"] for key in PANELS for r in results(data, key).values()
              if "failed" not in r for p in ("p50_us", "p999_us")]
    if not values:
        return None
    svg = Svg("Latency", "Large dot: the median. Smaller ones: 99 % and 99.9 % of the echoes were"
              " not later. Closed loop")
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))

    def draw(svg, rows, x, y, width):
        scale = Log(low, high, x + 122, x + width - 12)
        bottom = y + len(rows) * ROW
        for value in scale.powers():
            svg.line([(scale(value), y), (scale(value), bottom)], "grid")
            svg.text(scale(value), bottom + 12, micros(value), "small", "middle")
        for i, (stage, r) in enumerate(rows.items()):
            at = name_column(svg, stage, x, y + i * ROW)
            middle = y + i * ROW + ROW / 2
            if "failed" in r:
                svg.text(at + 2, y + i * ROW + 13, r["failed"], "muted")
                continue
            places = [scale(r[p]["median"]) for p in ("p50_us", "p99_us", "p999_us")]
            svg.line([(places[0], middle), (places[2], middle)], f"thin {css(stage)}-line")
            for place, radius in zip(places, (4.5, 3.2, 2.2)):
                svg.dot(place, middle, css(stage), radius)
        return len(rows) * ROW + 14

    return panels(data, svg, draw)


def cost(data):
    """CPU per message as bars, system calls per message as numbers beside them."""
    svg = Svg("What a message costs the server",
              "Bars: CPU per message, in us. Numbers on the right: its system calls per message")

    def draw(svg, rows, x, y, width):
        height = bars(lambda r: r["cpu_us"]["median"], number)(svg, rows, x, y, width - 34)
        svg.text(x + width, y - 8, "calls", "small", "end")
        for i, r in enumerate(rows.values()):
            calls = r.get("calls")
            words = "" if "failed" in r else "-" if calls is None else f"{calls:.2f}"
            svg.text(x + width, y + i * ROW + 13, words, "", "end")
        return height

    return panels(data, svg, draw)


# ---- the command line ----------------------------------------------------------------------------

CHARTS = {"idle-curve": idle_curve, "throughput": throughput, "latency": latency, "cost": cost}


def main(arguments):
    """Draw what there is. Exit status 1 if that is nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=pathlib.Path, help="written by make compare")
    parser.add_argument("--out", type=pathlib.Path, help="folder (default: that of the JSON)")
    options = parser.parse_args(arguments)
    try:
        data = json.loads(options.json.read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(f"{options.json}: {error}", file=sys.stderr)
        return 1
    folder = options.out or options.json.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in CHARTS.items():
        svg = draw(data)
        if svg is not None:
            svg.write(folder / f"{name}.svg", footer(data))
            print(f"wrote {folder / name}.svg")
    return 0


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
