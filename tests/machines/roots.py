#!/usr/bin/env python3
"""The README's commands on other releases of Debian, each bare but for what .ci/install brings.

    python3 -m tests.machines.roots                      bookworm, trixie and sid
    python3 -m tests.machines.roots trixie --full        make test and make compare, too
    python3 -m tests.machines.roots --compilers          servers and library, every compiler
    python3 -m tests.machines.roots --write              and put the results into README.md

Needs root and debootstrap. A release takes a few hundred MB in --place, and is kept there: a second
run begins where make finds nothing to do. Not part of `make test` or of .ci/run.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from tests.harness import argument, runner
from tests.machines import enter
from tests.machines.run import Result, cell, judge, table, write

USER = 1000
QUICK = {
    "build": "make", "step": "make step-1", "check": "make check-4", "trace": "make trace-4",
    "break": "make break-1", "sim": "make -s build/sim && python3 -m tests.self.run sim",
    "unit": "make -s build/unit && python3 -m tests.self.run unit",
    "chapter": "make -s && python3 -m tests.book.commands 02-select/README.md",
    "corpus": "python3 -m tests.self.run 'fuzz corpus'", "lint": "make lint",
    "quick": "python3 -m tests.bench.compare --quick --no-charts",
}
FULL = {"compare": "make compare", "test": "make test"}
COMPILERS = {  # each version where it is at home
    "bookworm": "g++-12 clang-14 clang-15 clang-16",
    "trixie": "g++-13 g++-14 clang-17 clang-18 clang-19",
    "sid": "g++-15 g++-16 clang-21 clang-22 clang-23",
}
EVERY_SOURCE = """
for file in 0*/*.cpp; do
    {} -std=c++20 -O2 -I. -Wall -Wextra -Wpedantic -Werror -fsyntax-only $file || status=1
done
exit ${{status:-0}}
"""


class Root:
    """A release in a folder of its own, with a copy of the tree that belongs to a user."""

    def __init__(self, release, place):
        self.release, self.folder = release, place / release
        self.tree = self.folder / "home" / "reader" / "course"

    def make(self):
        """Unpack the release, once."""
        if self.tree.parent.exists():
            return
        if not (self.folder / "etc" / "debian_version").exists():
            subprocess.run(["debootstrap", "--variant=minbase", self.release, str(self.folder)],
                           check=True, stdout=subprocess.DEVNULL)
        shutil.copy("/etc/resolv.conf", self.folder / "etc")
        # sid is as fresh as its mirror, and a mirror may be some days old.
        (self.folder / "etc/apt/apt.conf.d/99mirror").write_text(
            'Acquire::Check-Valid-Until "false";\n', encoding="ascii")
        self.run(f"useradd --uid {USER} --create-home reader", user=0)

    def lay(self):
        """The tree as it is now, over the one of the last time."""
        shutil.copytree(enter.ROOT, self.tree, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns(".git", "build", "__pycache__"))
        subprocess.run(["chown", "-R", f"{USER}:{USER}", self.tree], check=True)

    def run(self, command, user=USER, folder="/"):
        """Run a command inside. Its exit status, and what it said."""
        def step_inside():
            enter.private_mounts()
            for kind, at in (("proc", "proc"), ("sysfs", "sys")):
                enter.call("mount", kind, self.folder / at, kind, 0, None)
            enter.call("mount", "/dev", self.folder / "dev", None, enter.MS_BIND | enter.MS_REC,
                       None)
            os.chroot(self.folder)
            os.chdir(folder)
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)

        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/home/reader",
                       "TERM": "dumb"}
        done = subprocess.run(["sh", "-c", command], preexec_fn=step_inside, env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def versions(self):
        """What it has: "g++ 14.2.0, clang 19.1.7, Python 3.13.5, strace 6.13"."""
        _, said = self.run("g++ -dumpfullversion; clang -dumpversion; python3 --version; "
                           "strace --version | head -1")
        gcc, clang, python, strace = said.splitlines()[:4]
        return f"g++ {gcc}, clang {clang}, {python}, strace {strace.split()[-1]}"


def commands_of(root, options):
    """What to run there, by name: (command, as which user)."""
    course = "/home/reader/course"
    yield "install", f"cd {course} && sh .ci/install --lint", 0
    if options.compilers:
        for name in COMPILERS[root.release].split():
            compiler = re.sub(r"^clang", "clang++", name)
            yield name, (f"DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "
                         f"--no-install-recommends {name} >/dev/null 2>&1; cd {course}; "
                         + EVERY_SOURCE.format(compiler)), 0
        return
    chosen = {**QUICK, **FULL} if options.full else QUICK
    for name in options.commands or chosen:
        yield name, f"cd {course} && {({**QUICK, **FULL})[name]}", USER


def compiler_table(results):
    """A line for each compiler."""
    rows = [f"| {name} | {machine.partition(':')[0]} | {cell(result)} |\n"
            for (machine, name), result in results.items()]
    return "| compiler | release | result |\n|---|---|---|\n" + "".join(rows)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("release", nargs="*", type=argument.one_of(COMPILERS),
                           default=list(COMPILERS), help="of: " + " ".join(COMPILERS))
    arguments.add_argument("--place", type=pathlib.Path, default="/var/tmp/course-roots")
    arguments.add_argument("--full", action="store_true", help="make test and make compare, too")
    arguments.add_argument("--compilers", action="store_true", help="with every compiler")
    arguments.add_argument("--commands", type=argument.some_of({**QUICK, **FULL}),
                           help="only these: " + ",".join({**QUICK, **FULL}))
    arguments.add_argument("--write", action="store_true", help="put the table into README.md")
    options = arguments.parse_args()
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        print("needs root and debootstrap: apt-get install debootstrap", file=sys.stderr)
        return enter.SKIPPED

    results, failed = {}, 0
    for release in options.release:
        root = Root(release, options.place)
        root.make()
        root.lay()
        machine = release
        for name, command, user in commands_of(root, options):
            started = time.monotonic()
            status, said = root.run(command, user)
            log = enter.ROOT / "build" / "machines" / release / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(said, encoding="utf-8")
            outcome, text = judge(release, name, status, said)
            if name == "install" and status == 0:
                machine = f"{release}: {root.versions()}"
                continue
            failed += outcome == "FAIL"
            seconds = time.monotonic() - started
            results[machine, name] = Result(outcome, text, seconds)
            print(f"{outcome:7} {release:9} {name:8} {seconds:4.0f} s  {text}", flush=True)
    if options.write:
        if options.compilers:
            write("compilers", compiler_table(results))
        else:
            write("roots", table(results))
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    runner.main(main)
