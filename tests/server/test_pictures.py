#!/usr/bin/env python3
"""Pictures in all APIs of the server, with a random model that sees; hostile ones; and by the official clients.

    test_pictures.py APUS SOURCE_DIR

The clients' part is skipped where a package is missing; APUS_CLIENTS names a folder to look for them in besides.
"""
import base64
import http.server
import json
import os
import shutil
import struct
import sys
import tempfile
import threading
import unittest
import zlib
from pathlib import Path

APUS, ROOT = sys.argv[1], Path(sys.argv[2]).resolve()
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests/cli")]
if os.environ.get("APUS_CLIENTS"):
    sys.path.insert(0, os.environ["APUS_CLIENTS"])
from seeing import DATA, seeing_model
from serving import Server

try:
    import anthropic
    import ollama
    import openai
except ImportError:
    openai = None

CHAT = "/v1/chat/completions"
RGB, JPEG, WEBP = DATA / "rgb.png", DATA / "rgb.jpg", DATA / "lossy.webp"


def b64(path):
    return base64.b64encode(Path(path).read_bytes()).decode()


def png(width, height, row=b""):
    """A picture of any size whose data may not be there."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))


def url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode() if isinstance(data, bytes) else b64(data)}"


def picture(path, **more):
    return {"type": "image_url", "image_url": {"url": url(path), **more}}


def text(s):
    return {"type": "text", "text": s}


def ask(*parts, **more):
    return {"messages": [{"role": "user", "content": list(parts)}], "temperature": 0, "max_tokens": 6, "ignore_eos": True,
            **more}


class Hub(http.server.BaseHTTPRequestHandler):
    n = 0

    def do_GET(self):
        Hub.n += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = Path(tempfile.mkdtemp(prefix="apus-seeing-"))
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        cls.model = seeing_model(cls.tmp / "seeing")
        cls.server = Server(APUS, cls.model, "--quiet", "-c", "2000", "--max-images", "5", "--max-pixels", "1000000")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def tokens(self, body):
        return self.server.post(CHAT, body)["usage"]["prompt_tokens"]

    def words(self, body, server=None):
        return (server or self.server).post(CHAT, body)["choices"][0]["message"]["content"]

    def refuse(self, body, param, path=CHAT, status=400, says=""):
        got, _, data = self.server.ask("POST", path, body)
        error = json.loads(data)["error"]
        self.assertEqual(got, status, data)
        if path == CHAT:
            self.assertEqual(error["param"], param, data)
            error = error["message"]
        elif path.startswith("/v1/messages"):
            error = error["message"]
        elif path.startswith("/v1/"):
            self.assertEqual(error["param"], param, data)
            error = error["message"]
        self.assertIn(param, error)
        self.assertIn(says, error)


class Pictures(Case):
    def test_apis_agree(self):
        """The same picture before the same text is the same prompt in every API."""
        s, data = self.server, b64(RGB)
        n = self.tokens(ask(picture(RGB), text("What is it?")))
        self.assertGreater(n, self.tokens(ask(text("What is it?"))) + 16)
        got = s.post("/v1/responses", {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": url(RGB), "detail": "auto"},
            {"type": "input_text", "text": "What is it?"}]}], "max_output_tokens": 1})
        self.assertEqual(got["usage"]["input_tokens"], n)
        block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        body = {"model": "seeing", "messages": [{"role": "user", "content": [block, text("What is it?")]}]}
        self.assertEqual(s.post("/v1/messages/count_tokens", body)["input_tokens"], n)
        got = s.post("/v1/messages", {**body, "max_tokens": 1})["usage"]
        self.assertEqual(got["input_tokens"] + got["cache_read_input_tokens"], n)
        for path, more in (("/api/chat", {"messages": [{"role": "user", "content": "What is it?", "images": [data]}]}),
                           ("/api/generate", {"prompt": "What is it?", "images": [data]})):
            got = s.post(path, {"model": "seeing", "stream": False, "options": {"num_predict": 1}, **more})
            self.assertEqual(got["prompt_eval_count"], n, path)

    def test_in_any_order(self):
        a, b, t = picture(RGB), picture(DATA / "one.png"), text("x")
        both = [self.words(ask(*parts)) for parts in ((a, b, t), (b, a, t), (a, t, b), (t, a, b))]
        self.assertEqual(len(set(both)), 4, both)
        self.assertEqual(both[0], self.words(ask(a, b, t)))
        for kind in (JPEG, WEBP, DATA / "still.gif"):
            if kind.exists():
                self.words(ask(picture(kind), t))

    def test_same_as_run(self):
        import subprocess
        r = subprocess.run([APUS, "run", str(self.model), "What?", "-i", str(RGB), "--temp", "0", "--ignore-eos", "-n", "6",
                            "--json", "-c", "2000"], capture_output=True, text=True, check=True)
        self.assertEqual(self.words(ask(picture(RGB), text("What?"))), json.loads(r.stdout)["message"]["content"])

    def test_how_clear(self):
        few = self.tokens(ask(picture(RGB), text("x"), image_tokens=6))
        self.assertLess(few, self.tokens(ask(picture(RGB), text("x"))))
        self.tokens(ask(picture(RGB, detail="low"), picture(RGB, detail="high"), text("x")))
        self.refuse(ask(picture(RGB, detail="huge")), "messages[0].content[0].image_url.detail")

    def test_tools_show_pictures(self):
        body = {"model": "seeing", "max_tokens": 1, "messages": [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(RGB)}}]}]}]}
        few = json.loads(json.dumps(body))
        few["messages"][2]["content"][0]["content"] = "none"
        count = [self.server.post("/v1/messages/count_tokens", {k: v for k, v in x.items() if k != "max_tokens"} | {
            "max_tokens": 1})["input_tokens"] for x in (body, few)]
        self.assertGreater(count[0], count[1] + 8)

    def test_markers_of_users_are_text(self):
        self.assertGreater(self.tokens(ask(text("<|image_pad|>"))), self.tokens(ask(text("x"))) + 5)
        self.words(ask(picture(RGB), text("<|vision_start|><|image_pad|><|vision_end|>")))

    def test_hostile(self):
        at = "messages[0].content[0].image_url"
        bomb = png(60000, 60000, b"\0" * 1000)
        for data in (bomb, (DATA / "bomb.png").read_bytes(), (DATA / "bomb.gif").read_bytes(), png(1001, 1000),
                     (DATA / "cut_rgb.png").read_bytes(), b"", b"GIF89a", b"\xff\xd8\xff", os.urandom(5000)):
            self.refuse(ask({"type": "image_url", "image_url": {"url": url(data)}}), at + ".url")
        for bad, says in (("data:image/png;base64,!!!!", "base64"), ("data:image/png;base64,QUJ", ""), ("data:text/html;base64,QUJD", "data:image"),
                          ("data:image/png,abc", "data:image"), ("http://127.0.0.1:1/x.png", "fetches nothing"),
                          ("https://example.org/x.png", "fetches nothing"), ("file:///etc/passwd", "data:image"),
                          ("/etc/passwd", "data:image"), ("", "data:image")):
            self.refuse(ask({"type": "image_url", "image_url": {"url": bad}}), at + ".url", says=says)
        for bad in ({"type": "image_url"}, {"type": "image_url", "image_url": {"url": 7}}, {"type": "image_url", "image_url": {}},
                    {"type": "image_url", "image_url": []}):
            self.assertEqual(self.server.ask("POST", CHAT, ask(bad))[0], 400, bad)
        self.refuse(ask({"type": "image_url", "image_url": {"url": url(RGB), "colour": 1}}), at + ".colour")
        self.refuse(ask(*[picture(RGB, detail="low")] * 6), "messages[0].content[5].image_url.url", says="at most 5")
        self.refuse({"messages": [{"role": "system", "content": [picture(RGB)]}]}, "messages[0].content[0]")
        body = {"model": "seeing", "max_tokens": 1, "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}]}
        self.refuse(body, "messages[0].content[0].source.data", "/v1/messages")
        self.refuse({"model": "seeing", "messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]},
                    "messages[0].images[0]", "/api/chat")
        self.refuse({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]},
                    "input[0].content[0].image_url", "/v1/responses")

    def test_urls_of_inner_networks(self):
        hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        s = Server(APUS, self.model, "--quiet", "-c", "2000", "--allow-media-from", "*")
        one = Server(APUS, self.model, "--quiet", "-c", "2000", "--allow-media-from", "pictures.example")
        try:
            for host in ("127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
                there = f"http://{host}:{hub.server_port}/x.png"
                body = ask({"type": "image_url", "image_url": {"url": there}})
                for server, why in ((s, "not on the public internet"), (one, "fetches nothing from")):
                    status, _, data = server.ask("POST", CHAT, body)
                    e = json.loads(data)["error"]
                    self.assertEqual((status, e["code"], e["param"]), (400, "invalid_image_url", "messages[0].content[0].image_url.url"))
                    if "not resolve" not in e["message"]:
                        self.assertIn(why, e["message"])
            self.assertEqual(Hub.n, 0)
        finally:
            self.assertEqual((s.stop(), one.stop()), (0, 0))
            hub.shutdown()
            hub.server_close()

    def test_films_and_pictures_are_told_apart(self):
        self.words(ask({"type": "video_url", "video_url": {"url": url(DATA / "film.gif", "image/gif")}}, text("x")))
        self.refuse(ask({"type": "video_url", "video_url": {"url": url(RGB)}}), "messages[0].content[0].video_url.url",
                    says="expected a video, found a picture")
        self.words(ask(picture(DATA / "film.gif"), text("its first frame")))

    def test_many_at_once(self):
        want = {n: self.words(ask(picture(RGB), text(f"question {n}"))) for n in range(6)}
        wrong = []

        def one(n):
            got = self.words(ask(picture(RGB), text(f"question {n}")))
            if got != want[n]:
                wrong.append((n, got, want[n]))
        threads = [threading.Thread(target=one, args=(n % 6,)) for n in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])

    def test_capability(self):
        self.assertIn("vision", self.server.post("/api/show", {"model": "seeing"})["capabilities"])


class Kept(Case):
    def test_second_question(self):
        """Another question about a picture costs its own tokens, also after a restart, and no tower."""
        detail = {"image_tokens": 60}
        first, second, third = (ask(picture(RGB), picture(DATA / "one.png"), text(q), **detail) for q in ("What?", "Who?", "Why?"))
        with tempfile.TemporaryDirectory() as cache:
            options = ("--quiet", "-c", "2000", "--cache-disk", cache)
            s = Server(APUS, self.model, *options)
            s.post(CHAT, first)
            towers = s.metric("apus_media_encoded_total")
            self.assertGreater(towers, 0)
            got = s.post(CHAT, second)
            self.assertEqual(s.metric("apus_media_encoded_total"), towers)
            self.assertEqual(s.stop(), 0)
            s = Server(APUS, self.model, *options)
            again = s.post(CHAT, third)
            self.assertEqual(s.metric("apus_media_encoded_total"), 0)
            self.assertEqual(s.stop(), 0)
        for answer, body in ((got, second), (again, third)):
            n, cached = answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            own = self.tokens(ask(text("What?"))) + 4
            self.assertLessEqual(n - cached, own)
            self.assertEqual(answer["choices"][0]["message"]["content"], self.words(body))


class Blind(unittest.TestCase):
    def test_text_only(self):
        for model, options in ((ROOT / "models/tiny-qwen", ["--text-only"]),):
            s = Server(APUS, model, "--quiet", *options)
            got, _, data = s.ask("POST", CHAT, ask(picture(RGB)))
            self.assertEqual(got, 400)
            self.assertIn("takes text only", json.loads(data)["error"]["message"])
            self.assertNotIn(str(ROOT), data.decode())
            self.assertNotIn("vision", s.post("/api/show", {"model": "tiny-qwen"})["capabilities"])
            self.assertEqual(s.stop(), 0)


try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None


@unittest.skipUnless(sync_playwright and shutil.which("chromium"), "playwright or chromium is not installed")
class Page(Case):
    def test_pictures_on_the_page(self):
        """Chosen pictures are shown, left out, asked about, and kept."""
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 360, "height": 640})
            wrong = []
            page.on("pageerror", lambda e: wrong.append(str(e)))
            page.goto(self.server.url + "/")
            page.wait_for_selector("body.sees")
            page.set_input_files("#files", [str(RGB), str(JPEG)])
            page.locator("#pending figure").nth(1).wait_for()
            page.locator("#pending button").first.click()
            page.fill("#text", "What is it?")
            with page.expect_request("**/v1/chat/completions") as asked:
                page.press("#text", "Enter")
            page.locator("#send", has_text="Send").wait_for()
            content = json.loads(asked.value.post_data)["messages"][0]["content"]
            self.assertEqual([p["type"] for p in content], ["image_url", "text"])
            self.assertEqual(page.locator(".error").count(), 0)
            page.reload()
            self.assertEqual(page.locator(".turn.user img").count(), 1)
            self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 360)
            self.assertEqual(wrong, [])
            browser.close()


@unittest.skipUnless(openai, "openai, anthropic or ollama is not installed")
class Clients(Case):
    def test_openai(self):
        c = openai.OpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
        content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url(RGB), "detail": "low"}}]
        r = c.chat.completions.create(model="seeing", messages=[{"role": "user", "content": content}], max_tokens=4)
        self.assertGreater(r.usage.prompt_tokens, 20)
        r = c.responses.create(model="seeing", max_output_tokens=4, input=[{"role": "user", "content": [
            {"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": url(RGB), "detail": "auto"}]}])
        self.assertGreater(r.usage.input_tokens, 20)
        with self.assertRaises(openai.BadRequestError) as e:
            c.chat.completions.create(model="seeing", messages=[{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}])
        self.assertEqual(e.exception.param, "messages[0].content[0].image_url.url")

    def test_anthropic(self):
        c = anthropic.Anthropic(base_url=self.server.url, api_key="none", max_retries=0)
        content = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(RGB)}},
                   {"type": "text", "text": "a"}]
        r = c.messages.create(model="seeing", max_tokens=4, messages=[{"role": "user", "content": content}])
        self.assertGreater(r.usage.input_tokens + r.usage.cache_read_input_tokens, 20)

    def test_ollama(self):
        c = ollama.Client(host=self.server.url)
        for image in (str(RGB), RGB.read_bytes()):
            r = c.chat(model="seeing", messages=[{"role": "user", "content": "a", "images": [image]}], options={"num_predict": 4})
            self.assertGreater(r.prompt_eval_count, 20)
        r = c.generate(model="seeing", prompt="a", images=[RGB.read_bytes()], options={"num_predict": 4})
        self.assertGreater(r.prompt_eval_count, 20)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
