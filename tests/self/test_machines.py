"""Are the machines of tests/machines what they say, and is a command there judged rightly?"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from tests import harness
from tests.machines import enter, run
from tests.self import scripts


def enters(machine, *command):
    """What came of a command on a machine."""
    done = scripts.run("tests.machines.enter", machine, *command, errors="replace")
    if done.returncode == enter.SKIPPED:
        raise unittest.SkipTest(done.stderr.strip())
    return done


def said(machine, code):
    """What a line of Python prints on a machine."""
    done = enters(machine, "python3", "-c", code)
    return done.stdout.strip() or done.stderr.strip()


class Machines(unittest.TestCase):
    """Something is missing there that is here."""

    def test_descriptors(self):
        limits = "import resource as r; print(*r.getrlimit(r.RLIMIT_NOFILE))"
        self.assertEqual(said("hard-1024", limits), "1024 1024")
        self.assertTrue(said("soft-1024", limits).startswith("1024 "))

    def test_no_ipv6(self):
        listen = "import socket as s; s.create_server(('::1', 0), family=s.AF_INET6); print('here')"
        self.assertIn("Cannot assign requested address", said("no-ipv6", listen))
        self.assertIn("Address family not supported", said("no-inet6", listen))
        self.assertEqual(said("no-ipv6", listen.replace("::1", "127.0.0.1").replace("6", "")),
                         "here", "the other one is left")

    def test_no_ptrace(self):
        allowed = "from tests.outside import tracing; print(tracing.allowed())"
        self.assertEqual(said("no-ptrace", allowed), "False")

    def test_no_shm(self):
        self.assertEqual(said("no-shm", "import os; print(os.path.exists('/dev/shm'))"), "False")

    def test_one_cpu(self):
        self.assertEqual(said("one-cpu", "import os; print(len(os.sched_getaffinity(0)))"), "1")

    def test_read_only(self):
        self.assertIn("Read-only file system", said("read-only", "open('x', 'w')"))

    def test_user(self):
        self.assertNotEqual(said("user", "import os; print(os.getuid())"), "0")

    def test_odd_path(self):
        path = said("odd-path", "import os; print(ascii(os.getcwd()))")
        for part in ("'", '"', ":", " ", "\\xe4"):
            self.assertIn(part, path)

    def test_closed(self):
        self.assertIn("Bad file descriptor", said("no-stdin", "import os; os.fstat(0)"))

    def test_several_at_once(self):
        code = ("import os, resource as r; print(len(os.sched_getaffinity(0)), "
                "r.getrlimit(r.RLIMIT_NOFILE)[0], os.environ['TZ'])")
        self.assertEqual(said("one-cpu+soft-1024+far-away", code), "1 1024 Pacific/Kiritimati")

    def test_networks_are_added(self):
        code = ("import pathlib as p; print(p.Path('/proc/sys/net/ipv6/conf/all/disable_ipv6')"
                ".read_text(), p.Path('/proc/sys/net/ipv4/ip_local_port_range').read_text())")
        self.assertEqual(said("no-ipv6+few-ports", code).split(), ["1", "40000", "40999"])

    def test_nothing_changes_here(self):
        said("no-ipv6+no-shm+hard-1024", "pass")
        with socket.socket(socket.AF_INET6):
            pass
        self.assertNotEqual(harness.raise_fd_limit(), 1024)

    def test_processes_of_its_own(self):
        """The command is process 1, its parent ends with its status, and nothing is left."""
        code = """if True:
            import os, subprocess, sys
            from tests.harness import runner
            from tests.machines import enter
            def main():
                try:
                    enter.own_processes()
                except (enter.Unavailable, OSError) as reason:
                    return f"not here: {reason}"
                subprocess.Popen(["sleep", "1000"])
                print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[:2])
                return 3
            runner.main(main)"""
        done = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True,
                              encoding="utf-8", check=False)
        if done.stderr.startswith("not here"):
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stdout), (3, "[1, 2]\n"), done.stderr)

    def test_unknown(self):
        done = scripts.run("tests.machines.enter", "no-such", "true")
        self.assertEqual((done.returncode, done.stderr), (2, "there is no machine no-such\n"))


class Right(unittest.TestCase):
    """A command is right there that was wrong once."""

    def verdict(self, machine, code):
        """The outcome of a probe, and what it has seen."""
        return said(machine, "import shutil, tempfile\nfrom tests import harness, probes\n"
                    "probes.load()\ndef cell(row, number, *command):\n"
                    "    verdict = harness.run_cell(harness.probes([row], number)[0], number,"
                    " list(command) or None)\n    print(verdict.outcome, verdict.seen)\n" + code)

    def test_programs_run_in_a_temporary_folder(self):
        code = ("import tests, tempfile, shutil, subprocess\n"
                "with tempfile.TemporaryDirectory() as place:\n"
                "    shutil.copy('/bin/echo', place)\n"
                "    open(f'{place}/big', 'wb').write(bytes(1 << 20))\n"
                "    subprocess.run([f'{place}/echo', 'it runs'])")
        for machine in ("noexec-tmp", "full-tmp", "noexec-tmp+user"):
            with self.subTest(machine):
                self.assertEqual(said(machine, code), "it runs")

    def test_a_program_that_may_not_run_where_it_is(self):
        code = "cell(0, 4, shutil.copy('/bin/true', '/tmp'))"
        self.assertIn("its folder is mounted noexec", self.verdict("noexec-tmp", code))

    def test_few_ports(self):
        for row in (3, 4):
            self.assertEqual(self.verdict("few-ports", f"cell({row}, 4)"), "P")
        code = ("open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('40000 40009')\n"
                "cell(2, 4)")
        self.assertRegex(self.verdict("few-ports", code), "^- this machine has no port left")

    def test_small_packets_are_no_fault_of_a_server(self):
        for command in ("tests.learn.check 5 --rows 14", "tests.bench.compare --quick --no-charts "
                        "--stages 5 --scenarios c1 --json /dev/null"):
            with self.subTest(command):
                done = enters("small-mtu", "python3", "-m", *command.split())
                self.assertEqual(done.returncode, 0, done.stdout)

    def test_settings_of_python(self):
        for command in ("python3 -m tests.learn.solution 2 1",
                        "env -u MAKEFLAGS PYTHONSAFEPATH=1 make -s solution-2 X=1"):
            done = enters("strict-python", *command.split())
            self.assertEqual((done.returncode, done.stderr), (0, ""), command)

    def test_a_compiler_of_two_words(self):
        code = ("from tests.story import story\nfrom tests.mutants import workshop\n"
                "import pathlib, tempfile\nwith tempfile.TemporaryDirectory() as place:\n"
                "    to = pathlib.Path(place, 'header.gch')\n"
                "    workshop.compiler(to, ['-I.', '-x', 'c++-header', 'common/fd.h'])\n"
                "    print(bool(story.sizes()), to.exists())")
        self.assertEqual(said("wrapped-compiler", code), "True True")

    def test_what_is_loaded_into_every_program(self):
        code = "import os, tests; print(os.environ.get('LD_PRELOAD'))"
        self.assertEqual(said("preloads", code), "None")

    def test_a_copy_is_made_without_git(self):
        code = ("import pathlib, tempfile\nfrom tests.book import commands\n"
                "with tempfile.TemporaryDirectory() as place:\n"
                "    commands.fresh_copy(pathlib.Path(place))\n"
                "    print(*sorted(path.name for path in pathlib.Path(place).glob('[0M]*')))")
        self.assertEqual(said("no-git", code), " ".join([*harness.STAGES.values(), "Makefile"]))

    def test_a_disk_that_is_full(self):
        for command in ("tests.learn.solution 2 1", "tests.learn.check 4 --rows 1"):
            done = enters("full-disk", "python3", "-m", *command.split())
            self.assertEqual((done.returncode, done.stderr),
                             (1, "where this writes to: No space left on device\n"))


class Install(unittest.TestCase):
    """.ci/install, on a machine that has nothing, and whose apt-get only says what it is told."""

    def install(self, *present, packages=""):
        """What it says, with these programs, and these packages in the release ("": all)."""
        with tempfile.TemporaryDirectory() as place:
            programs = {"apt-get": 'echo "$@" >&2', "apt-cache": f'[ -z "{packages}" ] || '
                        f'case " {packages} " in *" $2 "*) ;; *) exit 100 ;; esac',
                        "id": "echo 0", **dict.fromkeys(present, ":")}
            for name, text in programs.items():
                path = pathlib.Path(place, name)
                path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
                path.chmod(0o755)
            os.symlink(shutil.which("env"), f"{place}/env")
            done = subprocess.run(["/bin/sh", ".ci/install"], cwd=harness.ROOT,
                                  env={"PATH": place}, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, encoding="utf-8", check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_it_brings_what_chapter_1_asks_for(self):
        chapter = pathlib.Path(harness.ROOT, "01-blocking/README.md").read_text("utf-8")
        self.assertRegex(chapter, r"`nc` and `strace`, which `sh .ci/install` has\s+brought along")
        for package in ("netcat-openbsd", "strace", "g++", "make", "python3"):
            self.assertIn(f" {package} ", self.install().replace("\n", " "))

    def test_the_other_nc_is_not_enough(self):
        self.assertIn("netcat-openbsd", self.install("nc", "nc.traditional"))
        self.assertNotIn("netcat-openbsd", self.install("nc", "nc.openbsd"))

    def test_a_package_that_a_release_lacks_is_left_out(self):
        text = self.install(packages="g++ make python3 libgtest-dev netcat-openbsd procps")
        self.assertIn("this release has no package strace\n", text)
        self.assertIn("installing: g++ make", text)


class Judged(unittest.TestCase):
    """What counts as a failure."""

    def outcome(self, status, text, machine="one-cpu", name="step"):
        return run.judge(machine, name, status, text)[0]

    def test_failures(self):
        self.assertEqual(self.outcome(None, "35 passed, 0 failed"), "FAIL")
        self.assertEqual(self.outcome(1, "34 passed, 1 failed"), "FAIL")
        self.assertEqual(self.outcome(0, "Traceback (most recent call last):\n"), "FAIL")
        self.assertEqual(self.outcome(2, "", "no-ptrace", "trace"), "FAIL")

    def test_all_is_well(self):
        self.assertEqual(self.outcome(0, "35 passed, 0 failed"), "ok")
        self.assertEqual(self.outcome(enter.SKIPPED, "needs root"), "skipped")
        self.assertEqual(self.outcome(2, "strace is missing: apt-get install strace\n", "bare",
                                      "trace"), "says")

    def test_what_is_left_behind_is_what_the_command_has_started(self):
        harness.adopt_orphans()
        logs = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(run, "LOGS", logs))
        other = subprocess.Popen(["sleep", "1000"])
        try:
            for command, text in ("true", ""), ("sleep 1000 & :", "left behind: sleep"):
                self.assertEqual(run.run("one-cpu", "step", command, 60, {}).text, text)
            self.assertIsNone(other.poll())
        finally:
            other.kill()
            other.wait()

    def test_what_the_page_shows_is_read_as_it_was_written(self):
        results = {("one-cpu", "step"): run.Result("ok", "", 0),
                   ("one-cpu", "check"): run.Result("ok", "34 passed, 0 failed, 2 skipped", 0),
                   ("bare", "trace"): run.Result("says", "strace is missing: see there", 0),
                   ("no-ipv6", "step"): run.Result("skipped", "needs root", 0),
                   ("user", "diff"): run.Result("FAIL", "exit status 2", 0)}
        for result in results.values():
            again = run.from_cell(run.cell(result))
            self.assertEqual((again.outcome, run.cell(again)), (result.outcome, run.cell(result)))
        self.assertIn(run.table(run.shown()), run.PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
