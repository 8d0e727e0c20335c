#!/usr/bin/env python3
"""NaN and infinity in weights: told by every command, and `info --check` names the tensor.

    test_nonfinite.py APUS SOURCE_DIR
"""
import json
import os
import re
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
GOLDEN = ROOT / "tests/golden/data"
QUANT = ROOT / "tests/golden_quant/data"
BITS = {"nan": {"BF16": b"\xc0\x7f", "F16": b"\x00\x7e", "F32": b"\x00\x00\xc0\x7f"},
        "infinite": {"BF16": b"\x80\x7f", "F16": b"\x00\x7c", "F32": b"\x00\x00\x80\x7f"}}
# Read by nothing: layers that share keys and values with another one, and towers of other media.
UNUSED = re.compile(r"visual|vision|audio|mtp")
SHARED = re.compile(r"[kv]_(proj|norm)")
# Infinity closes or opens a gate there, and what follows is finite.
GATES = re.compile(r"in_proj_(a|b|ba)\.|shared_expert_gate|gate_proj|scale")


def apus(*args, stdin=""):
    r = subprocess.run(APUS + [str(a) for a in args], input=stdin, capture_output=True, text=True, timeout=300)
    return r.returncode, r.stdout, r.stderr


def tensors(path):
    """name, type, shape, place in the file"""
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__" and t["dtype"] in BITS["nan"]:
            yield name, t["dtype"], t["shape"], 8 + n + t["data_offsets"][0], 8 + n + t["data_offsets"][1]


class NonFinite(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.ids = self.dir / "ids"
        self.ids.write_text(" ".join(str(i % 40) for i in range(70)))

    def tearDown(self):
        shutil.rmtree(self.dir)

    def poison(self, data, what, name, dtype, shape, begin, end):
        """One value - of each expert and each embedding, so that it is one that is used."""
        out, size = bytearray(data), len(BITS[what][dtype])
        step = (end - begin)
        if "expert" in name and len(shape) == 3:
            step //= shape[0]
        elif "embed_tokens" in name:
            step = step // shape[0]
        for at in range(begin, end, step):
            out[at:at + size] = BITS[what][dtype]
        return out

    def logits(self, model, *more):
        out = self.dir / "out"
        out.unlink(missing_ok=True)
        status, _, err = apus("logits", model, "--ids", self.ids, "-o", out, *more)
        self.assertFalse(out.exists() and status)
        return status, err

    def check(self, source, stride):
        model = self.dir / "model"
        shutil.copytree(source, model)
        self.assertEqual(apus("info", model, "--check")[0], 0)
        n = 0
        for path in sorted(model.glob("model*.safetensors")):
            data = path.read_bytes()
            for i, (name, *rest) in enumerate(tensors(path)):
                if i % stride:
                    continue
                what = ("nan", "infinite")[i // stride % 2]
                path.write_bytes(self.poison(data, what, name, *rest))
                status, out, err = apus("info", model, "--check")
                self.assertEqual((status, err.count("\n")), (1, 1), (name, err))
                self.assertIn(name.replace(".scales", ".weight").replace(".biases", ".weight"), out)
                if UNUSED.search(name) or "g4_e" in source.name and SHARED.search(name):
                    continue
                if what == "infinite" and GATES.search(name):
                    continue
                status, err = self.logits(model)
                self.assertEqual(status, 1, (source.name, name, what))
                self.assertIn("finite", err)
                n += 1
            path.write_bytes(data)
        self.assertGreater(n, 5)
        self.assertEqual(self.logits(model)[0], 0)
        shutil.rmtree(model)

    def test_float_models(self):
        for name in ("q35moe_fused", "q3next", "g4_moe6", "g4_e", "q3moe_bare"):
            self.check(GOLDEN / name, 3)

    def test_quantised_models(self):
        for name in ("q35moe_mlx_mixed", "q35_fp8_f32"):
            self.check(QUANT / name, 3)

    def gguf(self, dst, kind):
        self.assertEqual(apus("quantize", ROOT / "models/tiny-qwen", dst, "--to", kind)[0], 0)
        return dst

    def test_scale_of_one_block(self):
        """All commands, all precisions and levels: a NaN among the scales of a matrix of the first layer."""
        dst = self.gguf(self.dir / "m.gguf", "q8_0")
        data = bytearray(dst.read_bytes())
        name = b"blk.0.ffn_down.weight" if b"blk.0.ffn_down.weight" in data else b"blk.0.ffn_down_shexp.weight"
        at = data.index(name) + len(name)
        rank = struct.unpack_from("<I", data, at)[0]
        offset = struct.unpack_from("<Q", data, at + 4 + 8 * rank + 4)[0]
        # The data begins at the first multiple of 32 behind the last tensor's record: found by its size.
        last = max((struct.unpack_from("<Q", data, m.end() + 4 + 8 * struct.unpack_from("<I", data, m.end())[0] + 4)[0],
                    m.end() + 4 + 8 * struct.unpack_from("<I", data, m.end())[0] + 12)
                   for m in re.finditer(rb"(blk\.\d+\.[a-z_]+(\.weight|\.bias)?|ssm_a|token_embd\.weight|output(_norm)?\.weight)"
                                        rb"(?=[\x01-\x04]\0\0\0)", bytes(data[:len(data) // 2])))[1]
        begin = (last + 31) // 32 * 32
        data[begin + offset:begin + offset + 2] = b"\x00\x7e"
        dst.write_bytes(data)
        status, out, err = apus("info", dst, "--check", "--json")
        found = json.loads(out)["not_finite"]
        self.assertEqual((status, len(found)), (1, 1), out)
        self.assertEqual((found[0]["nan"], found[0]["infinite"], found[0]["row"], found[0]["col"]), (32, 0, 0, 0))
        self.assertIn("layers.0.", found[0]["tensor"])
        text = self.dir / "text"
        text.write_text("What is 12 + 34? 12 + 34 = 46. " * 40)
        chat = json.dumps([{"role": "user", "content": "Hello"}])
        for more in ([], ["--precision", "exact"], ["--precision", "fast"], ["--kv", "q8"], ["--cpumask", "ref"],
                     ["--cpumask", "avx2"]):
            for args in (["run", dst, "-p", "Hello"], ["run", dst, "-p", "Hello", "--temp", "1", "--json"],
                         ["perplexity", dst, "-f", text, "--ctx", "64"], ["logits", dst, "--ids", self.ids, "-o", self.dir / "l"]):
                status, out, err = apus(*args, *more)
                self.assertEqual(status, 1, (args, more, out, err))
                self.assertIn("not finite", err)
                self.assertNotIn("nan", out)
                self.assertNotIn("!!!", out)


unittest.main(argv=sys.argv[:1] + sys.argv[3:])
