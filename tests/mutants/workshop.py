"""Where mutants are compiled: what a mutant leaves as it is, is compiled once for all."""

import os
import pathlib
import re
import subprocess
import tempfile
import threading

from tests.mutants.mutant import ROOT

CXX = os.environ.get("CXX", "g++")
# Without optimisation a test is built faster. With the sanitizer, memory that is used after it was
# freed fails the test, and that is not a matter of luck.
TEST_FLAGS = ["-std=c++20", "-O0", "-g1", "-pthread", "-fsanitize=address"]
SERVER_FLAGS = ["-std=c++20", "-O1", "-pthread"]
LIBRARY = "07-evloop/evloop.cpp"
UNIT = ROOT / "tests" / "loop" / "unit"
SUPPORT = [f"tests/loop/unit/{name}.cpp" for name in ("fake_kernel", "loop_fixture", "allocations")]
SIM = ["tests/loop/sim/sim.cpp", "tests/loop/sim/kernel.cpp"]
PROGRAMS = {"07-evloop": "server", "07-http": "http", "07-client": "client"}


class Workshop:
    """A folder for trees, objects and programs, within a `with` block. Any thread may build."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="mutants-",
                                                  ignore_cleanup_errors=True)
        self.place = pathlib.Path(self.folder.name)
        self.locks, self.locks_lock = {}, threading.Lock()
        self.needed = {}  # source: the files that it is compiled from

    def __enter__(self):
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

    def server(self, mutant):
        """The stage's server with the patch, as a path."""
        sources = [f"{mutant.folder}/server.cpp", *([LIBRARY] if mutant.stage == 7 else [])]
        return str(self.program(sources, [*SERVER_FLAGS, *mutant.flags], [], mutant))

    def tests(self, test, mutant=None):
        """The simulator ("sim"), or a program that has this unit test; of ROOT without a mutant.

        For a script ("tests.loop.test_http.Idle.test_...") a folder with the programs of stage 7.
        """
        if is_script(test):
            return self.programs(mutant)
        if test == "sim":
            return self.program([LIBRARY, *SIM], TEST_FLAGS, ["@tests/loop/sim/link.opts"], mutant)
        libraries = ["@tests/loop/unit/link.opts", "-lgtest", "-lgtest_main"]
        return self.program([LIBRARY, file_of(test), *SUPPORT], TEST_FLAGS, libraries, mutant)

    def programs(self, mutant):
        """The programs of stage 7, in a folder that stands for build/."""
        made = {name: self.program([LIBRARY, f"07-evloop/{source}.cpp"], TEST_FLAGS, [], mutant)
                for name, source in PROGRAMS.items()}
        folder = made["07-http"].parent / "build"
        with self.lock(folder):
            folder.mkdir(exist_ok=True)
            for name, program in made.items():
                if not (folder / name).exists():
                    (folder / name).symlink_to(program)
        return folder

    def program(self, sources, flags, libraries, mutant):
        """Compile what has to be, and link. Once for the same sources and mutant."""
        tree = self.tree(mutant) if mutant else self.place / "whole"
        program = tree / "programs" / pathlib.Path(sources[1 if len(sources) > 1 else 0]).stem
        with self.lock(program):
            if not program.exists():
                objects = [self.object(source, flags, mutant) for source in sources]
                compiler(program, [*flags, *map(str, objects), *libraries])
        return program

    def object(self, source, flags, mutant):
        """An object file: the mutant's own one if the patch may have changed it."""
        own = bool(mutant) and not self.needs(source).isdisjoint(mutant.changed)
        tree = self.tree(mutant) if own else ROOT
        name = re.sub(r"\W", "-", " ".join([source, *flags])) + ".o"
        to = (tree if own else self.place) / "objects" / name
        with self.lock(to):
            if not to.exists():
                of_tree = (tree / source).exists()  # the tests are not copied, only the stage is
                compiler(to, [*flags, f"-I{tree}", f"-I{ROOT}", f"-I{UNIT}", "-c",
                              str((tree if of_tree else ROOT) / source)])
        return to

    def needs(self, source):
        """The files of the repository that this one is compiled from, itself among them."""
        with self.lock(self.place / "needs" / source):
            if source not in self.needed:
                done = subprocess.run([CXX, "-std=c++20", "-MM", "-I.", f"-I{UNIT}", source],
                                      cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
                names = done.stdout.replace("\\\n", " ").partition(":")[2].split()
                self.needed[source] = {os.path.relpath(ROOT / name, ROOT) for name in names}
        return self.needed[source]

    def lock(self, path):
        """The lock of a file, so that two threads do not make it at once."""
        with self.locks_lock:
            return self.locks.setdefault(path, threading.RLock())


def is_script(test):
    """Is it a test in Python, which starts the programs?"""
    return test.startswith("tests.")


def compiler(to, arguments):
    """Run the compiler; what it says is the exception when it fails."""
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(to.name + ".partial")
    done = subprocess.run([CXX, *arguments, "-o", str(partial)], cwd=ROOT, capture_output=True,
                          encoding="utf-8", errors="replace")
    if done.returncode != 0:
        raise RuntimeError("it does not build:\n" + done.stderr[:2000])
    partial.rename(to)


def file_of(test):
    """The file that has TEST_F(Suite, Name) of "Suite.Name" or "Prefix/Suite.Name/0"."""
    suite, name = re.sub(r"^.*/(?=.*\.)|/\d+$", "", test).split(".")
    pattern = re.compile(r"TEST(_F|_P)?\(\s*%s,\s*%s\)" % (suite, name))
    for path in sorted(UNIT.glob("*_test.cpp")):
        if pattern.search(path.read_text("utf-8")):
            return str(path.relative_to(ROOT))
    raise RuntimeError(f"there is no test {test}")
