"""A few shapes for the figures of the chapters, as SVG that is light or dark as its reader is.

Coordinates are pixels from the top left. Text is never colour alone: what is grey or red says so
in words, too.
"""

from xml.sax.saxutils import escape

WIDTH = 720
NARROW = 530  # its words can be read on a phone, too
STYLE = """\
text { font: 14px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: INK }
.title { font-weight: 600 } .quiet { fill: QUIET } .small { font-size: 12px }
.code { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 13px }
.box, .room { stroke: LINE; stroke-width: 1.5; fill: PAPER } .room { fill: SHADE }
.key { stroke: KEY; stroke-width: 2; fill: KEYSOFT } .keyed { fill: KEY; font-weight: 600 }
.bad { stroke: BAD; stroke-width: 2; fill: BADSOFT } .badly { fill: BAD; font-weight: 600 }
.water { fill: KEYSOFT; stroke: KEY }
.arrow { stroke: QUIET; stroke-width: 1.5; fill: none } .head { fill: QUIET }
.way { stroke: KEY; stroke-width: 2; fill: none } .wayhead { fill: KEY }
.gone { stroke: QUIET; stroke-width: 1.5; stroke-dasharray: 4 4; fill: none }
"""
LIGHT = {"INK": "#1f2328", "QUIET": "#59636e", "LINE": "#8c959f", "PAPER": "#ffffff",
         "SHADE": "#f6f8fa", "KEYSOFT": "#ddf4ff", "KEY": "#0969da", "BADSOFT": "#ffebe9",
         "BAD": "#cf222e"}
DARK = {"INK": "#f0f6fc", "QUIET": "#9198a1", "LINE": "#656c76", "PAPER": "#0d1117",
        "SHADE": "#161b22", "KEYSOFT": "#12273f", "KEY": "#79c0ff", "BADSOFT": "#3c1618",
        "BAD": "#ff7b72"}


def coloured(colours):
    """The style with these colours in the place of their names."""
    rules = STYLE
    for name, value in colours.items():  # KEYSOFT stands before KEY, and BADSOFT before BAD
        rules = rules.replace(name, value)
    return rules


class Drawing:
    """A picture of a fixed size, made of boxes, words and arrows."""

    def __init__(self, height, label, width=WIDTH):
        self.width, self.height, self.label, self.parts = width, height, label, []

    def text(self, x, y, words, kind="", anchor="start"):
        """A line of text; y is its baseline."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">'
                          f"{escape(words)}</text>")

    def box(self, x, y, width, height, words="", kind="box", text=""):
        """A rectangle, with words in its middle, a line for each \\n."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
                          f'rx="4" class="{kind}"/>')
        lines = words.split("\n") if words else []
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 5 + 17 * (number - (len(lines) - 1) / 2),
                      line, text, "middle")

    def cells(self, x, y, width, height, contents):
        """Boxes side by side; a content may be (words, kind) to look otherwise."""
        for number, content in enumerate(contents):
            words, kind = content if isinstance(content, tuple) else (content, "box")
            self.box(x + number * width, y, width, height, words, kind, "code")

    def arrow(self, points, kind="arrow", words="", at=None, anchor="middle"):
        """A line through the points with a head at its end; words stand at `at`."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="{kind}"/>')
        (x0, y0), (x1, y1) = points[-2:]
        length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** .5, 1e-9)
        along_x, along_y = 8 * (x1 - x0) / length, 8 * (y1 - y0) / length
        corners = [(x1, y1), (x1 - along_x - along_y / 2, y1 - along_y + along_x / 2),
                   (x1 - along_x + along_y / 2, y1 - along_y - along_x / 2)]
        head = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self.parts.append(f'<polygon points="{head}" class="'
                          f'{"wayhead" if kind == "way" else "head"}"/>')
        if words:
            x, y = at or ((x0 + x1) / 2, (y0 + y1) / 2 - 7)
            self.text(x, y, words, "small quiet", anchor)

    def line(self, points, kind="arrow"):
        """A line without a head."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="{kind}"/>')

    def svg(self):
        """The whole file."""
        style = (coloured(LIGHT) + "@media (prefers-color-scheme: dark) {\n" + coloured(DARK)
                 + "}\n")
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img" '
                f'aria-label="{escape(self.label, {chr(34): "&quot;"})}">\n'
                f"<style>\n{style}</style>\n" + "\n".join(self.parts) + "\n</svg>\n")
