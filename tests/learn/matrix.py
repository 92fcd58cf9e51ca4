#!/usr/bin/env python3
"""Put every fault to every stage, and print the table. This is `make matrix`.

P passes. L is the lesson of that stage: it fails, exactly as its chapter says. - does not apply.
A cell that is anything else makes this command fail; so does a lesson that no longer shows.
"""

import argparse
import pathlib
import re

from tests import harness
from tests import probes
from tests.harness import argument, runner

PAGE = pathlib.Path(harness.ROOT) / "tests" / "probes" / "MATRIX.md"
FRONT = pathlib.Path(harness.ROOT) / "README.md"


def table(cells):
    """The table for a terminal. `cells` maps (row, stage) to a text."""
    rows = sorted({row for row, _ in cells})
    lines = ["    fault" + " " * 28 + "".join(f"{name[:2]:>6}" for name in harness.STAGES.values())]
    for row in rows:
        texts = "".join(f"{cells[row, number]:>6}" for number in harness.STAGES)
        lines.append(f"{row:>2}  {probes.ROWS[row]:<33}{texts}".rstrip())
    return "\n".join(lines)


def markdown(cells):
    """The table for MATRIX.md."""
    sign = {"P": "✓", "L": "**L**", "-": "", "unit": "✓"}
    lines = ["| | fault | " + " | ".join(n[:2] for n in harness.STAGES.values()) + " |",
             "|---|---|" + "---|" * len(harness.STAGES)]
    for row in sorted({row for row, _ in cells}):
        texts = " | ".join(sign[cells[row, number]] for number in harness.STAGES)
        lines.append(f"| {row} | {probes.ROWS[row]} | {texts} |")
    return "\n".join(lines) + "\n"


def tally(cells):
    """For README.md: of the faults that apply to each stage, how many it fails."""
    counts = []
    for number in harness.STAGES:
        column = [cells[row, number] for row in {row for row, _ in cells}]
        counts.append(f"{column.count('L')} of {len(column) - column.count('-')}")
    return "| faults that it fails | " + " | ".join(counts) + " |\n"


def placed(text, name, block):
    """A page with `block` between its marks of this name."""
    mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    return mark.sub(lambda match: match[1] + block + match[2], text)


def pages(cells):
    """The two pages that show these cells, as they must be: {path: text}."""
    return {path: placed(path.read_text(encoding="utf-8"), name, make(cells))
            for path, name, make in ((PAGE, "matrix", markdown), (FRONT, "tally", tally))}


def expectations(rows):
    """What every cell should be."""
    return {(row, number): runner.cell_expected(row, number)
            for row in rows for number in harness.STAGES}


def measure(rows, build, jobs):
    """Run the probes. Returns the cells as they are, and what is wrong, a text each."""
    cells, wrong, reasons = expectations(rows), [], {}
    tasks = [(probe, number, None, build) for probe in harness.probes(rows)
             for number in harness.STAGES if probe.expect[number] != "-"]
    with runner.progress(len(tasks)) as step:
        for (probe, number, *_), verdict in runner.run_all(tasks, jobs):
            step(f"{harness.STAGES[number]}: {probe.title}")
            problem = harness.judge(probe, number, verdict)
            if problem:
                cells[probe.row, number] = "FAIL"
                wrong.append(f"row {probe.row} on {harness.STAGES[number]}: {probe.title}\n"
                             f"    {problem}")
            elif harness.untried(verdict):
                cells[probe.row, number] = "skip"
                reasons[probe.row] = harness.untried(verdict)
    for row in sorted(reasons):
        print(f"row {row}, {probes.ROWS[row]}: {reasons[row]}")
    return cells, wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", default=harness.BUILD, help="where the servers are")
    arguments.add_argument("--rows", type=argument.some_of(probes.ROWS), help="only these: 1,7,9")
    arguments.add_argument("--jobs", type=int, default=runner.JOBS, help="probes at the same time")
    arguments.add_argument("--write", action="store_true", help="put the table into its page")
    arguments.add_argument("--check", action="store_true", help="is it current? Runs nothing")
    options = arguments.parse_args()

    probes.load()
    registered = {probe.row for probe in harness.PROBES} | probes.UNIT_ROWS
    rows = options.rows or sorted(registered - {0})
    if options.check:
        return check(expectations(rows))

    cells, wrong = measure(rows, options.build, options.jobs)
    print(table(cells))
    print("\nP passes   L the lesson of that stage   - does not apply   unit: see make test")
    for text in wrong:
        print("\n" + text)
    total = sum(text not in ("-", "unit") for text in cells.values())
    failed = sum(text == "FAIL" for text in cells.values())
    skipped = sum(text == "skip" for text in cells.values())
    print(f"\n{total - failed - skipped} passed, {failed} failed"
          + f", {skipped} skipped" * (skipped > 0))
    if options.write and not (wrong or skipped or options.rows):
        for path, text in pages(cells).items():
            path.write_text(text, encoding="utf-8")
    return 1 if wrong else 0


def check(cells):
    """Do the pages show what the probes expect?"""
    stale = [path for path, text in pages(cells).items()
             if path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(harness.ROOT)}: the matrix is not current; run: make matrix")
    return 1 if stale else 0


if __name__ == "__main__":
    runner.main(main)
