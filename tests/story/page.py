"""Put the page together: page/page.html with its style, its script and the recording in it."""

import json

from tests.story import story

PARTS = story.HERE / "page"
PLACES = {"/*CSS*/": "page.css", "/*JS*/": "page.js"}


def told(recording):
    """The recording, with what the page says about it."""
    return {**recording, "new": story.NEW, "steps": [step._asdict() for step in story.STEPS],
            "questions": list(story.QUESTIONS)}


def assemble(recording):
    """The page as text. It needs no other file, and no network."""
    data = json.dumps(told(recording), separators=(",", ":"), ensure_ascii=False)
    parts = {place: (PARTS / name).read_text(encoding="utf-8").strip()
             for place, name in PLACES.items()}
    parts["/*RECORDING*/"] = data.replace("</", "<\\/")  # or the script would end there
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    for place, part in parts.items():
        assert text.count(place) == 1, place
        text = text.replace(place, part)
    return text
