"""A patch with a head: lines of `Key: value`, some free words, and then a unified diff.

A value goes on in lines that begin with two spaces.
"""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Patch:
    """A file of that form: its .fields, its .words by paragraph, its .diff."""

    KEYS = ()

    def __init__(self, path):
        self.path, self.name = path, path.stem
        head, *diff = re.split(r"^(?=--- )", path.read_text("utf-8"), maxsplit=1, flags=re.M)
        self.diff = "".join(diff)
        keys = re.match(r"(?:\w+: .*\n(?:  .*\n)*)*", head)[0]
        self.fields = {key: value.strip().replace("\n  ", "\n")
                       for key, value in re.findall(r"^(\w+): (.*\n(?:  .*\n)*)", keys, re.M)}
        self.words = [" ".join(text.split()) for text in head[len(keys):].strip().split("\n\n")]
        if unknown := set(self.fields) - set(self.KEYS):
            raise ValueError(f"{self.where}: unknown in its head: {unknown.pop()}")

    @property
    def where(self):
        """The file, as one types it."""
        return self.path.relative_to(ROOT)

    @property
    def changed(self):
        """The files that it changes."""
        return re.findall(r"^\+\+\+ b/(\S+)", self.diff, re.M)

    def apply(self, tree, only=None):
        """Apply it to a copy that is there; or no more of it than its change of `only`."""
        for change in re.split(r"^--- .*\n(?=\+\+\+ )", self.diff, flags=re.M)[1:]:
            head, *hunks = re.split(r"^@@ -(\d+).*\n", change, flags=re.M)
            name = re.match(r"\+\+\+ b/(\S+)", head)[1]
            if only not in (None, name):
                continue
            file = tree / name
            lines = file.read_text("utf-8").splitlines() if file.exists() else []
            for number, hunk in zip(hunks[0::2], hunks[1::2]):
                lines = self.patched(lines, int(number) - 1, hunk.splitlines())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines) + "\n", "utf-8")

    def patched(self, lines, near, hunk):
        """The lines with one hunk applied, at the place nearest to `near` where it fits exactly."""
        before = [line[1:] for line in hunk if line[:1] != "+"]
        after = [line[1:] for line in hunk if line[:1] != "-"]
        places = [at for at in range(len(lines) - len(before) + 1)
                  if lines[at:at + len(before)] == before]
        if not places:
            raise RuntimeError(f"{self.where} no longer applies: the code has no such lines as\n"
                               + "\n".join(before))
        at = min(places, key=lambda place: abs(place - near))
        return lines[:at] + after + lines[at + len(before):]
