"""Asks a tiny model the held-out questions and counts exactly right answers.

    python generate.py eval --family qwen --seed 2024 --n 100 -o eval-qwen.jsonl
    python evaluate.py eval-qwen.jsonl --family qwen --backend hf
    python evaluate.py eval-qwen.jsonl --family qwen --backend apus --apus ../../build/apus
    python pictures.py eval --seed 2024 --n 40 -o seen       # questions about pictures: apus only
    python evaluate.py seen/questions.jsonl --family qwen --backend apus --apus ../../build/apus

Greedy decoding. An answer counts only if, after the thinking is taken off, it is the expected text,
number, JSON object (values and order of keys) or call (name and arguments), and nothing else.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time

from chatformat import END, MODEL_DIR, judge, load_tokenizer, parse, render

LIMIT = 140                                               # new tokens; the longest right answer has about 100


class HuggingFace:
    """transformers in float32 on the CPU, questions of similar length in one left-padded batch."""

    def __init__(self, family, folder, a):
        import torch
        from transformers import AutoModelForCausalLM
        torch.set_num_threads(a.threads)
        self.torch, self.batch = torch, a.batch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.pad = self.model.generation_config.pad_token_id
        self.family, self.tok = family, load_tokenizer(family)

    def answers(self, items):
        """Yields (item, prompt text, generated ids)."""
        work = []
        for item in items:
            text = render(self.family, item["messages"], item["tools"], item["thinking"])
            work.append((item, text, self.tok.encode(text, add_special_tokens=False).ids))
        work.sort(key=lambda w: len(w[2]))
        while work:
            size = self.batch if len(work[0][2]) < 600 else max(1, self.batch // 8)
            part, work = work[:size], work[size:]
            width = max(len(w[2]) for w in part)
            ids = self.torch.tensor([[self.pad] * (width - len(w[2])) + w[2] for w in part])
            mask = self.torch.tensor([[0] * (width - len(w[2])) + [1] * len(w[2]) for w in part])
            with self.torch.no_grad():
                out = self.model.generate(ids, attention_mask=mask, max_new_tokens=LIMIT, do_sample=False,
                                          temperature=None, top_k=None, top_p=None)
            for w, row in zip(part, out[:, width:].tolist()):
                yield w[0], w[1], row


class Apus:
    """The apus command line: render gives the prompt's ids, run continues them; or run takes a conversation with
    pictures as it is."""

    def __init__(self, family, folder, a):
        self.family, self.folder, self.apus = family, folder, a.apus
        self.tok = load_tokenizer(family)

    def call(self, *args):
        return subprocess.run([self.apus, *args], check=True, capture_output=True, text=True).stdout

    def see(self, item):
        """(what the prompt ends with, ids of the answer)"""
        with tempfile.TemporaryDirectory() as d:
            messages = os.path.join(d, "messages.json")
            with open(messages, "w") as f:
                json.dump(item["messages"], f)
            look = [a for name in item["pictures"] for a in ("-i", name)]
            out = self.call("run", self.folder, "--messages", messages, *look, "--print-ids", "-n", str(LIMIT), "--temp", "0",
                            "--think" if item["thinking"] else "--no-think")
        return render(self.family, item["messages"], None, item["thinking"]), [int(t) for t in out.split()]

    def answers(self, items):
        for item in items:
            if item.get("pictures"):
                text, ids = self.see(item)
                yield item, text, ids if len(ids) == LIMIT else ids + [self.tok.token_to_id(END[self.family])]
                continue
            with tempfile.TemporaryDirectory() as d:
                messages, tools, ids = (os.path.join(d, n) for n in ("messages.json", "tools.json", "ids.txt"))
                args = ["render", self.folder, "--messages", messages, "--tokens", "--think" if item["thinking"] else "--no-think"]
                with open(messages, "w") as f:
                    json.dump(item["messages"], f)
                if item["tools"]:
                    with open(tools, "w") as f:
                        json.dump(item["tools"], f)
                    args += ["--tools", tools]
                prompt = self.call(*args)
                with open(ids, "w") as f:
                    f.write(prompt)
                out = self.call("run", self.folder, "--ids", ids, "--print-ids", "-n", str(LIMIT), "--temp", "0")
            text = self.tok.decode([int(t) for t in prompt.split()], skip_special_tokens=False)
            ids = [int(t) for t in out.split()]
            if len(ids) < LIMIT:                              # run does not print the token that ended it
                ids.append(self.tok.token_to_id(END[self.family]))
            yield item, text, ids


BACKENDS = {"hf": HuggingFace, "apus": Apus}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("questions", help="file written by generate.py eval")
    p.add_argument("--family", choices=["qwen", "gemma"], required=True)
    p.add_argument("--model", help="model folder (default: the tiny model of the family)")
    p.add_argument("--backend", choices=sorted(BACKENDS), default="hf")
    p.add_argument("--apus", default="apus", help="the apus program")
    p.add_argument("--skills", nargs="*")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("-o", "--output", help="write every answer here as JSON lines")
    a = p.parse_args()
    with open(a.questions) as f:
        items = [json.loads(line) for line in f]
    items = [i for i in items if not a.skills or i["skill"] in a.skills]
    backend = BACKENDS[a.backend](a.family, a.model or MODEL_DIR[a.family], a)
    stop = [backend.tok.token_to_id(t) for t in (END[a.family], "<|tool_response>", "<|endoftext|>", "<eos>")]
    right, depth, log, begun = {}, {}, open(a.output, "w") if a.output else None, time.time()
    for item, prompt, ids in backend.answers(items):
        cut = next((i for i, t in enumerate(ids) if t in stop), len(ids))
        text = backend.tok.decode(ids[:cut], skip_special_tokens=False)
        content, calls = parse(a.family, prompt, text)
        ok = cut < len(ids) and judge(item["check"], content, calls, item["tools"])
        right.setdefault((item["skill"], "thinking" if item["thinking"] else "plain"), []).append(ok)
        if item.get("depth") is not None:
            depth.setdefault(min(9, int(item["depth"] * 10)), []).append(ok)
        if log:
            row = {"ok": ok, "skill": item["skill"], "thinking": item["thinking"], "depth": item.get("depth"),
                   "asked": str(item["messages"][-1]["content"])[-160:], "check": item["check"], "got": text}
            log.write(json.dumps(row, ensure_ascii=False) + "\n")
            log.flush()
    for (skill, mode), v in sorted(right.items()):
        print(f"{skill:12s} {mode:9s} {sum(v):4d} of {len(v):4d}  {100 * sum(v) / len(v):6.1f} %")
    for d, v in sorted(depth.items()):
        print(f"recall at {10 * d:2d}-{10 * d + 10:3d} % of the text: {sum(v)} of {len(v)}")
    print(f"{time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
