#!/usr/bin/env python3
"""Does a GGUF file's tokenizer and template do what the folder's do that it was made from?

    compare_gguf_text.py build/apus models/tiny-qwen tiny-qwen.gguf [-n 300]

Strings to ids, ids to text (special tokens shown and left out), and conversations to prompts.
"""

import argparse
import json
import random
import subprocess
import sys

import make_tokenizer_goldens as gold

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "1", "type": "function", "function": {"name": "get_weather",
                                                "arguments": {"city": "Rome"}}}]}
CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief. \"Quotes\" \\ and\nlines"},
     {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
     {"role": "user", "content": "und 3+3? 你好 👋"}],
    [{"role": "user", "content": "weather?"}, CALL,
     {"role": "tool", "name": "get_weather", "tool_call_id": "1", "content": "sunny"}],
]


def apus(program, *args, data=None):
    r = subprocess.run([program, *args], input=data, capture_output=True)
    return r.returncode, r.stdout, r.stderr if r.returncode else b""


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("folder")
    p.add_argument("gguf")
    p.add_argument("-n", type=int, default=300)
    a = p.parse_args()
    with open(a.folder + "/tokenizer.json") as f:
        ref = gold.Reference(json.load(f))
    rng = random.Random(5)
    cases, bad, total = [], 0, 0
    for op, flags, x, want in gold.cases(ref, rng, a.n):
        if len(cases) < 2 * a.n:
            cases.append((op, flags, x, want))
    for op, flags, x, want in cases:
        if op == "E":
            args = ["tokenize"], [["--no-special"], []], x
        else:
            args = ["tokenize", "--decode"], [["--no-special"], []], " ".join(map(str, x)).encode()
        for more in args[1]:
            got = [apus(a.program, args[0][0], m, *args[0][1:], *more, data=args[2])
                   for m in (a.folder, a.gguf)]
            total += 1
            if got[0][1] != got[1][1] or got[0][0] != got[1][0]:
                bad += 1
                if bad < 10:
                    print(op, more, repr(x)[:300], "\n  folder", got[0], "\n  gguf  ", got[1])
    for chat in CHATS:
        for tools in (None, TOOLS):
            for more in ([], ["--think"], ["--no-think"], ["--tokens"]):
                files = []
                if tools:
                    with open("/tmp/tools.json", "w") as f:
                        json.dump(tools, f)
                    files = ["--tools", "/tmp/tools.json"]
                got = [apus(a.program, "render", m, "-m", "-", *files, *more,
                            data=json.dumps(chat).encode()) for m in (a.folder, a.gguf)]
                total += 1
                if got[0] != got[1]:
                    bad += 1
                    print("render", more, got)
    print(f"{a.gguf}: {total} comparisons, {bad} differ")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
