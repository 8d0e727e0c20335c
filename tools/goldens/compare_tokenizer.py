#!/usr/bin/env python3
"""Compare apus with the tokenizers library on many generated strings.

  compare_tokenizer.py build/tests/unit/tokenizer/tok_batch [-n 20000] [-v 3000] [-s SEED] [--scan]
                       [tokenizer.json ...]

n strings and n id sequences for the two families (or for the files given), v for each variant.
--scan instead puts code points into a few contexts, with tokenizers that show every boundary.
Exits with 1 if anything differs. Needs the package tokenizers.
"""
import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import time

import make_tokenizer_goldens as gold


def ask(program, path, requests):
    """Answers (code, payload) of tok_batch."""
    data = b"".join(
        struct.pack("<cBI", op.encode(), flags, len(a)) + (a if op == "E" else struct.pack(f"<{len(a)}i", *a))
        for op, flags, a in requests)
    out = subprocess.run([program, path], input=data, stdout=subprocess.PIPE, check=True).stdout
    at, answers = 0, []
    for op, _, _ in requests:
        code, n = struct.unpack_from("<II", out, at)
        at += 8
        if op == "E":
            answers.append((code, list(struct.unpack_from(f"<{n}i", out, at))))
            at += 4 * n
        else:
            answers.append((code, out[at:at + n]))
            at += n
    assert at == len(out)
    return answers


def scan(program, name, doc):
    """Code points in short contexts, also among marks: all up to U+1FFFF and the tags, every 16th (and
    the neighbours of every 256th) beyond."""
    ref = gold.Reference(doc)
    bad = total = 0
    t0 = time.time()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(doc, f, ensure_ascii=False)
        f.flush()
        wanted = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and
                  (c < 0x20000 or 0xE0000 <= c < 0xE1000 or c < 0x34000 and c % 16 == 0 or (c + 2) % 256 < 4)]
        for lo in range(0, len(wanted), 0x4000):
            chars = [chr(c) for c in wanted[lo:lo + 0x4000]]
            texts = [f"a{c}b {c} {c}!{c}1{c}\n{c}'{c}s{c}\u0316{c}\u0301\u0327{c}word{c} word\u1100{c}\u11a8".encode() for c in chars]
            asked = [("E", 0, t) for t in texts]
            for t, (code, got) in zip(texts, ask(program, f.name, asked)):
                if code or got != ref.encode(t, 0):
                    bad += 1
                    if bad <= 20:
                        print(f"  {name} code {code}: {t.decode()!a} U+{ord(t.decode()[1]):04X}")
            total += len(texts)
    print(f"{name}: {total} code points, {bad} differ, {time.time() - t0:.0f} s", flush=True)
    return bad


def compare(program, name, doc, n, seed):
    rng = random.Random(seed)
    ref = gold.Reference(doc)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(doc, f, ensure_ascii=False)
        f.flush()
        bad = total = 0
        t0 = time.time()
        while total < 2 * n:
            batch = list(gold.cases(ref, rng, min(2000, n)))
            for (op, flags, a, b), (code, got) in zip(batch, ask(program, f.name, [c[:3] for c in batch])):
                if code or got != b:
                    bad += 1
                    if bad <= 5:
                        print(f"  {name} {op} flags {flags} code {code}: {a!r}\n    want {b!r}\n    got  {got!r}")
            total += len(batch)
        print(f"{name}: {total} cases, {bad} differ, {time.time() - t0:.0f} s", flush=True)
    return bad


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("files", nargs="*")
    p.add_argument("-n", type=int, default=20000)
    p.add_argument("-v", type=int, default=3000)
    p.add_argument("-s", type=int, default=11)
    p.add_argument("--scan", action="store_true")
    a = p.parse_intermixed_args()
    if a.scan:
        v = gold.variants()
        docs = [("qwen 3.5 pattern", gold.pairs(gold.QWEN35)), ("qwen 2 pattern", gold.pairs(gold.QWEN2)),
                ("gpt2 pattern", gold.pairs(None)), ("Whitespace", v["Whitespace"]), ("Digits", v["fused_unk"]),
                ("WhitespaceSplit", v["WhitespaceSplit"]), ("single_word", v["odd_added"])]
        sys.exit(1 if sum(scan(a.program, k, d) for k, d in docs) else 0)
    if a.files:
        docs = [(f, json.load(open(f)), a.n) for f in a.files]
    else:
        docs = [("qwen", gold.qwen(), a.n), ("gemma", gold.gemma(), a.n),
                ("pairs qwen 3.5", gold.pairs(gold.QWEN35), a.n), ("pairs qwen 2", gold.pairs(gold.QWEN2), a.n),
                ("pairs gpt2", gold.pairs(None), a.v)]
        docs += [(k, d, a.v) for k, d in gold.variants().items()]
    sys.exit(1 if sum(compare(a.program, k, d, n, a.s) for k, d, n in docs) else 0)


if __name__ == "__main__":
    main()
