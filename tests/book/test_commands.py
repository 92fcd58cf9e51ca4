"""Is a page played as a reader would, and is each way in which it may be wrong found?

The pages themselves are a suite of their own: `python3 -m tests.self.run commands`.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from tests import harness
from tests.book import blocks, commands, lookup, markdown, terminal
from tests.self import run

WAITS = 'python3 -uc "print(\'here\'); input(); print(\'gone\')"'  # a program that stays
SERVER = ("python3 -c \"import socket; l = socket.create_server(('127.0.0.1', 0)); "
          "print(l.getsockname()[1]); l.accept()\"")


def setUpModule():
    """Programs that lose their shell belong to us."""
    harness.adopt_orphans()


class Played(unittest.TestCase):
    """A page is typed, step by step."""

    def played(self, text):
        """Play a page; returns how many commands were typed."""
        with tempfile.TemporaryDirectory() as place:
            reader = commands.Reader(pathlib.Path(place))
            reader.play(text)
        return reader.typed

    def is_wrong(self, text, *said):
        """The page is found to be wrong, in these words."""
        with self.assertRaises(harness.Fail) as caught:
            self.played(text)
        for words in said:
            self.assertIn(words, str(caught.exception))

    def test_blocks_are_typed(self):
        self.assertEqual(self.played("A.\n\n    true\n    test 1 = \\\n      1\n\nB.\n"), 2)
        self.is_wrong("A.\n\n    true\n    (exit 3)\n\nB.\n", "line 3", "exit status 3")

    def test_a_block_may_go_on_within_quotes(self):
        self.assertEqual(self.played('A.\n\n    python3 -c "import sys\n    sys.exit(0)"\n'), 1)
        self.is_wrong('A.\n\n    python3 -c "import sys\n    sys.exit(4)"\n', "exit status 4")
        self.is_wrong('A.\n\n    echo "no end\n', "no whole command")

    def test_no_descriptor_of_ours_is_left_to_it(self):
        for end in os.pipe():
            self.addCleanup(os.close, end)
            os.set_inheritable(end, True)
            self.assertEqual(self.played(f"A.\n\n    test ! -e /proc/$$/fd/{end}\n"), 1)

    def test_lists(self):
        self.assertEqual(self.played("1. A.\n\n       true\n\n2. B.\n\n       true\n"), 2)

    def test_what_is_fenced_is_read(self):
        self.assertEqual(self.played("A.\n\n```cpp\nint x;\n```\n\n```text\nfalse\n```\n"), 0)

    def test_transcript(self):
        page = "```text\n$ echo one\n{}\n$ echo two\ntwo\n```\n"
        self.assertEqual(self.played(page.format("one")), 2)
        self.is_wrong(page.format("eins"), "one", "expected: eins")

    def test_the_date_is_a_readers_own(self):
        page = "```text\n$ echo 'Date: Wed, 25 Nov 2026 03:06:10 GMT'\nDate: {} GMT\n```\n"
        self.assertEqual(self.played(page.format("Thu, 01 Jan 1970 00:00:00")), 1)
        self.is_wrong(page.format("at noon"), "Date: at noon")

    def test_table(self):
        page = "<!-- play 1 $ -->\n| type | it says |\n|---|---|\n| `echo a b` | `{}` |\n"
        self.assertEqual(self.played(page.format("b")), 1)
        self.is_wrong(page.format("c"), "a b", "expected: 'c'")

    def test_a_program_stays(self):
        page = f"<!-- play 1 $; 1 shows here; 1 silent; 1 types x; 1 shows {{}}; 1 ends -->\n\n" \
               f"    {WAITS}\n"
        self.assertEqual(self.played(page.format("^gone$")), 1)
        self.is_wrong(page.format("^here$"), "gone", "expected: '^here$'")

    def test_two_terminals(self):
        self.assertEqual(self.played(f"""
<!-- play
1 $ {WAITS}
1 shows here
2 $ {WAITS}
2 shows here
1 types x
1 ends
2 ^C
2 ends 130
-->
"""), 2)

    def test_ctrl_c_comes_before_the_next_command(self):
        self.played(f"<!-- play 1 $ {WAITS}; 1 shows here; 1 $ echo next; 1 shows ^next$ -->\n")

    def test_silence(self):
        self.is_wrong(f"<!-- play 1 $ {WAITS}; 1 silent -->\n", "here", "nothing in terminal 1")

    def test_asleep_in_a_call(self):
        self.played("<!-- play 1 $ sleep 600; 1 in clock_nanosleep; 1 ^C; 1 ends 130 -->\n")

    def test_what_prints_for_ever_is_not_waited_for_as_long(self):
        with mock.patch.multiple(terminal, FAILSAFE=0.5, LOOKS=2):
            self.is_wrong("<!-- play 1 $ while sleep 0.05; do echo here; done; 1 ends -->\n",
                          "not within 1 s", "an end")

    def test_the_next_command_of_the_block(self):
        self.assertEqual(self.played(f"<!-- play 1 $; 1 shows here; 2 $ -->\n\n"
                                     f"    {WAITS}\n    true\n    true\n"), 3)

    def test_a_server_that_does_not_start(self):
        broken = SERVER.replace("create_server", "no_such_function")
        page = "<!-- play 1 $; 1 {} -->\n\n    {}\n"
        self.is_wrong(page.format("listens 9001", broken), "no_such_function", "port 9001")
        self.is_wrong(page.format("shows ^[0-9]+$", broken), "no_such_function")
        self.assertEqual(self.played(page.format("shows ^[0-9]+$", SERVER)), 1)

    def test_nothing_is_left_behind(self):
        with tempfile.TemporaryDirectory() as place:
            pid = pathlib.Path(place) / "pid"
            self.played(f"<!-- play 1 $ setsid sleep 600 & echo $! > {pid} -->\n")
            self.assertFalse(pathlib.Path(f"/proc/{pid.read_text('ascii').strip()}").exists())

    def test_a_file(self):
        page = "<!-- play 1 writes a.txt -->\n```text\nhello\n```\n\n    grep -q {} a.txt\n"
        self.played(page.format("hello"))
        self.is_wrong(page.format("other"), "exit status 1")

    def test_what_is_no_step(self):
        self.is_wrong("A.\n\n<!-- play 1 prints hello -->\n", "no step: '1 prints hello'")

    def test_terminals_are_as_many_as_it_says(self):
        page = "About 5 minutes. You need {} terminals.\n\n<!-- play 1 $ true; 3 $ true -->\n"
        self.played(page.format("three"))
        self.is_wrong(page.format("two"), "3 terminals, and not two")

    def test_the_shells_are_those_of_a_reader(self):
        self.played('A.\n\n    test "$(ulimit -Sn)" = 1024 -a -z "$MAKELEVEL"\n')


class LookedUp(unittest.TestCase):
    """A command that is only named exists."""

    @classmethod
    def setUpClass(cls):
        cls.index = lookup.Index(pathlib.Path(harness.ROOT))

    def test_what_there_is(self):
        for text in ("make check-4 SERVER=./mine HINT=7", "make break-N", "make -j2 test",
                     "ulimit -Sn 4096; make story", "python3 -m tests.self.run --busy 20 unit",
                     "python3 tests/learn/talk.py 9007 --raw", "--idle-ms", "--rounds 30",
                     "strace -c ./yours --port 9104", "python3 -m tests.machines.roots",
                     "python3 -m tests.mutants no-lingering-close"):
            self.assertEqual(self.index.problems(text), [], text)

    def test_what_there_is_not(self):
        for text, problem in (
                ("make chekc-4", "make has no chekc-4"),
                ("true && make check", "make has no check"),
                ("make check-4 SERVRE=./mine", "make has no SERVRE=./mine"),
                ("python3 -m tests.learn.chekc 4", "python3 -m tests.learn.chekc: no such script"),
                ("python3 tests/learn/tlak.py", "python3 tests/learn/tlak.py: no such script"),
                ("python3 tests/learn/talk.py 9007 --row",
                 "python3 tests/learn/talk.py has no option --row"),
                ("python3 -m tests.mutants no-such-mutant", "no mutant no-such-mutant"),
                ("--idle-" "mss", "no option --idle-" "mss")):
            self.assertEqual(self.index.problems(text), [problem])

    def test_a_program_of_ours(self):
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place)
            (folder / "Makefile").write_text("build/x: ; true\n", "utf-8")
            (folder / "build").mkdir()
            for name in ("x", "mine"):
                (folder / "build" / name).write_text("#!/bin/sh\necho '--port N'\n", "utf-8")
                (folder / "build" / name).chmod(0o755)
            index = lookup.Index(folder)
            self.assertEqual(index.problems("build/x --port 4"), [])
            self.assertEqual(index.problems("build/x --prot 4"), ["./build/x has no option --prot"])
            self.assertEqual(index.problems("build/mine --prot 4"), [])


class LeftToOthers(unittest.TestCase):
    """What is not typed is run by a suite that exists, and what is made short is on a page."""

    def test_suites_exist(self):
        known = {name for name, _ in run.suites("build")} | {"all suites"}
        self.assertLessEqual(set(commands.SUITES.values()), known)

    def test_each_is_needed(self):
        typed = [command.text for page in commands.PAGES
                 for item in blocks.items(markdown.read(page)) if item.kind == "typed"
                 for command in blocks.commands(item.text)]
        for pattern in [*commands.SUITES, *commands.SHORT]:
            self.assertTrue(any(re.match(pattern, text) for text in typed), pattern)

    def test_each_page_of_the_book_is_read(self):
        self.assertLessEqual(set(markdown.reading_order()), set(commands.PAGES))


class Ports(unittest.TestCase):
    """Two that play at the same time do not meet."""

    def test_taken(self):
        script = "from tests.book import commands; print(commands.lock_ports()[1])"
        with socket.socket(socket.AF_UNIX) as lock:
            lock.bind("\0the ports of the course")
            done = subprocess.run([sys.executable, "-c", script], cwd=harness.ROOT,
                                  capture_output=True, encoding="utf-8", check=False)
        self.assertEqual(done.stdout,
                         "the ports of the course are not free: Address already in use\n")


if __name__ == "__main__":
    unittest.main()
