#!/usr/bin/env python3
"""Several models in one server: chosen by name, loaded when they are asked for, unloaded to make room.

    test_models.py APUS_SCRIPTED APUS SOURCE_DIR
"""
import http.client
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server

SCRIPTED, APUS, ROOT = sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve()
QWEN, GEMMA = ROOT / "models/tiny-qwen", ROOT / "models/tiny-gemma"
CHAT = "/v1/chat/completions"


def ask(model, text, **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def chat(model, text, **more):
    return ask(model, text, reasoning_effort="none", **more)


def words(answer):
    return answer["choices"][0]["message"]["content"]


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.dir)

    def copies(self, *names, of=QWEN):
        for n in names:
            shutil.copytree(of, self.dir / n)
        return [self.dir / n for n in names]

    def serve(self, *args, program=SCRIPTED, ready=None, **more):
        server = Server(program, args[0], *args[1:], wait=False, **more)
        self.addCleanup(lambda: self.assertEqual(server.stop(), 0, "".join(server.log)))
        until = time.time() + 60
        while server.ask("GET", "/health")[0] != 200:
            self.assertLess(time.time(), until, "".join(server.log))
            time.sleep(0.05)
        return server

    def loaded(self, s):
        return {m["name"] for m in s.get("/api/ps")["models"]}

    def later(self, fn, *args, **more):
        """Do it beside; -> a function that waits for what it returns."""
        out = []
        t = threading.Thread(target=lambda: out.append(fn(*args, **more)), daemon=True)
        t.start()

        def join():
            t.join(60)
            self.assertTrue(out, "no answer")
            return out[0]
        return join


class Choosing(Case):
    def test_by_name(self):
        a, b = self.copies("one", "two")
        s = self.serve(a, b, "--alias", "first")
        self.assertEqual(self.loaded(s), {"one"})
        for name, real in (("one", "one"), ("first", "one"), (str(a), "one"), ("two", "two"), (str(b), "two"), ("one", "one")):
            r = s.post(CHAT, chat(name, "say:It is " + name))
            self.assertEqual(words(r), "It is " + name)
            self.assertEqual(r["model"], real)
            self.assertEqual(self.loaded(s), {real})
        no_name = chat("", "say:x")
        del no_name["model"]
        self.assertEqual(s.post(CHAT, no_name)["model"], "one")
        self.assertEqual(s.post("/v1/messages", {**ask("two", "say:x"), "max_tokens": 5})["model"], "two")
        self.assertEqual(s.post("/api/chat", {**ask("one:latest", "say:x"), "stream": False, "think": False})["message"]["content"], "x")
        self.assertEqual(s.post("/tokenize", {"model": "two", "content": "Hi"}), s.post("/tokenize", {"content": "Hi"}))

    def test_lists(self):
        a, = self.copies("one")
        s = self.serve(a, GEMMA)
        models = {m["id"]: m for m in s.get("/v1/models")["data"]}
        self.assertEqual(set(models), {"one", str(a), "tiny-gemma", str(GEMMA)})
        self.assertIn("n_ctx", models["one"]["meta"])
        self.assertGreater(models["tiny-gemma"]["meta"]["n_params"], 0)
        self.assertNotIn("n_ctx", models["tiny-gemma"]["meta"])
        tags = {m["name"]: m for m in s.get("/api/tags")["models"]}
        self.assertEqual({n: m["details"]["family"] for n, m in tags.items()}, {"one": "qwen3_5_moe", "tiny-gemma": "gemma4"})
        self.assertEqual(s.post("/api/show", {"model": "tiny-gemma"})["details"]["family"], "gemma4")
        self.assertEqual(self.loaded(s), {"one"})
        self.assertEqual(s.get("/v1/models/tiny-gemma")["id"], "tiny-gemma")
        metrics = s.ask("GET", "/metrics")[2].decode()
        self.assertRegex(metrics, r'model_loaded\{model="one"\} 1\n')
        self.assertRegex(metrics, r'model_loaded\{model="tiny-gemma"\} 0\n')

    def test_unknown(self):
        s = self.serve(*self.copies("one", "two"))
        self.assertEqual(s.post(CHAT, chat("three", "x"), status=404)["error"]["code"], "model_not_found")
        r = s.post("/v1/messages", {**ask("three", "x"), "max_tokens": 5}, status=404)
        self.assertEqual(r["error"]["type"], "not_found_error")
        self.assertIn("three", s.post("/api/chat", ask("three", "x"), status=404)["error"])
        for name in ("../two", str(self.dir), "one/..", "", "tw"):
            s.post(CHAT, chat(name, "x"), status=404)
        s.post(CHAT, chat(7, "x"), status=400)
        s.get("/v1/models/three", status=404)

    def test_counters_outlive_models(self):
        s = self.serve(*self.copies("one", "two"))
        for name in ("one", "two", "one", "two"):
            s.post(CHAT, chat(name, "say:x"))
        self.assertEqual(s.metric("apus_requests_submitted_total"), 4)


class Swapping(Case):
    def test_room_for_two(self):
        s = self.serve(*self.copies("one", "two", "three"), "--max-loaded", 2)
        for name, there in (("two", {"one", "two"}), ("one", {"one", "two"}), ("three", {"one", "three"})):
            s.post(CHAT, chat(name, "say:x"))
            self.assertEqual(self.loaded(s), there)

    def test_answers_end_before_their_model_goes(self):
        s = self.serve(*self.copies("one", "two"))
        long = "say(50):" + "word " * 30
        a = self.later(s.events, CHAT, chat("one", long, stream=True))
        while s.metric("apus_requests_running") < 1:
            time.sleep(0.02)
        began = time.time()
        b = self.later(lambda: (s.post(CHAT, chat("two", "say(200):second")), time.time()))
        time.sleep(0.3)
        c = self.later(lambda: (s.post(CHAT, chat("one", "say:third")), time.time()))
        text = "".join(e["choices"][0]["delta"].get("content") or "" for _, e in a()[:-1])
        self.assertEqual(text.strip(), ("word " * 30).strip())
        (second, at2), (third, at3) = b(), c()
        self.assertEqual((words(second), second["model"]), ("second", "two"))
        self.assertEqual((words(third), third["model"]), ("third", "one"))
        self.assertGreater(at2 - began, 0.8)
        self.assertLess(at2, at3)  # who came first is served first, though that takes a swap

    def test_signs_of_life(self):
        s = self.serve(*self.copies("one", "two"), "--ping", 1)
        for path, body, ping in ((CHAT, {}, b": ping\n\n"), ("/v1/messages", {"max_tokens": 9}, b": ping\n\n"),
                                 ("/v1/responses", None, b": ping\n\n"), ("/api/chat", {}, b"\n")):
            a = self.later(s.post, CHAT, chat("one", "say(100):" + "word " * 45))
            while s.metric("apus_requests_running") < 1:
                time.sleep(0.02)
            body = {"model": "two", "input": "say:here", "stream": True} if body is None else \
                ask("two", "say:here", stream=True, **body)
            status, headers, data = s.ask("POST", path, body)
            self.assertEqual(status, 200)
            self.assertIn("x-ndjson" if path == "/api/chat" else "event-stream", headers["content-type"])
            self.assertTrue(data.startswith(ping), data[:100])
            self.assertIn(b'"two"', data)
            self.assertGreater(data.count(b"data: ") if path != "/api/chat" else data.count(b"{"), 3)
            self.assertEqual(words(a()).split(), ["word"] * 45)
            s.post(CHAT, chat("one", "say:back"))

    def test_mistakes_in_a_stream_that_waited(self):
        s = self.serve(*self.copies("one", "two"), "--ping", 1)
        for path, more, says in ((CHAT, {"frob": 1}, b'data: {"error":{"message":"frob'),
                                 ("/v1/messages", {"frob": 1, "max_tokens": 4}, b'event: error\ndata: {"type":"error"'),
                                 ("/api/chat", {"frob": 1}, b'{"error":"frob')):
            a = self.later(s.post, CHAT, chat("one", "say(100):" + "word " * 25))
            while s.metric("apus_requests_running") < 1:
                time.sleep(0.02)
            data = s.ask("POST", path, ask("two", "say:here", stream=True, **more))[2]
            self.assertIn(says, data)
            a()
            s.post(CHAT, chat("one", "say:back"))

    def test_who_leaves_moves_nothing(self):
        s = self.serve(*self.copies("one", "two"))
        a = self.later(s.post, CHAT, chat("one", "say(50):" + "word " * 40))
        while s.metric("apus_requests_running") < 1:
            time.sleep(0.02)
        c = http.client.HTTPConnection("127.0.0.1", s.port)
        c.request("POST", CHAT, json.dumps(ask("two", "say:x")), {"Content-Type": "application/json"})
        time.sleep(0.3)
        c.close()
        time.sleep(0.4)
        began = time.time()
        self.assertEqual(words(s.post(CHAT, chat("one", "say:quick"))), "quick")
        self.assertLess(time.time() - began, 1)
        a()
        self.assertEqual(self.loaded(s), {"one"})

    def test_a_model_that_cannot_be_loaded(self):
        one, two = self.copies("one", "two")
        s = self.serve(one, two)
        (two / "model.safetensors").rename(two / "away")
        for path, more in ((CHAT, {}), (CHAT, {"stream": True}), ("/v1/messages", {"max_tokens": 3}), ("/api/chat", {})):
            r = s.post(path, ask("two", "say:x", **more), status=503)
            self.assertIn("could not be loaded", json.dumps(r))
            self.assertNotIn(str(self.dir), json.dumps(r))
        (two / "away").rename(two / "model.safetensors")
        self.assertEqual(words(s.post(CHAT, chat("two", "say:x"))), "x")
        self.assertTrue(any("no weights" in line for line in s.log), s.log)

    def test_many_at_once(self):
        s = self.serve(*self.copies("one", "two", "three"), "--max-loaded", 2)
        faults = []

        def client(seed):
            r = random.Random(seed)
            for i in range(12):
                name, text = r.choice(("one", "two", "three")), f"answer {seed} {i}"
                try:
                    got = s.post(CHAT, chat(name, f"say({r.randrange(4)}):{text}"))
                    if (words(got), got["model"]) != (text, name):
                        faults.append(got)
                except Exception as e:  # noqa: BLE001
                    faults.append(repr(e))
        ts = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for t in ts:
            t.start()
        for t in ts:
            t.join(120)
        self.assertEqual(faults, [])
        self.assertLessEqual(len(self.loaded(s)), 2)

    def test_ends_while_requests_wait(self):
        s = self.serve(*self.copies("one", "two"), "--drain", 5)
        a = self.later(s.post, CHAT, chat("one", "say(50):" + "word " * 30))
        while s.metric("apus_requests_running") < 1:
            time.sleep(0.02)
        b = self.later(s.ask, "POST", CHAT, chat("two", "say:x"))
        time.sleep(0.3)
        self.assertEqual(s.stop(), 0)
        self.assertEqual(b()[0], 503)
        self.assertEqual(words(a()).split(), ["word"] * 30)


class Lists(Case):
    def fails(self, *args, says, status=1):
        p = subprocess.run([SCRIPTED, "serve", "--offline", "--port", "0", *map(str, args)], capture_output=True, text=True, timeout=60)
        self.assertEqual(p.returncode, status, p.stderr)
        self.assertIn(says, p.stderr)

    def test_a_folder(self):
        self.copies("one", "two")
        (self.dir / "broken").mkdir()
        (self.dir / "broken/config.json").write_text("{")
        (self.dir / "notes").mkdir()
        s = self.serve(f"--models={self.dir}")
        self.assertEqual({m["name"] for m in s.get("/api/tags")["models"]}, {"one", "two"})
        self.assertEqual(self.loaded(s), set())
        self.assertEqual(s.post(CHAT, chat("two", "say:x"))["model"], "two")
        self.assertTrue(any("broken" in line for line in s.log))

    def test_a_file(self):
        one, two = self.copies("one", "two")
        f = self.dir / "models.txt"
        f.write_text(f"# ours\n\n  big = {one}  # the large one\n{two}\n")
        s = self.serve(GEMMA, "--models", f)
        self.assertEqual({m["name"] for m in s.get("/api/tags")["models"]}, {"tiny-gemma", "big", "two"})
        self.assertEqual(self.loaded(s), {"tiny-gemma"})
        self.assertEqual(s.post(CHAT, chat("big", "say:x"))["model"], "big")

    def test_mistakes(self):
        one, two = self.copies("one", "two")
        (self.dir / "deep").mkdir()
        shutil.copytree(QWEN, self.dir / "deep/one")
        self.fails(one, self.dir / "deep/one", says="two models are called one")
        self.fails(one, self.dir / "none", says="none")
        self.fails("--models", self.dir / "none", says="No such file")
        (self.dir / "empty").mkdir()
        self.fails("--models", self.dir / "empty", says="there is no model in it")
        f = self.dir / "bad.txt"
        f.write_text(f"{one}\n= x\n")
        self.fails("--models", f, says="line 2: expected MODEL or NAME = MODEL")
        f.write_text(f"a = {self.dir}/none\n")
        self.fails("--models", f, says="none of the models can be opened")
        self.fails(one, "--max-loaded", "0", says="--max-loaded", status=2)


class Computing(Case):
    """With the program as it is."""

    def test_what_is_kept_on_the_disk_outlives_a_swap(self):
        s = self.serve(QWEN, GEMMA, "--cache-disk", self.dir / "cache", program=APUS)
        long = "What is apus? " * 60
        first = s.post(CHAT, chat("tiny-qwen", long, temperature=0, max_tokens=8))
        s.post(CHAT, chat("tiny-gemma", "Hello", temperature=0, max_tokens=4))
        again = s.post(CHAT, chat("tiny-qwen", long, temperature=0, max_tokens=8))
        self.assertEqual(words(again), words(first))
        self.assertEqual(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 100)

    def test_a_bound_on_memory(self):
        def need(model):
            p = subprocess.run([APUS, "info", model, "--json"], capture_output=True, text=True, check=True)
            return json.loads(p.stdout)
        big = max(need(m)["memory"]["total_bytes"] for m in (QWEN, GEMMA))
        s = self.serve(QWEN, GEMMA, "--max-loaded", 2, "--memory", int(big * 1.6), program=APUS)
        for name in ("tiny-gemma", "tiny-qwen", "tiny-gemma"):
            s.post(CHAT, chat(name, "Hello", max_tokens=2))
            self.assertEqual(self.loaded(s), {name})
        s.stop()
        s = self.serve(QWEN, GEMMA, "--max-loaded", 2, "--memory", int(big * 4), program=APUS)
        s.post(CHAT, chat("tiny-gemma", "Hello", max_tokens=2))
        self.assertEqual(len(self.loaded(s)), 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
