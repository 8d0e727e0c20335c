#!/usr/bin/env python3
"""apus perplexity and apus quantize.

    test_tools.py APUS SOURCE_DIR
"""
import array
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import shutil
import struct
import unittest
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2])
QWEN = ROOT / "models/tiny-qwen"
GEMMA = ROOT / "models/tiny-gemma"
FUSED = ROOT / "tests/golden/data/q35moe_fused"


def apus(*args, stdin="", status=0):
    r = subprocess.run(APUS + [str(a) for a in args], input=stdin.encode(), capture_output=True,
                       timeout=300)
    out, err = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
    if r.returncode != status:
        raise AssertionError(f"{args}: status {r.returncode}, expected {status}\n{out}\n{err}")
    return out, err


def read_safetensors(path):
    """name -> (dtype, shape, bytes)"""
    data = Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n:][slice(*v["data_offsets"])])
            for k, v in header.items()}


def text(lines):
    """Sums, a skill of the tiny models, beside words they rarely see."""
    out = []
    for i in range(lines):
        a, b = 13 * i % 89 + 10, 29 * i % 83 + 10
        out.append(f"What is {a} + {b}? {a} + {b} = {a + b}. The code of the red fox is {a * b}.")
    return "\n".join(out) + "\n"


def softmax_log(row):
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row)) + top
    return [x - total for x in row]


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.text = self.dir / "text.txt"
        self.text.write_text(text(12))

    def tearDown(self):
        shutil.rmtree(self.dir)

    def perplexity(self, model, *args):
        return json.loads(apus("perplexity", model, "-f", self.text, "--json", *args)[0])

    def window_logs(self, model, ids, window):
        """Log probabilities [windows][rows][vocab] of the scored rows, and the tokens that follow."""
        logs, following = [], []
        for w in range(len(ids) // window):
            part = ids[w * window:(w + 1) * window]
            if model == GEMMA:
                part[0] = 2  # <bos>
            path, at, out = (self.dir / n for n in ("ids.txt", "at.txt", "l.safetensors"))
            rows = range(window // 2, window - 1)
            path.write_text(" ".join(map(str, part)))
            at.write_text(" ".join(map(str, rows)))
            apus("logits", model, "--ids", path, "--positions", at, "-o", out)
            _, shape, data = read_safetensors(out)["logits"]
            flat = array.array("f", data)
            logs += [softmax_log(flat[r * shape[1]:(r + 1) * shape[1]]) for r in range(shape[0])]
            following += [part[r + 1] for r in rows]
        return logs, following


class Perplexity(Case):
    def test_equals_direct_computation(self):
        for model, window in ((QWEN, 64), (GEMMA, 77)):
            ids = [int(i) for i in apus("tokenize", model, "--no-special",
                                        stdin=self.text.read_text())[0].split()]
            if model == GEMMA:
                ids.insert(0, 2)  # <bos>
            logs, following = self.window_logs(model, ids, window)
            want = math.exp(-sum(p[t] for p, t in zip(logs, following)) / len(logs))
            got = self.perplexity(model, "--ctx", window)
            self.assertEqual(got["scored"], len(logs))
            self.assertEqual(got["windows"], len(ids) // window)
            self.assertAlmostEqual(got["perplexity"] / want, 1, delta=1e-5)

    def test_divergence_from_itself_is_zero(self):
        got = self.perplexity(QWEN, "-c", 64, "--kl-against", QWEN)
        self.assertEqual(got["perplexity"], got["base_perplexity"])
        self.assertEqual((got["kl_mean"], got["kl_99_9"], got["kl_max"]), (0, 0, 0))
        self.assertEqual(got["top1_agreement"], 1)

    def test_results_do_not_depend_on_pieces(self):
        self.assertEqual(self.perplexity(QWEN, "-c", 128, "-t", 1),
                         self.perplexity(QWEN, "-c", 128, "-t", 2, "--prefill-chunk", 7))

    def test_mistakes(self):
        _, err = apus("perplexity", QWEN, status=2)
        self.assertIn("--file is missing", err)
        _, err = apus("perplexity", QWEN, "-f", self.text, "-c", 3, status=2)
        self.assertIn("expected at least 4", err)
        _, err = apus("perplexity", QWEN, "-f", self.text, "-c", 64, "--kl-against", GEMMA, status=1)
        self.assertIn("same vocabulary", err)
        _, err = apus("perplexity", QWEN, "-f", "-", stdin="Hello", status=1)
        self.assertRegex(err, r"^apus perplexity: - has \d+ tokens, expected at least one window of 512")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
