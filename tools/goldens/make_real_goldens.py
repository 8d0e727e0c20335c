#!/usr/bin/env python3
"""What transformers makes of a real GGUF model, for tests/cli/test_real.py.

    make_real_goldens.py FILE.gguf tests/cli/data/english.txt -o tests/cli/data/gemma3_270m.json
"""
import argparse
import json
import math
import os
import random

import torch
import transformers as tf

SEED = 5
WINDOW = 144
ALPHABETS = [(0x20, 0x7F), (0xA0, 0x180), (0x370, 0x400), (0x400, 0x460), (0x5D0, 0x5EB), (0x620, 0x650),
             (0x900, 0x970), (0xE00, 0xE50), (0x3040, 0x3100), (0x4E00, 0x5200), (0xAC00, 0xAD00),
             (0x1F300, 0x1F640), (0x2000, 0x2070)]
PROMPTS = ["The capital of France is", "Once upon a time there was a", "The three largest planets are",
           "def fibonacci(n):\n", "Q: What is the boiling point of water?\nA:"]


def strings(words):
    rng = random.Random(SEED)
    out = ["", " ", "a", "  two  spaces   three", "tabs\tand\nnewlines\n\n\n", "\u2581 low line", "caf\u00e9 cafe\u0301",
           "<bos><eos><start_of_turn>user\nhi<end_of_turn>", "x" * 70, "1234567890.5e-3", "\r\n\r\n", "\U0001f468\u200d\U0001f469\u200d\U0001f467"]
    while len(out) < 400:
        kind = rng.randrange(3)
        if kind == 0:
            out.append(" ".join(rng.choices(words, k=rng.randrange(1, 12))))
        elif kind == 1:
            lo, hi = rng.choice(ALPHABETS)
            out.append("".join(chr(rng.randrange(lo, hi)) if rng.random() < 0.85 else rng.choice(" \n")
                               for _ in range(rng.randrange(1, 40))))
        else:
            out.append("".join(chr(rng.randrange(*rng.choice(ALPHABETS))) for _ in range(rng.randrange(1, 25))))
    return out


def perplexity(model, ids):
    """Of windows of 144 tokens that begin with <bos>, of the predictions from the middle on, as apus has it."""
    nll = []
    for at in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = [2] + ids[at + 1:at + WINDOW]
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([window])).logits[0].double(), -1)
        nll += [-logp[i, window[i + 1]].item() for i in range(WINDOW // 2, WINDOW - 1)]
    return math.exp(sum(nll) / len(nll))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("text")
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    where = dict(pretrained_model_name_or_path=os.path.dirname(os.path.abspath(args.model)),
                 gguf_file=os.path.basename(args.model))
    tok = tf.AutoTokenizer.from_pretrained(**where)
    model = tf.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="eager").eval()
    text = open(args.text, encoding="utf-8").read()
    ids = tok(text)["input_ids"]
    greedy = {}
    for p in PROMPTS:
        start = tok(p)["input_ids"]
        out = model.generate(torch.tensor([start]), max_new_tokens=32, do_sample=False)[0].tolist()
        greedy[p] = out[len(start):]
    found = dict(transformers=tf.__version__, tokens=len(ids), perplexity=perplexity(model, ids), greedy=greedy,
                 ids={s: tok(s)["input_ids"] for s in strings(text.split())})
    with open(args.out, "w", encoding="utf-8") as f:
        json.dump(found, f, indent=None, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
