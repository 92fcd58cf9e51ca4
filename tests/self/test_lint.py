"""What `make lint` says of a script that is wrong in one way."""

import unittest

from tests.self import lint


class Scripts(unittest.TestCase):
    """Each fault is found, and what is no fault is not."""

    def test_faults(self):
        for text, what in (
                ("import os\n", "os is imported and not used"),
                ("from a import b as c\nb = 1\n", "c is imported and not used"),
                ("open('f')\n", "which encoding? The locale is not to decide"),
                ("NamedTemporaryFile('w')\n", "which encoding? The locale is not to decide"),
                ("path.read_text()\n", "which encoding? The locale is not to decide"),
                ("run(text=True)\n", "which encoding? The locale is not to decide"),
                ("x = 1  # " + "." * 100 + "\n", "109 columns"),
                ("def f(:\n", "invalid syntax")):
            self.assertEqual(list(lint.faults(text)), [(1, what)])

    def test_no_faults(self):
        for text in ("import os.path\nos\n", "import os  # for others\n", "open('f', 'rb')\n",
                     "tempfile.TemporaryFile()\n", "os.open(path, os.O_RDONLY)\n",
                     "path.read_text('utf-8')\n"):
            self.assertEqual(list(lint.faults(text)), [])
        self.assertEqual(list(lint.faults("import os\n", is_package=True)), [])


if __name__ == "__main__":
    unittest.main()
