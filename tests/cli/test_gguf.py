#!/usr/bin/env python3
"""apus quantize to GGUF files, apus synth, and the configurations of models/configs.

    test_gguf.py APUS SOURCE_DIR
"""
import array
import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
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
CONFIGS = ROOT / "models/configs"
GOLDEN = ROOT / "tests/golden/data"
SUMS = ROOT / "tests/cli/data/gguf_sums.json"


def apus(*args, status=0, limit=None):
    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    r = subprocess.run(APUS + [str(a) for a in args], capture_output=True, timeout=300,
                       stdin=subprocess.DEVNULL, preexec_fn=prepare if limit else None)
    out, err = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
    if r.returncode != status:
        raise AssertionError(f"{args}: status {r.returncode}, expected {status}\n{out}\n{err}")
    return out, err


# Block types: number -> (name, values, bytes)
TYPES = {0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20),
         6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84),
         11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176),
         14: ("q6_k", 256, 210), 20: ("iq4_nl", 32, 18), 23: ("iq4_xs", 256, 136),
         30: ("bf16", 1, 2), 39: ("mxfp4", 32, 17)}
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
           11: "<q", 12: "<d"}


def read_gguf(path):
    """(metadata, name -> (type, sizes innermost first, bytes)), written from the format's definition."""
    data, at = Path(path).read_bytes(), 0

    def take(fmt):
        nonlocal at
        v = struct.unpack_from(fmt, data, at)[0]
        at += struct.calcsize(fmt)
        return v

    def string():
        nonlocal at
        n = take("<Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            inner, n = take("<I"), take("<Q")
            return [value(inner) for _ in range(n)]
        return take(SCALARS[kind])

    assert data[:4] == b"GGUF"
    at = 4
    assert take("<I") == 3
    n_tensors, n_meta = take("<Q"), take("<Q")
    meta = {}
    for _ in range(n_meta):
        key = string()
        meta[key] = value(take("<I"))
    records = []
    for _ in range(n_tensors):
        name, rank = string(), take("<I")
        sizes = [take("<Q") for _ in range(rank)]
        records.append((name, sizes, take("<I"), take("<Q")))
    base = (at + 31) // 32 * 32
    tensors, end = {}, base
    for name, sizes, kind, offset in records:
        count = 1
        for s in sizes:
            count *= s
        _, block, size = TYPES[kind]
        assert sizes[0] % block == 0 and offset % 32 == 0 and base + offset >= end, name
        end = base + offset + count // block * size
        assert end <= len(data), name
        tensors[name] = (TYPES[kind][0], sizes, data[base + offset:end])
    assert len(data) == (end + 31) // 32 * 32
    return meta, tensors


def write_gguf(path, meta, tensors):
    """The inverse of read_gguf; whole numbers become u32, in lists i32."""
    def string(s):
        b = s.encode()
        return struct.pack("<Q", len(b)) + b

    def value(v, listed=False):
        if isinstance(v, bool):
            return 7, struct.pack("<?", v)
        if isinstance(v, int):
            return (5, struct.pack("<i", v)) if listed or v < 0 else (4, struct.pack("<I", v))
        if isinstance(v, float):
            return 6, struct.pack("<f", v)
        if isinstance(v, str):
            return 8, string(v)
        parts = [value(x, True) for x in v]
        kind = parts[0][0] if parts else 8
        return 9, struct.pack("<IQ", kind, len(parts)) + b"".join(b for _, b in parts)

    numbers = {name: n for n, (name, _, _) in TYPES.items()}
    out, offset = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta)), 0
    for key, v in meta.items():
        kind, data = value(v)
        out += string(key) + struct.pack("<I", kind) + data
    for name, (kind, sizes, data) in tensors.items():
        out += string(name) + struct.pack("<I", len(sizes)) + b"".join(struct.pack("<Q", n) for n in sizes)
        out += struct.pack("<IQ", kind if isinstance(kind, int) else numbers[kind], offset)
        offset += (len(data) + 31) // 32 * 32
    pad = lambda b: b + bytes(-len(b) % 32)
    Path(path).write_bytes(pad(out) + b"".join(pad(data) for _, _, data in tensors.values()))


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())

    def tearDown(self):
        shutil.rmtree(self.dir)

    def quantize(self, source, to, *args):
        path = self.dir / f"{source.name}-{to}-{len(os.listdir(self.dir))}.gguf"
        out, err = apus("quantize", source, path, "--to", to, *args)
        self.assertRegex(out, r": [\d.]+ [KM]iB, [\d.]+ bits a weight\n$")
        self.assertRegex(err, r"^(note: the towers [^\n]*\n)?$")
        return path

    def logits(self, model):
        ids, out = self.dir / "ids.txt", self.dir / "logits.safetensors"
        ids.write_text(" ".join(str(7 * i * i % 100) for i in range(24)))
        apus("logits", model, "--ids", ids, "-o", out, "--precision", "exact")
        data = out.read_bytes()
        out.unlink()
        ids.unlink()
        return array.array("f", data[8 + struct.unpack("<Q", data[:8])[0]:])


class Layout(Case):
    def test_nothing_is_lost(self):
        """As f32, the file computes what the folder does: names, orders, norms, decays, metadata."""
        for name in ("g4_e", "g4_e_mm", "g4_kv", "g4_moe6", "g4_unified", "q35_tied", "q35_mm",
                     "q35moe_fused", "q35moe_split", "q3moe_yarn", "q3"):
            a, b = self.logits(GOLDEN / name), self.logits(self.quantize(GOLDEN / name, "f32"))
            # Value heads in another order are added in another order.
            self.assertLess(max(abs(x - y) for x, y in zip(a, b)), 1e-4, name)
        elder = self.dir / "g3"
        shutil.copytree(GOLDEN / "g3", elder)
        config = json.loads((elder / "config.json").read_text())
        config["query_pre_attn_scalar"] = config["head_dim"]
        (elder / "config.json").write_text(json.dumps(config))
        a, b = self.logits(elder), self.logits(self.quantize(elder, "f32"))
        self.assertLess(max(abs(x - y) for x, y in zip(a, b)), 1e-5)
        for model in (QWEN, GEMMA):
            file = self.quantize(model, "bf16")
            self.assertLess(max(abs(x - y) for x, y in zip(self.logits(model), self.logits(file))),
                            1e-4)

    def test_text(self):
        for model in (QWEN, GEMMA):
            file = self.quantize(model, "q8_0")
            for text in ("Hello, world!", "1234 \u00e9\u00e8 \u4f60\u597d \U0001f44b", "a\n\n b"):
                self.assertEqual(apus("tokenize", "--no-bos", file, text),
                                 apus("tokenize", model, text))
            messages = self.dir / "m.json"
            messages.write_text('[{"role": "user", "content": "2+2?"}]')
            self.assertEqual(apus("render", file, "--messages", messages),
                             apus("render", model, "--messages", messages))
            a, b = (apus("run", m, "-p", "What is 47 + 38?", "--temp", 0, "-n", 100)[0]
                    for m in (file, model))
            self.assertEqual(a, b)
            meta, _ = read_gguf(file)
            self.assertEqual(len(meta["tokenizer.ggml.tokens"]), 1536)
            self.assertEqual(meta["tokenizer.chat_template"],
                             (model / "chat_template.jinja").read_text())

    def test_what_cannot_be_told(self):
        for name, words in (("g4_moe11", "final_logit_softcapping"), ("q3next", "mlp_only_layers"),
                            ("q3moe_bare", "mlp_only_layers"), ("g3", "query_pre_attn_scalar")):
            _, err = apus("quantize", GOLDEN / name, self.dir / "x.gguf", "--to", "f32", status=1)
            self.assertIn(words, err)
        self.assertEqual(os.listdir(self.dir), [])


QUESTION = ("-p", "What is 47 + 38?", "--temp", 0, "-n", 100)


class Published(Case):
    """Files as others write them, made of ours."""

    def edited(self, model, edit):
        meta, tensors = read_gguf(self.quantize(model, "q8_0"))
        path = self.dir / "edited.gguf"
        edit(meta, tensors)
        write_gguf(path, meta, tensors)
        return path

    def check(self, model, edit, note):
        """The file works as the folder does; note: what has to be said of it."""
        file = self.edited(model, edit)
        for text in ("Hello, world!", "1234 \u00e9 \u4f60\U0001f44b", "a\n\n b <|im_end|>x<turn|>"):
            self.assertEqual(apus("tokenize", "--no-bos", file, text)[0], apus("tokenize", model, text)[0])
        out, err = apus("run", file, *QUESTION)
        self.assertEqual(out, apus("run", model, *QUESTION)[0])
        notes = json.loads(apus("info", file, "--json")[0])["notes"]
        if not note:
            self.assertEqual(notes, [])
            return
        self.assertTrue(any(note in n for n in notes), notes)
        self.assertIn(note, apus("info", file)[0])
        self.assertIn(note, err)

    def test_kinds_of_tokens(self):
        def all_normal(meta, _):
            meta["tokenizer.ggml.token_type"] = [1] * len(meta["tokenizer.ggml.token_type"])

        def none(meta, _):
            del meta["tokenizer.ggml.token_type"]

        for model in (QWEN, GEMMA):
            self.check(model, lambda meta, tensors: None, None)
            self.check(model, all_normal, "as normal text, such as")
            self.check(model, none, "token_type is missing")

    def test_ollama(self):
        def ollama(meta, _):
            meta.update({"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "gemma4",
                         "tokenizer.ggml.add_bos_token": False})

        self.check(GEMMA, ollama, None)

    def test_texts_that_stand_twice(self):
        """As in files of Gemma whose writer took the space off some tokens."""
        for model, mark in ((GEMMA, "\u2581"), (QWEN, "\u0120")):
            def strip(meta, _):
                tokens, known = meta["tokenizer.ggml.tokens"], set(meta["tokenizer.ggml.tokens"])
                lost = [i for i, t in enumerate(tokens) if t[0] == mark and t[1:] in known and len(t) > 1]
                for i in lost[2:60:20]:
                    tokens[i] = tokens[i][1:]

            self.check(model, strip, "holds 3 texts twice, such as")

    def test_beginning(self):
        for add in (True, False):
            file = self.edited(GEMMA, lambda meta, _: meta.update({"tokenizer.ggml.add_bos_token": add}))
            self.assertEqual(apus("tokenize", file, "a")[0].split()[0], "2")
        for add, first in ((True, "1527"), (False, None)):
            file = self.edited(QWEN, lambda meta, _: meta.update(
                {"tokenizer.ggml.add_bos_token": add, "tokenizer.ggml.bos_token_id": 1527}))
            ids = apus("tokenize", file, "a")[0].split()
            self.assertEqual(ids[0] if len(ids) > 1 else None, first)

    def test_rope_factors_in_16_bits(self):
        def short(meta, tensors):
            kind, sizes, data = tensors["rope_freqs.weight"]
            v = struct.unpack(f"<{sizes[0]}f", data)
            tensors["rope_freqs.weight"] = ("f16", sizes, struct.pack(
                f"<{sizes[0]}e", *(x if x < 2 else float("inf") for x in v)))

        self.check(GEMMA, short, None)

    def test_head_for_the_next_tokens(self):
        def head(meta, tensors, keys):
            meta.update(keys)
            tensors["blk.6.nextn.eh_proj.weight"] = ("f32", [32, 1], bytes(128))
            tensors["blk.6.attn_norm.weight"] = ("f32", [32], bytes(128))

        for keys in ({"qwen35moe.nextn_predict_layers": 1},  # which block_count does not count
                     {"qwen35moe.nextn_predict_layers": 1, "qwen35moe.block_count": 7},
                     {"qwen35moe.block_count": 7}, {}):
            self.check(QWEN, lambda m, t: head(m, t, keys), "the head for further tokens is left out")
        file = self.edited(QWEN, lambda m, t: m.update({"qwen35moe.block_count": 5}))
        _, err = apus("run", file, *QUESTION, status=1)
        self.assertIn("block_count is 5", err)

    def test_the_head_guesses_what_that_of_the_folder_does(self):
        names = {"fc.weight": "nextn.eh_proj", "pre_fc_norm_embedding.weight": "nextn.enorm",
                 "pre_fc_norm_hidden.weight": "nextn.hnorm", "norm.weight": "nextn.shared_head_norm",
                 "input_layernorm.weight": "attn_norm", "post_attention_layernorm.weight": "post_attention_norm",
                 "self_attn.q_proj.weight": "attn_q", "self_attn.k_proj.weight": "attn_k",
                 "self_attn.v_proj.weight": "attn_v", "self_attn.o_proj.weight": "attn_output",
                 "self_attn.q_norm.weight": "attn_q_norm", "self_attn.k_norm.weight": "attn_k_norm",
                 "mlp.gate_proj.weight": "ffn_gate", "mlp.up_proj.weight": "ffn_up", "mlp.down_proj.weight": "ffn_down"}
        folder = ROOT / "tests/golden_draft/data/q35_dense"
        data = (folder / "model.safetensors").read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        meta, tensors = read_gguf(self.quantize(folder, "f32"))
        for name, t in json.loads(data[8:8 + n]).items():
            if not name.startswith("mtp."):
                continue
            begin, end = t["data_offsets"]
            bits = struct.unpack(f"<{(end - begin) // 2}H", data[8 + n + begin:8 + n + end])
            values = array.array("f", struct.pack(f"<{len(bits)}I", *(b << 16 for b in bits)))
            if name.endswith("norm.weight") or "_norm_" in name or "layernorm" in name:
                values = array.array("f", (1 + v for v in values))
            leaf = name.removeprefix("mtp.").removeprefix("layers.0.")
            tensors[f"blk.4.{names[leaf]}.weight"] = ("f32", t["shape"][::-1], values.tobytes())
        meta.update({"qwen35.nextn_predict_layers": 1, "qwen35.block_count": 5})
        file, ids = self.dir / "head.gguf", self.dir / "ids.txt"
        write_gguf(file, meta, tensors)
        ids.write_text(" ".join(str(7 * i * i % 200) for i in range(24)))
        args = ["--ids", ids, "--print-ids", "-n", "90", "--temp", "0", "--ignore-eos", "--precision", "exact"]
        plain, _ = apus("run", folder, *args, "--speculate", "off")
        told = []
        for model in (folder, file):
            out, err = apus("run", model, *args, "--speculate", "2")
            self.assertEqual(out, plain)
            self.assertEqual(apus("run", model, *args, "--speculate", "mtp")[0], plain)
            told.append(err[err.index("("):].split(" guesses")[0])
        self.assertEqual(told[0], told[1])

    def test_other_types(self):
        def other(meta, tensors):
            kind, sizes, data = tensors["output.weight"]
            tensors["output.weight"] = (139, sizes, data)

        _, err = apus("info", self.edited(QWEN, other), status=1)
        self.assertIn("\"output.weight\" has type IQ4_K of ik_llama.cpp, which apus does not read", err)

    def test_templates(self):
        chat, tools = self.dir / "m.json", self.dir / "t.json"
        chat.write_text('[{"role": "user", "content": "hi"}]')
        tools.write_text('[{"type": "function", "function": {"name": "f"}}]')
        meta, tensors = read_gguf(self.quantize(QWEN, "q8_0"))
        file = self.dir / "named.gguf"
        meta.update({"tokenizer.chat_template": "plain {{ messages[0].content }}",
                     "tokenizer.chat_template.tool_use": "tools {{ tools|length }}",
                     "tokenizer.chat_templates": ["tool_use"]})
        write_gguf(file, meta, tensors)
        self.assertEqual(apus("render", file, "--messages", chat)[0].strip(), "plain hi")
        self.assertEqual(apus("render", file, "--messages", chat, "--tools", tools)[0].strip(), "tools 1")
        for name in ("chat_template.jinja", "named.jinja"):  # the file's own name wins
            (self.dir / name).write_text(name + " {{ messages|length }}")
            out, err = apus("render", file, "--messages", chat)
            self.assertEqual(out.strip(), name + " 1")
            self.assertIn(f"the chat template is that of {self.dir / name}", err)

    def test_named_templates_of_folders(self):
        folder = self.dir / "named"
        shutil.copytree(QWEN, folder)
        (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        meta, _ = read_gguf(self.quantize(folder, "q8_0"))
        self.assertEqual((meta["tokenizer.chat_template"], meta["tokenizer.chat_template.tool_use"]), ("A", "B"))


class Advice(Case):
    """What is never generated, what ends a turn and how to sample, kept through quantising."""

    def folder(self, generation, **config):
        folder = self.dir / f"model{len(os.listdir(self.dir))}"
        shutil.copytree(QWEN, folder)
        for name, values in (("generation_config.json", generation), ("config.json", config)):
            text = json.loads((folder / name).read_text()) if name == "config.json" else {}
            text.update(values)
            (folder / name).write_text(json.dumps(text))
        return folder

    def all_forms(self, folder):
        mlx = self.dir / f"mlx{len(os.listdir(self.dir))}"
        apus("quantize", folder, mlx, "--to", "mlx8")
        return folder, mlx, self.quantize(folder, "q8_0")

    def test_suppressed(self):
        eight = int(apus("tokenize", QWEN, "8")[0])
        for form in self.all_forms(self.folder({"suppress_tokens": [eight]})):
            self.assertNotIn("8", apus("run", form, *QUESTION)[0], form)
        for form in self.all_forms(self.folder({}, image_token_id=eight, eos_token_id=1529)):
            self.assertNotIn("8", apus("run", form, *QUESTION)[0], form)

    def test_sampling(self):
        folder = self.folder({"temperature": 0.5, "top_k": -1, "top_p": "0.75", "min_p": 0.25,
                              "repetition_penalty": 1.5, "eos_token_id": [1529, 7]})
        meta, _ = read_gguf(self.quantize(folder, "q8_0"))
        got = {k.split(".")[-1]: v for k, v in meta.items() if k.startswith("general.sampling.")}
        self.assertEqual({k: v for k, v in got.items() if k != "penalty_last_n"},
                         {"temp": 0.5, "top_k": 0, "top_p": 0.75, "min_p": 0.25, "penalty_repeat": 1.5})
        self.assertEqual(meta["tokenizer.ggml.eos_token_ids"][:2], [1529, 7])

    def test_layers_that_are_not_counted(self):
        text = json.loads((QWEN / "config.json").read_text())
        folder = self.folder({}, num_hidden_layers=5, layer_types=text["layer_types"][:5])
        self.assertIn("hold 6 layers, num_hidden_layers of config.json is 5", apus("info", folder)[0])

    def test_odd_advice(self):
        folder = self.folder({"top_k": "many", "do_sample": False})
        _, err = apus("run", folder, *QUESTION)
        self.assertIn("note: ", err)
        self.assertIn("generation_config.json: top_k: expected a whole number", err)

    def test_ends_of_turns(self):
        """The configuration names neither; tokenizer_config.json does, or else the family."""
        want = apus("run", QWEN, *QUESTION)[0]
        for eos in ("<|im_end|>", None, {"content": "<|im_end|>"}):
            folder = self.folder({}, eos_token_id=None)
            config = json.loads((folder / "tokenizer_config.json").read_text())
            config["eos_token"] = eos
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            self.assertEqual(apus("run", folder, *QUESTION)[0], want)
        # A word of the tokenizer's own choice ends a turn, too, also from the older file.
        folder = self.folder({})
        config = json.loads((folder / "tokenizer_config.json").read_text())
        del config["eos_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "special_tokens_map.json").write_text('{"eos_token": "</think>"}')
        self.assertEqual(apus("run", folder, *QUESTION)[0].strip(), "")


class Types(Case):
    def test_equals_gguf_py(self):
        """The customary rounding, to the byte (tools/goldens/make_gguf_sums.py)."""
        recipe = self.dir / "recipe"
        compared = 0
        for source, types in json.loads(SUMS.read_text()).items():
            for to, sums in types.items():
                recipe.write_text(f"* {to}\n")
                _, tensors = read_gguf(self.quantize(ROOT / source, to, "--recipe", recipe))
                for name, want in sums.items():
                    self.assertEqual(tensors[name][0], to)
                    got = hashlib.sha256(tensors[name][2]).hexdigest()[:16]
                    self.assertEqual(got, want, (source, to, name))
                    compared += 1
        self.assertGreater(compared, 500)

    @unittest.skipIf(os.environ.get("APUS_SANITIZED"), "26 models' numbers, which the plain build checks")
    def test_quality(self):
        """Divergence from bf16 on text of the kind that the models know, with some room."""
        text = self.dir / "text.txt"
        text.write_text("".join(f"What is {a} + {b}? {a} + {b} = {a + b}.\n"
                                for a, b in ((13 * i % 89 + 10, 29 * i % 83 + 10) for i in range(40))))
        limits = dict(q8_0=0.003, q6_k=0.05, q5_k=0.08, q5_1=0.08, q5_0=0.08, q4_k=0.2, q4_1=0.2,
                      q4_0=0.3, iq4_xs=0.2, iq4_nl=0.2, mxfp4=0.2, q3_k=0.6, q2_k=1.5)
        for model in (QWEN, GEMMA):
            base = self.dir / f"{model.name}.kl"
            apus("perplexity", model, "-f", text, "-c", 128, "--kl-base", base)
            for to, limit in limits.items():
                got = json.loads(apus("perplexity", self.quantize(model, to), "-f", text, "-c", 128,
                                      "--kl-base", base, "--json")[0])
                self.assertTrue(0 < got["kl_mean"] < limit, (model.name, to, got["kl_mean"]))

    def test_default_recipe(self):
        for model in (QWEN, GEMMA):
            _, tensors = read_gguf(self.quantize(model, "q4_k"))
            for name, (kind, sizes, _) in tensors.items():
                if len(sizes) == 1 or "conv1d" in name or "ffn_gate_inp" in name:
                    self.assertEqual(kind, "f32", name)
                elif name.endswith("attn_v.weight"):
                    self.assertEqual(kind, "q6_k", name)
                elif name.endswith("ssm_alpha.weight"):
                    self.assertEqual(kind, "q8_0", name)
            head = "token_embd.weight" if model == GEMMA else "output.weight"
            self.assertEqual(tensors[head][0], "q6_k")

    def test_recipes(self):
        recipe = self.dir / "recipe"
        recipe.write_text("# experts small, the rest good\n"
                          "layers.0.*experts.down_proj bf16\n\n"
                          "layers.?.*experts.*   q4_0   # in every layer\n")
        _, tensors = read_gguf(self.quantize(QWEN, "q8_0", "--recipe", recipe))
        self.assertEqual(tensors["blk.0.ffn_down_exps.weight"][0], "bf16")
        self.assertEqual(tensors["blk.1.ffn_down_exps.weight"][0], "q4_0")
        self.assertEqual(tensors["blk.0.ffn_up_exps.weight"][0], "q4_0")
        self.assertEqual(tensors["blk.0.ffn_up_shexp.weight"][0], "q8_0")
        for text, status, words in (("layers.* q9_9\n", 1, "line 1: \"q9_9\" is not a type"),
                                    ("a b c\n", 1, "line 1: expected a pattern and a type"),
                                    ("# x\nlayer.* q4_0\n", 1, "line 2: no matrix"),
                                    ("layers.*experts.down_proj q4_k\n", 1, "rows of 64 are not")):
            recipe.write_text(text)
            _, err = apus("quantize", QWEN, self.dir / "no.gguf", "--to", "q8_0", "--recipe", recipe,
                          status=status)
            self.assertIn(words, err)
        recipe.write_text("layers.*.self_attn.v_proj.weight 6\nlm_head.weight keep\n")
        to = self.dir / "mlx"
        apus("quantize", QWEN, to, "--to", "mlx4", "--recipe", recipe)
        q = json.loads((to / "config.json").read_text())["quantization"]
        self.assertEqual(q["model.layers.2.self_attn.v_proj"]["bits"], 6)
        self.assertNotIn("lm_head", q)
        self.assertIn("85", apus("run", to, "-p", "What is 47 + 38?", "--temp", 0, "-n", 100)[0])

    def test_failures_leave_nothing(self):
        to = self.dir / "x.gguf"
        for args, status, words in (((QWEN, to), 2, "--to is missing"),
                                    ((QWEN, to, "--to", "q4_9"), 2, "found 'q4_9'"),
                                    ((QWEN, self.dir / "x", "--to", "q4_0"), 1, "ends in .gguf"),
                                    ((QWEN, self.dir / "no" / "x.gguf", "--to", "q4_0"), 1, "cannot be created"),
                                    ((QWEN / "config.json.none", to, "--to", "q4_0"), 1, "none")):
            _, err = apus("quantize", *args, status=status)
            self.assertIn(words, err)
        _, err = apus("quantize", QWEN, to, "--to", "q8_0", status=1, limit=1 << 20)
        self.assertIn("writing failed", err)
        self.assertEqual(os.listdir(self.dir), [])
        to.write_text("mine")
        _, err = apus("quantize", QWEN, to, "--to", "q8_0", status=1)
        self.assertIn("exists already", err)
        self.assertEqual(to.read_text(), "mine")


class Synth(Case):
    def test_the_same_for_any_number_of_threads(self):
        for model in (QWEN, GEMMA):
            for to in ("q4_k", "q8_0", "bf16", "mxfp4"):
                files = []
                for threads, seed in ((1, 7), (2, 7), (2, 8)):
                    path = self.dir / f"{threads}-{seed}.gguf"
                    apus("synth", model, path, "--to", to, "-t", threads, "--seed", seed)
                    files.append(path.read_bytes())
                    path.unlink()
                self.assertEqual(files[0], files[1])
                self.assertNotEqual(files[1], files[2])

    def test_files_are_those_of_quantize(self):
        """Same metadata of the model, same tensors, types and shapes."""
        for model in (QWEN, GEMMA):
            for to in ("q4_k", "q4_0", "q6_k", "bf16"):
                path = self.dir / f"{model.name}-{to}-random.gguf"
                apus("synth", model, path, "--to", to)
                meta, tensors = read_gguf(path)
                meta2, tensors2 = read_gguf(self.quantize(model, to))
                self.assertEqual({k: v[:2] for k, v in tensors.items()},
                                 {k: v[:2] for k, v in tensors2.items()})
                for k in meta2:
                    if not k.startswith(("tokenizer.", "general.name")):
                        self.assertEqual(meta[k], meta2[k], k)
                out, _ = apus("run", path, "-p", "Hello", "-n", 4, "--temp", 0, "--ignore-eos")
                self.assertTrue(out)

    def test_folders(self):
        for model in (QWEN, GEMMA):
            for to in ("bf16", "mlx4", "mlx8", "f16"):
                path = self.dir / f"{model.name}-{to}"
                apus("synth", model / "config.json", path, "--to", to)
                a, b = (json.loads(apus("info", m, "--json")[0]) for m in (path, model))
                if to != "f16":
                    self.assertEqual(a["params_total"], b["params_total"])
                apus("run", path, "-p", "Hello", "-n", 4, "--temp", 0)

    def test_layers(self):
        path = self.dir / "cut.gguf"
        apus("synth", QWEN, path, "--to", "q8_0", "--layers", 3)
        self.assertEqual(json.loads(apus("info", path, "--json")[0])["layers"], 3)
        _, err = apus("synth", QWEN, self.dir / "x.gguf", "--to", "q8_0", "--layers", 9, status=2)
        self.assertIn("expected at least 9", err)

    def test_mistakes(self):
        to = self.dir / "x.gguf"
        for args, status, words in (((QWEN,), 2, "DST is missing"), ((QWEN, to, "--to", "mlx4"), 2, "mlx4"),
                                    ((QWEN, self.dir / "d", "--to", "q4_0"), 2, "ends in .gguf"),
                                    ((self.dir / "none", to, "--to", "q4_0"), 1, "none")):
            _, err = apus("synth", *args, status=status)
            self.assertIn(words, err)
        _, err = apus("synth", QWEN, to, "--to", "bf16", status=1, limit=1 << 20)
        self.assertIn("writing failed", err)
        _, err = apus("synth", QWEN, self.dir / "d", "--to", "bf16", status=1, limit=1 << 20)
        self.assertIn("writing failed", err)
        self.assertEqual(os.listdir(self.dir), [])
        to.write_text("mine")
        _, err = apus("synth", QWEN, to, "--to", "q4_0", status=1)
        self.assertIn("exists already", err)


class Configs(Case):
    # billions: total, read for one token; layers: full, sliding, recurrent
    PUBLISHED = {"Qwen3.6-35B-A3B": (34.661, 2.946, 10, 0, 30), "Qwen3.6-27B": (26.896, 25.625, 16, 0, 48),
                 "Qwen3.8-27B": (26.896, 25.625, 16, 0, 48),
                 "Qwen3.5-4B": (4.206, 4.206, 8, 0, 24), "Qwen3-30B-A3B": (30.532, 3.042, 48, 0, 0),
                 "gemma-4-26B-A4B-it": (25.233, 3.823, 5, 25, 0),
                 "gemma-4-31B-it": (30.697, 30.697, 10, 50, 0),
                 "gemma-4-E4B-it": (7.463, 4.644, 7, 35, 0), "gemma-4-E2B-it": (4.629, 2.280, 7, 28, 0)}

    def test_parameters(self):
        self.assertEqual(sorted(self.PUBLISHED), sorted(p.name for p in CONFIGS.iterdir() if p.is_dir()))
        for name, want in self.PUBLISHED.items():
            i = json.loads(apus("info", CONFIGS / name, "--json")[0])
            got = (round(i["params_total"] / 1e9, 3), round(i["params_active"] / 1e9, 3),
                   i["layers_full_attention"], i["layers_sliding_attention"], i["layers_recurrent"])
            self.assertEqual(got, want, name)
            self.assertGreater(i["memory"]["weights_bytes"], 1.9 * i["params_active"])

    def test_weights_are_missed(self):
        _, err = apus("run", CONFIGS / "Qwen3.5-4B", "-p", "hi", status=1)
        self.assertIn("no weights", err)


class FromGguf(Case):
    def test_the_same_file_as_from_the_folder(self):
        for model in (QWEN, GEMMA, GOLDEN / "g4_e", GOLDEN / "q35moe_fused"):
            whole = self.quantize(model, "f32" if model.parent == GOLDEN else "bf16")
            recipe = self.dir / "recipe"
            recipe.write_text("layers.0.*proj* bf16\n")
            for to in ("q4_k", "q8_0"):
                again = self.quantize(whole, to, "--recipe", recipe)
                direct = self.quantize(model, to, "--recipe", recipe)
                self.assertEqual(read_gguf(again), read_gguf(direct), (model, to))

    def test_quantised_sources(self):
        for source in (QWEN, GEMMA):
            small = self.quantize(self.quantize(source, "q8_0"), "q4_0")
            out, _ = apus("run", small, "What is 47 + 38?", "--temp", 0, "-n", 100, "--no-think")
            self.assertIn("85", out)
            # Vectors and what is kept as it was are the same numbers.
            again = self.quantize(self.quantize(source, "q8_0"), "q8_0")
            tensors, before = read_gguf(again)[1], read_gguf(self.quantize(source, "q8_0"))[1]
            self.assertEqual({k: v for k, v in tensors.items() if v[0] == "f32"},
                             {k: v for k, v in before.items() if v[0] == "f32"})

    def test_gemma3(self):
        config, whole = self.dir / "config.json", self.dir / "gemma3.gguf"
        config.write_text(json.dumps({
            "model_type": "gemma3_text", "num_hidden_layers": 3, "hidden_size": 256, "vocab_size": 512,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128,
            "intermediate_size": 512, "query_pre_attn_scalar": 128, "sliding_window": 64,
            "sliding_window_pattern": 2, "max_position_embeddings": 4096}))
        apus("synth", config, whole, "--to", "bf16")
        tensors, small = read_gguf(whole)[1], read_gguf(self.quantize(whole, "q4_k"))[1]
        self.assertEqual({k: v[1] for k, v in tensors.items()}, {k: v[1] for k, v in small.items()})
        self.assertIn("q4_k", {v[0] for v in small.values()})

    def test_what_cannot_be(self):
        whole = self.quantize(QWEN, "bf16")
        _, err = apus("quantize", whole, self.dir / "folder", "--to", "mlx4", status=1)
        self.assertIn("becomes a GGUF file", err)
        before = whole.read_bytes()
        apus("quantize", whole, whole, "--to", "q4_k", status=1)
        self.assertEqual(whole.read_bytes(), before)
        cut = self.dir / "cut.gguf"
        cut.write_bytes(before[:-1000])
        apus("quantize", cut, self.dir / "x.gguf", "--to", "q4_k", status=1)
        self.assertFalse((self.dir / "x.gguf").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=1)
