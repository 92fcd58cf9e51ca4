"""The site of the chapters, and the files by which others build it: each link leads somewhere."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

from tests.book import markdown, site
from tests.self import scripts

try:
    import yaml
except ImportError:
    yaml = None


@unittest.skipUnless(shutil.which("pandoc"), "apt-get install pandoc")
class Pages(unittest.TestCase):
    """What pandoc and site.py make of the chapters."""

    def make(self, root):
        """The problems and the folder of a site of the chapters below `root`."""
        out = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        with mock.patch.object(markdown, "ROOT", pathlib.Path(root)):
            return site.Site(out).make(), out

    def made(self, files):
        """The problems and the folder of a site of its own."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = pathlib.Path(root) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return self.make(root)

    def test_the_course(self):
        """No link leads nowhere, and one can go through all chapters by `next` alone."""
        problems, out = self.make(markdown.ROOT)
        self.assertEqual(problems, [])
        page, seen = out / "index.html", []
        while page not in seen:
            seen.append(page)
            text = page.read_text(encoding="utf-8")
            if following := re.search(r'rel="next" href="([^"]+)"', text):
                page = (page.parent / following[1]).resolve()
        names = [str(page.relative_to(out.resolve())) for page in seen[1:]]
        for stage in markdown.BOOK[1:]:
            self.assertIn(str(site.target(pathlib.PurePosixPath(stage))), names)
        self.assertNotIn(str(markdown.ROOT), "".join(p.read_text("utf-8") for p in seen))

    def test_a_link_that_leads_nowhere(self):
        problems, _ = self.made({"README.md": "# A\n\n[b](b.md) and [c](../c.md)\n"})
        self.assertEqual(problems, ["README.md: the link to b.md leads nowhere",
                                    "README.md: the link to ../c.md leads nowhere"])

    def test_a_place_that_is_not_there(self):
        problems, _ = self.made({"README.md": "# A\n\n[b](b.md#here) and [b](b.md#there)\n",
                                 "b.md": "# B\n\n## Here\n"})
        self.assertEqual(problems, ["index.html: b.html#there: the page has no such place"])

    def test_what_a_link_leads_to_is_in_the_site(self):
        problems, out = self.made({
            "README.md": "# A\n\n[b](b/README.md), [code](b/x.cpp), [all](b/c), ![p](p.svg)\n",
            "b/README.md": "# B\n", "b/x.cpp": "int x = 1 < 2;  // ``` <b>\n",
            "b/c/y.h": "int y;\n", "p.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>"})
        self.assertEqual(problems, [])
        for name in ("b/index.html", "b/x.cpp.html", "b/c/index.html", "b/c/y.h.html", "p.svg"):
            self.assertTrue((out / name).exists(), name)
        self.assertIn("&lt;b&gt;", (out / "b/x.cpp.html").read_text(encoding="utf-8"))


class CommandLine(unittest.TestCase):
    """What it says when it cannot work."""

    def test_without_pandoc(self):
        with tempfile.TemporaryDirectory() as build:
            done = scripts.run("tests.book.site", "--build", build, env={"PATH": "/nonexistent"})
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertEqual(done.stderr, "make site needs pandoc: apt-get install pandoc\n")


class Elsewhere(unittest.TestCase):
    """Files for machines that are not here: they parse, and what they call is there."""

    def runs(self, command):
        """A command of such a file names a script that parses, or a target of the Makefile."""
        words = command.split()
        if words[0] == "make":
            self.assertRegex((markdown.ROOT / "Makefile").read_text("utf-8"), rf"(?m)^{words[1]}:")
        else:
            self.assertIn(words[0], ("sh", "bash"))
            subprocess.run([words[0], "-n", words[1]], cwd=markdown.ROOT, check=True)

    @unittest.skipUnless(yaml, "apt-get install python3-yaml")
    def test_workflows(self):
        for path in sorted((markdown.ROOT / ".github" / "workflows").glob("*.yml")):
            with self.subTest(path.name):
                jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
                steps = [step for job in jobs.values() for step in job["steps"]]
                commands = [step["run"] for step in steps if "run" in step]
                self.assertTrue(commands)
                for command in commands:
                    self.runs(command)

    def test_container(self):
        path = markdown.ROOT / ".devcontainer" / "devcontainer.json"
        container = json.loads(path.read_text("utf-8"))
        self.assertIn("debian", container["image"])
        self.runs(container["postCreateCommand"])


if __name__ == "__main__":
    unittest.main()
