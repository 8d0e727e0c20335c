#!/usr/bin/env python3
"""Make tiny random checkpoints of every architecture and the reference's logits for them.

    make_model_goldens.py -o tests/golden/data            the committed set
    make_model_goldens.py -o DIR --only g4_moe,q35_mm     some of it
    make_model_goldens.py -o DIR --sweep 40 --seed 7      40 random shapes (not committed)

Everything follows from the names and seeds; tests/golden/README.md tells what the files hold.
"""

import argparse
import copy
import hashlib
import json
import math
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import reference as ref  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

N_GREEDY = 32
N_ROWS = 24  # positions kept of a long prompt
SHORT = 20   # prompts up to this length keep all positions
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}

# ------------------------------------------------------------------------ the committed set

S, F, LIN = "sliding_attention", "full_attention", "linear_attention"


def gemma_rope(factor=0.25, theta=1e6):
    return {S: {"rope_type": "default", "rope_theta": 10000.0},
            F: {"rope_type": "proportional", "partial_rotary_factor": factor, "rope_theta": theta}}


def qwen_rope(partial, theta=1e7, **more):
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial, **more}


GEMMA = dict(pad_token_id=0, bos_token_id=2, eos_token_id=1, max_position_embeddings=4096,
             final_logit_softcapping=30.0, hidden_size_per_layer_input=0, rms_norm_eps=1e-6)
QWEN = dict(max_position_embeddings=4096, rms_norm_eps=1e-6)

# Ids of media lie outside the vocabularies: apus never generates them, the reference does.
# name -> model_type, config, and how the files are written:
#   store    dtype of the weights
#   shards   number of files (with an index) or 1
#   experts  "fused" or "split": expert tensors in the file
#   form     "saved" = config.json as save_pretrained writes it; "flat" = gemma's older form with
#            global_head_dim; "outer" = multimodal checkpoint with towers beside the text model
#   long     length of one more prompt
MODELS = {
    # E-like: per-layer embeddings, KV sharing whose last own layer is a sliding one, double-wide
    # MLP on shared layers, window smaller than the prompts, 8 query heads on one KV head.
    "g4_e": dict(model_type="gemma4_text", config=dict(
        GEMMA, vocab_size=203, vocab_size_per_layer_input=203, hidden_size=40,
        intermediate_size=44, num_hidden_layers=7, num_attention_heads=8, num_key_value_heads=1,
        head_dim=16, global_head_dim=24, sliding_window=16, layer_types=[S, S, F, S, S, F, F],
        num_kv_shared_layers=3, use_double_wide_mlp=True, hidden_size_per_layer_input=10,
        rope_parameters=gemma_rope(0.25))),
    # A whole multimodal checkpoint in the released form: outer config, flat geometry, shared layers
    # that still carry their unused K/V tensors, a vision tower, odd hidden size, window 5.
    "g4_e_mm": dict(model_type="gemma4_text", form="outer", config=dict(
        GEMMA, vocab_size=205, vocab_size_per_layer_input=211, hidden_size=45,
        intermediate_size=50, num_hidden_layers=5, num_attention_heads=3, num_key_value_heads=1,
        head_dim=16, global_head_dim=32, sliding_window=5, layer_types=[S, F, S, S, F],
        num_kv_shared_layers=2, hidden_size_per_layer_input=12,
        rope_parameters=gemma_rope(0.5, 1e5))),
    # Dense, V from the raw K projection on full layers, window larger than most prompts.
    "g4_kv": dict(model_type="gemma4_text", config=dict(
        GEMMA, vocab_size=203, hidden_size=56, intermediate_size=72, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, num_global_key_value_heads=1, head_dim=16,
        global_head_dim=32, attention_k_eq_v=True, sliding_window=512, rms_norm_eps=1e-3,
        layer_types=[S, F, S, F], rope_parameters=gemma_rope(0.25))),
    # The same family in the flat form, f32 weights, a long prompt far beyond the window.
    "g4_kv_long": dict(model_type="gemma4_text", form="flat", store="f32", long=1700, config=dict(
        GEMMA, vocab_size=163, hidden_size=40, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, num_global_key_value_heads=2, head_dim=16,
        global_head_dim=24, attention_k_eq_v=True, sliding_window=100,
        layer_types=[S, S, F], rope_parameters=gemma_rope(0.25))),
    # MoE, experts not a power of two; no softcap in one of them, f16 weights.
    "g4_moe6": dict(model_type="gemma4_text", config=dict(
        GEMMA, vocab_size=203, hidden_size=40, intermediate_size=36, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1, head_dim=16,
        global_head_dim=24, attention_k_eq_v=True, sliding_window=16, enable_moe_block=True,
        num_experts=6, top_k_experts=2, moe_intermediate_size=20, layer_types=[S, S, S, F],
        rope_parameters=gemma_rope(0.25))),
    "g4_moe11": dict(model_type="gemma4_text", store="f16", config=dict(
        GEMMA, vocab_size=131, hidden_size=44, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=3, num_global_key_value_heads=3, head_dim=18,
        global_head_dim=40, attention_k_eq_v=True, sliding_window=5, enable_moe_block=True,
        num_experts=11, top_k_experts=4, moe_intermediate_size=17, layer_types=[F, S, F],
        final_logit_softcapping=None, rope_parameters=gemma_rope(0.5))),
    "g4_unified": dict(model_type="gemma4_unified_text", config=dict(
        {k: v for k, v in GEMMA.items() if k != "hidden_size_per_layer_input"},
        vocab_size=203, hidden_size=48, intermediate_size=56, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, num_global_key_value_heads=1, head_dim=16,
        global_head_dim=32, attention_k_eq_v=True, sliding_window=16,
        layer_types=[S, S, S, F], rope_parameters=gemma_rope(0.25))),
    # Dense hybrid, tied head, as many value heads as key heads.
    "q35_tied": dict(model_type="qwen3_5_text", config=dict(
        QWEN, vocab_size=203, hidden_size=40, intermediate_size=56, num_hidden_layers=5,
        num_attention_heads=2, num_key_value_heads=1, head_dim=24, linear_num_key_heads=2,
        linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
        layer_types=[LIN, LIN, LIN, F, LIN], tie_word_embeddings=True,
        rope_parameters=qwen_rope(0.25))),
    # Three value heads on a key head, key and value widths differ, untied, long prompt.
    "q35_long": dict(model_type="qwen3_5_text", long=1600, config=dict(
        QWEN, vocab_size=151, hidden_size=50, intermediate_size=54, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16, linear_num_key_heads=1,
        linear_num_value_heads=3, linear_key_head_dim=16, linear_value_head_dim=24,
        layer_types=[LIN, F, LIN, F], tie_word_embeddings=False,
        rope_parameters=qwen_rope(0.5, 1e6))),
    # The released multimodal form: outer config, vision tower, mtp tensors, A_log and the gated
    # norm in F32 beside bf16.
    "q35_mm": dict(model_type="qwen3_5_text", form="outer", f32_names=("A_log", "linear_attn.norm"),
                   config=dict(
        QWEN, vocab_size=205, hidden_size=48, intermediate_size=40, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
        layer_types=[LIN, LIN, LIN, F], tie_word_embeddings=False,
        rope_parameters=qwen_rope(0.25, mrope_section=[2, 1, 1], mrope_interleaved=True))),
    "q35moe_fused": dict(model_type="qwen3_5_moe_text", experts="fused", shards=3, config=dict(
        QWEN, vocab_size=203, hidden_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, linear_num_key_heads=1, linear_num_value_heads=4,
        linear_key_head_dim=16, linear_value_head_dim=16, num_experts=7, num_experts_per_tok=3,
        moe_intermediate_size=20, shared_expert_intermediate_size=24,
        layer_types=[LIN, LIN, F, LIN], rope_parameters=qwen_rope(0.25))),
    "q35moe_split": dict(model_type="qwen3_5_moe_text", experts="split", config=dict(
        QWEN, vocab_size=203, hidden_size=42, num_hidden_layers=4, num_attention_heads=3,
        num_key_value_heads=3, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=12, linear_value_head_dim=16, num_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=18, shared_expert_intermediate_size=14, tie_word_embeddings=True,
        layer_types=[LIN, LIN, LIN, F], max_position_embeddings=512,
        rope_parameters=dict(rope_type="yarn", rope_theta=1e4, partial_rotary_factor=0.5,
                             factor=4.0, original_max_position_embeddings=128,
                             mrope_section=[2, 1, 1], mrope_interleaved=True))),
    "q3next": dict(model_type="qwen3_next", config=dict(
        QWEN, vocab_size=203, hidden_size=40, intermediate_size=36, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=1, head_dim=16, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=16,
        norm_topk_prob=True, mlp_only_layers=[1], layer_types=[LIN, LIN, LIN, F],
        rope_parameters=qwen_rope(0.25))),
    # Eight value heads on one key head, a conv of three taps, every other layer dense, weights of
    # the chosen experts not normalised, tied head.
    "q3next_r8": dict(model_type="qwen3_next", experts="fused", config=dict(
        QWEN, vocab_size=139, hidden_size=40, intermediate_size=44, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, linear_num_key_heads=1,
        linear_num_value_heads=8, linear_key_head_dim=12, linear_value_head_dim=8,
        linear_conv_kernel_dim=3, num_experts=9, num_experts_per_tok=4, moe_intermediate_size=16,
        shared_expert_intermediate_size=20, norm_topk_prob=False, decoder_sparse_step=2,
        tie_word_embeddings=True, layer_types=[LIN, F, LIN, LIN],
        rope_parameters=qwen_rope(0.5))),
    "q3moe_yarn": dict(model_type="qwen3_moe", config=dict(
        QWEN, vocab_size=203, hidden_size=40, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=1, head_dim=16, num_experts=12,
        num_experts_per_tok=3, moe_intermediate_size=14, norm_topk_prob=True, rms_norm_eps=1e-3,
        max_position_embeddings=256,
        rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0,
                             original_max_position_embeddings=64))),
    # No head_dim in the config (hidden / heads), no norm_topk_prob, one dense layer, f16, tied.
    "q3moe_bare": dict(model_type="qwen3_moe", store="f16", drop=("norm_topk_prob", "head_dim"),
                       config=dict(
        QWEN, vocab_size=203, hidden_size=48, intermediate_size=52, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, num_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=22, mlp_only_layers=[0], tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    # The elders: dense Qwen3, and Gemma 3 with a window below the prompts, a scale that is not D^-1/2,
    # rope stretched in full layers.
    "q3": dict(model_type="qwen3", config=dict(
        QWEN, vocab_size=203, hidden_size=40, intermediate_size=60, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "g3": dict(model_type="gemma3_text", config=dict(
        vocab_size=203, hidden_size=40, intermediate_size=60, num_hidden_layers=4, pad_token_id=0,
        bos_token_id=2, eos_token_id=1, max_position_embeddings=4096, rms_norm_eps=1e-6,
        num_attention_heads=4, num_key_value_heads=1, head_dim=16, sliding_window=16,
        query_pre_attn_scalar=24, layer_types=[S, S, F, S],
        rope_parameters={S: {"rope_type": "default", "rope_theta": 1e4},
                         F: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}})),
}

# ------------------------------------------------------------------------ random shapes


def divisors(n, below):
    return [d for d in range(1, min(n, below) + 1) if n % d == 0]


def random_spec(rng):
    """A model of random shape, within what the families allow."""
    model_type = rng.choice([t for t in ref.CLASSES if t not in ("qwen3", "gemma3_text")])
    n_layer = rng.randint(2, 7)
    n_head = rng.choice([1, 2, 3, 4, 6, 8])
    spec = dict(model_type=model_type, store=rng.choice(["bf16", "bf16", "f16", "f32"]),
                shards=rng.choice([1, 1, 2, 4]))
    c = dict(vocab_size=rng.randint(60, 300), hidden_size=rng.randint(16, 90),
             intermediate_size=rng.randint(8, 100), num_hidden_layers=n_layer,
             num_attention_heads=n_head, num_key_value_heads=rng.choice(divisors(n_head, 8)),
             head_dim=4 * rng.randint(3, 12), rms_norm_eps=rng.choice([1e-6, 1e-5]),
             max_position_embeddings=4096)
    if model_type.startswith("gemma4"):
        moe = model_type == "gemma4_text" and rng.random() < 0.4
        types = [rng.choice([S, S, F]) for _ in range(n_layer)]
        types[-1] = F
        c.update(GEMMA, rms_norm_eps=c["rms_norm_eps"], layer_types=types,
                 global_head_dim=8 * rng.randint(2, 8),
                 attention_k_eq_v=rng.random() < 0.6,
                 sliding_window=rng.choice([1, 2, 5, 16, 63, 64, 65, 100, 1000]),
                 final_logit_softcapping=rng.choice([None, 5.0, 30.0]),
                 rope_parameters=gemma_rope(rng.choice([0.25, 0.5, 1.0])))
        if c["attention_k_eq_v"]:
            c["num_global_key_value_heads"] = rng.choice(divisors(n_head, 8))
        own = rng.randint(1, n_layer)
        if own < n_layer and set(types[:own]) == set(types) and rng.random() < 0.7:
            c["num_kv_shared_layers"] = n_layer - own
            c["use_double_wide_mlp"] = rng.random() < 0.5
        if model_type == "gemma4_text" and (c.get("num_kv_shared_layers") or rng.random() < 0.4):
            c["hidden_size_per_layer_input"] = rng.randint(3, 24)
            c["vocab_size_per_layer_input"] = c["vocab_size"] + rng.choice([0, 9])
        if moe:
            e = rng.randint(2, 17)
            c.update(enable_moe_block=True, num_experts=e, top_k_experts=rng.randint(1, min(e, 6)),
                     moe_intermediate_size=rng.randint(4, 40))
        if model_type == "gemma4_unified_text":
            del c["hidden_size_per_layer_input"]
        spec["form"] = rng.choice(["saved", "flat"])
    else:
        c.update(tie_word_embeddings=rng.random() < 0.5)
        partial = rng.choice([0.25, 0.5, 1.0])
        rope = qwen_rope(partial, rng.choice([1e4, 1e6, 1e7]))
        if int(c["head_dim"] * partial) % 2:
            rope["partial_rotary_factor"] = 0.5
        if rng.random() < 0.3:
            rope.update(rope_type="yarn", factor=rng.choice([2.0, 4.0]),
                        original_max_position_embeddings=rng.choice([64, 1024]))
        if model_type == "qwen3_moe":
            rope.pop("partial_rotary_factor")
        else:
            hk = rng.choice([1, 2, 3])
            c.update(linear_num_key_heads=hk, linear_num_value_heads=hk * rng.choice([1, 2, 3, 4]),
                     linear_key_head_dim=4 * rng.randint(2, 8),
                     linear_value_head_dim=4 * rng.randint(2, 8),
                     linear_conv_kernel_dim=rng.choice([4, 4, 4, 3, 2]),
                     layer_types=[rng.choice([LIN, LIN, F]) for _ in range(n_layer)])
            c["layer_types"][rng.randrange(n_layer)] = F  # the reference's cache needs one
        c["rope_parameters"] = rope
        if model_type != "qwen3_5_text":
            e = rng.randint(2, 17)
            c.update(num_experts=e, num_experts_per_tok=rng.randint(1, min(e, 6)),
                     moe_intermediate_size=rng.randint(4, 40))
            spec["experts"] = rng.choice(["fused", "split"])
        if model_type in ("qwen3_5_moe_text", "qwen3_next"):
            c["shared_expert_intermediate_size"] = rng.randint(4, 40)
        if model_type in ("qwen3_next", "qwen3_moe"):
            c.update(norm_topk_prob=rng.random() < 0.5, decoder_sparse_step=rng.choice([1, 1, 2]),
                     mlp_only_layers=sorted(rng.sample(range(n_layer), rng.choice([0, 0, 1]))))
        if model_type == "qwen3_5_moe_text":
            del c["intermediate_size"]
    spec["config"] = c
    return spec


# ------------------------------------------------------------------------ weights


def fill(name, shape, c, gen):
    """Random values of a sane size for the tensor of that name in the text class."""
    def normal(std):
        return torch.randn(shape, generator=gen) * std

    def uniform(lo, hi):
        return torch.rand(shape, generator=gen) * (hi - lo) + lo

    gemma = c.model_type.startswith("gemma")
    zero_centred = c.model_type not in ("gemma4_text", "gemma4_unified_text", "qwen3_moe", "qwen3")
    leaf = name.split(".")[-1]
    fan = shape[-1]
    if name.endswith("embed_tokens.weight"):
        if gemma:  # scaled by sqrt(hidden) as input, used as it is as head
            return normal(1.8 / math.sqrt(fan))
        return normal(2.0 / math.sqrt(fan) if c.tie_word_embeddings else 0.7)
    if name.endswith("embed_tokens_per_layer.weight"):
        return normal(1.0 / math.sqrt(c.hidden_size_per_layer_input))
    if name == "lm_head.weight":
        return normal(2.0 / math.sqrt(fan))
    if leaf == "A_log":  # decays from a few tokens to thousands
        n = shape[0]
        steps = torch.linspace(math.log(0.004), math.log(6.0), n) if n > 1 else torch.zeros(1)
        return steps[torch.randperm(n, generator=gen)] + normal(0.3)
    if leaf == "dt_bias":
        return uniform(-4.0, 1.0)
    if leaf == "layer_scalar":
        return uniform(0.5, 1.2)
    if leaf == "per_expert_scale":
        return uniform(0.5, 1.6)
    if name.endswith("router.scale"):
        return uniform(0.5, 1.5)
    if name.endswith("router.proj.weight"):
        return normal(2.0)
    if name.endswith("mlp.gate.weight"):
        return normal(2.0 / math.sqrt(fan))
    if "conv1d" in name:
        return normal(0.6)
    if "in_proj_a" in name or "in_proj_b" in name:
        return normal(1.5 / math.sqrt(fan))
    if name.endswith(("q_norm.weight", "k_norm.weight")) and gemma and not zero_centred:  # scores are not scaled here
        return uniform(0.3, 1.1)
    if name == "model.norm.weight" and not zero_centred and c.tie_word_embeddings:
        return uniform(-1.5, 1.8)  # of both signs, else a tied head repeats the last token for ever
    if name == "model.norm.weight" and zero_centred and gemma:
        return uniform(-2.5, 0.8)  # likewise
    if gemma and ".post_" in name and len(shape) == 1 and not zero_centred:
        return uniform(0.7, 2.0)  # blocks count for more than the embedding
    if "norm" in name and len(shape) == 1:
        if zero_centred and "linear_attn.norm" not in name:
            return uniform(-0.5, 0.5)
        return uniform(0.5, 1.5)
    return normal(1.2 / math.sqrt(fan))


def seed_of(*parts):
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")


def make_model(spec, seed):
    """The float32 model, its weights rounded to what the file will hold."""
    config = ref.CLASSES[spec["model_type"]][0](**copy.deepcopy(spec["config"]))
    model = ref.build(spec["model_type"], config)
    store = DTYPES[spec.get("store", "bf16")]
    done = set()
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if t.data_ptr() in done:
                continue
            done.add(t.data_ptr())
            gen = torch.Generator().manual_seed(seed_of(seed, name))
            v = fill(name, tuple(t.shape), config, gen)
            keep = any(s in name for s in spec.get("f32_names", ()))
            t.copy_(v if keep else v.to(store).float())
    return model


# ------------------------------------------------------------------------ files


def split_experts(tensors):
    out = {}
    for name, t in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            base, half = name[: -len("gate_up_proj")], t.shape[1] // 2
            for e in range(t.shape[0]):
                out[f"{base}{e}.gate_proj.weight"] = t[e, :half].clone()
                out[f"{base}{e}.up_proj.weight"] = t[e, half:].clone()
        elif name.endswith("experts.down_proj"):
            base = name[: -len("down_proj")]
            for e in range(t.shape[0]):
                out[f"{base}{e}.down_proj.weight"] = t[e].clone()
        else:
            out[name] = t
    return out


def fuse_experts(tensors):
    names = {n.split(".experts.")[0] for n in tensors if ".experts.0." in n}
    out = {n: t for n, t in tensors.items() if ".experts." not in n or "experts.0." not in n}
    for base in names:
        part = {k: [] for k in ("gate", "up", "down")}
        e = 0
        while f"{base}.experts.{e}.gate_proj.weight" in tensors:
            for k in part:
                part[k].append(tensors[f"{base}.experts.{e}.{k}_proj.weight"])
                out.pop(f"{base}.experts.{e}.{k}_proj.weight", None)
            e += 1
        out[f"{base}.experts.gate_up_proj"] = torch.stack(
            [torch.cat([g, u]) for g, u in zip(part["gate"], part["up"])])
        out[f"{base}.experts.down_proj"] = torch.stack(part["down"])
    return out


def write_tensors(folder, tensors, shards):
    tensors = {n: t.contiguous() for n, t in sorted(tensors.items())}
    for f in os.listdir(folder):
        if f.startswith("model") and ".safetensors" in f:
            os.unlink(os.path.join(folder, f))
    if shards == 1:
        save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        return
    names, where = list(tensors), {}
    for i in range(shards):
        part = names[i::shards]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: tensors[n] for n in part}, os.path.join(folder, file),
                  metadata={"format": "pt"})
        where.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": where}, f, indent=1)


def outer_config(spec, text, gen, store):
    """The config and the extra tensors of a multimodal checkpoint around a text model."""
    h = text["hidden_size"]

    def r(*shape):
        return (torch.randn(shape, generator=gen) * 0.1).to(store)

    if spec["model_type"] == "gemma4_text":
        cfg = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4",
               "boi_token_id": 1200, "eoi_token_id": 1201, "image_token_id": 1202,
               "eos_token_id": [1, 106], "dtype": "bfloat16", "audio_config": None,
               "vision_config": {"model_type": "gemma4_vision", "hidden_size": 8,
                                 "intermediate_size": 16, "num_hidden_layers": 1,
                                 "num_attention_heads": 1, "num_key_value_heads": 1,
                                 "head_dim": 8, "patch_size": 2},
               "tie_word_embeddings": True}
        extra = {"model.vision_tower.patch_embedder.input_proj.weight": r(8, 12),
                 "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight": r(8, 8),
                 "model.vision_tower.encoder.layers.0.input_layernorm.weight": r(8),
                 "model.embed_vision.embedding_projection.weight": r(h, 8)}
        types, own = text["layer_types"], text["num_hidden_layers"] - text["num_kv_shared_layers"]
        for i in range(own, text["num_hidden_layers"]):  # released files keep them; unused
            d = text["global_head_dim"] if types[i] == F else text["head_dim"]
            at = f"model.language_model.layers.{i}.self_attn."
            kv = text["num_key_value_heads"]
            extra.update({at + "k_proj.weight": r(kv * d, h), at + "v_proj.weight": r(kv * d, h),
                          at + "k_norm.weight": r(d)})
    else:
        moe = "moe" in spec["model_type"]
        cfg = {"architectures": ["Qwen3_5MoeForConditionalGeneration" if moe else
                                 "Qwen3_5ForConditionalGeneration"],
               "model_type": "qwen3_5_moe" if moe else "qwen3_5", "image_token_id": 1202,
               "video_token_id": 1203, "vision_start_token_id": 1199, "vision_end_token_id": 1200,
               "tie_word_embeddings": text["tie_word_embeddings"],
               "vision_config": {"model_type": "qwen3_5", "depth": 1, "hidden_size": 8,
                                 "intermediate_size": 16, "num_heads": 1, "out_hidden_size": h,
                                 "patch_size": 2, "num_position_embeddings": 4}}
        hd = text["head_dim"]
        extra = {"model.visual.patch_embed.proj.weight": r(8, 3, 2, 2, 2),
                 "model.visual.blocks.0.attn.qkv.weight": r(24, 8),
                 "model.visual.merger.linear_fc2.weight": r(h, 32),
                 "mtp.fc.weight": r(h, 2 * h), "mtp.norm.weight": r(h),
                 "mtp.pre_fc_norm_embedding.weight": r(h), "mtp.pre_fc_norm_hidden.weight": r(h),
                 "mtp.layers.0.input_layernorm.weight": r(h),
                 "mtp.layers.0.self_attn.q_norm.weight": r(hd)}
        text.update(full_attention_interval=4, attn_output_gate=True, mamba_ssm_dtype="float32",
                    mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False)
    cfg["text_config"] = text
    return cfg, extra


def flat_form(saved, spec):
    """gemma's older geometry keys instead of per_layer_config."""
    saved = dict(saved)
    saved.pop("per_layer_config", None)
    c = spec["config"]
    saved["head_dim"] = c["head_dim"]
    saved["num_key_value_heads"] = c["num_key_value_heads"]
    saved["global_head_dim"] = c["global_head_dim"]
    saved["num_global_key_value_heads"] = c.get("num_global_key_value_heads")
    return saved


def same_model(a, b, ids, what):
    """Weights equal to the bit; logits up to what the alignment of memory does to a sum."""
    sa, sb = a.state_dict(), b.state_dict()
    assert sa.keys() == sb.keys(), f"{what}: other names"
    for n in sa:
        assert torch.equal(sa[n], sb[n]), f"{what}: {n} differs"
    delta = (ref.run(a, ids)[0] - ref.run(b, ids)[0]).abs().max().item()
    assert delta < 1e-3, f"{what}: logits differ by {delta}"


def write_model(model, spec, folder, seed):
    """config.json and the safetensors files; then read them back and compare."""
    store = DTYPES[spec.get("store", "bf16")]
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    os.makedirs(folder)
    low = copy.deepcopy(model)
    low.to(store)
    low.save_pretrained(folder)
    form = spec.get("form", "saved")
    touched = form != "saved" or any(k in spec for k in ("shards", "experts", "f32_names", "drop"))
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        cfg = json.load(f)
    if touched:
        tensors = ref.read_tensors(folder)
        if spec.get("f32_names"):
            exact = model.state_dict()
            for n in tensors:
                if any(s in n for s in spec["f32_names"]):
                    tensors[n] = exact[n].clone()
        if spec.get("experts") == "fused":
            tensors = fuse_experts(tensors)
        elif spec.get("experts") == "split":
            tensors = split_experts(tensors)
        if spec["model_type"].startswith("gemma4") and form in ("flat", "outer"):
            cfg = flat_form(cfg, spec)
        for k in spec.get("drop", ()):
            cfg.pop(k, None)
        if form == "outer":
            gen = torch.Generator().manual_seed(seed_of(seed, "outer"))
            text = {k: v for k, v in cfg.items()
                    if k not in ("architectures", "transformers_version")}
            cfg, extra = outer_config(spec, text, gen, store)
            tensors = {("model.language_model." + n[6:] if n.startswith("model.") else n): t
                       for n, t in tensors.items()}
            tensors.update(extra)
        write_tensors(folder, tensors, spec.get("shards", 1))
        with open(path, "w") as f:
            json.dump(cfg, f, indent=2)
            f.write("\n")
    gc = os.path.join(folder, "generation_config.json")
    if os.path.exists(gc) and spec["model_type"].startswith("qwen"):
        os.unlink(gc)  # one family with the file, one without
    ids = torch.arange(12) * 5 % model.config.vocab_size
    same_model(model, ref.load(folder), ids, "read back")
    if form != "outer":  # the library's own loader agrees as well
        again = tf.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        if again._can_set_experts_implementation():
            again.set_experts_implementation("eager")
        same_model(model, again, ids, "from_pretrained")


# ------------------------------------------------------------------------ goldens


def check_influence(model, ids):
    """Names of tensors (and experts) whose change does not move the logits."""
    base = ref.run(model, ids)[0]
    gen = torch.Generator().manual_seed(1)
    dead, seen = [], set()
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if t.data_ptr() in seen:
                continue
            seen.add(t.data_ptr())
            slices = [(f"{name}[{e}]", t[e]) for e in range(t.shape[0])] \
                if t.dim() == 3 and ".experts." in name else [(name, t)]
            for label, part in slices:
                kept = part.clone()
                part.add_(torch.randn(part.shape, generator=gen) * 0.3)
                moved = (ref.run(model, ids)[0] - base).abs().max().item()
                part.copy_(kept)
                if moved < 1e-4:
                    dead.append(f"{label} ({moved:.1e})")
    return dead


def positions(n):
    if n <= SHORT:
        return list(range(n))
    step = (n - 1) / (N_ROWS - 1)
    return sorted({round(i * step) for i in range(N_ROWS)})


def make_goldens(model, lengths, seed):
    out, stats = {}, dict(noise=0.0, std=0.0, gap=math.inf, rgap=math.inf, near=0, flips=0)
    vocab = model.config.vocab_size
    for k, n in enumerate(lengths):
        gen = torch.Generator().manual_seed(seed_of(seed, "ids", k))
        ids = torch.randint(0, vocab, (n,), generator=gen).tolist()
        # The golden greedy tokens come from one pass over prompt and continuation.
        more = ref.greedy(model, ids, N_GREEDY)
        full = ids + more[:-1]
        logits, rgap, _ = ref.run(model, full)
        tail = logits[n - 1:]
        top = torch.topk(tail, 2, dim=-1)
        gap = top.values[:, 0] - top.values[:, 1]
        wrong = (top.indices[:, 0] != torch.tensor(more)) & (gap > 1e-4)
        assert not wrong.any(), "the reference disagrees with itself"
        with ref.double(model):
            exact = ref.run(model, full)[0]
        pos = positions(n)
        noise = (logits.double() - exact).abs().max(dim=-1).values
        out[f"ids_{k}"] = torch.tensor(ids, dtype=torch.int32)
        out[f"pos_{k}"] = torch.tensor(pos, dtype=torch.int32)
        out[f"logits_{k}"] = logits[pos].float().clone()
        out[f"noise_{k}"] = noise[pos].float()
        out[f"greedy_{k}"] = torch.tensor(more, dtype=torch.int32)
        out[f"gap_{k}"] = gap.float().clone()
        if rgap is not None:
            out[f"rgap_{k}"] = rgap.float()
            stats["rgap"] = min(stats["rgap"], rgap.min().item())
        stats["noise"] = max(stats["noise"], noise.max().item())
        stats["std"] = max(stats["std"], logits[pos].std().item())
        stats["gap"] = min(stats["gap"], gap.min().item())
        stats["near"] += int((gap < 1e-3).sum())
        stats["flips"] += int((exact[n - 1:].argmax(-1) != torch.tensor(more)).sum())
    return out, stats


def folder_bytes(folder, pick):
    return sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if pick(f))


HEAD = (f"{'model':14s} {'weights':>8s} {'logits':>8s} {'std':>5s} {'f32 noise':>9s} "
        f"{'min gap':>8s} {'near':>4s} {'flip':>4s} {'min rgap':>8s}  tensors without influence")


def one(name, spec, folder, seed):
    lengths = [1, 2, 17, 70, 200] + ([spec["long"]] if "long" in spec else [])
    model = make_model(spec, seed)
    gen = torch.Generator().manual_seed(seed_of(seed, "influence"))
    probe = torch.randint(0, model.config.vocab_size, (90,), generator=gen).tolist()
    dead = check_influence(model, probe)
    write_model(model, spec, folder, seed)
    gold, st = make_goldens(model, lengths, seed)
    save_file(gold, os.path.join(folder, "logits.safetensors"))
    w = folder_bytes(folder, lambda f: f.startswith("model"))
    g = folder_bytes(folder, lambda f: f.startswith("logits"))
    print(f"{name:14s} {w:8d} {g:8d} {st['std']:5.2f} {st['noise']:9.1e} {st['gap']:8.1e} "
          f"{st['near']:4d} {st['flips']:4d} {st['rgap']:8.1e}  {', '.join(dead) or '-'}",
          flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", "--out", required=True)
    ap.add_argument("--only", help="comma-separated names of the committed set")
    ap.add_argument("--sweep", type=int, default=0, help="make that many random shapes instead")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--long", type=int, default=0, help="sweep: length of one more prompt")
    args = ap.parse_args()
    print("torch", torch.__version__, "transformers", tf.__version__)
    print(HEAD)
    if args.sweep:
        for i in range(args.sweep):
            rng = random.Random(seed_of("sweep", args.seed, i))
            spec = random_spec(rng)
            if args.long:
                spec["long"] = args.long
            name = f"s{args.seed}_{i:03d}_{spec['model_type'].replace('_text', '')}"
            folder = os.path.join(args.out, name)
            try:
                one(name, spec, folder, f"sweep/{args.seed}/{i}")
            except Exception as e:  # a shape that the reference itself refuses
                print(f"{name}: left out, {type(e).__name__}: {str(e)[:200]}\n  {spec}")
                shutil.rmtree(folder, ignore_errors=True)
        return
    for name, spec in MODELS.items():
        if not args.only or name in args.only.split(","):
            one(name, spec, os.path.join(args.out, name), f"{name}/{args.seed}")


if __name__ == "__main__":
    main()
