#!/usr/bin/env python3
"""Record the story on all seven servers, and make the cover picture and the page of it.

This is `make story`. It fails, and leaves what is there as it is, when a lesson does not show.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from tests import harness
from tests.harness import runner
from tests.story import cover, page, steps, story, timeline

TIMELINE, STEPS = story.HERE / "timeline.json", story.HERE / "steps.json"
COVERS = {"cover.svg": cover.Wide, "cover-narrow.svg": cover.Narrow}
PAGE = "one-story-seven-servers.html"


def record(how, one, build):
    """All stages, by steps.record() or timeline.record()."""
    recording = {"version": 1, **story.about(), "sizes": story.sizes(), "stages": []}
    for number, name in harness.STAGES.items():
        print(f"{name}, {how}", flush=True)
        try:
            recording["stages"].append(one(number, build))
        except PermissionError as error:  # ptrace
            sys.exit(f"steps cannot be recorded here: {error} (in a container: "
                     "--cap-add=SYS_PTRACE)")
    return recording


def load(path):
    """A recording that was kept."""
    return json.loads(path.read_text(encoding="utf-8"))


def keep(path, recording):
    """Write a recording, a line for each stage."""
    stages = ",\n".join(json.dumps(stage, separators=(",", ":")) for stage in recording["stages"])
    head = json.dumps({key: value for key, value in recording.items() if key != "stages"})
    path.write_text(f'{head[:-1]}, "stages": [\n{stages}\n]}}\n', encoding="utf-8")


def draw(folder):
    """Make the pictures and the page of what is kept."""
    folder = pathlib.Path(folder)
    for name, layout in COVERS.items():
        cover.draw(load(TIMELINE), layout, folder / name)
    (folder / PAGE).write_text(page.assemble(load(STEPS)), encoding="utf-8")


def stale():
    """The pictures and pages that are not what would be made of the recordings."""
    with tempfile.TemporaryDirectory() as folder:
        draw(folder)
        return [name for name in (*COVERS, PAGE)
                if (pathlib.Path(folder) / name).read_bytes() != (story.HERE / name).read_bytes()]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default=harness.BUILD)
    arguments.add_argument("--draw", action="store_true", help="from what is kept, nothing is new")
    options = arguments.parse_args()
    if not options.draw:
        needed = story.CROWD + 100
        if harness.raise_fd_limit() < needed:
            sys.exit(f"{needed:,} descriptors are needed, and the hard limit is lower: ulimit -Hn")
        for path, teller, how in ((STEPS, steps, "call by call"), (
                TIMELINE, timeline, f"in real time, {timeline.PLAYS} times")):
            recording = record(how, teller.record, options.build)
            if problems := teller.problems(recording):
                print(*problems, sep="\n")
                return 1
            keep(path, recording)
    draw(story.HERE)
    print(f"tests/story/{', '.join(COVERS)}: the cover")
    print(f"tests/story/{PAGE}: open it in a browser")
    return 0


if __name__ == "__main__":
    runner.main(main)
