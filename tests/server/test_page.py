#!/usr/bin/env python3
"""The chat page in a real browser, its answers scripted (scripted.c).

    test_page.py PROGRAM SOURCE_DIR [--shots DIR]

Skipped (77) without the package playwright or a chromium on the PATH; APUS_CLIENTS names a folder to look for
packages in besides.
"""
import json
import os
import shutil
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
if os.environ.get("APUS_CLIENTS"):
    sys.path.insert(0, os.environ["APUS_CLIENTS"])
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    print("skipped: playwright is not installed (pip install playwright)")
    sys.exit(77)
CHROMIUM = shutil.which("chromium")
if not CHROMIUM:
    print("skipped: there is no chromium (Debian: chromium)")
    sys.exit(77)

from serving import Server

PROGRAM, ROOT = sys.argv[1], Path(sys.argv[2])
SHOTS = Path(sys.argv[sys.argv.index("--shots") + 1]) if "--shots" in sys.argv else None
RICH = """Let me see.</think>

# A heading

Some **bold**, *slanted* and `code`, and <b>no HTML</b>:

- one
- two
  - inner

```python
print("<script>alert(1)</script>")
```

| a | b |
|---|---|
| 1 | 2 |

[a link](https://example.org) and [none](javascript:alert(1))"""


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(PROGRAM, ROOT / "models/tiny-qwen")
        cls.play = sync_playwright().start()
        cls.browser = cls.play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.play.stop()
        assert cls.server.stop() == 0

    def page(self, **options):
        context = self.browser.new_context(**options)
        self.addCleanup(context.close)
        page = context.new_page()
        self.asked, self.wrong = [], []
        page.on("request", lambda r: self.asked.append(r.url))
        page.on("pageerror", lambda e: self.wrong.append(str(e)))
        page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        page.goto(self.server.url + "/")
        page.set_default_timeout(15000)
        return page

    def say(self, page, text, wait=True):
        page.fill("#text", "say:" + text)
        page.press("#text", "Enter")
        if wait:
            page.locator("#send", has_text="Send").wait_for()

    def shot(self, page, name):
        if SHOTS:
            SHOTS.mkdir(exist_ok=True)
            page.screenshot(path=SHOTS / f"{name}.png")

    def last(self, page):
        return page.locator(".turn.assistant").last

    def test_answers_are_shown(self):
        page = self.page()
        self.say(page, RICH)
        body = self.last(page).locator(".body")
        self.assertEqual(body.locator("h2").inner_text(), "A heading")
        self.assertEqual(body.locator("strong").inner_text(), "bold")
        self.assertEqual(body.locator("li").count(), 3)
        self.assertEqual(body.locator("pre code").inner_text(), 'print("<script>alert(1)</script>")')
        self.assertEqual(body.locator("td").count(), 2)
        self.assertEqual([a.get_attribute("href") for a in body.locator("a").all()], ["https://example.org"])
        self.assertEqual(body.locator("b, script").count(), 0)
        self.assertFalse(self.last(page).locator(".thought").is_visible())
        self.last(page).locator("summary").click()
        self.assertEqual(self.last(page).locator(".thought").inner_text(), "Let me see.")
        self.assertIn("tokens at", self.last(page).locator(".figures").inner_text())
        self.shot(page, "light")
        page.set_viewport_size({"width": 1280, "height": 1300})
        self.shot(page, "light-long")
        page.click("#theme")
        self.shot(page, "dark")
        self.assertTrue(all(u.startswith(self.server.url) for u in self.asked), self.asked)
        self.assertEqual(self.wrong, [])

    def test_stop_again_edit_branch(self):
        page = self.page()
        page.fill("#text", "say(200):</think>\n\n" + "word " * 200)
        page.press("#text", "Enter")
        page.locator(".turn.assistant .body", has_text="word").wait_for()
        page.keyboard.press("Escape")
        self.last(page).get_by_text("Stopped.").wait_for()
        self.say(page, "</think>\n\nsecond")
        self.assertEqual(page.locator(".turn").count(), 4)
        self.last(page).get_by_role("button", name="Branch").click()
        self.assertEqual(page.locator("#list li").count(), 2)
        self.last(page).get_by_role("button", name="Again").click()
        page.locator("#send", has_text="Send").wait_for()
        self.assertIn("second", self.last(page).inner_text())
        page.locator(".turn.user").last.get_by_role("button", name="Edit").click()
        self.assertIn("second", page.input_value("#text"))
        self.assertEqual(page.locator(".turn").count(), 2)
        self.assertEqual(self.wrong, [])

    def test_conversations_stay(self):
        page = self.page()
        self.say(page, "</think>\n\nfirst")
        page.click("#new")
        self.say(page, "</think>\n\nother")
        page.reload()
        self.assertEqual(page.locator("#list li").count(), 2)
        self.assertIn("other", self.last(page).inner_text())
        page.locator("#list .open").last.click()
        self.assertIn("first", self.last(page).inner_text())
        page.locator("#list .drop").last.click()
        self.assertEqual(page.locator("#list li").count(), 1)

    def test_settings_reach_the_server(self):
        page = self.page()
        page.click("#settings")
        page.fill("[name=system]", "Be nice.")
        page.select_option("[name=think]", "off")
        page.fill("[name=max]", "3")
        self.shot(page, "settings")
        page.click("#options button")
        with page.expect_request("**/v1/chat/completions") as r:
            self.say(page, "one two three four five")
        body = json.loads(r.value.post_data)
        self.assertEqual((body["messages"][0]["role"], body["reasoning_effort"], body["max_tokens"]), ("system", "none", 3))
        self.assertIn("was cut", self.last(page).inner_text())

    def test_errors_are_told(self):
        page = self.page()
        self.say(page, "</think>\n\n" + "word " * 9000)
        self.assertIn("tokens", self.last(page).locator(".error").inner_text())

    def test_phone(self):
        page = self.page(viewport={"width": 360, "height": 640}, color_scheme="dark")
        self.say(page, RICH)
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 360)
        self.shot(page, "phone")
        page.click("#menu")
        self.shot(page, "phone-menu")
        self.assertTrue(page.locator("#new").is_visible())


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
