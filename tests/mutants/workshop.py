"""Where mutants are compiled. What they leave as it is, make compiles, as for everyone else."""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

from tests.harness.course import CXX
from tests.mutants.mutant import ROOT

TEST_FLAGS = ["-std=c++20", "-O0", "-pthread"]  # to compile takes longer than to run
SERVER_FLAGS = ["-std=c++20", "-O1", "-pthread"]
LIBRARY = "07-evloop/evloop.cpp"
UNIT = ROOT / "tests" / "loop" / "unit"
SUPPORT = [f"tests/loop/unit/{name}.cpp" for name in ("fake_kernel", "loop_fixture", "allocations")]
SIM = [f"tests/loop/sim/{name}.cpp" for name in ("kernel", "sim")]
PROGRAMS = {"07-evloop": "07-evloop/server.cpp", "07-http": "07-evloop/http.cpp",
            "07-client": "07-evloop/client.cpp"}
OFTEN = 4  # mutants of one source, for which it pays to compile its system headers in advance


class Workshop:
    """A folder for trees, objects and programs, within a `with` block. Any thread may build.

    It is opened for some mutants. `build` is where make keeps what it makes.
    """

    def __init__(self, mutants, build):
        self.mutants = mutants
        self.folder = tempfile.TemporaryDirectory(prefix="mutants-",
                                                  ignore_cleanup_errors=True)
        self.place = pathlib.Path(self.folder.name)
        # With SAN, `build` has sanitizers in everything. A mutant has those of its own Flags.
        self.build = str(self.place / "build") if os.environ.get("SAN") else \
            os.path.relpath(build, ROOT)
        self.locks, self.locks_lock = {}, threading.Lock()
        self.needed, self.often = {}, set()

    def __enter__(self):
        """Have make bring up to date what it makes, and see who is changed how often."""
        of_mutants = [(mutant, source) for mutant in self.mutants if mutant.stage == 7
                      for source in sources_of(mutant)]
        objects = sorted({self.of_make(source) for _, source in of_mutants})
        if objects:
            make(*objects, f"B={self.build}", "SAN=")
        times = collections.Counter(source for mutant, source in of_mutants
                                    if self.changes(mutant, source))
        self.often = {source for source in times if times[source] >= OFTEN}
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def tree(self, mutant):
        """A copy of the mutant's stage, with its patch. Made once."""
        tree = self.place / f"{mutant.stage}-{mutant.name}"
        with self.lock(tree):
            if not tree.exists():
                mutant.make(tree)
        return tree

    def home(self, mutant, extra):
        """The folder for what is made of a mutant, or of none."""
        return self.tree(mutant) if mutant else self.place / "-".join(["whole", *extra])

    # Programs. `extra` is what a mutant has in its head behind "Flags:".

    def server(self, mutant):
        """The stage's server with the patch, as a path."""
        return str(self.program(sources_of_server(mutant), mutant, SERVER_FLAGS, mutant.flags))

    def tests(self, test, mutant, extra):
        """The simulator ("sim"), or a program that has this unit test; whole without a mutant.

        For a script ("tests.loop.test_http.Idle.test_...") a folder with the programs of stage 7.
        """
        if is_script(test):
            return self.programs(mutant, extra)
        libraries = ["@tests/loop/sim/link.opts"] if test == "sim" else \
            ["@tests/loop/unit/link.opts", "-lgtest", "-lgtest_main"]
        return self.program(sources_of_test(test), mutant, TEST_FLAGS, extra, libraries)

    def programs(self, mutant, extra):
        """The programs of stage 7, in a folder that stands for build/."""
        folder = self.home(mutant, extra) / "build"
        for name, source in PROGRAMS.items():
            program = self.program([LIBRARY, source], mutant, TEST_FLAGS, extra)
            with self.lock(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / name).exists():
                    (folder / name).symlink_to(program)
        return folder

    def program(self, sources, mutant, flags, extra, libraries=()):
        """Compile what has to be, and link. Once for the same sources and mutant."""
        if mutant and not any(self.changes(mutant, source) for source in sources):
            mutant = None
        program = self.home(mutant, extra) / "programs" / pathlib.Path(sources[-1]).stem
        with self.lock(program):
            if not program.exists():
                objects = [self.object(source, mutant, flags, extra) for source in sources]
                compiler(program, [*flags, *extra, *map(str, objects), *libraries])
        return program

    # Objects

    def object(self, source, mutant, flags, extra):
        """An object file: make's, unless the patch may have changed it, or it has other flags."""
        own = bool(mutant) and self.changes(mutant, source)
        if not own and not (extra and source.startswith("07-evloop/")):
            return self.of_make(source)
        tree = self.tree(mutant) if own else ROOT
        name = re.sub(r"\W", "-", " ".join([source, *flags])) + ".o"
        to = self.home(mutant if own else None, extra) / "objects" / name
        with self.lock(to):
            if not to.exists():
                of_tree = (tree / source).exists()  # the tests are not copied, only the stage is
                compiler(to, [*flags, *extra, *self.headers(source, flags, extra), f"-I{tree}",
                              f"-I{ROOT}", f"-I{UNIT}", "-c",
                              str((tree if of_tree else ROOT) / source)])
        return to

    def headers(self, source, flags, extra):
        """What names the compiled system headers of a source that many mutants change."""
        if source not in self.often or flags != TEST_FLAGS or extra:
            return []
        header = self.place / "headers" / (re.sub(r"\W", "-", source) + ".h")
        with self.lock(header):
            if not header.exists():
                texts = [(ROOT / name).read_text("utf-8") for name in self.needs(source)]
                lines = set(re.findall(r"^#include <.*", "\n".join(texts), re.M))
                header.parent.mkdir(exist_ok=True)
                header.write_text("\n".join(sorted(lines)) + "\n", "utf-8")
                compiler(header.with_name(header.name + ".gch"),
                         [*flags, "-x", "c++-header", str(header)])
        return ["-include", str(header)]

    def changes(self, mutant, source):
        """Would another object come of this source?"""
        return mutant.stage != 7 or not self.needs(source).isdisjoint(mutant.changed)

    def needs(self, source):
        """The files of the repository that this one is compiled from, as make has noted them."""
        if source not in self.needed:
            noted = (ROOT / self.of_make(source)).with_suffix(".d").read_text("utf-8")
            names = noted.replace("\\\n", " ").splitlines()[0].partition(": ")[2].split()
            self.needed[source] = {os.path.normpath(name) for name in names}
        return self.needed[source]

    def of_make(self, source):
        """Where make puts the object of a source."""
        return f"{self.build}/obj/{source.removesuffix('.cpp')}.o"

    def lock(self, path):
        """The lock of a file, so that two threads do not make it at once."""
        with self.locks_lock:
            return self.locks.setdefault(path, threading.RLock())


def make(*arguments):
    """Run make, as if it were not run by another one, and say so if it has much to do."""
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}

    def run(*options):
        return subprocess.run(["make", *options, *arguments], cwd=ROOT, env=environment,
                              capture_output=True, encoding="utf-8", errors="replace")

    if run("--question").returncode == 0:
        return
    print("First make compiles what no mutant changes ...", file=sys.stderr, flush=True)
    done = run("--silent")
    if done.returncode != 0:
        raise SystemExit("what the mutants are made of does not build:\n" + done.stderr[:2000])


def compiler(to, arguments):
    """Run the compiler; what it says is the exception when it fails."""
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(to.name + ".partial")
    done = subprocess.run([*CXX, *arguments, "-o", str(partial)], cwd=ROOT, capture_output=True,
                          encoding="utf-8", errors="replace")
    if done.returncode != 0:
        raise RuntimeError("it does not build:\n" + done.stderr[:2000])
    partial.rename(to)


def is_script(test):
    """Is it a test in Python, which starts the programs?"""
    return test.startswith("tests.")


def sources_of(mutant):
    """All that may be compiled for it."""
    return {*(source for test in mutant.tests for source in sources_of_test(test)),
            *(sources_of_server(mutant) if mutant.rows else [])}


def sources_of_server(mutant):
    """Of its stage's server."""
    return [*([LIBRARY] if mutant.stage == 7 else []), f"{mutant.folder}/server.cpp"]


def sources_of_test(test):
    """Of the program that it is in, which has the name of the last; of all that a script starts."""
    if is_script(test):
        return [LIBRARY, *PROGRAMS.values()]
    return [LIBRARY, *SIM] if test == "sim" else [LIBRARY, *SUPPORT, file_of(test)]


def file_of(test):
    """The file that has TEST_F(Suite, Name) of "Suite.Name" or "Prefix/Suite.Name/0"."""
    suite, name = re.sub(r"^.*/(?=.*\.)|/\d+$", "", test).split(".")
    pattern = re.compile(r"TEST(_F|_P)?\(\s*%s,\s*%s\)" % (suite, name))
    for path in sorted(UNIT.glob("*_test.cpp")):
        if pattern.search(path.read_text("utf-8")):
            return str(path.relative_to(ROOT))
    raise RuntimeError(f"there is no test {test}")
