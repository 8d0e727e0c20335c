#!/usr/bin/env python3
"""The towers of GGUF models, in mmproj files as llama.cpp's converter writes them: the bits of the folder that they were
made of; how they are found; what is refused.

    test_mmproj.py APUS SOURCE_DIR

The models are those of tests/golden_media with a little tokenizer.
"""
import json
import math
import shutil
import struct
import sys
import tempfile
import unittest
from array import array
from pathlib import Path

from test_chat_pictures import read_safetensors
from test_pictures import GEMMA, GOLDEN, QWEN, apus, make_model, png

STRING, ARRAY, U32, F32, BOOL = 8, 9, 4, 6, 7
AUDIO_NAMES = {"self_attn.post": "attn_out", "self_attn.relative_k_proj": "attn_k_rel", "norm_pre_attn": "attn_pre_norm",
               "norm_post_attn": "attn_post_norm", "norm_out": "ln2", "lconv1d.pre_layer_norm": "conv_norm",
               "lconv1d.conv_norm": "norm_conv", "lconv1d.linear_start": "conv_pw1", "lconv1d.linear_end": "conv_pw2",
               "lconv1d.depthwise_conv1d": "conv_dw", "self_attn.per_dim_scale": "per_dim_scale",
               "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
               **{f"feed_forward{i + 1}.{hf}": gguf + "_1" * i for i in range(2) for hf, gguf in (
                   ("pre_layer_norm", "ffn_norm"), ("ffw_layer_1", "ffn_up"), ("ffw_layer_2", "ffn_down"),
                   ("post_layer_norm", "ffn_post_norm"))}}
GEMMA_NAMES = {"input_layernorm": "ln1", "post_attention_layernorm": "attn_post_norm",
               "pre_feedforward_layernorm": "ln2", "post_feedforward_layernorm": "ffn_post_norm",
               "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.q_proj": "attn_q",
               "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_out",
               "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
QWEN_NAMES = {"norm1": "ln1", "norm2": "ln2", "attn.qkv": "attn_qkv", "attn.proj": "attn_out", "mlp.linear_fc1": "ffn_up",
              "mlp.linear_fc2": "ffn_down"}
WHOLE = {"model.visual.pos_embed": "v.position_embd", "model.visual.merger.norm": "v.post_ln",
         "model.visual.merger.linear_fc1": "mm.0", "model.visual.merger.linear_fc2": "mm.2",
         "model.visual.patch_embed.proj": "v.patch_embd",
         "model.vision_tower.patch_embedder.input_proj": "v.patch_embd",
         "model.embed_vision.embedding_projection": "mm.input_projection",
         "model.embed_audio.embedding_projection": "mm.a.input_projection",
         "model.audio_tower.output_proj": "a.pre_encode.out",
         "model.audio_tower.subsample_conv_projection.input_proj_linear": "a.input_projection",
         "model.audio_tower.subsample_conv_projection.layer0.conv": "a.conv1d.0",
         "model.audio_tower.subsample_conv_projection.layer1.conv": "a.conv1d.1",
         "model.audio_tower.subsample_conv_projection.layer0.norm": "a.conv1d.0.norm",
         "model.audio_tower.subsample_conv_projection.layer1.norm": "a.conv1d.1.norm",
         "model.vision_embedder.patch_ln1": "v.patch_norm.1", "model.vision_embedder.patch_ln2": "v.patch_norm.2",
         "model.vision_embedder.pos_norm": "v.patch_norm.3", "model.vision_embedder.patch_dense": "v.patch_embd"}
ALONE = {"model.vision_tower.patch_embedder.position_embedding_table": "v.position_embd.weight",
         "model.vision_tower.std_bias": "v.std_bias", "model.vision_tower.std_scale": "v.std_scale",
         "model.vision_embedder.pos_embedding": "v.position_embd.weight"}


def floats(dtype, data):
    if dtype == "F32":
        return array("f", data)
    assert dtype == "BF16", dtype
    return array("f", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))


def gguf_name(name):
    """llama.cpp's name of a tower's tensor."""
    if name in ALONE:
        return ALONE[name]
    module, leaf = name.rsplit(".", 1)
    if module in WHOLE:
        return f"{WHOLE[module]}.{leaf}"
    for head, tail, names in (("model.visual.blocks.", "v", QWEN_NAMES), ("model.audio_tower.layers.", "a", AUDIO_NAMES),
                              ("model.vision_tower.encoder.layers.", "v", GEMMA_NAMES)):
        if name.startswith(head):
            layer, rest = name[len(head):].split(".", 1)
            if rest == "self_attn.per_dim_scale":
                return f"a.blk.{layer}.per_dim_scale.weight"
            module, leaf = rest.rsplit(".", 1)
            return f"{tail}.blk.{layer}.{names[module.removesuffix('.linear')]}.{leaf}"
    return None


def converted(name, shape, x):
    """[(name, shape, values)] that the converter makes of a tensor."""
    out = gguf_name(name)
    if out is None:
        return []
    if name.endswith("patch_embed.proj.weight"):
        d, c, t, h, w = shape
        return [(out + (".1" if k else ""), [d, c, h, w], array("f", (
            x[((i * c + j) * t + k) * h * w + p] for i in range(d) for j in range(c) for p in range(h * w))))
            for k in range(t)]
    if "input_proj.weight" in name or "patch_dense.weight" in name or "patch_ln1" in name:
        rows, cols = (shape if len(shape) == 2 else [1, shape[0]])
        side = math.isqrt(cols // 3)
        x = array("f", (x[r * cols + p * 3 + c] for r in range(rows) for c in range(3) for p in range(side * side)))
        return [(out, [rows, 3, side, side] if "input_proj" in name else shape, x)]
    if name.endswith("pos_embedding"):
        n, two, d = shape
        return [(out, [two, n, d], array("f", (x[(i * two + k) * d + j] for k in range(two) for i in range(n)
                                               for j in range(d))))]
    if name.endswith("per_dim_scale"):
        return [(out, shape, array("f", (math.log1p(math.exp(v)) for v in x)))]
    if name.endswith("depthwise_conv1d.weight"):
        return [(out, [shape[0], shape[2]], x)]
    return [(out, shape or [1], x)]


def value(kind, v):
    if kind == STRING:
        return struct.pack("<Q", len(v)) + v.encode()
    if kind == ARRAY:
        return struct.pack("<IQ", F32, len(v)) + struct.pack(f"<{len(v)}f", *v)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<B"}[kind], v)


def write_gguf(path, meta, tensors):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta))
    for key, (kind, v) in meta.items():
        out += text(key) + struct.pack("<I", kind) + value(kind, v)
    at, body = 0, b""
    for name, shape, x in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        out += struct.pack("<IQ", 0, at)
        body += x.tobytes() + b"\0" * (-len(x.tobytes()) % 32)
        at = len(body)
    path.write_bytes(out + b"\0" * (-len(out) % 32) + body)


def vision_meta(c, hidden):
    v = c["vision_config"]
    if c["model_type"].startswith("qwen"):
        return {"clip.projector_type": (STRING, "qwen3vl_merger"), "clip.vision.block_count": (U32, v["depth"]),
                "clip.vision.embedding_length": (U32, v["hidden_size"]),
                "clip.vision.feed_forward_length": (U32, v["intermediate_size"]),
                "clip.vision.attention.head_count": (U32, v["num_heads"]),
                "clip.vision.patch_size": (U32, v["patch_size"]), "clip.vision.projection_dim": (U32, hidden),
                "clip.vision.spatial_merge_size": (U32, v["spatial_merge_size"]),
                "clip.vision.image_mean": (ARRAY, [0.5] * 3), "clip.vision.image_std": (ARRAY, [0.5] * 3)}
    if "unified" in c["model_type"]:
        return {"clip.vision.projector_type": (STRING, "gemma4uv"), "clip.vision.patch_size": (U32, v["patch_size"])}
    return {"clip.vision.projector_type": (STRING, "gemma4v"), "clip.vision.block_count": (U32, v["num_hidden_layers"]),
            "clip.vision.embedding_length": (U32, v["hidden_size"]),
            "clip.vision.feed_forward_length": (U32, v["intermediate_size"]),
            "clip.vision.attention.head_count": (U32, v["num_attention_heads"]),
            "clip.vision.patch_size": (U32, v["patch_size"]),
            "clip.vision.projector.scale_factor": (U32, v["pooling_kernel_size"])}


def audio_meta(c):
    a = c.get("audio_config")
    if not a:
        return {}
    if "unified" in c["model_type"]:
        return {"clip.audio.projector_type": (STRING, "gemma4ua")}
    return {"clip.audio.projector_type": (STRING, "gemma4a"), "clip.audio.block_count": (U32, a["num_hidden_layers"]),
            "clip.audio.embedding_length": (U32, a["hidden_size"]),
            "clip.audio.attention.head_count": (U32, a["num_attention_heads"]), "clip.audio.num_mel_bins": (U32, 16)}


def write_mmproj(folder, path, **change):
    c = json.loads((folder / "config.json").read_text())
    tensors = []
    for name, (dtype, shape, data) in read_safetensors(folder / "model.safetensors").items():
        tensors += converted(name, shape, floats(dtype, data))
    meta = {"general.architecture": (STRING, "clip"), "clip.has_vision_encoder": (BOOL, 1),
            **vision_meta(c, c["text_config"]["hidden_size"]), **audio_meta(c)}
    meta |= {k.replace("__", "."): v for k, v in change.items()}
    write_gguf(path, {k: v for k, v in meta.items() if v}, tensors)
    return path


class Mmproj(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp(prefix="apus-mmproj-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)

    def model(self, golden):
        """(folder, GGUF file in a folder of its own)"""
        folder, out = self.dir / golden, self.dir / (golden + "-gguf")
        if not folder.exists():
            tokens = QWEN if golden.startswith("qwen") else GEMMA
            make_model(folder, golden, tokens, {"patch_size": 4, "pooling_kernel_size": 2})
            config = json.loads((folder / "config.json").read_text())
            config["text_config"]["pad_token_id"] = config["pad_token_id"] = 0  # as all that are released have it
            (folder / "config.json").write_text(json.dumps(config))
            out.mkdir()
            _, err = apus("quantize", folder, out / "model.gguf", "--to", "bf16")
            self.assertIn("towers for pictures and sound are left out", err)
        for f in out.glob("*mmproj*"):
            f.unlink()
        return folder, out / "model.gguf"

    def logits(self, model, folder, k, *more, status=0):
        gold = read_safetensors(folder / "gold.safetensors")
        ids = array("i", gold[f"ids_{k}"][2])
        used = array("i", gold[f"pictures_{k}"][2])
        (self.dir / "ids").write_text(" ".join(map(str, ids)))
        media = []
        for i in used:
            path = folder / f"picture_{i}.safetensors"
            heard = "input_features" in read_safetensors(path)
            media += ["--audio" if heard else "-i", path]
        out = self.dir / "logits.safetensors"
        _, err = apus("logits", model, "--ids", self.dir / "ids", *media, "-o", out, "--force", "--prefill-chunk", 256,
                      *more, status=status)
        return err if status else array("f", read_safetensors(out)["logits"][2])

    def test_the_same_bits(self):
        """But for the norms of Qwen's text models and the audio tower's scale of queries, which are rounded on the way."""
        for golden in ("qwen_a", "qwen_moe", "qwen_video", "gemma_e", "gemma_moe", "gemma_video", "gemma_unified",
                       "gemma_sound", "gemma_unified_sound"):
            folder, model = self.model(golden)
            write_mmproj(folder, model.parent / "mmproj-F32.gguf")
            for k in range(2):
                want, got = self.logits(folder, folder, k), self.logits(model, folder, k)
                if golden == "gemma_sound" or golden.startswith("qwen"):
                    self.assertLess(max(abs(a - b) for a, b in zip(want, got)), 1e-4, (golden, k))
                else:
                    self.assertEqual(want, got, (golden, k))

    def test_a_picture(self):
        """Prepared as the file says, in the places that the vocabulary has for it."""
        folder, model = self.model("gemma_moe")
        write_mmproj(folder, model.parent / "mmproj.gguf")
        picture = png(self.dir / "a.png", 64, 40, 3)
        said = [apus("run", m, "-i", picture, "what?", "--print-ids", "-n", 8, "--temp", 0, "--ignore-eos")[0]
                for m in (folder, model)]
        self.assertEqual(said[0], said[1])
        rows = [self.dir / "a.safetensors", self.dir / "b.safetensors"]
        for m, out in zip((folder, model), rows):
            apus("patches", m, picture, "-o", out)
        self.assertEqual(rows[0].read_bytes(), rows[1].read_bytes())

    def test_found(self):
        folder, model = self.model("gemma_e")
        self.assertIn("named with --mmproj", self.logits(model, folder, 0, status=1))
        elsewhere = write_mmproj(folder, self.dir / "elsewhere.gguf")
        want = self.logits(model, folder, 0, "--mmproj", elsewhere)
        for name in ("mmproj-A.gguf", "other.mmproj-f16.gguf"):
            shutil.copy(elsewhere, model.parent / name)
        self.assertIn("2 mmproj files are beside it", self.logits(model, folder, 0, status=1))
        out, _ = apus("info", model)  # text does not need them
        for name in ("mmproj-model-f16.gguf", "model.mmproj.gguf", "mmproj-model.gguf"):
            shutil.copy(elsewhere, model.parent / name)
            self.assertEqual(want, self.logits(model, folder, 0), name)
            (model.parent / name).unlink()

    def test_refused(self):
        folder, model = self.model("gemma_moe")
        other, _ = self.model("qwen_a")
        beside = model.parent / "mmproj.gguf"
        for make, says in ((lambda: write_mmproj(other, beside), "another kind of model"),
                           (lambda: write_mmproj(self.model("gemma_unified")[0], beside), "expected 40 outputs"),
                           (lambda: write_mmproj(folder, beside, clip__vision__block_count=None), "block_count"),
                           (lambda: write_mmproj(folder, beside, clip__vision__block_count=(U32, 9)), "missing"),
                           (lambda: write_mmproj(folder, beside, clip__vision__projector_type=(STRING, "pixtral")),
                            'found "pixtral"'),
                           (lambda: beside.write_bytes(beside.read_bytes()[:700]), "mmproj.gguf")):
            make()
            self.assertIn(says, self.logits(model, folder, 0, status=1))
        (self.dir / "ids").write_text("5 6 7")  # text does not need them
        apus("logits", model, "--ids", self.dir / "ids", "-o", self.dir / "logits.safetensors", "--force")
        for damage in range(40, 2000, 97):  # no damage to the header ends the program
            data = bytearray(write_mmproj(folder, beside).read_bytes())
            data[damage] ^= 0x55
            beside.write_bytes(data)
            apus("info", model)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
