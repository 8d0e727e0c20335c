#!/usr/bin/env python3
"""apus perplexity, apus quantize and apus bench.

    test_tools.py APUS SOURCE_DIR
"""
import array
import hashlib
import json
import math
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2])
QWEN = ROOT / "models/tiny-qwen"
GEMMA = ROOT / "models/tiny-gemma"
GOLDEN = ROOT / "tests/golden/data"
SUMS = ROOT / "tests/cli/data/quantize_sums.json"


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
            apus("logits", model, "--ids", path, "--positions", at, "-o", out, "--force")
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

    def test_compares_quantised_models(self):
        for model in (QWEN, GEMMA):
            kl = []
            for bits in (8, 4, 2):
                to = self.dir / f"{model.name}-{bits}"
                apus("quantize", model, to, "--to", f"mlx{bits}")
                kl.append(self.perplexity(to, "-c", 128, "--kl-against", model)["kl_mean"])
            self.assertTrue(0 < kl[0] < 0.02 and kl[0] < kl[1] < 0.5 and kl[1] < kl[2], kl)


    def test_base_files(self):
        """A file of predictions does what the model itself does."""
        to, base = self.dir / "mlx4", self.dir / "base"
        apus("quantize", QWEN, to, "--to", "mlx4")
        want = self.perplexity(to, "-c", 64, "--kl-against", QWEN)
        first = self.perplexity(QWEN, "-c", 64, "--kl-base", base)
        self.assertNotIn("kl_mean", first)
        self.assertEqual(base.stat().st_size % 2, 0)
        got = self.perplexity(to, "-c", 64, "--kl-base", base)
        for key in ("perplexity", "base_perplexity", "kl_mean", "kl_99_9", "kl_max"):
            self.assertAlmostEqual(got[key] / want[key], 1, delta=1e-3, msg=key)
        self.assertEqual(got["scored"], want["scored"])
        self.assertLess(self.perplexity(QWEN, "-c", 64, "--kl-base", base)["kl_max"], 1e-6)
        for args, words in (((QWEN, "-c", 128), "windows of"), ((GEMMA, "-c", 64), "another text")):
            _, err = apus("perplexity", *args, "-f", self.text, "--kl-base", base, status=1)
            self.assertRegex(err, words + "|windows of")
        data = base.read_bytes()
        for part in (data[:-100], data[:40], b"hello"):
            base.write_bytes(part)
            _, err = apus("perplexity", QWEN, "-c", 64, "-f", self.text, "--kl-base", base, status=1)
            self.assertRegex(err, "ends too early|another text|not a file")
        _, err = apus("perplexity", QWEN, "-f", self.text, "--kl-base", base, "--kl-against", QWEN, status=2)
        self.assertIn("exclude each other", err)
        _, err = apus("perplexity", QWEN, "-c", 64, "-f", self.text, "--kl-base", self.dir / "no" / "b", status=1)
        self.assertIn("cannot be created", err)


class Quantize(Case):
    def quantize(self, source, bits, group=32):
        """The settings by module, and the tensors."""
        to = self.dir / f"{source.name}-{bits}-{group}"
        out, err = apus("quantize", source, to, "--to", f"mlx{bits}", "--group", group)
        self.assertRegex(out, r": [\d.]+ [KM]iB, [\d.]+ bits a weight\n$")
        self.assertEqual(err, "")
        config = json.loads((to / "config.json").read_text())
        quantization = config.pop("quantization")
        self.assertEqual(config, json.loads((source / "config.json").read_text()))
        self.assertEqual((quantization["bits"], quantization["group_size"]), (bits, group))
        return to, quantization, read_safetensors(to / "model.safetensors")

    def test_equals_mlx(self):
        compared = 0
        for source, widths in json.loads(SUMS.read_text()).items():
            for bits in widths:
                _, config, tensors = self.quantize(ROOT / source, int(bits))
                modules = [n[:-7] for n in tensors if n.endswith(".scales")]
                self.assertGreater(len(modules), 1)
                compared += len(modules)
                for m in modules:
                    width = str(config.get(m, config)["bits"])
                    joined = "".join(hashlib.sha256(tensors[m + leaf][2]).hexdigest()
                                     for leaf in (".weight", ".scales", ".biases"))
                    got = hashlib.sha256(joined.encode()).hexdigest()[:24]
                    self.assertEqual(got, widths[width][m], (source, m, width))
        self.assertGreater(compared, 150)

    def test_what_stays(self):
        """Everything else is the source's, to the byte, and is nothing that should be quantised."""
        for source in (QWEN, GEMMA):
            _, config, tensors = self.quantize(source, 4, 64)
            old = read_safetensors(source / "model.safetensors")
            for name, t in tensors.items():
                module = name.rpartition(".")[0]
                if module + ".scales" in tensors:
                    sensitive = module.endswith(("embed_tokens", "lm_head", "mlp.gate", "router.proj",
                                                 "in_proj_a", "in_proj_b"))
                    self.assertEqual(config.get(module, config)["bits"], 8 if sensitive else 4, module)
                    continue
                self.assertEqual(t, old[name], name)
                if len(t[1]) > 1:
                    self.assertTrue(name.endswith(("conv1d.weight", "shared_expert_gate.weight")), name)

    def test_answers(self):
        for source in (QWEN, GEMMA):
            for bits in (8, 4):
                to, _, _ = self.quantize(source, bits, 64)
                out, _ = apus("run", to, "-p", "What is 47 + 38?", "--temp", 0, "-n", 100)
                self.assertIn("85", out)
                self.assertEqual((to / "tokenizer.json").read_bytes(),
                                 (source / "tokenizer.json").read_bytes())

    def test_sharded_and_stacked_sources(self):
        ids = self.dir / "ids.txt"
        ids.write_text(" ".join(str(7 * i * i % 100) for i in range(24)))
        for name in ("q35moe_fused", "q35moe_split", "q3next", "g4_moe6", "g4_e_mm"):
            to, _, _ = self.quantize(GOLDEN / name, 8)
            rows = []
            for model in (GOLDEN / name, to):
                apus("logits", model, "--ids", ids, "-o", self.dir / "l.safetensors", "--force")
                _, shape, data = read_safetensors(self.dir / "l.safetensors")["logits"]
                flat = array.array("f", data)
                rows.append([flat[i:i + shape[1]] for i in range(0, len(flat), shape[1])])
            # Random weights: a router may choose otherwise now and then, but most rows stay near.
            near = sum(max(abs(x - y) for x, y in zip(a, b)) < 0.1 * max(map(abs, a))
                       for a, b in zip(*rows))
            self.assertGreater(near, len(rows[0]) / 2, name)

    def test_failures_leave_nothing(self):
        to = self.dir / "to"
        for args, status, words in (
                ((QWEN, to), 2, "--to is missing"),
                ((QWEN,), 2, "DST is missing"),
                ((QWEN, to, "--to", "mlx7"), 2, "found 'mlx7'"),
                ((QWEN, to, "--to", "mlx4", "--group", 48), 2, "found 48"),
                ((QWEN, self.dir, "--to", "mlx4"), 1, "exists already"),
                ((QWEN, to / "deep", "--to", "mlx4"), 1, "cannot be created"),
                ((self.dir / "none", to, "--to", "mlx4"), 1, "none"),
                ((GOLDEN / "g4_moe11", to, "--to", "mlx4"), 1, "multiple of 64")):
            _, err = apus("quantize", *args, status=status)
            self.assertIn(words, err)
            self.assertEqual(os.listdir(self.dir), ["text.txt"])

    def test_broken_sources(self):
        done, _, _ = self.quantize(QWEN, 4, 64)
        _, err = apus("quantize", done, self.dir / "again", "--to", "mlx4", status=1)
        self.assertIn("quantised already", err)
        broken = self.dir / "broken"
        shutil.copytree(QWEN, broken)
        path = broken / "model.safetensors"
        data = bytearray(path.read_bytes())
        n = struct.unpack("<Q", data[:8])[0]
        name = next(k for k in json.loads(data[8:8 + n]) if k.endswith("embed_tokens.weight"))
        at = 8 + n + json.loads(data[8:8 + n])[name]["data_offsets"][0] + 1000
        data[at:at + 2] = b"\x80\x7f"  # infinity as bfloat16
        path.write_bytes(data)
        _, err = apus("quantize", broken, self.dir / "bad", "--to", "mlx4", status=1)
        self.assertIn("not finite", err)
        self.assertFalse((self.dir / "bad").exists() or (self.dir / "bad.part").exists())


class Bench(Case):
    def test_json(self):
        info = json.loads(apus("info", QWEN, "--json")[0])
        out, _ = apus("bench", QWEN, "-p", "16", "-n", "4", "-r", "1", "-o", "json", "--profile")
        got = json.loads(out)
        machine = got["machine"]
        self.assertIn(machine["level"], machine["levels"])
        self.assertEqual(machine["levels"][0], "ref")
        self.assertGreaterEqual(machine["threads"], 1)
        self.assertGreater(machine["f32_gflop_s"], 0)
        self.assertEqual([(r["test"], r["n"], r["depth"]) for r in got["rows"]],
                         [("pp", 16, 0), ("tg", 4, 0)])
        for r in got["rows"]:
            self.assertLessEqual(r["tok_s"]["min"], r["tok_s"]["median"])
            self.assertLessEqual(r["tok_s"]["median"], r["tok_s"]["max"])
            self.assertEqual(r["compute_unit"], "f32")  # bf16 weights
            self.assertGreater(r["compute_share"], 0)
            self.assertAlmostEqual(sum(x["share"] for x in r["profile"]), 1, delta=0.02)
            ops = {x["op"] for x in r["profile"]}
            self.assertLessEqual({"embed", "norm", "matmul", "glu", "route", "moe", "rope", "qkv",
                                  "attn", "conv", "delta", "elem", "between"}, ops)
            heads = [x for x in r["profile"] if x.get("head")]
            self.assertEqual([(x["rows"], x["cols"], x["calls"]) for x in heads],
                             [(info["vocab"], info["hidden"], 1)])
        tg = got["rows"][1]
        moe = [x for x in tg["profile"] if x["op"] == "moe"]
        self.assertEqual([(x["calls"], x["experts"]) for x in moe],
                         [(info["layers_moe"], info["experts_used"])])
        # Active weights in bf16, one page, the states; vectors are left out, panels are padded.
        read = tg["bandwidth_share"] * machine["read_gb_s"] * 1e9 / tg["tok_s"]["median"]
        least = 2 * info["params_active"]
        self.assertTrue(0.99 * least < read < 1.1 * least, (read, least))

    def test_tests_that_do_not_fit(self):
        out, err = apus("bench", QWEN, "-c", "600", "-n", "2", "-r", "1", "-o", "csv")
        self.assertIn("left out pp4096 at depth 0", err)
        self.assertEqual([line.split(",")[:3] for line in out.splitlines()[1:]],
                         [["pp", "512", "0"], ["tg", "2", "0"]])
        for args, words in ((("-p", "16,9000"), "no room for pp9000 at depth 0"),
                            (("-d", "9000", "-n", "2"), "no room for tg2 at depth 9000"),
                            (("-c", "100"), "no test fits in 100 positions")):
            out, err = apus("bench", QWEN, "-r", "1", *args, status=1)
            self.assertEqual(out, "")
            self.assertIn(words, err)
        apus("bench", QWEN, "-p", "x", status=2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
