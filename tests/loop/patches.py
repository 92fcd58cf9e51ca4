#!/usr/bin/env python3
"""Shows that each test fails without what it tests.

Every file in patches/ is a few-line change of the library that takes one promise away. Its first
lines name the test that catches it, and say what a user would see:

    Test: ConnTest.DataBeforeResetIsRead        (or "Test: sim", for the simulator)
    What a client sent just before it vanished is lost.

For each: copy the tree, apply the patch, build, run the test. It must fail, with the patch and only
with it. Usage: python3 -m tests.loop.patches [NAME ...] [--keep]
"""

import concurrent.futures
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

from tests.harness import runner

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATCHES = ROOT / "tests" / "loop" / "patches"
UNIT = ROOT / "tests" / "loop" / "unit"
CXX = os.environ.get("CXX", "g++")
# Without optimisation it builds faster. With the sanitizer, memory used after it was freed is a
# failure of the test and not a matter of luck.
FLAGS = ["-std=c++20", "-O0", "-g1", "-I.", "-Itests/loop/unit", "-fsanitize=address"]
LIBRARY = "07-evloop/evloop.cpp"
SUPPORT = [f"tests/loop/unit/{name}.cpp" for name in ("fake_kernel", "loop_fixture", "allocations")]
SIM = ["tests/loop/sim/sim.cpp", "tests/loop/sim/kernel.cpp"]
TRIES = 5  # a race does not show each time
TIMEOUT = 40  # seconds: a test that hangs has failed too

work = pathlib.Path(tempfile.mkdtemp(prefix="patches-"))
locks = {}
locks_lock = threading.Lock()


def compile_file(tree, source, to):
    """An object file of tree/source, or the compiler's words in an exception."""
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_suffix(".partial")
        run = subprocess.run([CXX, *FLAGS, "-c", source, "-o", str(partial)], cwd=tree,
                             capture_output=True, encoding="utf-8")
        if run.returncode != 0:
            raise RuntimeError("does not compile:\n" + run.stderr[:2000])
        partial.rename(to)
    return to


def shared_object(source):
    """The same, of the tree as it is; built once for all patches that leave headers alone."""
    to = work / "objects" / (source.replace("/", "-") + ".o")
    with locks_lock:
        lock = locks.setdefault(source, threading.Lock())
    with lock:
        return compile_file(ROOT, source, to)


def test_file(test):
    """The file that has TEST_F(Suite, Name) of "Suite.Name" or "Prefix/Suite.Name/0"."""
    suite, name = re.sub(r"^.*/(?=.*\.)|/\d+$", "", test).split(".")
    pattern = re.compile(r"TEST(_F|_P)?\(\s*%s,\s*%s\)" % (suite, name))
    for path in sorted(UNIT.glob("*_test.cpp")):
        if pattern.search(path.read_text(encoding="utf-8")):
            return str(path.relative_to(ROOT))
    raise RuntimeError(f"there is no test {test}")


def build(test, tree, changed):
    """A binary with `test`, of `tree`, in which the files `changed` differ from ROOT."""
    sources = SIM if test == "sim" else [test_file(test), *SUPPORT]
    headers = any(name.endswith(".h") for name in changed)
    objects = []
    for source in [*sources, LIBRARY]:
        if headers or source in changed:
            objects.append(compile_file(tree, source, tree / "objects" / (source + ".o")))
        else:
            objects.append(shared_object(source))
    return link(objects, tree / "objects" / "binary", test == "sim")


def link(objects, binary, sim):
    """The simulator, or the tests that are among the objects."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    options = "tests/loop/sim/link.opts" if sim else "tests/loop/unit/link.opts"
    libraries = [] if sim else ["-lgtest", "-lgtest_main"]
    run = subprocess.run([CXX, *FLAGS, *map(str, objects), "@" + options, *libraries, "-pthread",
                          "-o", str(binary)], cwd=ROOT, capture_output=True, encoding="utf-8")
    if run.returncode != 0:
        raise RuntimeError("does not link:\n" + run.stderr[:2000])
    return binary


def passes(test, binary):
    arguments = ["--runs", "3000"] if test == "sim" else [f"--gtest_filter={test}:{test}/*"]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TEST_FAILSAFE": "4"}
    try:
        run = subprocess.run([str(binary), *arguments], capture_output=True, encoding="utf-8",
                             errors="replace", timeout=TIMEOUT, env=environment)
    except subprocess.TimeoutExpired:
        return False
    if test != "sim" and "[==========] Running 0 tests" in run.stdout:
        raise RuntimeError(f"there is no test {test}")
    return run.returncode == 0


def examine(patch):
    """None if the test fails with this patch and passes without, else what is wrong."""
    test = re.match(r"Test: (\S+)\n", patch.read_text(encoding="utf-8"))
    if not test:
        return "?", "its first line is not \"Test: Suite.Name\""
    test = test[1]
    tree = work / patch.stem
    try:
        for name in ["07-evloop", "common", "tests"]:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        run = subprocess.run(["git", "apply", "-p1", str(patch)], cwd=tree, capture_output=True,
                             encoding="utf-8")
        if run.returncode != 0:
            return test, "it no longer applies: " + run.stderr.strip().replace("\n", "; ")
        changed = re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(encoding="utf-8"), re.M)
        binary = build(test, tree, changed)
        if all(passes(test, binary) for _ in range(TRIES)):
            return test, "the test passes although the promise is broken"
        return test, None
    except RuntimeError as error:
        return test, str(error)
    finally:
        if "--keep" not in sys.argv:
            shutil.rmtree(tree, ignore_errors=True)


@functools.cache
def unpatched(sim):
    """All tests, or the simulator, with the library as it is."""
    tests = [str(path.relative_to(ROOT)) for path in UNIT.glob("*_test.cpp")]
    sources = [LIBRARY, *(SIM if sim else [*tests, *SUPPORT])]
    return link([shared_object(source) for source in sources], work / f"plain-{sim}", sim)


@functools.cache
def without_any(test):
    """Does the test pass on the library as it is? Else its failing proves nothing."""
    return passes(test, unpatched(test == "sim"))


def main():
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    patches = sorted(PATCHES.glob("*.patch"))
    if names:
        patches = [patch for patch in patches if patch.stem in names]
    passed = failed = 0
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for patch, (test, wrong) in zip(patches, pool.map(examine, patches)):
                if wrong is None and not without_any(test):
                    wrong = "the test fails without the patch too"
                passed, failed = passed + (wrong is None), failed + (wrong is not None)
                print(f"{'ok  ' if wrong is None else 'FAIL'} {patch.stem:32} "
                      f"{'caught by ' + test if wrong is None else test + ': ' + wrong}",
                      flush=True)
    finally:
        if "--keep" not in sys.argv:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    runner.main(main)
