#!/usr/bin/env python3
"""What the story's recording says of a client, for a chapter or a figure.

    python3 -m tests.book.recorded 5 5 C      where C's bytes are when stage 5 drops it, in step 5
"""

import argparse
import sys

from tests.story import record


def moments(stage, step, who):
    """What was known of a client after each frame of a stage, up to the end of a step."""
    client = {}
    for frame in record.load(record.STEPS)["stages"][stage - 1]["frames"]:
        if frame["step"] <= step:
            client |= frame.get("clients", {}).get(who, {})
            yield dict(client)


def recorded(stage, step, who):
    """What was known of it when that step was over."""
    return list(moments(stage, step, who))[-1]


def before_the_end(stage, step, who):
    """What was known of it before the server closed its connection."""
    open_ones = [moment for moment in moments(stage, step, who) if moment.get("fd") is not None]
    if recorded(stage, step, who)["fd"] is not None or not open_ones:
        raise ValueError(f"stage {stage} has not closed the connection of {who} in step {step}")
    return open_ones[-1]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int)
    arguments.add_argument("step", type=int)
    arguments.add_argument("client")
    options = arguments.parse_args()
    try:
        client = before_the_end(options.stage, options.step, options.client)
    except (ValueError, LookupError):
        arguments.error("there is no such client, or it was not closed in that step")
    along = [("in our receive buffer", client["in"]), ("in our hands", client["held"]),
             ("in our send buffer", client["out"]), ("in its receive buffer", client["back"])]
    rest = client["sent"] - client["got"] - sum(size for _, size in along)
    print(f"{client['sent']:>10,} bytes sent by {options.client}, of which")
    for words, size in [("in its own send buffer", rest), *along]:
        print(f"{size:>10,} are {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
