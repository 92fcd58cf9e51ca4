#!/usr/bin/env python3
"""Fuzz both codecs and the server of stage 07, guided by coverage. This is `make fuzz`.

    python3 -m tests.loop.fuzz --minutes 10  all fuzzers, each for its share of the time
    python3 -m tests.loop.fuzz --replay      no libFuzzer: every input of the corpus once
    python3 -m tests.loop.fuzz --planted     copies of the code with a fault each: all are found

What a fuzzer finds is kept in build/fuzz/, with the command that shows it again.
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

from tests import harness
from tests.harness import runner

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = {"frame": ["tests/loop/fuzz/frame_fuzz.cpp"],
           "http": ["tests/loop/fuzz/http_fuzz.cpp"],
           "server": ["tests/loop/fuzz/server_fuzz.cpp", "07-evloop/evloop.cpp",
                      "@tests/loop/fuzz/link.opts"]}
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
FLAGS = ["-std=c++20", "-O1", "-g", "-I.", "-pthread", "-fno-sanitize-recover=undefined"]
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=400", "-len_control=20"]
PLANTED_SECONDS = 120
LARGEST_CORPUS = 60  # files: it is replayed in every `make test`
INSTALL = "apt-get install clang libclang-rt-dev"

# Fuzzer, what is wrong, file, the line, what becomes of it.
PLANTED = [
    ("frame", "a payload one byte too long is taken", "07-evloop/frame.h",
     "if (length > max_frame_payload)", "if (length > max_frame_payload + 1)"),
    ("frame", "a frame without its last byte is taken", "07-evloop/frame.h",
     "if (bytes.size() - frame_header_size < length)",
     "if (bytes.size() - frame_header_size + 1 < length)"),
    ("frame", "the length is read as signed bytes", "07-evloop/frame.h",
     "static_cast<unsigned char>(byte)", "static_cast<std::uint32_t>(byte)"),
    ("frame", "the magic is looked at when it is whole", "07-evloop/frame.h",
     "if (magic != frame_magic.substr(0, magic.size()))",
     "if (magic.size() == 4 && magic != frame_magic)"),
    ("http", "the last of two lengths counts", "07-evloop/http.h",
     "if (length_seen_ || value.empty()", "if (value.empty()"),
    ("http", "a length may have a sign", "07-evloop/http.h",
     "std::from_chars(value.data(), end, request_.body_size)",
     "std::from_chars(value.data() + value.starts_with('+'), end, request_.body_size)"),
    ("http", "a space before the colon is no matter", "07-evloop/http.h",
     "if (!is_token(field.name)) return {};", "if (!is_token(trim(field.name))) return {};"),
    ("http", "a control character is part of a value", "07-evloop/http.h",
     "if (std::ranges::any_of(field.value, is_control)) return {};", ""),
    ("http", "only a whole option closes, and not one in a list", "07-evloop/http.h",
     "std::string_view element = trim(list.substr(0, comma));",
     "std::string_view element = trim(list);"),
    ("http", "a port may be anything", "07-evloop/uri.h",
     "std::ranges::all_of(*authority.port, is_digit)", "true"),
    ("http", "an address in brackets may be anything", "07-evloop/uri.h",
     "if (!host.starts_with('['))", "if (true)"),
    ("http", "a host may have any character", "07-evloop/uri.h",
     "if (!port_fits || !is_host(authority.host)) return {};", "if (!port_fits) return {};"),
    ("http", "a body with a length may come in chunks as well", "07-evloop/http.h",
     "(old_ || length_seen_ || !request_.chunked)", "(old_ || !request_.chunked)"),
    ("http", "a coding follows \"chunked\"", "07-evloop/http.h",
     "return follows ? 400 : 0;", "return 0;"),
    ("http", "behind a chunk there may be anything", "07-evloop/http.h",
     "return line.empty();", "return true;"),
    ("http", "the lines behind the last chunk belong to the next request", "07-evloop/http.h",
     "next_ = left_ == 0 ? Part::trailer : Part::data;",
     "next_ = left_ == 0 ? Part::nothing : Part::data;"),
    ("http", "a head may go on for ever", "07-evloop/http.h",
     "if (request.status == 0 && full)", "if (false && full)"),
    ("server", "a frame is answered and not consumed", "07-evloop/server.cpp",
     "conn.consume(done);", ""),
    ("server", "only the header of a frame is consumed", "07-evloop/server.cpp",
     "conn.consume(done);", "conn.consume(std::min(done, frame_header_size));"),
    ("server", "what was sent stays in the queue", "07-evloop/connection.h",
     "out_.consume(send_some(out_.view()))", "out_.consume(send_some(out_.view()) / 2)"),
    ("server", "a refused client is not closed", "07-evloop/server.cpp",
     '"frame too long");\n        conn.close();', '"frame too long");'),
    ("server", "memory for a message that was only begun", "07-evloop/connection.h",
     "chunk.reserve(chunk_size);", "chunk.reserve(shared_.limits.max_input);"),
    ("server", "the end of the input closes before the output is sent", "07-evloop/connection.h",
     "phase_ != Phase::open && out_.empty()) finish();", "phase_ != Phase::open) finish();"),
]


def build(name, program, folder=ROOT, fuzzing=True):
    """Compile a fuzzer; without `fuzzing`, the program that only replays."""
    command = ["clang++", *FLAGS, "-fsanitize=fuzzer,address,undefined"] if fuzzing else \
        [*harness.CXX, *FLAGS, "-fsanitize=address,undefined",
         "tests/loop/fuzz/replay.cpp"]
    done = subprocess.run([*command, *WARNINGS, *SOURCES[name], "-o", str(program)], cwd=folder,
                          capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        raise harness.Fail(f"it does not build:\n{done.stderr}")
    return program


def up_to_date(program):
    """Is it there, and newer than everything that it may be made of?"""
    sources = [path for part in ("07-evloop", "common", "tests/loop/fuzz")
               for path in (ROOT / part).iterdir() if path.is_file()]
    return program.exists() and program.stat().st_mtime > max(
        path.stat().st_mtime for path in [*sources, pathlib.Path(__file__)])


def missing():
    """What to install, or ''."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "empty.cpp"
        source.write_text('extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long)'
                          " { return 0; }\n", encoding="utf-8")
        command = ["clang++", "-fsanitize=fuzzer,address,undefined", str(source),
                   "-o", str(source.with_suffix(""))]
        try:
            done = subprocess.run(command, capture_output=True)
        except FileNotFoundError:
            return INSTALL
        return INSTALL if done.returncode else ""


class Fuzzer:
    """A fuzzer at work, in a folder of its own."""

    def __init__(self, program, folder, seconds, corpus):
        found = folder / "corpus"
        found.mkdir(parents=True, exist_ok=True)
        command = [str(program), *LIMITS, f"-max_total_time={seconds}", "-print_final_stats=1",
                   f"-artifact_prefix={folder}/", str(found), *map(str, corpus)]
        self.program, self.folder = program, folder
        self.last, self.text = "", []
        self.process = subprocess.Popen(command, encoding="utf-8", errors="replace", cwd=ROOT,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        preexec_fn=lambda: harness.die_with_parent(STARTER))

    def work(self, progress):
        """Until it has found something or its time is up. True if nothing was found."""
        shown = time.monotonic()
        try:
            for line in self.process.stderr:
                self.text = (self.text + [line])[-400:]
                if match := re.match(r"#(\d+)\s.*cov: (\d+) .*exec/s: (\d+)", line):
                    self.last = "{:,} inputs, {} places reached, {} a second".format(
                        *map(int, match.groups()))
                if time.monotonic() - shown > 1:
                    shown = time.monotonic()
                    progress(self.last)
            return self.process.wait() == 0
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stderr.close()

    def executed(self):
        """How many inputs it has tried."""
        found = re.search(r"stat::number_of_executed_units:\s+(\d+)", "".join(self.text))
        return int(found[1]) if found else 0

    def finding(self):
        """What it has found, and the file that shows it."""
        text = "".join(self.text)
        what = re.search(r"FAILURE: .*|SUMMARY: .*|.*runtime error: .*|.*ERROR: .*", text)
        path = re.search(r"Test unit written to (\S+)", text)
        return (what[0] if what else text[-500:].strip()), (path[1] if path else None)


def corpus_of(name):
    """The folder with the kept inputs."""
    return ROOT / "tests/loop/fuzz" / f"corpus-{name}"


def say(text):
    """A line that stays, over the one of the progress."""
    print(("\r\033[K" if sys.stderr.isatty() else "") + text, flush=True)


def progress_of(name):
    """A function that shows how far a fuzzer is: on a terminal on one line, else now and then."""
    started = last = time.monotonic()

    def show(text):
        nonlocal last
        now = time.monotonic()
        line = f"{name}: {now - started:.0f} s, {text or 'begins'}"
        if sys.stderr.isatty():
            print(f"\r\033[K{line[:99]}", end="", file=sys.stderr, flush=True)
        elif now - last > 30:
            last = now
            print(line, flush=True)
    return show


def fuzz(minutes, build_folder, update):
    """All fuzzers, each for its share of the time."""
    failed = 0
    for name in SOURCES:
        folder = build_folder / name
        shutil.rmtree(folder / "corpus", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        program = build(name, folder / "fuzzer")
        fuzzer = Fuzzer(program, folder, int(minutes * 60 / len(SOURCES)), [corpus_of(name)])
        if fuzzer.work(progress_of(name)):
            say(f"ok    {name}: {fuzzer.executed():,} inputs, nothing found")
            if update:
                keep(name, program, folder)
        else:
            failed += 1
            what, path = fuzzer.finding()
            say(f"FAIL  {name}: {what}")
            if path:
                print(f"      see it again: {shlex.join([str(program), path])}")
    print(f"{len(SOURCES) - failed} passed, {failed} failed")
    return failed


def keep(name, program, folder):
    """Make the kept corpus anew: the fewest inputs that reach every place in the code."""
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    subprocess.run([str(program), "-set_cover_merge=1", "-use_counters=0", "-max_len=400",
                    str(merged), str(folder / "corpus"), str(corpus_of(name))], check=True,
                   capture_output=True, cwd=ROOT)
    shutil.rmtree(corpus_of(name), ignore_errors=True)
    corpus_of(name).mkdir()
    for path in merged.iterdir():
        shutil.copy(path, corpus_of(name) / path.name[:12])
    say(f"      {name}: {len(list(corpus_of(name).iterdir()))} inputs kept")


def replay(build_folder):
    """Every input of the corpus, with g++ and its sanitizers."""
    passed = failed = 0
    for name in SOURCES:
        program = build_folder / f"replay-{name}"
        if not up_to_date(program):
            say(f"      {name}: building {program}")
            program.parent.mkdir(parents=True, exist_ok=True)
            build(name, program, fuzzing=False)
        files = sorted(map(str, corpus_of(name).iterdir()))
        if not 0 < len(files) <= LARGEST_CORPUS:
            say(f"FAIL  {name}: {len(files)} inputs, expected 1 to {LARGEST_CORPUS}")
            failed += 1
        while files:  # an input that fails ends the program: go on behind it
            done = subprocess.run([str(program), *files], capture_output=True, encoding="utf-8",
                                  errors="replace", timeout=300)
            tried = [line for line in done.stdout.splitlines() if line in files]
            if done.returncode == 0 and len(tried) == len(files):
                passed += len(files)
                break
            failed += 1
            passed += max(0, len(tried) - 1)
            end = "\n      ".join(done.stderr.strip().splitlines()[:12])
            say(f"FAIL  {name}: {tried[-1] if tried else 'does not begin'}\n      {end}")
            if not tried or done.returncode == 0 or len(tried) == len(files):
                break
            files = files[len(tried):]
    print(f"{passed} passed, {failed} failed")
    return failed


def planted(build_folder, only):
    """Each planted fault is found within two minutes, from nothing: without the kept corpus."""
    passed = failed = 0
    for name, what, path, line, fault in PLANTED:
        if only and only not in what:
            continue
        with tempfile.TemporaryDirectory() as place:
            copy = pathlib.Path(place)
            for part in ("07-evloop", "common", "tests/loop/fuzz"):
                shutil.copytree(ROOT / part, copy / part)
            text = (copy / path).read_text(encoding="utf-8")
            if text.count(line) != 1:
                found, how = False, f"{path} does not have it once: {line}"
            else:
                (copy / path).write_text(text.replace(line, fault), encoding="utf-8")
                program = build(name, copy / "fuzzer", copy)
                fuzzer = Fuzzer(program, copy / "found", PLANTED_SECONDS, [])
                started = time.monotonic()
                found = not fuzzer.work(progress_of(what))
                how = f"{time.monotonic() - started:.0f} s: {fuzzer.finding()[0]}" if found else \
                    f"not found, {fuzzer.executed():,} inputs"
        say(f"{'ok  ' if found else 'FAIL'}  {name}: {what}: {how}")
        passed, failed = passed + found, failed + (not found)
    print(f"{passed} passed, {failed} failed")
    return failed


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=2, help="for all together (default 2)")
    arguments.add_argument("--build", default=harness.BUILD, help="where the programs go")
    arguments.add_argument("--replay", action="store_true", help="only the kept inputs, with g++")
    arguments.add_argument("--planted", nargs="?", const="", default=None, metavar="WORDS",
                           help="faults that were put in (those with WORDS) must be found")
    arguments.add_argument("--update", action="store_true", help="make the kept corpus anew")
    options = arguments.parse_args()
    folder = pathlib.Path(options.build).resolve() / "fuzz"
    try:
        if options.replay:
            return 1 if replay(folder) else 0
        if tool := missing():
            print(f"libFuzzer is missing: {tool}", file=sys.stderr)
            return 1
        if options.planted is not None:
            return 1 if planted(folder, options.planted) else 0
        return 1 if fuzz(options.minutes, folder, options.update) else 0
    except harness.Fail as fail:
        print(fail)
        print("0 passed, 1 failed")
        return 1


STARTER = os.getpid()

if __name__ == "__main__":
    runner.main(main)
