#!/usr/bin/env python3
"""The glossary: each term, with the sentence in which the course defines it: `make prose`.

A chapter defines a term by writing it in italics, *back-pressure*, in a sentence that says what it
is. The first such sentence, in reading order, is the definition. common/GLOSSARY.md is made of
them. A term that is used on a page before it is defined, there or on an earlier page, is a fault;
so is a term without a definition.
"""

import argparse
import re
import sys

from tests.book import markdown

PAGE = "common/GLOSSARY.md"
# Each term, and what else counts as a use of it (a regular expression).
TERMS = {
    "accept queue": r"accept queue",
    "back-pressure": r"back-pressure",
    "backlog": r"backlog",
    "blocking": r"(?:blocks|blocking)",
    "descriptor": r"descriptors?",
    "edge-triggered": r"edge[- ]trigger(?:ed|ing)",
    "event loop": r"event loops?",
    "frame": r"frames?",
    "half-close": r"half-close[sd]?",
    "handler": r"handlers?",
    "high-water mark": r"high-water marks?",
    "interest list": r"interest lists?",
    "lesson": r"lessons?",
    "level-triggered": r"level[- ]trigger(?:ed|ing)",
    "lingering close": r"linger(?:s|ing)?(?: close)?",
    "listener": r"listeners?",
    "low-water mark": r"low-water marks?",
    "mutant": r"mutants?",
    "non-blocking": r"non-blocking",
    "peer": r"peers?",
    "port": r"ports?",
    "probe": r"probes?",
    "readiness": r"readiness",
    "ready list": r"ready lists?",
    "receive buffer": r"receive buffers?",
    "reset": r"resets?",
    "row": r"rows?",
    "send buffer": r"send buffers?",
    "socket": r"sockets?",
    "spin": r"spins?|spinning",
    "system call": r"system calls?",
    "tick": r"ticks?",
    "turn": r"a turn of the loop",
}
UNCHECKED = {"port", "reset", "peer", "row", "blocking", "spin"}  # ordinary words, too


def definitions():
    """{term: (page, sentence)}: the first sentence that has the term in italics."""
    found = {}
    for page in markdown.reading_order():
        for paragraph in markdown.paragraphs(markdown.read(page)):
            for sentence in markdown.sentences(paragraph):
                for term, forms in TERMS.items():
                    marked = rf"(?<![*\w])\*(?:{re.escape(term)}s?|{forms})\*(?!\*)"
                    if term not in found and re.search(marked, sentence, re.I):
                        found[term] = page, sentence.strip()
    return found


def uses_before(defined):
    """(page, term, sentence) for each first use of a term that comes before its definition."""
    known = set()
    for page in markdown.reading_order():
        for paragraph in markdown.paragraphs(markdown.read(page)):
            for sentence in markdown.sentences(paragraph):
                words = markdown.plain(sentence)
                for term, forms in TERMS.items():
                    if defined.get(term) == (page, sentence.strip()):
                        known.add(term)
                    if term in known or term in UNCHECKED:
                        continue
                    if re.search(rf"\b(?:{forms})\b", words, re.I):
                        known.add(term)  # say it once
                        yield page, term, sentence.strip()


def page_text(defined):
    """The glossary as Markdown."""
    lines = ["# Glossary", "",
             "Each word in the sentence in which the course introduces it. `make prose` collects "
             "them.", ""]
    for term in sorted(defined, key=str.lower):
        page, sentence = defined[term]
        place = page.split("/")[0] if "/" in page else "the first page"
        sentence = re.sub(r"\]\((?![a-z]+:|#)", f"](../{folder(page)}", sentence)
        lines += [f"**{term}**: {sentence} ([{place}](../{page}))", ""]
    return "\n".join(lines)


def folder(page):
    """The folder of a page, with a slash behind it."""
    return page.rpartition("/")[0] + "/" if "/" in page else ""


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="make the page (else: compare)")
    write = arguments.parse_args().write
    defined = definitions()
    faults = [f"{term}: no page defines it (*{term}*, in a sentence that says what it is)"
              for term in TERMS if term not in defined]
    faults += [f"{page}: uses {term!r} before it is defined: {sentence[:60]}"
               for page, term, sentence in uses_before(defined)]
    path, text = markdown.ROOT / PAGE, page_text(defined)
    if write:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        faults.append(f"{PAGE}: is not what the chapters say; run: make prose")
    print("\n".join(faults + [f"{len(defined)} passed, {len(faults)} failed"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
