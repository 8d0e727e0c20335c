#!/usr/bin/env python3
"""The server as it is, with the tiny models computing.

    test_serve.py APUS SOURCE_DIR
"""
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server

APUS, ROOT = sys.argv[1], Path(sys.argv[2])
QWEN, GEMMA = ROOT / "models/tiny-qwen", ROOT / "models/tiny-gemma"
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}

PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
                                           "age": {"type": "integer", "minimum": 0, "maximum": 120},
                                           "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3}},
          "required": ["name", "age"], "additionalProperties": False}


def ask(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def words(answer):
    return answer["choices"][0]["message"]["content"]


def alone(model, text):
    r = subprocess.run([APUS, "run", str(model), text, "--temp", "0", "--json"], capture_output=True, text=True, check=True)
    return json.loads(r.stdout)


class Serve(unittest.TestCase):
    def serve(self, model, *options):
        server = Server(APUS, model, *options)
        self.addCleanup(lambda: self.assertEqual(server.stop(), 0, "".join(server.log)))
        return server

    def test_same_as_run(self):
        for model in (QWEN, GEMMA):
            s = self.serve(model)
            for text in ("What is 12 + 30?", "What is apus?"):
                whole = s.post(CHAT, ask(text))
                want = alone(model, text)
                self.assertEqual(words(whole), want["message"]["content"])
                for key in ("prompt_tokens", "completion_tokens"):
                    self.assertEqual(whole["usage"][key], want["usage"][key])
                events = s.events(CHAT, ask(text, stream=True))
                self.assertEqual("".join(e["choices"][0]["delta"].get("content") or "" for _, e in events[:-1]), words(whole))
                self.assertEqual(s.post("/api/chat", {"model": model.name, "stream": False, "options": {"temperature": 0},
                                                      "messages": [{"role": "user", "content": text}]})["message"]["content"], words(whole))

    def test_thinking_and_effort(self):
        s = self.serve(QWEN)
        on = s.post(CHAT, ask("What is 12 + 30?", reasoning_effort="high"))
        off = s.post(CHAT, ask("What is 12 + 30?", reasoning_effort="none"))
        self.assertIn("42", words(on))
        self.assertIn("42", words(off))
        self.assertGreater(on["usage"]["completion_tokens_details"]["reasoning_tokens"], 0)
        self.assertEqual(off["usage"]["completion_tokens_details"]["reasoning_tokens"], 0)
        self.assertNotIn("reasoning_content", off["choices"][0]["message"])
        got = s.post("/v1/messages", {"model": "tiny-qwen", "max_tokens": 100, "temperature": 0,
                                      "messages": [{"role": "user", "content": "What is 12 + 30?"}]})
        self.assertEqual([b["type"] for b in got["content"]], ["text"])

    def test_choices_seeds_and_bounds(self):
        s = self.serve(QWEN)
        body = ask("Tell me about apus.", n=3, seed=5, temperature=1.5, max_tokens=20)
        a, b = (s.post(CHAT, body) for _ in range(2))
        self.assertEqual(a["choices"], b["choices"])
        self.assertEqual(len(a["choices"]), 3)
        self.assertEqual(a["usage"]["completion_tokens"], 60 if all(c["finish_reason"] == "length" for c in a["choices"]) else a["usage"]["completion_tokens"])
        none = s.post(CHAT, ask("Hello", max_tokens=0))
        self.assertEqual((none["usage"]["completion_tokens"], none["choices"][0]["finish_reason"]), (0, "length"))
        banned = s.post("/tokenize", {"content": "42"})["tokens"]
        got = s.post(CHAT, ask("What is 12 + 30?", reasoning_effort="none", logit_bias={str(i): -100 for i in banned}))
        self.assertNotIn("42", words(got))

    def test_tools(self):
        s = self.serve(QWEN)
        got = s.post(CHAT, ask("What is the weather in Paris?", tools=[TOOL]))["choices"][0]
        if got["finish_reason"] == "tool_calls":
            call = got["message"]["tool_calls"][0]["function"]
            self.assertEqual(call["name"], "get_weather")
            self.assertIn("Paris", json.loads(call["arguments"])["city"])
        other = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
        for effort in ("none", "high"):
            must = s.post(CHAT, ask("What is the weather in Paris?", tools=[TOOL, other], reasoning_effort=effort, max_tokens=200,
                                    tool_choice={"type": "function", "function": {"name": "get_weather"}}))["choices"][0]
            self.assertEqual([c["function"]["name"] for c in must["message"].get("tool_calls", [])][:1], ["get_weather"], must)
        none = s.post(CHAT, ask("What is the weather in Paris?", tools=[TOOL], tool_choice="none"))["choices"][0]
        self.assertNotIn("tool_calls", none["message"])
        self.assertNotIn("<tool_call>", words({"choices": [none]}))

    def check_form(self, text):
        """PERSON, by hand."""
        doc = json.loads(text)
        self.assertEqual(list(doc), [k for k in ("name", "age", "tags") if k in doc], text)
        self.assertTrue(isinstance(doc["name"], str) and len(doc["name"]) <= 20, text)
        self.assertTrue(isinstance(doc["age"], int) and 0 <= doc["age"] <= 120, text)
        self.assertTrue(1 <= len(doc.get("tags", ["a"])) <= 3 and set(doc.get("tags", [])) <= {"a", "b"}, text)

    def test_forms(self):
        for model in (QWEN, GEMMA):
            s = self.serve(model)
            for seed in range(8):
                base = ask("Who are you?", seed=seed, max_tokens=400) | {"temperature": seed % 3 / 2}
                base["reasoning_effort"] = "high" if seed % 2 else "none"
                form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
                r = s.post(CHAT, base | {"response_format": form})
                if r["choices"][0]["finish_reason"] == "stop": # a thought may take all of it
                    self.check_form(words(r))
                r = s.post(CHAT, base | {"grammar": 'root ::= "yes" | "no" | "\\u00e9"+'})
                if r["choices"][0]["finish_reason"] == "stop":
                    self.assertRegex(words(r), "^(yes|no|é+)$")
            ollama = s.post("/api/chat", {"model": model.name, "stream": False, "think": False, "format": PERSON, "messages": base["messages"]})
            self.check_form(ollama["message"]["content"])
            r = s.post("/v1/responses", {"input": "Who?", "reasoning": {"effort": "none"}, "text": {"format": {"type": "json_schema", "name": "p", "schema": PERSON}}})
            self.check_form(r["output"][-1]["content"][0]["text"])
            for key in ({"output_format": {"type": "json_schema", "schema": PERSON}},
                        {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}}):
                r = s.post("/v1/messages", {"model": model.name, "max_tokens": 300, "messages": base["messages"], **key})
                self.check_form(r["content"][0]["text"])
            r = s.post("/v1/completions", {"prompt": "Once", "json_schema": PERSON, "max_tokens": 300, "seed": 1})
            self.check_form(r["choices"][0]["text"])

    def test_strict_tools(self):
        tool = {"type": "function", "function": {"name": "person", "strict": True, "parameters": PERSON}}
        other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
        named = {"type": "function", "function": {"name": "person"}}
        for model in (QWEN, GEMMA):
            s = self.serve(model)
            for seed in range(6):
                base = ask("Who are you?", seed=seed, max_tokens=400, tools=[tool, other]) | {"temperature": seed % 3 / 2}
                base["reasoning_effort"] = "high" if seed % 2 else "none"
                for choice in (named, "required", "auto"):
                    c = s.post(CHAT, base | {"tool_choice": choice})["choices"][0]
                    calls = c["message"].get("tool_calls", [])
                    if choice != "auto" and c["finish_reason"] != "length":
                        self.assertTrue(calls and not c["message"]["content"], c)
                    for call in calls:
                        self.assertIn(call["function"]["name"], ("person",) if choice is named else ("person", "other"))
                        if call["function"]["name"] == "person":
                            self.check_form(call["function"]["arguments"])

    def test_forms_beside_tools(self):
        """An answer is a document, or calls; where a call must come, it does."""
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        seen = set()
        for model in (QWEN, GEMMA):
            s = self.serve(model)
            for seed in range(8):
                text = "What is the weather in Paris?" if seed % 2 else "Who are you?"
                base = ask(text, seed=seed, max_tokens=400, tools=[TOOL], reasoning_effort="none") | {"temperature": seed % 4 / 2}
                for asked in (form, {"type": "json_object"}):
                    c = s.post(CHAT, base | {"response_format": asked})["choices"][0]
                    calls = c["message"].get("tool_calls", [])
                    seen.add(c["finish_reason"])
                    if calls:
                        self.assertFalse(c["message"]["content"], c)
                    elif c["finish_reason"] == "stop" and asked is form:
                        self.check_form(words({"choices": [c]}))
                    elif c["finish_reason"] == "stop":
                        self.assertIsInstance(json.loads(words({"choices": [c]})), dict)
                must = s.post(CHAT, base | {"response_format": form, "tool_choice": "required"})["choices"][0]
                if must["finish_reason"] != "length":
                    self.assertEqual(must["message"]["tool_calls"][0]["function"]["name"], "get_weather")
            banned = s.post(CHAT, base | {"response_format": form, "tool_choice": "none"})
            self.check_form(words(banned))
        self.assertLessEqual({"stop", "tool_calls"}, seen)
        bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
        for choice in ("auto", "required"):
            got = s.post(CHAT, base | {"response_format": bad, "tool_choice": choice}, status=400)
            self.assertEqual(got["error"]["param"], "response_format.json_schema.schema")
        got = s.post(CHAT, base | {"grammar": 'root ::= "a"'}, status=400)
        self.assertEqual(got["error"]["param"], "grammar")

    def test_forms_refused(self):
        s = self.serve(QWEN)
        schema = lambda x: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": x}}}
        at = "response_format.json_schema.schema"
        for more, param, word in ((schema({"properties": {"a": {"not": {}}}}), at, "#/properties/a/not"),
                                  (schema({"type": "array", "minItems": 5, "maxItems": 2}), at, "minItems"),
                                  (schema({"$ref": "#"}), at, "itself"),
                                  ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, at, "needed"),
                                  ({"grammar": 'root ::= "a"{5,2}'}, "grammar", "{5,2}"),
                                  ({"grammar": "root ::= root"}, "grammar", "grammar"),
                                  ({"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters":
                                     {"type": "object", "properties": {"a": {"not": {}}}}}}]}, "tools", "#/properties/a/not"),
                                  ({"grammar": 'root ::= "a"', "json_schema": {}}, "json_schema", "already")):
            body = s.post(CHAT, ask("x") | more, status=400)
            self.assertEqual(body["error"]["param"], param, body)
            self.assertIn(word, body["error"]["message"])

    def test_neighbours_and_leavers(self):
        """Answers do not depend on who else asks, waits or leaves."""
        s = self.serve(QWEN, "--parallel", "4", "--quiet")
        texts = [f"What is {a} + {b}?" for a, b in ((12, 30), (47, 38), (5, 6), (90, 9), (33, 44), (71, 18))]
        want = {t: words(s.post(CHAT, ask(t))) for t in texts}
        wrong = []
        rng = random.Random(7)

        def stay(t):
            got = words(s.post(CHAT, ask(t)))
            if got != want[t]:
                wrong.append((t, got))

        def leave(t, wait):
            c = socket.create_connection(("127.0.0.1", s.port))
            data = json.dumps(ask(t, stream=bool(rng.randrange(2)))).encode()
            c.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
                      (CHAT.encode(), len(data)) + data)
            time.sleep(wait)
            c.close()
        threads = []
        for _ in range(60):
            t = rng.choice(texts)
            if rng.random() < 0.4:
                threads.append(threading.Thread(target=leave, args=(t, rng.random() * 0.3)))
            else:
                threads.append(threading.Thread(target=stay, args=(t,)))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])
        deadline = time.time() + 10
        while s.metric("apus_requests_running") and time.time() < deadline:
            time.sleep(0.05)
        self.assertEqual(s.metric("apus_requests_running"), 0)

    def test_prompts_are_kept(self):
        """The next turn of a conversation finds the last one, also after a restart, and says the same."""
        body = ask("Repeat: " + "apus sings at dawn. " * 20 + "What is 12 + 30?", reasoning_effort="none")
        with tempfile.TemporaryDirectory() as cache:
            first = Server(APUS, QWEN, "--cache-disk", cache)
            cold, warm = first.post(CHAT, body), first.post(CHAT, body)
            self.assertEqual(first.stop(), 0)
            restarted = self.serve(QWEN, "--cache-disk", cache).post(CHAT, body)
        self.assertEqual(cold["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        for again in (warm, restarted):
            self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            self.assertEqual(words(again), words(cold))

    def test_queue(self):
        s = self.serve(QWEN, "--parallel", "1", "--max-queue", "1")
        status = []
        body = ask("Tell me about apus.", max_tokens=300, ignore_eos=True)
        threads = [threading.Thread(target=lambda: status.append(s.ask("POST", CHAT, body)[:2])) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual({st for st, _ in status}, {200, 429})
        self.assertTrue(all(h.get("retry-after") for st, h in status if st == 429))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
