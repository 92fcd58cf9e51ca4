"""One mutant: what its head says, and its patch, applied to a copy."""

import shutil

from tests.mutants.patch import ROOT, Patch

LIBRARY = ROOT / "tests" / "mutants" / "library"


class Mutant(Patch):
    """A file in 0N-*/mutants/ or tests/mutants/library/."""

    KEYS = ("Without", "Row", "Test", "Also", "Flags")

    def __init__(self, path):
        super().__init__(path)
        self.stage = 7 if path.parent == LIBRARY else int(path.parent.parent.name[:2])
        self.without = self.fields.get("Without", "")
        self.rows = [int(row) for row in self.fields.get("Row", "").split()]
        self.tests = self.fields.get("Test", "").split()
        self.also = [int(row) for row in self.fields.get("Also", "").split()]
        self.flags = self.fields.get("Flags", "").split()
        self.seen = " ".join(self.words)
        if not (self.rows or self.tests) or not self.seen:
            raise ValueError(f"{self.where}: who notices, and what does a user see?")

    def __str__(self):
        what = f"without {self.without}" if self.without else self.name.replace("-", " ")
        return f"{self.folder}: {what}"

    @property
    def folder(self):
        """The stage that it is made of."""
        return next(ROOT.glob(f"0{self.stage}-*")).name

    def make(self, tree):
        """Copy its stage, and apply the patch to the copy."""
        for part in (self.folder, "common"):
            shutil.copytree(ROOT / part, tree / part)
        self.apply(tree)


def of_stage(number="[1-7]"):
    """The mutants of a stage, or of all stages."""
    return [Mutant(path) for path in sorted(ROOT.glob(f"0{number}-*/mutants/*.patch"))]


def of_library(names=()):
    """Those of the library, or these of them."""
    paths = [LIBRARY / f"{name}.patch" for name in names] or sorted(LIBRARY.glob("*.patch"))
    return [Mutant(path) for path in paths]
