"""One mutant: what its head says, and its patch, applied to a copy."""

import pathlib
import re
import shutil

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "tests" / "mutants" / "library"
KEYS = ("Without", "Row", "Test", "Also", "Flags")


class Mutant:
    """A file in 0N-*/mutants/ or tests/mutants/library/."""

    def __init__(self, path):
        self.path, self.name = path, path.stem
        self.stage = 7 if path.parent == LIBRARY else int(path.parent.parent.name[:2])
        head, self.diff = re.split(r"^(?=--- )", path.read_text("utf-8"), maxsplit=1, flags=re.M)
        fields = dict(re.findall(r"^(\w+): (.*)\n", head, re.M))
        if unknown := set(fields) - set(KEYS):
            raise ValueError(f"{path.relative_to(ROOT)}: unknown in its head: {unknown.pop()}")
        self.without = fields.get("Without", "")
        self.rows = [int(row) for row in fields.get("Row", "").split()]
        self.tests = fields.get("Test", "").split()
        self.also = [int(row) for row in fields.get("Also", "").split()]
        self.flags = fields.get("Flags", "").split()
        self.seen = " ".join(re.sub(r"^\w+: .*\n", "", head, flags=re.M).split())
        if not (self.rows or self.tests) or not self.seen:
            raise ValueError(f"{path.relative_to(ROOT)}: who notices, and what does a user see?")

    def __str__(self):
        what = f"without {self.without}" if self.without else self.name.replace("-", " ")
        return f"{self.folder}: {what}"

    @property
    def folder(self):
        """The stage that it is made of."""
        return next(ROOT.glob(f"0{self.stage}-*")).name

    @property
    def changed(self):
        """The files that it changes."""
        return re.findall(r"^\+\+\+ b/(\S+)", self.diff, re.M)

    def make(self, tree):
        """Copy its stage, and apply the patch to the copy."""
        for part in (self.folder, "common"):
            shutil.copytree(ROOT / part, tree / part)
        self.apply(tree)

    def apply(self, tree):
        """Apply the patch to a copy that is there."""
        for change in re.split(r"^--- .*\n(?=\+\+\+ )", self.diff, flags=re.M)[1:]:
            name, *hunks = re.split(r"^@@ -(\d+).*\n", change, flags=re.M)
            file = tree / re.match(r"\+\+\+ b/(\S+)", name)[1]
            lines = file.read_text("utf-8").splitlines()
            for number, hunk in zip(hunks[0::2], hunks[1::2]):
                lines = patched(lines, int(number) - 1, hunk.splitlines(), self)
            file.write_text("\n".join(lines) + "\n", "utf-8")


def patched(lines, near, hunk, mutant):
    """The lines with one hunk applied, at the place nearest to `near` where it fits exactly."""
    before = [line[1:] for line in hunk if line[:1] != "+"]
    after = [line[1:] for line in hunk if line[:1] != "-"]
    places = [at for at in range(len(lines) - len(before) + 1)
              if lines[at:at + len(before)] == before]
    if not places:
        raise RuntimeError(f"{mutant.path.relative_to(ROOT)} no longer applies: the code has no "
                           f"such lines as\n" + "\n".join(before))
    at = min(places, key=lambda place: abs(place - near))
    return lines[:at] + after + lines[at + len(before):]


def of_stage(number="[1-7]"):
    """The mutants of a stage, or of all stages."""
    return [Mutant(path) for path in sorted(ROOT.glob(f"0{number}-*/mutants/*.patch"))]


def of_library(names=()):
    """Those of the library, or these of them."""
    paths = [LIBRARY / f"{name}.patch" for name in names] or sorted(LIBRARY.glob("*.patch"))
    return [Mutant(path) for path in paths]
