"""What the story needs of the course's own test code, imported here and nowhere else."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import harness  # noqa: E402  (the path comes first)
import kernel  # noqa: E402
import tracing  # noqa: E402

__all__ = ["HERE", "ROOT", "harness", "kernel", "tracing"]
