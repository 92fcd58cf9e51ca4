"""Put the page together: page/page.html with its style, its script and the recording in it."""

import json

import story
from course import HERE

PARTS = HERE / "page"
PAGE = HERE / "one-story-seven-servers.html"


def told(recording):
    """The recording, with what the page says about it."""
    return {**recording, "new": story.NEW, "steps": [step._asdict() for step in story.STEPS],
            "questions": list(story.QUESTIONS)}


def assemble(recording):
    """The page as text. It needs no other file, and no network."""
    data = json.dumps(told(recording), separators=(",", ":"), ensure_ascii=False)
    text = (PARTS / "page.html").read_text()
    for place, part in (("/*CSS*/", (PARTS / "page.css").read_text().strip()),
                        ("/*JS*/", (PARTS / "page.js").read_text().strip()),
                        ("/*RECORDING*/", data.replace("</", "<\\/"))):
        assert text.count(place) == 1
        text = text.replace(place, part)
    return text
