"""A headless Chromium, driven by the DevTools protocol over two pipes. Only the standard library.

    with browser.Browser() as chromium:
        page = chromium.open("file:///.../page.html#step=6")
        page.press("ArrowRight")
        assert page.evaluate("document.title") == "One story, seven servers"
        assert not page.errors
"""

import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from tests import harness

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "Chromium is missing: apt-get install chromium"
FAILSAFE = 120.0  # seconds; a loaded machine takes long to start it

KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Enter": 13, "Tab": 9,
        "Escape": 27}


def program():
    """The path of Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One process, with a profile of its own that goes with it."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.number, self.inbox, self.events = 0, b"", []
        theirs_in, self.out = os.pipe()
        self.inp, theirs_out = os.pipe()
        command = [program(), "--headless", "--disable-gpu", "--remote-debugging-pipe",
                   "--disable-background-networking", "--disable-sync", "--no-first-run",
                   "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
                   "--no-sandbox",  # as root and in a container there is none; it opens our pages
                   f"--user-data-dir={self.profile.name}"]
        try:
            # Its two pipes are the descriptors 3 and 4. A shell moves them there.
            self.process = subprocess.Popen(
                harness.tied(["sh", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "sh",
                              *command]),
                pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
            self.process.wait(20)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.inp)
        self.profile.cleanup()

    def call(self, method, session=None, **params):
        """Ask for something and return the answer. Events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data):]
        end = time.monotonic() + FAILSAFE
        while True:
            answer = self._receive(end)
            if answer.get("id") == self.number:
                break
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait_for(self, method, session):
        """Wait for an event."""
        end = time.monotonic() + FAILSAFE
        while not any(event.get("method") == method and event.get("sessionId") == session
                      for event in self.events):
            self.events.append(self._receive(end))

    def _receive(self, end):
        while b"\0" not in self.inbox:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.inp], [], [], left)[0]:
                raise RuntimeError("Chromium does not answer")
            data = os.read(self.inp, 1 << 20)
            if not data:
                raise RuntimeError("Chromium has ended")
            self.inbox += data
        message, _, self.inbox = self.inbox.partition(b"\0")
        return json.loads(message)

    def open(self, url, **look):
        """A page, once it is loaded. For `look` see Page.look()."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.look(**look)
        page.go(url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Ask this tab for something."""
        return self.browser.call(method, self.session, **params)

    def go(self, url):
        """Load an address."""
        self.browser.events = []
        self.call("Page.navigate", url=url)
        self.browser.wait_for("Page.loadEventFired", self.session)

    def look(self, width=1200, height=900, dark=False, still=True):
        """How wide the window is, and what the reader has asked for."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}])

    def evaluate(self, script):
        """The value of an expression in the page. What it throws is raised here."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(words(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, condition):
        """Wait until an expression holds in the page."""
        end = time.monotonic() + FAILSAFE
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise RuntimeError(f"it never holds: {condition}")
            time.sleep(0.02)

    def press(self, key, shift=False):
        """Press and release a key, as a person would."""
        code = KEYS.get(key) or ord(key.upper())
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    @property
    def errors(self):
        """All that went wrong since the page was loaded: exceptions, and errors in the console."""
        self.evaluate("0")  # takes in what is under way
        found = []
        for event in self.browser.events:
            params = event.get("params", {})
            if event.get("sessionId") != self.session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                found.append(words(params["exceptionDetails"]))
            if event["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
                found.append(" ".join(str(part.get("value", "")) for part in params["args"]))
            if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
        return found

    @property
    def requests(self):
        """The addresses that were asked for since the page was loaded."""
        return [event["params"]["request"]["url"] for event in self.browser.events
                if event.get("method") == "Network.requestWillBeSent"]


def words(details):
    """An exception, for people."""
    return details.get("exception", {}).get("description") or details["text"]
