"""The chapters as a reader meets them: in which order, and what of them is prose."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
BOOK = ["README.md", "01-blocking/README.md", "02-select/README.md", "03-poll-lt/README.md",
        "04-epoll-lt/README.md", "05-epoll-et/README.md", "06-write-buffering/README.md",
        "07-evloop/README.md"]


def reading_order():
    """Every page of the book: the chapters, and behind each the pages of its own that it names."""
    paths = [further for path in BOOK for further in [path, *behind(path)]]
    return [path for path in dict.fromkeys(paths) if (ROOT / path).exists()]


def behind(path):
    """Further pages in the folder of a chapter, in the order in which it links to them."""
    folder = pathlib.PurePosixPath(path).parent
    if folder == pathlib.PurePosixPath(".") or not (ROOT / path).exists():
        return []
    names = re.findall(r"\]\(([A-Z0-9-]+\.md)(?:#[^)]*)?\)", read(path))
    return [str(folder / name) for name in names if name != "README.md"]


def read(path):
    """The text of a page."""
    return (ROOT / path).read_text(encoding="utf-8")


def paragraphs(text):
    """The paragraphs of prose, each on one line: no code, table, heading, comment or picture."""
    text = re.sub(r"^```.*?^```$", "\n", text, flags=re.M | re.S)
    text = re.sub(r"<details>\s*<summary>.*?</summary>|</?details>|<!--.*?-->", "\n", text,
                  flags=re.S)
    kept = []
    for block in re.split(r"\n\s*\n", text):
        if re.match(r"(    |\t)\S|#|\||!\[|<", block):
            continue
        lines = [line for line in block.splitlines() if not re.match(r"\||#{1,6} ", line)]
        for item in re.split(r"(?m)^\s*(?:[-*]|\d+\.)\s+", "\n".join(lines)):
            words = " ".join(item.split()).lstrip("> ")
            if words:
                kept.append(words)
    return kept


def plain(paragraph):
    """A paragraph without its marks: code is a single word, a link is its words, no **Label:**."""
    paragraph = re.sub(r"\*\*[^*]{1,20}:\*\*", "", paragraph)
    paragraph = re.sub(r"`[^`]*`", "CODE", paragraph)
    paragraph = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    return re.sub(r"[*_]{1,2}(\S(?:.*?\S)?)[*_]{1,2}", r"\1", paragraph)


def sentences(paragraph):
    """The sentences of a plain paragraph."""
    ends = r"(?<=[.!?])[”\")]*\s+(?=[A-Z“\"(0-9])"
    return [sentence for sentence in re.split(ends, paragraph) if sentence.strip()]
