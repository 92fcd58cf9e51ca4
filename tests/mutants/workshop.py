"""Where mutants are compiled. What they leave as it is, make compiles, as for everyone else."""

import contextlib
import fcntl
import os
import pathlib
import re
import subprocess
import sys

from tests.harness.course import CXX
from tests.mutants.mutant import ROOT

FLAGS = ["-std=c++20", "-O0", "-pthread"]  # to compile takes longer than to run
LIBRARY = "07-evloop/evloop.cpp"
UNIT = ROOT / "tests" / "loop" / "unit"
SUPPORT = [f"tests/loop/unit/{name}.cpp" for name in ("fake_kernel", "loop_fixture", "allocations")]
SIM = [f"tests/loop/sim/{name}.cpp" for name in ("kernel", "sim")]
PROGRAMS = {"07-evloop": "07-evloop/server.cpp", "07-http": "07-evloop/http.cpp",
            "07-client": "07-evloop/client.cpp"}
MANY = 10  # mutants, for which it pays to compile the system's headers in advance


class Workshop:
    """A folder for the trees, objects and programs of some mutants. Any process may build in it.

    `build` is where make keeps what it makes.
    """

    def __init__(self, place, mutants, build):
        self.place = pathlib.Path(place)
        # With SAN, `build` has sanitizers in everything. A mutant has those of its own Flags.
        self.build = str(self.place / "build") if os.environ.get("SAN") else \
            os.path.relpath(build, ROOT)
        sources = set().union(*map(sources_of, mutants))
        make(*sorted(map(self.of_make, sources)), f"B={self.build}", "SAN=")
        self.needs = {source: self.noted(source) for source in sources}
        self.headers = {}  # {is it of a test: what includes the system's headers}
        if len(mutants) >= MANY:
            self.headers = {of_test: self.compile_headers(of_test)
                            for of_test in set(map(is_of_test, sources))}

    def tree(self, mutant):
        """A copy of the mutant's stage, with its patch. Made once."""
        tree = self.place / f"{mutant.stage}-{mutant.name}" / "tree"
        with missing(tree) as is_missing:
            if is_missing:
                mutant.make(tree)
        return tree

    def home(self, mutant, extra):
        """The folder for what is made of a mutant, or of none."""
        return self.tree(mutant).parent if mutant else self.place / "-".join(["whole", *extra])

    # Programs. `extra` is what a mutant has in its head behind "Flags:".

    def server(self, mutant):
        """The stage's server with the patch, as a path."""
        return str(self.program(sources_of_server(mutant), mutant, mutant.flags))

    def tests(self, test, mutant, extra):
        """The simulator ("sim"), or a program that has this unit test; whole without a mutant.

        For a script ("tests.loop.test_http.Idle.test_...") a folder with the programs of stage 7.
        """
        if is_script(test):
            return self.programs(mutant, extra)
        libraries = ["@tests/loop/sim/link.opts"] if test == "sim" else \
            ["@tests/loop/unit/link.opts", "-lgtest", "-lgtest_main"]
        return self.program(sources_of_test(test), mutant, extra, libraries)

    def programs(self, mutant, extra):
        """The programs of stage 7, in a folder that stands for build/."""
        folder = self.home(mutant, extra) / "build"
        for name, source in PROGRAMS.items():
            program = self.program([LIBRARY, source], mutant, extra)
            with missing(folder / name) as is_missing:
                if is_missing:
                    (folder / name).symlink_to(program)
        return folder

    def program(self, sources, mutant, extra, libraries=()):
        """Compile what has to be, and link. Once for the same sources and mutant."""
        if mutant and not any(self.changes(mutant, source) for source in sources):
            mutant = None
        program = self.home(mutant, extra) / "programs" / pathlib.Path(sources[-1]).stem
        with missing(program) as is_missing:
            if is_missing:
                objects = [self.object(source, mutant, extra) for source in sources]
                compiler(program, [*FLAGS, *extra, *map(str, objects), *libraries])
        return program

    # Objects

    def object(self, source, mutant, extra):
        """An object file: make's, unless the patch may have changed it, or it has other flags."""
        own = bool(mutant) and self.changes(mutant, source)
        if not own and not (extra and not is_of_test(source)):
            return self.of_make(source)
        tree = self.tree(mutant) if own else ROOT
        to = self.home(mutant if own else None, extra) / "objects" / f"{source}.o"
        with missing(to) as is_missing:
            if is_missing:
                # Other flags are not those that the headers were compiled for.
                headers = [] if extra else self.headers.get(is_of_test(source), [])
                of_tree = (tree / source).exists()  # the tests are not copied, only the stage is
                compiler(to, [*FLAGS, *extra, *headers, f"-I{tree}", f"-I{ROOT}", f"-I{UNIT}",
                              "-c", str((tree if of_tree else ROOT) / source)])
        return to

    def compile_headers(self, of_test):
        """Compile all headers of the system that its sources need; returns what includes them."""
        needs = (self.needs[source] for source in self.needs if is_of_test(source) == of_test)
        texts = [(ROOT / name).read_text("utf-8") for name in set().union(*needs)]
        lines = set(re.findall(r"^#include <.*", "\n".join(texts), re.M))
        header = self.place / ("tests.h" if of_test else "servers.h")
        header.write_text("\n".join(sorted(lines)) + "\n", "utf-8")
        compiler(pathlib.Path(f"{header}.gch"), [*FLAGS, "-x", "c++-header", str(header)])
        return ["-include", str(header)]

    def changes(self, mutant, source):
        """Would another object come of this source?"""
        return not self.needs[source].isdisjoint(mutant.changed)

    def noted(self, source):
        """The files of the repository that a source is compiled from, as make has noted them."""
        text = (ROOT / self.of_make(source)).with_suffix(".d").read_text("utf-8")
        names = text.replace("\\\n", " ").splitlines()[0].partition(": ")[2].split()
        return {os.path.normpath(name) for name in names}

    def of_make(self, source):
        """Where make puts the object of a source."""
        return f"{self.build}/obj/{source.removesuffix('.cpp')}.o"


@contextlib.contextmanager
def missing(path):
    """Is it not there yet? Until the block is left, no other process can think so, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


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


def is_of_test(source):
    """Is it of a test, and so the same for each mutant, but for the headers that it includes?"""
    return source.startswith("tests/")


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
