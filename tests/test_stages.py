"""Every probe on every stage, as a test each: what passes, and what fails as its chapter says.

A lesson that no longer shows is a failure, too. BUILD= says where the servers are.
"""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
import probes  # noqa: E402

BUILD = os.environ.get("BUILD", harness.BUILD)


class Stages(unittest.TestCase):
    """One method for each probe and stage: see add_tests()."""


def add_tests():
    """test_07_freezes_stage_3 and so on."""
    probes.load()
    for probe in harness.probes():
        for number, expected in probe.expect.items():
            if expected != "-":
                name = f"test_{probe.row:02}_{probe.run.__name__}_stage_{number}"
                setattr(Stages, name, make_test(probe, number, expected))


def make_test(probe, number, expected):
    """A test method that runs one probe on one stage."""
    def test(self):
        verdict = harness.run_cell(probe, number, None, BUILD)
        problem = harness.judge(probe, number, verdict)
        self.assertFalse(problem, f"\nsent:     {verdict.sent}\nexpected: {verdict.expected}"
                                  f"\nreceived: {problem}\nlook at:  {probe.look}")

    wanted = f"it {expected[2:]}" if expected.startswith("L") else "passes"
    test.__doc__ = f"row {probe.row:2}, {harness.STAGES[number]}: {probe.title} ({wanted})"
    return test


add_tests()

if __name__ == "__main__":
    unittest.main()
