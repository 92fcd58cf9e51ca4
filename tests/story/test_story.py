"""The recorded story, its pictures and its page: what is kept teaches what it should, and shows it.

A check that nothing can fail is worth nothing: each is also put to something broken on purpose.
"""

import copy
import pathlib
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree

from tests import harness
from tests.story import browser, cover, page, record, steps, story, timeline


if not browser.program():
    print(f"The page is not tested: {browser.MISSING}", file=sys.stderr)


class Kept(unittest.TestCase):
    """What stands in the repository."""

    def test_the_timeline_teaches_what_it_should(self):
        self.assertEqual(timeline.problems(record.load(record.TIMELINE)), [])

    def test_the_steps_teach_what_they_should(self):
        self.assertEqual(steps.problems(record.load(record.STEPS)), [])

    def test_pictures_and_page_are_made_of_the_recordings(self):
        self.assertEqual(record.stale(), [], "make story DRAW=1")

    def test_the_pictures(self):
        """They are XML, name each server, and say in words what they show."""
        recording = record.load(record.TIMELINE)
        for name in record.COVERS:
            text = "".join(xml.etree.ElementTree.parse(story.HERE / name).getroot().itertext())
            for data in recording["stages"]:
                for words in (data["name"], *(cover.words(data) or cover.nobody(data))):
                    self.assertIn(words, text)


class BrokenTimelines(unittest.TestCase):
    """A timeline in which something is not as it should be is not accepted."""

    def broken(self, stage, change, complaint):
        """Change one stage of what is kept. The complaint about it must have these words."""
        recording = record.load(record.TIMELINE)
        change(recording["stages"][stage - 1])
        problems = timeline.problems(recording)
        self.assertTrue(any(complaint in problem for problem in problems), problems)

    def test_a_word_that_waits_at_the_end(self):
        self.broken(7, lambda data: data["B"][20].__setitem__(2, timeline.WAITS), "B waits 1 time")

    def test_waits_that_no_longer_show(self):
        def answer(data):
            data["B"] = [[sent, sent + 0.001, timeline.AT_ONCE] for sent, *_ in data["B"]]
        self.broken(4, answer, "no longer shows: B waits for C")

    def test_a_busy_machine(self):
        self.broken(6, lambda data: data["B"][9].__setitem__(2, timeline.MACHINE), "too busy")
        self.broken(3, lambda data: data.update(behind=0.9), "0.9 s behind the story")

    def test_who_is_let_down(self):
        for stage, who, key, value, complaint in (
                (6, "C", "got", 5000, "C is cut off"), (5, "C", "got", 0, "C gets nothing"),
                (7, "D", "status", -15, "D is cut off"), (7, "D", "got", 4096, "D is cut off"),
                (2, "crowd", "refused", 0, "no longer shows: crowd is refused"),
                (3, "crowd", "waiting", 1, "crowd waits")):
            with self.subTest(stage=stage, who=who, key=key):
                self.broken(stage, lambda data: data[who].__setitem__(key, value), complaint)

    def test_a_stage_that_is_missing(self):
        recording = record.load(record.TIMELINE)
        del recording["stages"][3]
        self.assertIn("not all seven stages were recorded", timeline.problems(recording))

    def test_the_verdict_of_most_plays(self):
        """One play in which the machine was slow does not decide."""
        good, late = [1.0, 1.001, timeline.AT_ONCE], [1.0, 1.3, timeline.WAITS]
        self.assertEqual(timeline.most([good, late, good]), good)
        self.assertEqual(timeline.most([late, good, late]), late)
        unknown = [1.0, 1.3, timeline.MACHINE]
        self.assertEqual(timeline.most([unknown, good, unknown]), good)
        self.assertEqual(timeline.most([unknown, unknown]), unknown)


class BrokenSteps(unittest.TestCase):
    """The same for the recording of the steps."""

    def broken(self, change, complaint, stage=4):
        """Change the frames of one stage. The complaint about it must have these words."""
        recording = record.load(record.STEPS)
        frames = [copy.deepcopy(frame) for frame in steps.whole(
            recording["stages"][stage - 1]["frames"])]
        changed = change(frames)
        recording["stages"][stage - 1]["frames"] = frames if changed is None else changed
        problems = steps.problems(recording)
        self.assertTrue(any(complaint in problem for problem in problems), problems)

    def test_a_step_left_out(self):
        self.broken(lambda frames: [f for f in frames if f["step"] != 3], "its steps are")

    def test_a_frame_left_out(self):
        def drop(wanted):
            def change(frames):
                del frames[next(i for i, frame in enumerate(frames) if wanted(frame))]
            return change
        self.broken(drop(lambda frame: frame["step"] == 6 and "asleep" in frame), "end at rest")
        self.broken(drop(lambda frame: frame["step"] == 5 and "act" in frame), "does not begin")
        self.broken(drop(lambda frame: frame.get("call", {}).get("name") == "recv"),
                    "more was sent to B than was received")

    def test_a_negative_queue(self):
        for key in ("in", "held", "out"):
            self.broken(lambda frames, key=key: frames[-9]["clients"]["C"].update({key: -1}),
                        f"{key} is -1")
        self.broken(lambda frames: frames[9].update(queue=-1), "-1 in the accept queue")

    def test_bytes_from_nowhere(self):
        def forge(frames):
            frames[-1]["clients"]["D"]["got"] += 1 << 30
        self.broken(forge, "D got")

    def test_bytes_that_are_lost(self):
        def lose(frames):
            for frame in frames:
                if "B" in frame["clients"] and frame["step"] > story.READS:
                    frame["clients"]["B"]["got"] -= 1
        self.broken(lose, "B is called answered, with bytes missing")

    def test_a_lesson_that_does_not_show(self):
        def answer(frames):
            for frame in frames:
                if frame["step"] == story.HO:
                    frame["clients"]["B"]["state"] = "silent"
        self.broken(answer, "the lesson of step 6 no longer shows")

    def test_folding(self):
        """Rounds that repeat become one, and none of their bytes is lost."""
        def call(name, result):
            return {"step": 1, "call": {"name": name, "fd": 5, "result": result}}
        rounds = [call(name, 10) for _ in range(4) for name in ("recv", "send")]
        folded = steps.fold([*rounds, call("recv", -11)])
        self.assertEqual([frame.get("times", 1) for frame in folded], [4, 4, 1])
        self.assertEqual([frame.get("moved") for frame in folded], [40, 40, None])

    def test_changes_and_whole(self):
        """Leaving out what is as before loses nothing."""
        for stage in record.load(record.STEPS)["stages"]:
            frames = list(steps.whole(stage["frames"]))
            self.assertEqual(steps.changes(frames), stage["frames"])


@unittest.skipIf(harness.SAN, "the servers' own calls are recorded, not a sanitizer's")
class Fresh(unittest.TestCase):
    """A new recording has the same lessons."""

    def test_three_stages(self):
        try:
            stages = [steps.record(number) for number in (1, 4, 7)]
        except PermissionError as error:
            self.skipTest(f"ptrace is not permitted here: {error}")
        for stage in stages:
            with self.subTest(stage=stage["name"]):
                self.assertEqual([*steps.wrong_steps(stage), *steps.wrong_numbers(stage),
                                  *steps.wrong_lessons(stage)], [])


# The page, in a browser

CARDS = """Object.fromEntries([...document.querySelectorAll("article")].map(card => [
  card.dataset.stage, {
    rest: card.dataset.rest,
    now: card.querySelector(".now").textContent,
    numbers: [...card.querySelectorAll("[data-bytes], [data-queue]")].map(
      cell => Number(cell.dataset.bytes ?? cell.dataset.queue)),
    states: Object.fromEntries([...card.querySelectorAll("[data-client]")].map(
      row => [row.dataset.client, row.dataset.state]))}]))"""


def shown_problems(tab, url):
    """What is wrong with what a page shows, all steps and servers; nothing if nothing is."""
    found = []
    for step in sorted({step for step, _ in story.LESSONS}):
        tab.go("about:blank")
        tab.go(f"{url}#stages=1,2,3,4,5,6,7&step={step}")
        if errors := tab.errors:
            return found + errors
        cards = tab.evaluate(CARDS)
        for (_, stage), (call, states) in sorted(
                item for item in story.LESSONS.items() if item[0][0] == step):
            card = cards.get(str(stage))
            if not card:
                found.append(f"step {step}: stage {stage} is not shown")
                continue
            seen = {who: card["states"].get(who) for who in states}
            if (card["rest"], seen) != (call, states):
                found.append(f"step {step}, stage {stage}: {card['rest']}, {seen}")
        found += [f"step {step}, stage {stage}: {min(card['numbers'])} bytes"
                  for stage, card in cards.items() if min(card["numbers"]) < 0]
    return found


@unittest.skipUnless(browser.program(), browser.MISSING)
class InChromium(unittest.TestCase):
    """The page does what it should in a real browser."""

    @classmethod
    def setUpClass(cls):
        cls.chromium = cls.enterClassContext(browser.Browser())
        cls.url = (story.HERE / record.PAGE).as_uri()

    def open(self, link="", **look):
        """The page at a link, all servers shown."""
        tab = self.chromium.open(f"{self.url}#{link}", **look)
        self.addCleanup(lambda: self.assertEqual(tab.errors, []))
        return tab

    def planted(self, recording=None, script=""):
        """The problems of a page that was spoilt."""
        text = page.assemble(recording or record.load(record.STEPS))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "page.html"
            path.write_text(text.replace('"use strict";', script, 1) if script else text,
                            encoding="utf-8")
            return shown_problems(self.chromium.open("about:blank"), path.as_uri())

    # What it shows

    def test_it_shows_each_lesson_at_its_step(self):
        tab = self.chromium.open("about:blank")
        self.assertEqual(shown_problems(tab, self.url), [])

    def test_it_needs_nothing_else(self):
        self.assertEqual(self.open().requests, [self.url])

    def test_for_whose_sake(self):
        tab = self.open("stages=1,4,7&step=6")
        cards = tab.evaluate(CARDS)
        self.assertRegex(cards["1"]["now"], r"sleeps in recv\(\d+\), for A alone")
        self.assertRegex(cards["4"]["now"], r"sleeps in send\(\d+\), for C alone")
        self.assertRegex(cards["7"]["now"], r"sleeps in epoll_wait\(\), for all of them")

    def test_folded_calls(self):
        tab = self.open("stages=4&step=5&call=3")
        self.assertRegex(tab.evaluate(CARDS)["4"]["now"], r"the last of \d+ like it, [\d.]+ MiB")

    def test_silent_clients(self):
        """The numbers of the slider come from the sizes of the kernel's structures."""
        tab = self.open()
        handed = 'Object.fromEntries([...document.querySelectorAll("#prices tr")].map(' \
                 'row => [row.dataset.call, Number(row.dataset.handed)]))'
        move = 'find("crowd").value = CROWDS.indexOf({}); ' \
               'find("crowd").dispatchEvent(new Event("input"))'
        tab.evaluate(move.format(0))
        self.assertEqual(tab.evaluate(handed), {"select": 8, "poll": 32, "epoll_wait": 0})
        tab.evaluate(move.format(10000))
        self.assertEqual(tab.evaluate(handed), {"select": 128, "poll": 80032, "epoll_wait": 0})
        self.assertIn("refused", tab.evaluate('find("prices").textContent'))
        tab.evaluate(move.format(1017))
        self.assertNotIn("refused", tab.evaluate('find("prices").textContent'))
        tab.evaluate(move.format(1018))
        self.assertIn("1 refused", tab.evaluate('find("prices").textContent'))

    # How one moves about

    def test_links(self):
        """A link names servers, step and call, and moving about writes it."""
        for link, written in (("stages=4,5&step=6", "#stages=4,5&step=6"),
                              ("stages=5,4&step=5&call=2", "#stages=4,5&step=5&call=2"),
                              ("stages=7&step=0", "#stages=7&step=0"),
                              ("stages=9&step=99&call=x", "#stages=1,4,5,7&step=0&call=0"),
                              ("nonsense", "#stages=1,4,5,7&step=0&call=0")):
            with self.subTest(link=link):
                tab = self.open(link)
                self.assertEqual(tab.evaluate("location.hash"), written)
        tab.evaluate('location.hash = "stages=2&step=3"')
        tab.wait('document.body.dataset.step === "3"')
        self.assertEqual(list(tab.evaluate(CARDS)), ["2"])

    def test_keys(self):
        tab = self.open("stages=1,4&step=2&call=0")
        for key, shift, written in (
                ("ArrowRight", False, "step=2&call=1"), ("ArrowLeft", False, "step=2&call=0"),
                ("ArrowLeft", False, "step=1"), ("ArrowRight", True, "step=2&call=0"),
                ("ArrowRight", True, "step=3&call=0"), ("ArrowLeft", True, "step=2&call=0"),
                ("Home", False, "step=0&call=0")):
            tab.press(key, shift)
            self.assertTrue(tab.evaluate("location.hash").endswith(written),
                            f"{key}: {tab.evaluate('location.hash')}, and not {written}")
        tab.press("7")
        tab.press("4")
        self.assertEqual(list(tab.evaluate(CARDS)), ["1", "7"])
        tab.evaluate('find("ask").checked = false')
        tab.press("End")
        self.assertEqual(tab.evaluate("document.body.dataset.step"), str(story.THE_END))

    def test_the_last_server_stays(self):
        tab = self.open("stages=3&step=2")
        tab.press("3")
        self.assertEqual(list(tab.evaluate(CARDS)), ["3"])

    def test_buttons_by_keyboard_alone(self):
        """Tab reaches each control, and a screen reader has a name for it."""
        tab = self.open("stages=4&step=1&call=0")
        reached = []
        for _ in range(40):
            tab.press("Tab")
            reached.append(tab.evaluate("document.activeElement.id"))
        for control in ("step-back", "back", "play", "on", "step-on", "scrubber", "ask", "crowd"):
            self.assertIn(control, reached)
        unnamed = tab.evaluate('[...document.querySelectorAll("button, input")].filter(one => '
                               '!(one.getAttribute("aria-label") || one.labels?.length || '
                               'one.getAttribute("aria-labelledby") || one.textContent)).length')
        self.assertEqual(unnamed, 0)
        tab.evaluate('find("on").focus()')
        tab.press("Enter")
        self.assertTrue(tab.evaluate("location.hash").endswith("step=1&call=1"))
        self.assertIn("Step 1", tab.evaluate('find("status").textContent'))

    def test_play(self):
        """It goes on by itself, and stops to ask."""
        tab = self.open("stages=5&step=4")
        tab.press("p")
        tab.wait('find("question").open')
        self.assertEqual(tab.evaluate('find("play").textContent'), "play")

    def test_ask_me_first(self):
        """Before the step in which they part company it asks, and after it, it compares."""
        tab = self.open(f"stages=4,6&step={story.FLOOD - 1}")
        tab.press("ArrowRight")
        self.assertTrue(tab.evaluate('find("question").open'))
        self.assertEqual(tab.evaluate("document.body.dataset.step"), str(story.FLOOD - 1))
        tab.evaluate('document.querySelector("#answers [value=\'6\']").click();'
                     'document.querySelector("[value=answer]").click();')
        tab.wait(f'document.body.dataset.step === "{story.FLOOD}"')
        tab.press("ArrowRight", shift=True)
        tab.press("ArrowRight", shift=True)
        tab.press("ArrowLeft")
        verdicts = tab.evaluate('[...document.querySelectorAll(".verdict")].map('
                                'one => one.className + ": " + one.textContent)')
        self.assertEqual(verdicts, ["verdict right: ✓ You said so: B is not answered.",
                                    "verdict right: ✓ You said so: B is answered."])

    def test_do_not_ask_me(self):
        tab = self.open(f"stages=4&step={story.FLOOD - 1}")
        tab.evaluate('find("ask").click()')
        tab.press("ArrowRight")
        self.assertFalse(tab.evaluate('find("question").open'))
        self.assertEqual(tab.evaluate("document.body.dataset.step"), str(story.FLOOD))

    def test_esc_is_no_answer(self):
        tab = self.open(f"stages=4&step={story.FLOOD - 1}")
        tab.press("ArrowRight")
        tab.press("Escape")
        tab.wait(f'document.body.dataset.step === "{story.FLOOD}"')
        tab.press("ArrowRight", shift=True)
        tab.press("ArrowRight", shift=True)
        tab.press("ArrowLeft")
        self.assertTrue(tab.evaluate("location.hash").endswith(f"step={story.HO}"))
        self.assertEqual(tab.evaluate('document.querySelectorAll(".verdict").length'), 0)

    # What it looks like

    def test_a_narrow_window(self):
        """On a phone nothing sticks out, in any step."""
        tab = self.open("stages=1,2,3,4,5,6,7", width=390, height=844)
        for step in range(len(story.STEPS)):
            tab.evaluate(f"go(placeOf({step})); find('question').close(); go(placeOf({step}))")
            self.assertEqual(tab.evaluate("document.documentElement.scrollWidth"), 390)
            self.assertEqual(tab.evaluate(
                '[...document.querySelectorAll("article *")].filter(one => one.clientWidth && '
                'one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display != "inline"'
                ' && !one.classList.contains("spoken")).map(one => one.outerHTML)'), [])

    def test_light_and_dark(self):
        """The text stands out from its ground in both: 4.5 to 1 (WCAG 2, AA)."""
        for dark in (False, True):
            with self.subTest(dark=dark):
                tab = self.open("stages=1,2,3,4,5,6,7&step=6", dark=dark)
                self.assertEqual(tab.evaluate(CONTRAST), [])

    def test_no_motion_for_who_wants_none(self):
        moving = 'getComputedStyle(document.querySelector(".bytes span")).transitionDuration'
        link = "stages=4&step=6"
        self.assertEqual(self.open(link, still=True).evaluate(moving), "0s")
        self.assertNotEqual(self.open(link, still=False).evaluate(moving), "0s")

    def test_the_pictures(self):
        """They load, follow light and dark, and the playhead rests on request."""
        for name in record.COVERS:
            for dark in (False, True):
                tab = self.chromium.open((story.HERE / name).as_uri(), dark=dark, still=dark)
                ink = tab.evaluate('getComputedStyle(document.querySelector(".title")).fill')
                self.assertEqual(ink, rgb((cover.DARK if dark else cover.LIGHT)["ink"]))
                playhead = 'getComputedStyle(document.querySelector(".playhead")).display'
                self.assertEqual(tab.evaluate(playhead), "none" if dark else "inline")
                self.assertEqual(tab.evaluate(
                    '[...document.querySelectorAll("text")].filter(text => { const box = '
                    'text.getBBox(), view = document.rootElement.viewBox.baseVal; return box.x < 0 '
                    '|| box.x + box.width > view.width || box.y + box.height > view.height })'
                    '.map(text => text.textContent)'), [])
                self.assertEqual(tab.errors, [])

    # And if it were broken?

    def test_planted_faults(self):
        for what, script in (("a script error", '"use strict"; missing.thing();'),
                             ("an error in the console", 'console.error("planted");')):
            with self.subTest(what):
                self.assertNotEqual(self.planted(script=script), [])
        without_frame, negative = record.load(record.STEPS), record.load(record.STEPS)
        frames = without_frame["stages"][3]["frames"]
        del frames[next(i for i, f in enumerate(frames) if f["step"] == 6 and "asleep" in f)]
        self.assertIn("step 6, stage 4", str(self.planted(without_frame)))
        for frame in negative["stages"][5]["frames"]:
            if "out" in frame.get("clients", {}).get("C", {}):
                frame["clients"]["C"]["out"] = -5
        self.assertIn("-5 bytes", str(self.planted(negative)))


def rgb(colour):
    """#1f2328 as a browser says it."""
    return "rgb({}, {}, {})".format(*(int(part, 16) for part in re.findall("[0-9a-f]{2}", colour)))


CONTRAST = """(() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const grounds = element => {  // a bar has two
    for (; element; element = element.parentElement) {
      const style = getComputedStyle(element);
      const found = style.backgroundImage.match(/rgb\\([^)]*\\)/g);
      if (found) return found.map(parse);
      const colour = parse(style.backgroundColor);
      if (colour[3] !== 0) return [colour];
    }
    return [[255, 255, 255]];
  };
  const bad = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.checkVisibility() || element.matches("script, style")) continue;
    const ink = light(parse(getComputedStyle(element).color));
    for (const ground of grounds(element)) {
      const [high, low] = [ink, light(ground)].sort((a, b) => b - a);
      const ratio = (high + 0.05) / (low + 0.05);
      if (ratio < 4.5) bad.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
  }
  return bad;
})()"""


if __name__ == "__main__":
    unittest.main()
