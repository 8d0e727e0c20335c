#!/usr/bin/env python3
"""The official client packages of OpenAI, Anthropic and Ollama against the server, whose answers are
scripted: what the last user says after "say:" is what the model answers (scripted.c).

    test_clients.py PROGRAM SOURCE_DIR

Skipped (77) where a package is missing; APUS_CLIENTS names a folder to look for them in besides.
"""
import asyncio
import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
if os.environ.get("APUS_CLIENTS"):
    sys.path.insert(0, os.environ["APUS_CLIENTS"])
try:
    import anthropic
    import ollama
    import openai
    import pydantic
except ImportError as e:
    print(f"skipped: {e.name} is not installed (pip install openai anthropic ollama)")
    sys.exit(77)

from serving import Server

PROGRAM, ROOT = sys.argv[1], Path(sys.argv[2])
CALL = ("<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
          "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city",
                                           "parameters": SCHEMA}}]


class Person(pydantic.BaseModel):
    name: str
    age: int


ANN = '{"name": "Ann", "age": 5}'


def say(text, thought=""):
    return [{"role": "user", "content": f"say:{thought}</think>\n\n{text}"}]


class OpenAI(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(PROGRAM, ROOT / "models/tiny-qwen")
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)
        cls.chat = cls.client.chat.completions

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_whole(self):
        r = self.chat.create(model="tiny-qwen", messages=say("Hello there", "Let me see."))
        c = r.choices[0]
        self.assertEqual((c.message.content, c.finish_reason), ("Hello there", "stop"))
        self.assertEqual(c.message.model_extra["reasoning_content"], "Let me see.")
        self.assertEqual(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens)
        thought = r.usage.completion_tokens_details.reasoning_tokens
        self.assertTrue(0 < thought < r.usage.completion_tokens)

    def test_stream(self):
        s = self.chat.create(model="tiny-qwen", messages=say("Hello there", "Hm."), stream=True,
                             stream_options={"include_usage": True})
        chunks = list(s)
        self.assertEqual(len({c.id for c in chunks}), 1)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, "Hello there")
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.prompt_tokens > 0), ([], True))
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))

    def test_call(self):
        for stream in (False, True):
            r = self.chat.create(model="tiny-qwen", messages=say("Looking." + "\n" + CALL), tools=TOOLS,
                                 stream=stream)
            if stream:
                deltas = [c.choices[0] for c in r if c.choices]
                calls = [t for d in deltas for t in d.delta.tool_calls or []]
                finish = deltas[-1].finish_reason
                text = "".join(d.delta.content or "" for d in deltas)
            else:
                calls = r.choices[0].message.tool_calls
                finish, text = r.choices[0].finish_reason, r.choices[0].message.content
            self.assertEqual(finish, "tool_calls")
            self.assertEqual(text, "Looking.")
            self.assertEqual((calls[0].function.name, calls[0].function.arguments.replace(" ", "")),
                             ("weather", '{"city":"Paris","days":3}'))

    def test_no_call(self):
        r = self.chat.create(model="tiny-qwen", messages=say("Hi" + "\n" + CALL), tools=TOOLS,
                             tool_choice="none")
        self.assertIsNone(r.choices[0].message.tool_calls)
        self.assertNotIn("<tool_call>", r.choices[0].message.content)
        self.assertEqual(r.choices[0].finish_reason, "stop")

    def test_demanded_call(self):
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            r = self.chat.create(model="tiny-qwen", tools=TOOLS, tool_choice=choice, messages=say(CALL, "Hm."))
            self.assertEqual(r.choices[0].finish_reason, "tool_calls")
            self.assertEqual(r.choices[0].message.tool_calls[0].function.name, "weather")

    def test_conversation_with_results(self):
        first = self.chat.create(model="tiny-qwen", messages=say(CALL), tools=TOOLS).choices[0].message
        r = self.chat.create(model="tiny-qwen", tools=TOOLS, messages=[
            {"role": "developer", "content": "Be brief."}, *say("x"), first,
            {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"},
            {"role": "system", "content": "Now."}, *say("Rain.")])
        self.assertEqual(r.choices[0].message.content, "Rain.")

    def test_stop_and_length(self):
        r = self.chat.create(model="tiny-qwen", messages=say("one two three four"), stop=[" thr"])
        self.assertEqual((r.choices[0].message.content, r.choices[0].finish_reason), ("one two", "stop"))
        r = self.chat.create(model="tiny-qwen", messages=say("one two three four"), max_tokens=4)
        self.assertEqual((r.choices[0].finish_reason, r.usage.completion_tokens), ("length", 4))
        r = self.chat.create(model="tiny-qwen", messages=say("one"), max_completion_tokens=0)
        self.assertEqual((r.choices[0].finish_reason, r.usage.completion_tokens), ("length", 0))

    def test_choices_and_logprobs(self):
        for stream in (False, True):
            r = self.chat.create(model="tiny-qwen", messages=say("a b c d"), n=3, logprobs=True,
                                 top_logprobs=2, seed=1, logit_bias={"5": -100}, stream=stream)
            got = {0: [], 1: [], 2: []}
            for chunk in r if stream else [r]:
                for c in chunk.choices:
                    got[c.index] += c.logprobs.content if c.logprobs else []
            for index in got:
                self.assertEqual("".join(t.token for t in got[index]), "a b c d")
                self.assertTrue(all(len(t.top_logprobs) == 2 for t in got[index]))

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as e:
            self.chat.create(model="gpt-9", messages=say("x"))
        self.assertEqual(e.exception.code, "model_not_found")
        for wrong, field in [({"messages": []}, "messages"), ({"temperature": 3}, "temperature"),
                             ({"n": 0}, "n"), ({"top_logprobs": 3}, "top_logprobs"),
                             ({"tool_choice": "required"}, "tool_choice"),
                             ({"tool_choice": {"type": "function", "function": {"name": "other"}},
                               "tools": TOOLS}, "tool_choice"),
                             ({"response_format": {"type": "yaml"}}, "response_format"),
                             ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
                             ({"extra_body": {"no_such": 1}}, "no_such")]:
            with self.assertRaises(openai.BadRequestError, msg=field) as e:
                self.chat.create(**{"model": "tiny-qwen", "messages": say("x"), **wrong})
            self.assertEqual(e.exception.param, field)
        with self.assertRaises(openai.BadRequestError) as e:
            self.chat.create(model="tiny-qwen", messages=say("word " * 9000))
        self.assertEqual(e.exception.code, "context_length_exceeded")

    def test_failure_in_stream(self):
        with self.assertRaises(openai.APIError):
            list(self.chat.create(model="tiny-qwen", stream=True,
                                  messages=[{"role": "user", "content": "fail:</think>\n\nHello"}]))

    def test_parsed(self):
        """An answer of a form, and arguments, as objects of a class; tools may stand beside the form."""
        ann = Person(name="Ann", age=5)
        for more in ({}, {"tools": [openai.pydantic_function_tool(Person)]}):
            r = self.chat.parse(model="tiny-qwen", messages=say(ANN), response_format=Person, **more)
            self.assertEqual(r.choices[0].message.parsed, ann)
            with self.chat.stream(model="tiny-qwen", messages=say(ANN), response_format=Person, **more) as s:
                for _ in s:
                    pass
                self.assertEqual(s.get_final_completion().choices[0].message.parsed, ann)
        call = ("<tool_call>\n<function=Person>\n<parameter=name>\nAnn\n</parameter>\n<parameter=age>\n5\n</parameter>\n"
                "</function>\n</tool_call>")
        r = self.chat.parse(model="tiny-qwen", messages=say(call), tools=[openai.pydantic_function_tool(Person)])
        self.assertEqual(r.choices[0].message.tool_calls[0].function.parsed_arguments, ann)

    def test_side_by_side(self):
        async def ask():
            client = openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
            got = await asyncio.gather(*[client.chat.completions.create(model="tiny-qwen", messages=say(f"number {i}"))
                                         for i in range(12)])
            await client.close()
            return [r.choices[0].message.content for r in got]
        self.assertEqual(asyncio.run(ask()), [f"number {i}" for i in range(12)])

    def test_what_is_not_here(self):
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model="tiny-qwen", input="x")
        with self.assertRaises(openai.BadRequestError) as e:
            self.chat.create(model="tiny-qwen", messages=say("x"), functions=[{"name": "f", "parameters": {}}])
        self.assertEqual(e.exception.param, "functions")

    def test_models(self):
        self.assertIn("tiny-qwen", [m.id for m in self.client.models.list()])
        self.assertEqual(self.client.models.retrieve("tiny-qwen").id, "tiny-qwen")

    def test_completions(self):
        r = self.client.completions.create(model="tiny-qwen", prompt="say:one two", max_tokens=50,
                                           logprobs=2, echo=False)
        self.assertEqual((r.choices[0].text, r.choices[0].finish_reason), ("one two", "stop"))
        lp = r.choices[0].logprobs
        self.assertEqual("".join(lp.tokens), "one two")
        self.assertEqual(lp.text_offset[0], 0)
        self.assertEqual(len(lp.top_logprobs[0]), 2)
        r = self.client.completions.create(model="tiny-qwen", prompt="say:one", echo=True, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in r if c.choices), "say:oneone")


class Responses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(PROGRAM, ROOT / "models/tiny-qwen")
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)
        cls.tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_whole(self):
        r = self.client.responses.create(model="tiny-qwen", input="say:Hm.</think>\n\nHello",
                                         instructions="Be nice.")
        self.assertEqual((r.output_text, r.status), ("Hello", "completed"))
        self.assertEqual([o.type for o in r.output], ["reasoning", "message"])
        self.assertTrue(r.usage.output_tokens_details.reasoning_tokens > 0)

    def test_stream(self):
        text = f"say:Hm.</think>\n\nHello\n{CALL}"
        events = list(self.client.responses.create(model="tiny-qwen", input=text, tools=self.tools,
                                                   stream=True))
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        types = [e.type for e in events if not e.type.endswith("delta")]
        item = ["response.output_item.added", "response.content_part.added"]
        end = ["response.content_part.done", "response.output_item.done"]
        self.assertEqual(types, ["response.created", "response.in_progress",
                                 *item, "response.reasoning_text.done", *end,
                                 *item, "response.output_text.done", *end,
                                 "response.output_item.added",
                                 "response.function_call_arguments.done",
                                 "response.output_item.done", "response.completed"])
        final = events[-1].response
        self.assertEqual([o.type for o in final.output], ["reasoning", "message", "function_call"])
        added = {e.output_index: e.item.id for e in events if e.type == "response.output_item.added"}
        self.assertEqual(added, {i: o.id for i, o in enumerate(final.output)})
        self.assertEqual(final.output_text, "Hello")

    def test_items(self):
        call = {"type": "function_call", "call_id": "call_1", "name": "weather",
                "arguments": '{"city": "Paris"}'}
        r = self.client.responses.create(model="tiny-qwen", tools=self.tools, input=[
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [],
             "content": [{"type": "reasoning_text", "text": "hm"}]},
            call, {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
            {"role": "user", "content": "say:</think>\n\nRain."}])
        self.assertEqual(r.output_text, "Rain.")

    def test_parsed(self):
        r = self.client.responses.parse(model="tiny-qwen", input=f"say:</think>\n\n{ANN}", text_format=Person)
        self.assertEqual(r.output_parsed, Person(name="Ann", age=5))

    def test_length_and_errors(self):
        r = self.client.responses.create(model="tiny-qwen", input="say:</think>\n\none two three four",
                                         max_output_tokens=4)
        self.assertEqual((r.status, r.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        for wrong in ({"previous_response_id": "resp_1"}, {"store": True}, {"background": True},
                      {"tools": [{"type": "web_search"}]}, {"input": []}):
            with self.assertRaises(openai.BadRequestError, msg=str(wrong)):
                self.client.responses.create(**{"model": "tiny-qwen", "input": "x", **wrong})


class Anthropic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(PROGRAM, ROOT / "models/tiny-qwen")
        cls.client = anthropic.Anthropic(base_url=cls.server.url, api_key="none", max_retries=0)
        cls.tools = [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}]
        cls.args = {"model": "tiny-qwen", "max_tokens": 200}

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def plain(self, text):
        """Thinking is off unless asked for, so no thought is to be ended."""
        return [{"role": "user", "content": f"say:{text}"}]

    def test_whole(self):
        r = self.client.messages.create(**self.args, system="Be nice.", messages=self.plain("Hello"))
        self.assertEqual([b.type for b in r.content], ["text"])
        self.assertEqual((r.content[0].text, r.stop_reason), ("Hello", "end_turn"))
        self.assertTrue(r.usage.input_tokens > 0 and r.usage.output_tokens > 0)

    def test_thinking(self):
        r = self.client.messages.create(**self.args, thinking={"type": "adaptive"},
                                        messages=say("Hello", "Hm."))
        self.assertEqual([b.type for b in r.content], ["thinking", "text"])
        self.assertTrue(r.content[0].signature)
        again = self.client.messages.create(**self.args, thinking={"type": "adaptive"}, messages=[
            *say("Hello", "Hm."), {"role": "assistant", "content": r.content}, *say("Bye")])
        self.assertEqual(again.content[-1].text, "Bye")

    def test_budget(self):
        r = self.client.messages.create(**self.args, thinking={"type": "enabled", "budget_tokens": 5},
                                        messages=say("x", "one two three four five six seven eight nine"))
        self.assertEqual(r.content[0].type, "thinking")
        self.assertTrue(r.content[0].thinking.startswith("one two"))
        self.assertNotIn("nine", r.content[0].thinking)

    def test_stream(self):
        with self.client.messages.stream(**self.args, tools=self.tools, thinking={"type": "adaptive"},
                                         messages=say("Hello\n" + CALL, "Hm.")) as s:
            events = [e for e in s if e.type.startswith(("message_", "content_block_"))]
            final = s.get_final_message()
        self.assertEqual([b.type for b in final.content], ["thinking", "text", "tool_use"])
        self.assertEqual(final.content[2].input, {"city": "Paris", "days": 3})
        self.assertEqual(final.stop_reason, "tool_use")
        open_block = None
        for e in events:
            if e.type == "content_block_start":
                self.assertIsNone(open_block)
                open_block = e.index
            if e.type == "content_block_stop":
                self.assertEqual(open_block, e.index)
                open_block = None
        self.assertIsNone(open_block)

    def test_results(self):
        use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
        r = self.client.messages.create(**self.args, tools=self.tools, messages=[
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": [use]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1",
                 "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "say:Rain.", "cache_control": {"type": "ephemeral"}}]}])
        self.assertEqual(r.content[0].text, "Rain.")

    def test_stop_and_length(self):
        r = self.client.messages.create(**self.args, messages=self.plain("one two three"),
                                        stop_sequences=["five", " thr"])
        self.assertEqual((r.stop_reason, r.stop_sequence, r.content[0].text),
                         ("stop_sequence", " thr", "one two"))
        r = self.client.messages.create(model="tiny-qwen", max_tokens=2,
                                        messages=self.plain("one two three four"))
        self.assertEqual((r.stop_reason, r.usage.output_tokens), ("max_tokens", 2))

    def test_begun(self):
        r = self.client.messages.create(**self.args, messages=[*self.plain("Hello"), {"role": "assistant", "content": "Well,"}])
        self.assertEqual(r.content[0].text, "Hello")

    @unittest.skipUnless(hasattr(anthropic, "beta_tool"), "no tool runner in this version")
    def test_runner(self):
        """It offers threads, and goes on without them."""
        @anthropic.beta_tool
        def weather(city: str) -> str:
            """Of a city.

            Args:
                city: its name
            """
            return f"say:rain in {city}"
        runner = self.client.beta.messages.tool_runner(**self.args, tools=[weather], messages=self.plain(
            "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"))
        last = runner.until_done()
        self.assertTrue(last.content[0].text.startswith("rain in Paris"), last) # what the result said

    def test_count(self):
        m = self.plain("Hello")
        n = self.client.messages.count_tokens(model="tiny-qwen", messages=m).input_tokens
        self.assertEqual(n, self.client.messages.create(**self.args, messages=m).usage.input_tokens)

    def test_errors(self):
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(model="claude-9", max_tokens=5, messages=self.plain("x"))
        for wrong in ({"messages": []}, {"max_tokens": -1}, {"extra_body": {"temperature": 2}},
                      {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
                      {"tools": self.tools, "tool_choice": {"type": "tool", "name": "other"}},
                      {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
                      {"extra_body": {"no_such": 1}}):
            with self.assertRaises(anthropic.BadRequestError, msg=str(wrong)) as e:
                self.client.messages.create(**{**self.args, "messages": self.plain("x"), **wrong})
            self.assertEqual(e.exception.body["type"], "error")


class Ollama(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(PROGRAM, ROOT / "models/tiny-qwen")
        cls.client = ollama.Client(host=cls.server.url)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_chat(self):
        r = self.client.chat(model="tiny-qwen", messages=say("Hello", "Hm."))
        self.assertEqual((r.message.content, r.message.thinking), ("Hello", "Hm."))
        self.assertEqual((r.done, r.done_reason), (True, "stop"))
        self.assertTrue(r.eval_count > 0 and r.prompt_eval_count > 0 and r.total_duration > 0)
        parts = list(self.client.chat(model="tiny-qwen:latest", messages=say("Hello"), stream=True))
        self.assertEqual("".join(p.message.content for p in parts), "Hello")
        self.assertEqual([p.done for p in parts], [False] * (len(parts) - 1) + [True])

    def test_tools(self):
        r = self.client.chat(model="tiny-qwen", messages=say(CALL), tools=TOOLS)
        f = r.message.tool_calls[0].function
        self.assertEqual((f.name, f.arguments), ("weather", {"city": "Paris", "days": 3}))
        again = self.client.chat(model="tiny-qwen", tools=TOOLS, messages=[
            *say("x"), r.message, {"role": "tool", "tool_name": "weather", "content": "rain"},
            *say("Rain.")])
        self.assertEqual(again.message.content, "Rain.")

    def test_form(self):
        r = self.client.chat(model="tiny-qwen", messages=say(ANN), format=Person.model_json_schema())
        self.assertEqual(Person.model_validate_json(r.message.content), Person(name="Ann", age=5))

    def test_generate(self):
        r = self.client.generate(model="tiny-qwen", prompt="say:Hello", think=False)
        self.assertEqual(r.response, "Hello")
        r = self.client.generate(model="tiny-qwen", prompt="say:Hello and more", raw=True,
                                 options={"num_predict": 1, "seed": 3, "temperature": 0})
        self.assertEqual((r.done_reason, r.eval_count), ("length", 1))

    def test_models(self):
        self.assertEqual(self.client.list().models[0].model, "tiny-qwen")
        self.assertIn("completion", self.client.show("tiny-qwen").capabilities)
        self.assertEqual(self.client.ps().models[0].model, "tiny-qwen")

    def test_errors(self):
        for call, status in [(lambda: self.client.chat(model="no", messages=say("x")), 404),
                             (lambda: self.client.generate(model="tiny-qwen", prompt="x",
                                                           suffix="y"), 400),
                             (lambda: self.client.chat(model="tiny-qwen", messages=say("x"),
                                                       options={"num_ctx": 10**6}), 400)]:
            with self.assertRaises(ollama.ResponseError) as e:
                call()
            self.assertEqual(e.exception.status_code, status)


class Gemma(unittest.TestCase):
    """Another family's answers."""

    def test_chat(self):
        server = Server(PROGRAM, ROOT / "models/tiny-gemma")
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        r = client.chat.completions.create(model="tiny-gemma", messages=[
            {"role": "system", "content": "Be nice."}, {"role": "user", "content": "say:Hello"}])
        self.assertEqual(r.choices[0].message.content, "Hello")
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
