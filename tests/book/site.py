#!/usr/bin/env python3
"""Make a site of the chapters, to be read in a browser: `make site` writes build/site/.

It begins with README.md and goes on with whatever that links to, as far as the links lead inside
the repository. A chapter becomes a page, a source file a page with its lines, a folder a list; a
picture is copied. So each link works, or making the site fails. pandoc turns Markdown into HTML.
"""

import argparse
import concurrent.futures
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys

from tests.book import markdown

STYLE = pathlib.Path(__file__).with_name("site.css")
COPIED = {".svg", ".png", ".html", ".json"}
LANGUAGES = {".cpp": "cpp", ".h": "cpp", ".py": "python", ".patch": "diff", ".cfg": "haproxy",
             ".md": "markdown"}
LINK = re.compile(r'(<(?:a|img|source)\b[^>]*?\s(?:href|src|srcset)=")([^"]+)(")')
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{up}site.css">
</head>
<body>
<header><nav aria-label="course">{course}</nav></header>
<main{kind}>
{body}
</main>
<footer><nav aria-label="chapters">{around}</nav></footer>
</body>
</html>
"""


class Site:
    """The pages that are still to be made, and those that are."""

    def __init__(self, out):
        self.out = out
        self.made = {}  # path in the repository: (path in the site, its HTML or None)
        self.bodies = {}  # of source files, by path
        self.problems = []

    def make(self):
        """Every page that can be reached from README.md. Returns what is wrong."""
        waiting = {pathlib.PurePosixPath(path) for path in markdown.reading_order()}
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
            while waiting:
                found = set()
                self.bodies |= sources(path for path in waiting if is_source(path))
                for path, links in zip(waiting, workers.map(self.page, waiting)):
                    found |= links
                waiting = found - set(self.made)
        for name, text in self.made.values():
            if text is not None:
                self.check_anchors(name, text)
        shutil.copy(STYLE, self.out / "site.css")
        return self.problems

    def page(self, path):
        """Write what `path` becomes; returns the paths that it links to."""
        source, name = markdown.ROOT / path, target(path)
        to = self.out / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file() and path.suffix in COPIED:
            shutil.copy(source, to)
            self.made[path] = name, None
            return set()
        links = set()
        body = LINK.sub(lambda match: match[1] + self.link(match[2], path, links) + match[3],
                        self.bodies.get(path) or contents(path))
        title = html.unescape(re.sub(r"<.*?>", "", first_heading(body) or str(path)))
        text = PAGE.format(title=html.escape(title), up="../" * (len(name.parts) - 1), body=body,
                           course=self.course(path), around=self.around(path),
                           kind="" if path.suffix == ".md" else ' class="source"')
        to.write_text(text, encoding="utf-8")
        self.made[path] = name, text
        return links

    def link(self, link, path, links):
        """A link of the page `path`, as it must be in the site."""
        if re.match(r"[a-z]+:|#", link):
            return link
        where, sign, anchor = link.partition("#")
        folder = path if (markdown.ROOT / path).is_dir() else path.parent
        goal = pathlib.PurePosixPath(os.path.normpath(folder / where))
        if goal.parts[:1] == ("..",) or not (markdown.ROOT / goal).exists():
            self.problems.append(f"{path}: the link to {link} leads nowhere")
            return link
        if (markdown.ROOT / goal / "README.md").exists():
            goal /= "README.md"
        links.add(goal)
        return relative(target(goal), target(path)) + sign + anchor

    def course(self, path):
        """The way to the first page and to each stage, for the top of a page."""
        parts = []
        for other in filter(lambda other: (markdown.ROOT / other).exists(), markdown.BOOK):
            here = ' aria-current="page"' if str(path) == other else ""
            name = "Seven servers" if other == "README.md" else other[:2]
            label = "" if other == "README.md" else f' title="{other.split("/")[0]}"'
            to = relative(target(pathlib.PurePosixPath(other)), target(path))
            parts.append(f'<a href="{to}"{label}{here}>{name}</a>')
        return " ".join(parts)

    def around(self, path):
        """The page before and the page behind, for the bottom of a chapter."""
        order = markdown.reading_order()
        if str(path) not in order:
            return ""
        at, parts = order.index(str(path)), []
        for other, rel, sign in ((at - 1, "prev", "← {}"), (at + 1, "next", "{} →")):
            if 0 <= other < len(order):
                to = pathlib.PurePosixPath(order[other])
                words = sign.format(html.escape(heading_of(to)))
                parts.append(f'<a rel="{rel}" href="{relative(target(to), target(path))}">'
                             f"{words}</a>")
        return " ".join(parts)

    def check_anchors(self, name, text):
        """Each `#place` in a page is one that the page it leads to has."""
        for link in re.findall(r'href="([^":]*#[^"]+)"', text):
            where, _, anchor = link.partition("#")
            goal = self.out / name.parent / where if where else self.out / name
            if goal.suffix != ".html" or not goal.exists() or "=" in anchor:
                continue  # `#stages=4,5` is read by a script
            if f'id="{anchor}"' not in goal.read_text(encoding="utf-8"):
                self.problems.append(f"{name}: {link}: the page has no such place")


def heading_of(path):
    """The first heading of a Markdown file."""
    return re.search(r"^# (.*)", markdown.read(path), re.M)[1]


def first_heading(body):
    """The text of the first heading in some HTML."""
    found = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.S)
    return found and found[1]


def target(path):
    """Where a file of the repository stands in the site."""
    if (markdown.ROOT / path).is_dir():
        return path / "index.html"
    if path.suffix in COPIED:
        return path
    if path.name == "README.md":
        return path.with_name("index.html")
    return path.with_suffix(".html") if path.suffix == ".md" else path.with_name(path.name +
                                                                                  ".html")


def relative(goal, page):
    """How a page links to another."""
    return os.path.relpath(goal, page.parent).replace(os.sep, "/")


def is_source(path):
    """Is it a file that becomes a page with its lines?"""
    return (markdown.ROOT / path).is_file() and path.suffix not in {".md", *COPIED}


def sources(paths):
    """The HTML of source files, by path. All in one call: pandoc takes long to begin."""
    text = "".join(map(as_markdown, paths := list(paths)))
    bodies = re.split("(?=<h1 )", pandoc(text))[1:]
    return {path: re.sub(r'((?:id|href)="#?)cb\d+', r"\1cb1", body)  # as if each were alone
            for path, body in zip(paths, bodies)}


def as_markdown(path):
    """A heading and a block with the lines of a source file."""
    text = (markdown.ROOT / path).read_text(encoding="utf-8").rstrip()
    fence = "`" * (max(map(len, re.findall(r"`{3,}", text)), default=2) + 1)
    return f"# {path}\n\n{fence}{LANGUAGES.get(path.suffix, '')}\n{text}\n{fence}\n\n"


def contents(path):
    """The HTML of a Markdown file, or of a folder."""
    source = markdown.ROOT / path
    if source.is_dir():
        names = sorted(entry.name for entry in source.iterdir() if entry.suffix in LANGUAGES)
        return f"<h1>{html.escape(str(path))}</h1>\n<ul>\n" + "\n".join(
            f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>'
            for name in names) + "\n</ul>"
    return pandoc(source.read_text(encoding="utf-8"))


def pandoc(text):
    """Markdown as HTML."""
    return subprocess.run(["pandoc", "--from=gfm", "--to=html5", "--wrap=none"], input=text,
                          capture_output=True, encoding="utf-8", check=True).stdout


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", type=pathlib.Path, default=markdown.ROOT / "build")
    out = arguments.parse_args().build / "site"
    if not shutil.which("pandoc"):
        print("make site needs pandoc: apt-get install pandoc", file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    site = Site(out)
    for problem in sorted(site.make()):
        print(problem, file=sys.stderr)
    print(f"{len(site.made)} pages and pictures. Open {out / 'index.html'}")
    return 1 if site.problems else 0


if __name__ == "__main__":
    sys.exit(main())
