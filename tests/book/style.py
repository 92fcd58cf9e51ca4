#!/usr/bin/env python3
"""How the chapters talk, in numbers, beside the books that we learned from: `make style`.

Numbers do not make good prose. They show a habit that a writer does not see: one sentence in three
with a colon, no contraction in seven thousand words, a page without a person in it. The bounds are
what those books have, counted in the same way.
"""

import argparse
import re
import sys

from tests.book import markdown
from tests.harness import argument

# Prose of other books: words in a sentence, % of sentences of 30 words and more, % with a colon,
# % questions; you and we, contractions, and nobody or whoever in 1,000 words.
OTHERS = {
    "Crafting Interpreters": (16.0, 5, 7, 3, 42, 25, 0.1),
    "kilo": (18.4, 12, 3, 1, 44, 22, 0.2),
    "Beej's Guide": (17.8, 14, 10, 11, 42, 24, 0.0),
    "blog_os": (20.5, 13, 27, 1, 28, 6, 0.0),
    "eXpServer": (17.8, 10, 13, 1, 34, 0, 0.0),
}
NAMES = ("words", "long", "colon", "asks", "person", "short", "nobody")
HEADS = ("words a sentence", "% of 30 and more", "% with a colon", "% that ask",
         "you and we, of 1,000", "contractions, of 1,000", "nobody, of 1,000")
BOUNDS = {"words": (10, 20), "long": (0, 15), "colon": (0, 15), "asks": (1, 20),
          "person": (27, 60), "short": (4, 40), "nobody": (0, 0.7)}
PERSON = r"\b(?:you|your|yours|yourself|we|our|ours|us|ourselves)\b"
SHORT = (r"\b\w+n['’]t\b|\b(?:you|we|they|I)['’](?:re|ve|ll|d|m)\b|"
         r"\b(?:it|that|there|what|here|who|he|she|let|where|how)['’](?:s|ll|d)\b")
NOBODY = r"\b(?:nobody|somebody|anybody|everybody|whoever|whomever|those who|he who|one who)\b"
BESIDE = ["tests/bench/MEASURING.md"]  # read beside the chapters
NEVER = r"\b(?:whoever|whomever|those who)\b|\b(?:simply|obviously|just)\b"


def figures(text):
    """The seven numbers of a page, and the words that stand in it and never should."""
    parts = [markdown.plain(p) for p in markdown.paragraphs(text)]
    sentences = [s for part in parts for s in markdown.sentences(part)]
    lengths = [len(re.findall(r"[\w'’-]+", s)) for s in sentences]
    count, total = max(len(sentences), 1), max(sum(lengths), 1)
    prose = "\n".join(parts)

    def per_thousand(pattern):
        return 1000 * len(re.findall(pattern, prose, re.I)) / total

    def share(condition):
        return 100 * sum(map(condition, sentences)) / count

    return {
        "words": total / count, "long": 100 * sum(n >= 30 for n in lengths) / count,
        "colon": share(lambda s: ":" in s.strip()[:-1]),  # not one that leads to code or a list
        "asks": share(lambda s: s.rstrip('”")').endswith("?")),
        "person": per_thousand(PERSON), "short": per_thousand(SHORT),
        "nobody": per_thousand(NOBODY), "never": re.findall(NEVER, prose, re.I), "total": total,
    }


def problems(values):
    """What of a page is outside of the bounds, in words. Short pages are not counted."""
    found = [f"never: {word}" for word in values["never"]]
    if values["total"] < 250:
        return found
    for name, head in zip(NAMES, HEADS):
        low, high = BOUNDS[name]
        if not low <= values[name] <= high:
            found.append(f"{head}: {values[name]:.1f}, not {low} to {high}")
    return found


def line(name, values):
    """A line of the table."""
    shown = [f"{value:>8.1f}" if value < 10 else f"{value:>8.0f}" for value in values]
    return f"{name[:32]:32}" + "".join(shown)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("page", nargs="*", type=argument.page, help="only these")
    pages = arguments.parse_args().page or [*markdown.reading_order(), *BESIDE]

    print("Prose only: no code, no tables, no headings. 'long' and the three behind it are % of")
    print("sentences; 'person' (you, we), 'short' (it's, don't) and 'nobody' are of 1,000 words.")
    print(f"{'':32}" + "".join(f"{name:>8}" for name in NAMES))
    for name, values in OTHERS.items():
        print(line(name, values))
    failed = 0
    for page in pages:
        values = figures(markdown.read(page))
        print(line(page, [values[name] for name in NAMES]))
        for problem in problems(values):
            failed += 1
            print(f"    {problem}")
    print(f"{len(pages)} pages, {failed} habits out of bounds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
