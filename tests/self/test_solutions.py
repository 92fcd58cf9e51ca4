"""Every exercise has a solution, and every solution is one."""

import collections
import concurrent.futures
import pathlib
import shutil
import subprocess
import tempfile
import textwrap
import unittest

from tests import harness
from tests.harness import runner
from tests.learn import solution
from tests.mutants.patch import ROOT
from tests.outside import kernel
from tests.self import scripts

EXERCISES = solution.exercises()


class Pages(unittest.TestCase):
    """Exercises and files belong together."""

    def test_every_exercise_has_one_solution(self):
        for exercise in EXERCISES:
            with self.subTest(f"{exercise.page} {exercise.number}"):
                self.assertEqual(len(exercise.solutions), 1)

    def test_every_file_solves_an_exercise(self):
        there = sorted(ROOT.glob("0*/solutions/*"))
        known = sorted(s.path for exercise in EXERCISES for s in exercise.solutions)
        self.assertEqual(there, known)

    def test_exercises_are_numbered_and_named_apart(self):
        numbers = collections.defaultdict(list)
        for exercise in EXERCISES:
            numbers[exercise.page].append(exercise.number)
        for page, found in numbers.items():
            self.assertEqual(found, list(range(1, len(found) + 1)), page)
        self.assertEqual({pathlib.PurePath(page).parts[0] for page in numbers},
                         set(harness.STAGES.values()))


class Checks(unittest.TestCase):
    """Each patch applies, its check passes with it, and fails without it if it changes code."""

    def test_each(self):
        todo = [s for exercise in EXERCISES for s in exercise.solutions if not s.missing]
        with concurrent.futures.ThreadPoolExecutor(2) as pool, runner.progress(len(todo)) as step:
            for one, problem in zip(todo, pool.map(lambda one: one.problem(harness.BUILD), todo)):
                step(str(one))
                with self.subTest(str(one)):
                    self.assertEqual(problem, "")

    @unittest.skipUnless(shutil.which("git"), "apt-get install git")
    def test_git_applies_them(self):
        for one in [s for exercise in EXERCISES for s in exercise.solutions if s.diff]:
            with self.subTest(str(one)):
                done = subprocess.run(["git", "apply", "--check", one.path], cwd=ROOT,
                                      capture_output=True, encoding="utf-8")
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_what_they_need(self):
        for one in [s for exercise in EXERCISES for s in exercise.solutions if s.missing]:
            with self.subTest(str(one)):
                self.skipTest(one.missing)


class Engine(unittest.TestCase):
    """Solutions that are wrong on purpose."""

    HEAD = "Exercise: 1\nCheck: {}\nShows: {}\nAn answer.\n\n"
    DIFF = ("--- a/common/fd.h\n+++ b/common/fd.h\n@@ -1,0 +1,1 @@\n+// mended\n")
    NEW = "--- /dev/null\n+++ b/check.py\n@@ -0,0 +1 @@\n+print('checked')\n"

    def problem(self, check, shows="", diff=""):
        """What is wrong with a solution of this form."""
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
            folder = pathlib.Path(place) / "01-blocking" / "solutions"
            folder.mkdir(parents=True)
            path = folder / "1-made-up.patch"
            path.write_text(self.HEAD.format(check, shows) + diff, "utf-8")
            return solution.Solution(path).problem(harness.BUILD)

    def test_right_ones(self):
        self.assertEqual(self.problem("grep mended common/fd.h", "mended", self.DIFF), "")
        self.assertEqual(self.problem("python3 check.py", "checked", self.NEW), "")
        self.assertEqual(self.problem("test $BUILD = build &&\n  echo two", "two"), "")

    def test_a_check_that_fails(self):
        self.assertRegex(self.problem("echo no; false", diff=self.DIFF), "^exit status 1, .*\nno")

    def test_a_check_that_shows_something_else(self):
        self.assertRegex(self.problem("echo 3", "4"), "^exit status 0, and not '4' in:\n3")

    def test_a_check_that_cannot_fail(self):
        self.assertEqual(self.problem("true", diff=self.DIFF),
                         "its check passes without the patch, too")
        self.assertEqual(self.problem("python3 check.py", diff=self.NEW + self.DIFF),
                         "its check passes without the patch, too")

    def test_a_check_that_is_no_command(self):
        self.assertRegex(self.problem("no-such-command", diff=self.DIFF), "^its check is no comm")

    def test_a_patch_that_does_not_apply(self):
        diff = self.DIFF.replace("+//", "-// not there\n+//")
        self.assertRegex(self.problem("grep mended common/fd.h", diff=diff), "no longer applies")

    def test_nothing_is_left_behind(self):
        status, said = solution.shell("sleep 1000 & echo $!", ROOT)
        self.assertEqual(status, 0)
        harness.wait_for(lambda: kernel.is_over(int(said)), "its end")


class Command(unittest.TestCase):
    """make solution-N."""

    def run_it(self, *arguments):
        """What the command does."""
        return scripts.run("tests.learn.solution", *arguments)

    def test_the_list_has_titles_and_no_answers(self):
        done = self.run_it("1")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for exercise in solution.exercises(1):
            self.assertIn(" ".join(exercise.title.split()), " ".join(done.stdout.split()))
            for word in exercise.solutions[0].words:
                self.assertNotIn(word, " ".join(done.stdout.split()))

    def test_one_is_shown_in_full(self):
        done = self.run_it("1", "2")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        one = solution.exercises(1)[1].solutions[0]
        self.assertIn(textwrap.indent(one.check, "    "), done.stdout)
        self.assertIn(one.words[0], " ".join(done.stdout.split()))

    def test_one_that_is_not_there(self):
        done = self.run_it("1", "9")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, "^no solution to 9\n01-blocking has a solution to\n")


if __name__ == "__main__":
    unittest.main()
