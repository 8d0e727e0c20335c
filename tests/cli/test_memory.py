#!/usr/bin/env python3
"""Memory runs out at every place where some is asked for, in our code and in the libraries: every command
ends with one sentence and status 1, and leaves nothing behind.

    test_memory.py APUS SOURCE_DIR SHIM
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

APUS, ROOT, SHIM = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
GOLDEN = ROOT / "tests/golden/data/q35moe_fused"
CONFIG = ROOT / "models/configs/gemma-4-E2B-it"  # without weights
PICTURE = ROOT / "tests/media/data/alpha.png"
GGUF = ROOT / "tests/golden_quant/data/g4e_gguf_mixed/model.gguf"
MOE = ROOT / "tests/golden_quant/data/q35moe_gguf_split/model-00001-of-00003.gguf"
MLX = ROOT / "tests/golden_quant/data/q35moe_mlx_mixed"
TINY = ROOT / "models/tiny-qwen"
MOST = int(os.environ.get("APUS_MEMORY_CASES", "60"))  # of a command; 0 = all


class Memory(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.list = self.dir / "list"
        self.out = self.dir / "out"
        self.out.mkdir()
        (self.dir / "ids").write_text("1 2 3 4 5")
        (self.dir / "text").write_text("What is 12 + 34? 12 + 34 = 46. " * 12)
        (self.dir / "chat.json").write_text(json.dumps([{"role": "user", "content": "Hello", "x": [1.5, None, True]}]))
        (self.dir / "tools.json").write_text(json.dumps([{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"type": "integer"}}}}}]))
        (self.dir / "recipe").write_text("layers.0.* 8\n")

    def tearDown(self):
        shutil.rmtree(self.dir)

    def apus(self, args, stdin, **env):
        env = dict(os.environ, LD_PRELOAD=SHIM, HOME=str(self.dir), HF_HOME=str(self.dir / "hf"), **env)
        threads = [] if args[0] in ("tokenize", "render", "patches", "list") else ["-t", "1"]
        return subprocess.run([APUS, *map(str, args), *threads], input=stdin.encode(), capture_output=True,
                              env=env, timeout=120)

    def clear(self):
        for p in self.out.iterdir():
            shutil.rmtree(p) if p.is_dir() else p.unlink()

    def torture(self, *args, stdin="", last=None):
        """last: only so many of the last places, where those before are in other tests too."""
        good = self.apus(args, stdin, FAIL_MALLOC_LIST=str(self.list))
        self.assertEqual(good.returncode, 0, good.stderr)
        numbers = [int(n) for n in self.list.read_text().split()]
        self.assertGreater(len(numbers), 10)
        if MOST and last:
            numbers = numbers[-last:]
        elif MOST:
            numbers = numbers[::max(1, len(numbers) // MOST)]
        failed = 0
        for n in numbers:
            self.clear()
            r = self.apus(args, stdin, FAIL_MALLOC_AT=str(n))
            err = r.stderr.decode(errors="replace")
            where = (args, n, r.returncode, err)
            self.assertIn(r.returncode, (0, 1), where)
            left = sorted(p.name for p in self.out.iterdir())
            if r.returncode == 0:  # stdio and the terminal do without a buffer
                continue
            failed += 1
            # speed of an answer before, and what was to stay in memory
            told = [line for line in err.splitlines() if not re.match(r"prompt |experts: |\d+\.\d+ GB of memory: ", line)]
            self.assertEqual(len(told), 1, where)
            self.assertRegex(err, "memory|allocate", where)
            self.assertEqual(left, [], where)
        self.assertGreater(failed, len(numbers) // 3)

    def test_run(self):
        self.torture("run", TINY, "-p", "Hello", "-n", "4", "--json")

    def test_run_ids(self):
        self.torture("run", GGUF, "--ids", self.dir / "ids", "--print-ids", "-n", "4", "--json")

    def test_run_with_experts_on_disk(self):
        config = json.loads((TINY / "config.json").read_text())
        config.get("text_config", config).update(num_experts=64, num_experts_per_tok=4, num_hidden_layers=4)
        config.get("text_config", config).pop("layer_types", None)
        (self.dir / "config.json").write_text(json.dumps(config))
        r = self.apus(["synth", self.dir / "config.json", self.dir / "m.gguf", "--to", "q8_0"], "")
        self.assertEqual(r.returncode, 0, r.stderr)
        args = ["run", self.dir / "m.gguf", "--ids", self.dir / "ids", "--print-ids", "-n", "4", "--json", "-c", "64"]
        low, high = 1 << 20, 64 << 20
        while high - low > 4096:  # the smallest budget: one expert in memory
            middle = (low + high) // 2
            if self.apus([*args, "--memory", middle], "").returncode:
                low = middle
            else:
                high = middle
        args += ["--memory", high + 8192]
        self.assertRegex(self.apus(args, "").stderr, rb"for \d of \d+ experts")
        self.torture(*args)

    def test_run_with_a_grammar(self):
        (self.dir / "g").write_text('root ::= "a" [b-f]* ("x" | "y")')
        self.torture("run", TINY, "-p", "Hello", "-n", "4", "--grammar", self.dir / "g", last=60)

    def test_list(self):
        snapshot = self.dir / "hf/hub/models--acme--tiny/snapshots" / ("0" * 40)
        shutil.copytree(TINY, snapshot)
        self.torture("list", "--json", last=36)

    def test_repack(self):
        self.torture("repack", MOE, self.out / "experts")

    def test_chat(self):
        self.torture("chat", TINY, "--system", "Be brief.", "-n", "4", stdin="Hello\n/again\n/system x\nHi\n")

    def test_info(self):
        self.torture("info", MLX, "--json", "--check")

    def test_patches(self):
        self.torture("patches", CONFIG, PICTURE, "-o", self.out / "p")

    def test_tokenize(self):
        self.torture("tokenize", TINY, "Hello, world")

    def test_decode(self):
        self.torture("tokenize", TINY, "--decode", "1 2 3")

    def test_render(self):
        self.torture("render", TINY, "--messages", self.dir / "chat.json", "--tools", self.dir / "tools.json", "--tokens")

    def test_logits(self):
        self.torture("logits", GOLDEN, "--ids", self.dir / "ids", "-o", self.out / "l")

    def test_perplexity(self):
        self.torture("perplexity", TINY, "-f", self.dir / "text", "--ctx", "64", "--json", "--kl-base", self.out / "b")

    def test_perplexity_against(self):
        self.torture("perplexity", TINY, "-f", self.dir / "text", "--ctx", "64", "--kl-against", TINY)

    def test_quantize_gguf(self):
        self.torture("quantize", GOLDEN, self.out / "q.gguf", "--to", "q8_0")

    def test_quantize_folder(self):
        self.torture("quantize", TINY, self.out / "q", "--to", "mlx4", "--recipe", self.dir / "recipe")

    def test_synth(self):
        self.torture("synth", GOLDEN, self.out / "s.gguf", "--to", "f32")

    def test_synth_folder(self):
        self.torture("synth", GOLDEN, self.out / "s")

    def test_bench(self):
        self.torture("bench", GOLDEN, "-p", "4", "-n", "2", "-r", "1", "-o", "json", "--profile")


unittest.main(argv=sys.argv[:1] + sys.argv[4:])
