"""Which targets, scripts, programs and options there are: for the commands that a page names."""

import contextlib
import os
import re
import shlex
import subprocess


class Index:
    """Which targets, scripts, programs and options there are."""

    def __init__(self, folder):
        self.folder, self.helps, self.found = folder, {}, 0
        self.makefile = (folder / "Makefile").read_text("utf-8")
        self.targets = set(re.findall(r"^([a-z][a-z%-]*-?\d?):", self.makefile, re.M))
        self.sources = "".join(path.read_text("utf-8") for kind in ("py", "h", "cpp")
                               for path in sorted(folder.glob(f"**/*.{kind}"))
                               if "build" not in path.relative_to(folder).parts)

    def problems(self, text):
        """What is wrong with the commands in a piece of code. .found counts the others."""
        if re.fullmatch(r"--[a-z][a-z-]+( \S+)?", text):
            name = text.split()[0][2:]
            return self.judged(re.search(rf'"(--)?{name}"', self.sources), f"no option --{name}")
        return [problem for line in text.replace("\\\n", "").splitlines()
                for words in simple(line) for problem in self.wrong(words)]

    def wrong(self, words):
        """The same of one command without a shell's signs."""
        program, *arguments = words
        if program == "make":
            return [problem for word in arguments
                    for problem in self.judged(self.knows(word), f"make has no {word}")]
        if program.startswith("build/"):
            return self.wrong_program(program, arguments)
        if program != "python3" or not arguments or arguments[0] == "-c":
            return []
        if arguments[0] == "-m":
            return self.wrong_script(f"python3 -m {arguments[1]}", arguments[1].replace(".", "/"),
                                     arguments[2:])
        return self.wrong_script(f"python3 {arguments[0]}", arguments[0], arguments[1:])

    def judged(self, found, problem):
        """The problem, in a list, unless it is none."""
        self.found += bool(found)
        return [] if found else [problem]

    def knows(self, word):
        """Is there such a target or variable?"""
        if "=" in word:
            return re.search(rf"\b{word.split('=')[0]}\b", self.makefile)
        if word.startswith(("-", "build/")):
            return True
        return word in self.targets or re.sub(r"-(\d|N)$", "-%", word) in self.targets

    def wrong_program(self, program, arguments):
        """A program that make has built has these options. Others are a reader's own."""
        done = subprocess.run(["make", "-rn", program], cwd=self.folder, capture_output=True,
                              encoding="utf-8", errors="replace", check=False,
                              env={**os.environ, "LC_ALL": "C"})
        if re.search("No rule to make|Nothing to be done", done.stdout + done.stderr):
            return []
        self.found += 1
        built = (self.folder / program).exists()
        return self.wrong_options(f"./{program}", arguments) if built else []

    def wrong_script(self, command, path, arguments):
        """A script is in the repository, and has these options."""
        found = [self.folder / (path + end) for end in ("", ".py", "/__main__.py")]
        if problem := self.judged(any(f.is_file() for f in found), f"{command}: no such script"):
            return problem
        if command.endswith("tests.mutants"):
            return [problem for word in arguments if re.match("[a-z-]+$", word) for problem in
                    self.judged(list(self.folder.glob(f"tests/mutants/**/{word}.patch")) or
                                word == "library", f"no mutant {word}")]
        return self.wrong_options(command, arguments)

    def wrong_options(self, command, arguments):
        """Its --help names these options."""
        options = [word.split("=")[0] for word in arguments if re.match(r"--[a-z]", word)]
        if not options:
            return []
        if command not in self.helps:
            done = subprocess.run([*command.split(), "--help"], cwd=self.folder, encoding="utf-8",
                                  capture_output=True, check=False)
            self.helps[command] = done.stdout + done.stderr
        return [problem for option in options for problem in
                self.judged(re.search(rf"{option}(?![\w-])", self.helps[command]),
                            f"{command} has no option {option}")]


def simple(text):
    """The simple commands in a line of shell, as lists of words."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;()")
    lexer.whitespace, lexer.commenters = " \t", "#"
    lexer.whitespace_split = True
    found = [[]]
    with contextlib.suppress(ValueError):  # a quotation that does not end: it is no command
        for word in lexer:
            if set(word) <= set("|&;()"):
                found.append([])
            elif found[-1] or not re.match(r"[A-Z_]+=|(exec|sudo|time|do)$", word):
                found[-1].append(word)
    found = [words[words.index("strace") + 1:] if "strace" in words else words for words in found]
    return [words for words in found if words]
