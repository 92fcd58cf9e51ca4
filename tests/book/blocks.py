"""The blocks of a page, and what is to be done with each.

What is indented is typed, what is fenced is read. A block is typed into the first terminal, and
each of its commands must end with status 0. Where a reader does something else, a comment beside
the block says so, which no reader sees:

    <!-- play 2 $; 2 types hello; 2 shows ^hello -->

    nc 127.0.0.1 9001

Its steps begin with the number of a terminal, and are separated by semicolons or stand on lines of
their own:

    2 $ COMMAND      type a command; where the last one still runs, Ctrl-C comes first. It must end,
                     unless a step that is no `$` comes next, here or for this terminal
    2 $              type the next command of the block below, and with the last such step all that
                     are left
    2 types TEXT     type a line to the program
    2 shows REGEX    it prints this; the program may go on
    2 shows          it prints the lines of the block below, in this order
    2 listens 9002   it is a server, and has begun to listen
    2 in poll        a program sleeps in this system call
    2 silent         all programs are asleep, and nothing more was printed
    2 ends 3         it has come to its end, with this status (0 if none is given)
    2 ^C             press Ctrl-C
    1 not: REASON    the block is not typed
    1 writes FILE    the block below becomes a file

A fenced block with lines that begin with "$ " is a transcript: its commands are typed, and what
they print is compared. So are the rows of a table below a comment: a command, and a part of what it
prints.
"""

import collections
import re
import subprocess
import textwrap

Step = collections.namedtuple("Step", "terminal verb text")
Item = collections.namedtuple("Item", "line kind text steps")  # a block's kind is its language
Command = collections.namedtuple("Command", "text prints shows", defaults=[None, None])
STEP = re.compile(r"(\d) (\$|types|shows|listens|in|silent|ends|not:|\^[A-Z]|writes)(?: (.*))?$")
ITEM = re.compile(r"""
    (?P<comment> <!--\ (?P<about>.*?) \s*--> )
  | (?P<fence> ^``` (?P<language>\w*) \n (?P<fenced>.*?) ^```$ )
  | (?<=\n\n) (?P<indented> [ ]{4,}\S[^\n]*\n (?:[ ]{4,}[^\n]*\n | \n(?=[ ]{4,}\S))* )
  | (?<=-->\n) (?P<table> (?:\|[^\n]*\n)+ )
  | ` (?P<span> [^`]+ ) `
""", re.M | re.S | re.X)


def items(text):
    """The blocks, comments and commands of a page, in their order."""
    found, bound, end, filled = [], None, 0, False
    for match in ITEM.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if text[end:match.start()].strip() or match["span"]:
            bound = None  # the comment before stands for itself
        end = match.end()
        if match["comment"]:
            kind, about = (match["about"].split(None, 1) + ["", ""])[:2]
            filled = kind in ("output", "code", "diff", "measured")  # by prose.py
            if kind == "play":
                bound = Item(line, "steps", "", parse(about))
                found.append(bound)
            continue
        if bound:
            found.remove(bound)
        steps, bound = bound.steps if bound else [], None
        if match["span"]:
            found.append(Item(line, "span", " ".join(match["span"].split()), steps))
        elif match["indented"]:
            block = textwrap.dedent(match["indented"])
            found.append(Item(line, "typed", block, steps or [Step(1, "$", "")]))
        elif match["table"]:
            found.append(Item(line, "table", match["table"], steps))
        elif not filled:
            shown = match["language"] == "text" and match["fenced"].startswith("$ ")
            default = [Step(1, "$", "")] if shown else []
            found.append(Item(line, "fenced", match["fenced"], steps or default))
        filled = False
    return [item for item in found if item.steps or item.kind == "span"]


def parse(about):
    """The steps of a comment."""
    steps = []
    for text in re.split(r"\n|; (?=\d )", about):
        if not text.strip():
            continue
        match = STEP.match(text.strip())
        if not match:
            raise ValueError(f"this is no step: {text.strip()!r}")
        steps.append(Step(int(match[1]), match[2], match[3] or ""))
    return steps


def commands(block):
    """The commands of a block. Those of a transcript know what they print."""
    if block.startswith("$ "):
        return [Command(*part.split("\n", 1)) for part in re.split(r"^\$ ", block, flags=re.M)[1:]]
    if block.startswith("|"):
        rows = [re.findall(r"`([^`]+)`", row) for row in block.splitlines()[2:]]
        return [Command(row[0], shows=row[1]) for row in rows]
    found, text = [], ""
    for line in block.splitlines():
        text += line + "\n"
        if not line.endswith("\\") and is_whole(text):
            found.append(Command(text.rstrip("\n")))
            text = ""
    if text.strip():
        raise ValueError(f"no whole command: {text!r}")
    return [command for command in found if command.text]


def is_whole(text):
    """Would the shell begin with this, and not wait for more?"""
    done = subprocess.run(["bash", "-n", "-c", text], stderr=subprocess.PIPE, encoding="utf-8")
    return done.returncode == 0
