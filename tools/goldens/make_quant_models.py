#!/usr/bin/env python3
"""Make tiny quantised checkpoints (GGUF, MLX, block FP8) and the reference's logits for them.

    make_quant_models.py -o DIR                           everything: family x type
    make_quant_models.py -o DIR --only q35moe/gguf-Q4_K   some of it (substring match, commas)
    make_quant_models.py -o DIR --apus build/cli/apus     compare as well, print a table
    make_quant_models.py -o tests/golden_quant/data --committed

Each model gets two folders: NAME/ with the quantised files, NAME/hf/ with the same numbers, decoded
by gguf-py, mlx or torch, as a float32 checkpoint in Hugging Face layout. The reference runs on the
latter. So decoder and layout are both held against somebody else's.
"""

import argparse
import copy
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_model_goldens as mm  # noqa: E402
import quant_blocks as qb  # noqa: E402
import reference as ref  # noqa: E402
import gguf  # noqa: E402
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

S, F, LIN = mm.S, mm.F, mm.LIN

# Every input width is a multiple of 256, the longest block.
FAMILIES = {
    "g4moe": dict(arch="gemma4", model_type="gemma4_text", store="bf16", config=dict(
        mm.GEMMA, vocab_size=160, hidden_size=256, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1, head_dim=64,
        global_head_dim=128, attention_k_eq_v=True, sliding_window=16, enable_moe_block=True,
        num_experts=4, top_k_experts=2, moe_intermediate_size=256, layer_types=[S, S, F],
        rope_parameters=mm.gemma_rope(0.25))),
    "g4e": dict(arch="gemma4", model_type="gemma4_text", config=dict(
        mm.GEMMA, vocab_size=160, vocab_size_per_layer_input=160, hidden_size=256,
        intermediate_size=256, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=1,
        head_dim=64, global_head_dim=128, sliding_window=16, layer_types=[S, S, F, S, F],
        num_kv_shared_layers=2, use_double_wide_mlp=True, hidden_size_per_layer_input=256,
        rope_parameters=mm.gemma_rope(0.25))),
    "q35": dict(arch="qwen35", model_type="qwen3_5_text", config=dict(
        mm.QWEN, vocab_size=160, hidden_size=256, intermediate_size=512, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, linear_num_key_heads=2,
        linear_num_value_heads=2, linear_key_head_dim=64, linear_value_head_dim=128,
        layer_types=[LIN, LIN, F], tie_word_embeddings=True, rope_parameters=mm.qwen_rope(0.25))),
    "q35moe": dict(arch="qwen35moe", model_type="qwen3_5_moe_text", config=dict(
        mm.QWEN, vocab_size=160, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=64, linear_value_head_dim=64, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=256, shared_expert_intermediate_size=256, tie_word_embeddings=False,
        layer_types=[LIN, LIN, F, LIN], rope_parameters=mm.qwen_rope(
            0.25, mrope_section=[4, 2, 2], mrope_interleaved=True))),
    "q35moe1": dict(arch="qwen35moe", model_type="qwen3_5_moe_text", config=dict(
        mm.QWEN, vocab_size=160, hidden_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=64, linear_num_key_heads=4, linear_num_value_heads=4,
        linear_key_head_dim=64, linear_value_head_dim=64, num_experts=3, num_experts_per_tok=2,
        moe_intermediate_size=256, shared_expert_intermediate_size=256, tie_word_embeddings=False,
        layer_types=[LIN, F], rope_parameters=mm.qwen_rope(0.25))),
    "q3next": dict(arch="qwen3next", model_type="qwen3_next", config=dict(
        mm.QWEN, vocab_size=160, hidden_size=256, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=1, head_dim=64, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=64, linear_value_head_dim=64, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=256, shared_expert_intermediate_size=256,
        norm_topk_prob=True, tie_word_embeddings=False, layer_types=[LIN, LIN, F],
        rope_parameters=mm.qwen_rope(0.25))),
    "q3moe": dict(arch="qwen3moe", model_type="qwen3_moe", config=dict(
        mm.QWEN, vocab_size=160, hidden_size=256, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=256, norm_topk_prob=True,
        tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}
ZERO_CENTRED = ("qwen35", "qwen35moe", "qwen3next")


def is_matrix(name, t):
    return t.dim() >= 2 and "conv1d" not in name


# ------------------------------------------------------------------------ GGUF

GLOBAL = {"model.embed_tokens.weight": "token_embd.weight",
          "model.norm.weight": "output_norm.weight",
          "lm_head.weight": "output.weight",
          "model.embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
          "model.per_layer_model_projection.weight": "per_layer_model_proj.weight",
          "model.per_layer_projection_norm.weight": "per_layer_proj_norm.weight"}
SHARED = {"input_layernorm.weight": "attn_norm.weight", "self_attn.q_proj.weight": "attn_q.weight",
          "self_attn.k_proj.weight": "attn_k.weight", "self_attn.v_proj.weight": "attn_v.weight",
          "self_attn.o_proj.weight": "attn_output.weight",
          "self_attn.q_norm.weight": "attn_q_norm.weight",
          "self_attn.k_norm.weight": "attn_k_norm.weight",
          "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
          "mlp.down_proj.weight": "ffn_down.weight"}
GEMMA = {"post_attention_layernorm.weight": "post_attention_norm.weight",
         "pre_feedforward_layernorm.weight": "ffn_norm.weight",
         "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
         "layer_scalar": "layer_output_scale.weight",
         "per_layer_input_gate.weight": "inp_gate.weight",
         "per_layer_projection.weight": "proj.weight",
         "post_per_layer_input_norm.weight": "post_norm.weight",
         "router.proj.weight": "ffn_gate_inp.weight", "router.scale": "ffn_gate_inp.scale",
         "router.per_expert_scale": "ffn_down_exps.scale",
         "experts.gate_up_proj": "ffn_gate_up_exps.weight",
         "experts.down_proj": "ffn_down_exps.weight",
         "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
         "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
         "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight"}
QWEN = {"post_attention_layernorm.weight": "post_attention_norm.weight",
        "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
        "linear_attn.in_proj_z.weight": "attn_gate.weight",
        "linear_attn.in_proj_qkvz.weight": "ssm_in.weight",
        "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
        "linear_attn.in_proj_b.weight": "ssm_beta.weight",
        "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
        "linear_attn.conv1d.weight": "ssm_conv1d.weight", "linear_attn.A_log": "ssm_a",
        "linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.norm.weight": "ssm_norm.weight",
        "linear_attn.out_proj.weight": "ssm_out.weight", "mlp.gate.weight": "ffn_gate_inp.weight",
        "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "mlp.experts.down_proj": "ffn_down_exps.weight",
        "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
        "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
        "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
        "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight"}
USED = {}  # of the "mixed" schemes: how often each format was chosen
STAY_F32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")


def gguf_name(name, arch):
    if name in GLOBAL:
        return GLOBAL[name]
    _, _, layer, leaf = name.split(".", 3)
    table = dict(SHARED, **(GEMMA if arch == "gemma4" else QWEN))
    if arch == "qwen3moe":
        table["post_attention_layernorm.weight"] = "ffn_norm.weight"
    return f"blk.{layer}.{table[leaf]}"


def move_heads(t, axis, n1, n2):
    """[.. n1*n2*D ..] -> the same with n1 and n2 swapped, along one axis."""
    shape = t.shape
    t = t.reshape(*shape[:axis], n1, n2, shape[axis] // (n1 * n2), *shape[axis + 1:])
    return t.transpose(axis, axis + 1).reshape(shape).contiguous()


def value_heads(name, t, c, back):
    """Grouped value heads to tiled ones, or back, wherever a tensor has them."""
    hk, hv = c["linear_num_key_heads"], c["linear_num_value_heads"]
    n = (hv // hk, hk) if back else (hk, hv // hk)
    if hk == hv or "linear_attn." not in name or name.endswith("linear_attn.norm.weight"):
        return t
    if name.endswith("out_proj.weight"):
        return move_heads(t, 1, *n)
    if "in_proj_qkv." in name or "conv1d" in name:
        keys = 2 * hk * c["linear_key_head_dim"]
        return torch.cat([t[:keys], move_heads(t[keys:], 0, *n)])
    return move_heads(t, 0, *n)


def split_qkvz(t, c):
    """Qwen3-Next's projection, grouped by key head -> (all q, k, v; all z)"""
    hk, dk = c["linear_num_key_heads"], c["linear_key_head_dim"]
    v = c["linear_num_value_heads"] // hk * c["linear_value_head_dim"]
    q, k, v_, z = t.reshape(hk, 2 * dk + 2 * v, -1).split([dk, dk, v, v], dim=1)
    return torch.cat([x.reshape(-1, t.shape[1]) for x in (q, k, v_)]), z.reshape(-1, t.shape[1])


def join_qkvz(qkv, z, c):
    hk, dk = c["linear_num_key_heads"], c["linear_key_head_dim"]
    v = c["linear_num_value_heads"] // hk * c["linear_value_head_dim"]
    q, k, v_ = qkv.split([hk * dk, hk * dk, hk * v])
    rows = [x.reshape(hk, -1, x.shape[-1]) for x in (q, k, v_, z)]
    return torch.cat(rows, dim=1).reshape(-1, qkv.shape[1])


def gguf_metadata(w, spec):
    c, arch = spec["config"], spec["arch"]
    n = c["num_hidden_layers"]
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(n)
    w.add_head_count(c["num_attention_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    if c.get("num_experts"):
        w.add_expert_count(c["num_experts"])
        w.add_expert_used_count(c.get("num_experts_per_tok") or c["top_k_experts"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    rope = c["rope_parameters"]
    if arch == "gemma4":
        sliding = [t == S for t in c["layer_types"]]
        kv, gkv = c["num_key_value_heads"], c.get("num_global_key_value_heads")
        if gkv:
            w.add_head_count_kv([kv if s else gkv for s in sliding])
        else:
            w.add_head_count_kv(kv)
        w.add_key_length(c["global_head_dim"])
        w.add_value_length(c["global_head_dim"])
        w.add_uint32("gemma4.attention.key_length_swa", c["head_dim"])
        w.add_uint32("gemma4.attention.value_length_swa", c["head_dim"])
        w.add_sliding_window(c["sliding_window"])
        w.add_array("gemma4.attention.sliding_window_pattern", sliding)
        w.add_uint32("gemma4.attention.shared_kv_layers", c.get("num_kv_shared_layers", 0))
        w.add_uint32("gemma4.embedding_length_per_layer_input",
                     c.get("hidden_size_per_layer_input", 0))
        ff, own = c["intermediate_size"], n - c.get("num_kv_shared_layers", 0)
        if c.get("use_double_wide_mlp"):
            w.add_feed_forward_length([ff if i < own else 2 * ff for i in range(n)])
        else:
            w.add_feed_forward_length(ff)
        w.add_rope_dimension_count(c["global_head_dim"])
        w.add_uint32("gemma4.rope.dimension_count_swa", c["head_dim"])
        w.add_rope_freq_base(rope[F]["rope_theta"])
        w.add_float32("gemma4.rope.freq_base_swa", rope[S]["rope_theta"])
        w.add_float32("gemma4.final_logit_softcapping", c["final_logit_softcapping"])
        return
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_rope_freq_base(rope["rope_theta"])
    if c.get("intermediate_size"):
        w.add_feed_forward_length(c["intermediate_size"])
    if arch == "qwen3moe":
        return
    w.add_rope_dimension_count(int(c["head_dim"] * rope["partial_rotary_factor"]))
    if arch != "qwen3next":
        w.add_rope_dimension_sections([4, 2, 2, 0])
    w.add_ssm_conv_kernel(c.get("linear_conv_kernel_dim", 4))
    w.add_ssm_state_size(c["linear_key_head_dim"])
    w.add_ssm_group_count(c["linear_num_key_heads"])
    w.add_ssm_time_step_rank(c["linear_num_value_heads"])
    w.add_ssm_inner_size(c["linear_num_value_heads"] * c["linear_value_head_dim"])
    kinds = c["layer_types"]
    step = kinds.index(F) + 1
    w.add_uint32(f"{arch}.full_attention_interval", step)
    if [(i + 1) % step == 0 for i in range(n)] != [t == F for t in kinds]:
        w.add_array(f"{arch}.attention.recurrent_layers", [t == LIN for t in kinds])
    if c.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])


def to_gguf(state, spec, fused):
    """State of the text class -> GGUF tensors in float32, name -> (tensor, what undoes it)."""
    c, arch = spec["config"], spec["arch"]
    tiled = arch in ("qwen35", "qwen35moe")
    out = {}
    for name, t in state.items():
        g = gguf_name(name, arch)
        undo = lambda x, name=name, shape=t.shape: {name: x.reshape(shape)}
        if name == "lm_head.weight" and c.get("tie_word_embeddings", True):
            continue
        if arch in ZERO_CENTRED and name.endswith("norm.weight") and "linear_attn" not in name:
            out[g] = t + 1, lambda x, name=name: {name: x - 1}
        elif name.endswith("A_log"):
            v = -torch.exp(value_heads(name, t, c, False) if tiled else t)
            out[g] = v, lambda x, name=name, t=t: {name: t}
        elif name.endswith("in_proj_qkvz.weight") and fused != "legacy":
            base = g.replace("ssm_in.weight", "")
            qkv, z = split_qkvz(t, c)
            rows = len(qkv)
            out[base + "attn_qkv.weight"] = qkv, lambda x, name=name: {name + "#qkv": x}
            out[base + "attn_gate.weight"] = z, lambda x, name=name: {name + "#z": x}
            assert torch.equal(join_qkvz(qkv, z, c), t) and rows
        elif name.endswith("experts.gate_up_proj") and not fused:
            half = t.shape[1] // 2
            for part, at in (("gate", 0), ("up", half)):
                out[g.replace("gate_up", part)] = (t[:, at:at + half].contiguous(),
                                                   lambda x, n=name, p=part: {f"{n}#{p}": x})
        elif "conv1d" in name:
            v = value_heads(name, t, c, False) if tiled else t
            out[g] = v[:, 0], (lambda x, name=name: {
                name: (value_heads(name, x, c, True) if tiled else x)[:, None]})
        elif name.endswith("shared_expert_gate.weight"):
            out[g] = t[0], undo
        elif tiled and "linear_attn" in name:
            out[g] = (value_heads(name, t, c, False),
                      lambda x, name=name: {name: value_heads(name, x, c, True)})
        else:
            out[g] = t, undo
    return out


def rejoin(state, c):
    """Parts that to_gguf had split, together again."""
    for key in [k for k in state if k.endswith("#gate")]:
        name = key[:-5]
        state[name] = torch.cat([state.pop(key), state.pop(name + "#up")], dim=1)
    for key in [k for k in state if k.endswith("#qkv")]:
        name = key[:-4]
        state[name] = join_qkvz(state.pop(key), state.pop(name + "#z"), c)
    return state


def rarest(kinds, cols, block):
    """The kind used least so far whose blocks make up rows of that length."""
    kind = min((k for k in kinds if cols % block(k) == 0), key=lambda k: USED.get(k, 0))
    USED[kind] = USED.get(kind, 0) + (4 if kind in qb.PLAIN else 1)
    return kind


def gguf_type(name, t, scheme):
    if t.dim() < 2 or "conv1d" in name:
        return "F32"
    if name.endswith(STAY_F32) and scheme not in qb.PLAIN:
        return "F32"
    if scheme == "mixed":
        return rarest(qb.GGUF_TYPES, t.shape[-1], lambda k: qb.block_of(k)[0])
    return scheme


def write_gguf(state, spec, folder, scheme, rng, fused=False, parts=1, version=3, more=None):
    """Write model.gguf of a folder (or its parts, or a file of that name) and return the state that
    it decodes to. more: adds further metadata."""
    arch, c = spec["arch"], spec["config"]
    tensors = to_gguf(state, spec, fused)
    split = -(-len(tensors) // parts) + 1 if parts > 1 else 0
    path = folder if folder.endswith(".gguf") else os.path.join(folder, "model.gguf")
    w = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    w.add_name("tiny")
    gguf_metadata(w, spec)
    if more:
        more(w)
    back = {}
    if arch == "gemma4":
        full, share = c["global_head_dim"], c["rope_parameters"][F]["partial_rotary_factor"]
        turning = int(full * share / 2)
        w.add_tensor("rope_freqs.weight", np.array([1.0] * turning + [1e30] * (full // 2 - turning),
                                                   dtype=np.float32))
    for name, (t, undo) in tensors.items():
        kind = gguf_type(name, t, scheme)
        raw, wide = qb.encode_gguf(t.numpy(), kind, rng)
        w.add_tensor(name, raw, raw_dtype=None if kind in ("F32", "F16")
                     else gguf.GGMLQuantizationType[kind])
        back.update(undo(torch.from_numpy(wide.copy())))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    if version == 2:
        with open(path, "r+b") as f:
            f.seek(4)
            f.write((2).to_bytes(4, "little"))
    return rejoin(back, c)


# ------------------------------------------------------------------------ MLX and FP8

def plain_config(model, folder):
    copy.deepcopy(model.config).save_pretrained(folder)
    with open(os.path.join(folder, "config.json")) as f:
        return json.load(f)


def write_mlx(model, state, spec, folder, scheme):
    """Write an MLX folder and return the state that it decodes to.
    scheme: of qb.MLX, or "mixed" = 4 bit with overrides and false entries, or "published-" and one of
    qb.MLX = as little said as published files say: entries without mode (and group, where it is the
    mode's default) under another prefix, none for the embedding, a flat configuration."""
    c, arch = spec["config"], spec["arch"]
    prefix = "language_model." if arch in ("gemma4", "qwen35", "qwen35moe") else ""
    published = scheme.startswith("published-")
    scheme = scheme.removeprefix("published-")
    default = "affine4g64" if scheme == "mixed" else scheme
    router = "affine8g64"
    overrides, out, back = {}, {}, {}

    def store(module, t, kind):
        if kind is None:
            if default in qb.MLX:
                overrides[module] = False
            out[module + ".weight"] = mx.array(t.numpy()).astype(mx.bfloat16)
            return t.to(torch.bfloat16).float()
        parts, wide = qb.encode_mlx(t.numpy(), kind)
        for leaf, a in parts.items():
            out[f"{module}.{leaf}"] = a
        if kind != default and not published:
            overrides[module] = dict(qb.MLX[kind])
        elif kind != default and "embed_tokens" not in module:
            entry = {k: v for k, v in qb.MLX[kind].items() if k != "mode" and (k, v) != ("group_size", 64)}
            plain = module.removeprefix(prefix).removeprefix("model.")
            overrides["model.language_model." + plain] = entry
        return torch.from_numpy(wide.copy())

    i = 0
    for name, t in state.items():
        if name == "lm_head.weight" and c.get("tie_word_embeddings", True):
            continue
        i += 1
        kind = default
        if "router.proj" in name or name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
            kind = router
        elif published and "embed_tokens." in name:
            kind = "affine6g64"
        elif scheme == "mixed" and is_matrix(name, t):
            kind = rarest(qb.MLX, t.shape[-1], lambda k: qb.MLX[k]["group_size"]) if i % 7 else None
        at = prefix + name
        if name.endswith("experts.gate_up_proj"):
            switch = at.replace("experts.gate_up_proj", "experts.switch_glu." if arch == "gemma4"
                                else "switch_mlp.")
            half = t.shape[1] // 2
            back[name] = torch.cat([store(switch + "gate_proj", t[:, :half].contiguous(), kind),
                                    store(switch + "up_proj", t[:, half:].contiguous(), kind)],
                                   dim=1)
        elif name.endswith("experts.down_proj"):
            switch = at.replace("experts.down_proj", "experts.switch_glu." if arch == "gemma4"
                                else "switch_mlp.")
            back[name] = store(switch + "down_proj", t, kind)
        elif is_matrix(name, t):
            back[name] = store(at[:-len(".weight")], t, kind)
        else:
            v = t
            if arch in ZERO_CENTRED and name.endswith("norm.weight") and "linear_attn" not in name:
                v = (t + 1).to(torch.bfloat16).float()
                back[name] = v - 1
            else:
                back[name] = v
            if "conv1d" in name:
                v = v.transpose(1, 2).contiguous()
            keep = mx.float32 if "A_log" in name else mx.bfloat16
            out[at] = mx.array(v.numpy()).astype(keep)
    mx.save_safetensors(os.path.join(folder, "model.safetensors"), out, metadata={"format": "mlx"})
    cfg = plain_config(model, folder)
    if arch in ("qwen35", "qwen35moe") and published:
        cfg["model_type"] = cfg["model_type"].replace("_text", "")
    elif arch in ("qwen35", "qwen35moe"):  # the released form: a text model inside
        tie = cfg.pop("tie_word_embeddings", False)
        cfg = {"model_type": cfg["model_type"].replace("_text", ""), "text_config": cfg,
               "tie_word_embeddings": tie}
    q = dict(qb.MLX[default], **overrides)
    cfg.update(quantization=q, quantization_config=q)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(cfg, f, indent=1)
    return back


def write_fp8(model, state, spec, folder, scale_dtype):
    c = spec["config"]
    out, back = {}, {}

    def store(name, t):
        q, scale, wide = qb.encode_fp8(t, scale_dtype)
        out[name], out[name + "_scale_inv"] = q, scale
        return wide

    skip = ("embed_tokens", "lm_head", "mlp.gate.", "shared_expert_gate", "in_proj_a", "in_proj_b",
            "router.proj")
    for name, t in state.items():
        if name == "lm_head.weight" and c.get("tie_word_embeddings", True):
            continue
        if name.endswith("experts.gate_up_proj"):
            base, half, wide = name[:-len("gate_up_proj")], t.shape[1] // 2, []
            for e in range(len(t)):
                wide.append(torch.cat([store(f"{base}{e}.gate_proj.weight", t[e, :half]),
                                       store(f"{base}{e}.up_proj.weight", t[e, half:])]))
            back[name] = torch.stack(wide)
        elif name.endswith("experts.down_proj"):
            base = name[:-len("down_proj")]
            back[name] = torch.stack([store(f"{base}{e}.down_proj.weight", t[e])
                                      for e in range(len(t))])
        elif is_matrix(name, t) and not any(s in name for s in skip):
            back[name] = store(name, t)
        else:
            out[name] = t.clone() if "A_log" in name else t.to(torch.bfloat16)
            back[name] = t if "A_log" in name else t.to(torch.bfloat16).float()
    save_file({n: t.contiguous() for n, t in out.items()},
              os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    cfg = plain_config(model, folder)
    cfg["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3",
                                  "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                                  "modules_to_not_convert": list(skip)}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(cfg, f, indent=1)
    return back


# ------------------------------------------------------------------------ goldens

def schemes(family):
    """name -> function(model, state, spec, folder, rng) -> decoded state"""
    out = {}
    arch = FAMILIES[family]["arch"]
    experts = "num_experts" in FAMILIES[family]["config"]
    for t in qb.GGUF_TYPES + ("mixed",):
        out[f"gguf-{t}"] = lambda m, s, p, f, r, t=t: write_gguf(s, p, f, t, r)
    out["gguf-split"] = lambda m, s, p, f, r: write_gguf(s, p, f, "mixed", r, parts=3)
    out["gguf-v2mixed"] = lambda m, s, p, f, r: write_gguf(s, p, f, "mixed", r, version=2)
    out["gguf-v2"] = lambda m, s, p, f, r: write_gguf(s, p, f, "Q8_0", r, version=2)
    if experts:
        out["gguf-fusedmixed"] = lambda m, s, p, f, r: write_gguf(s, p, f, "mixed", r, fused=True)
        out["gguf-fused"] = lambda m, s, p, f, r: write_gguf(s, p, f, "Q4_K", r, fused=True)
    if arch == "qwen3next":
        out["gguf-legacy"] = lambda m, s, p, f, r: write_gguf(s, p, f, "Q5_K", r, fused="legacy")
    for t in tuple(qb.MLX) + ("mixed", "published-mxfp4", "published-nvfp4", "published-mxfp8"):
        out[f"mlx-{t}"] = lambda m, s, p, f, r, t=t: write_mlx(m, s, p, f, t)
    if not (arch == "gemma4" and experts):
        out["fp8-f32"] = lambda m, s, p, f, r: write_fp8(m, s, p, f, torch.float32)
        out["fp8-bf16"] = lambda m, s, p, f, r: write_fp8(m, s, p, f, torch.bfloat16)
    return out


def file_of(folder):
    """What to hand to apus: the folder, or its (first) GGUF file."""
    names = sorted(n for n in os.listdir(folder) if n.endswith(".gguf"))
    return os.path.join(folder, names[0]) if names else folder


def make(family, scheme, folder, seed=1, spec=None):
    """Write one model; returns (reference model with the decoded weights, spec)."""
    spec = spec or FAMILIES[family]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "hf"))
    model = mm.make_model(spec, f"{family}/{seed}")
    state = {n: t.clone() for n, t in model.state_dict().items()}
    rng = np.random.default_rng(mm.seed_of(family, scheme, seed))
    back = schemes(family)[scheme](model, state, spec, folder, rng)
    if "lm_head.weight" not in back:
        back["lm_head.weight"] = back["model.embed_tokens.weight"]
    model.load_state_dict(back, strict=True)
    model.save_pretrained(os.path.join(folder, "hf"))
    return model, spec


def apus_logits(apus, path, ids, folder):
    out = os.path.join(folder, "out.safetensors")
    with open(os.path.join(folder, "ids.txt"), "w") as f:
        f.write(" ".join(map(str, ids)))
    r = subprocess.run([os.path.abspath(apus), "logits", path, "--precision", "exact", "--ids", f.name,
                        "-o", out, "--force"], capture_output=True, text=True)
    if r.returncode:
        return r.stderr.strip().splitlines()[-1]
    return load_file(out)["logits"]


def compare(apus, folder, ref_logits, rgap, ids):
    """(max |delta| of the quantised files to the reference, of hf/, between the two)"""
    rows = torch.ones(len(ids), dtype=bool) if rgap is None else rgap >= 1e-6
    a, b = (apus_logits(apus, p, ids, folder) for p in (file_of(folder), folder + "/hf"))
    for x in (a, b):
        if isinstance(x, str):
            return x
    return [((x - y)[rows].abs().max().item()) for x, y in
            ((a, ref_logits), (b, ref_logits), (a, b))]


# The committed models: family, scheme. Together they use every format.
COMMITTED = [("q35moe", "gguf-split"), ("g4moe", "gguf-fusedmixed"), ("g4e", "gguf-mixed"),
             ("q3next", "gguf-mixed"), ("q3moe", "gguf-v2mixed"), ("q35moe", "mlx-mixed"),
             ("g4moe", "mlx-mixed"), ("q3next", "mlx-mixed"), ("q3next", "fp8-bf16"),
             ("q35", "fp8-f32"), ("q35moe", "mlx-published-nvfp4"), ("g4moe", "mlx-published-mxfp4"),
             ("q3moe", "mlx-published-mxfp8")]


def small(spec):
    """The same family with everything but the width of the stream as small as it goes."""
    spec = copy.deepcopy(spec)
    c = spec["config"]
    for key, v in dict(vocab_size=64, vocab_size_per_layer_input=64, head_dim=32, num_experts=3,
                       num_attention_heads=2, global_head_dim=64, intermediate_size=64, moe_intermediate_size=32,
                       shared_expert_intermediate_size=64, linear_key_head_dim=32,
                       linear_value_head_dim=32, hidden_size_per_layer_input=32).items():
        if c.get(key):
            c[key] = v
    if c.get("num_kv_shared_layers"):
        c.update(num_hidden_layers=4, layer_types=[S, F, S, F])
    else:
        c["num_hidden_layers"] = 2
        if "layer_types" in c:
            c["layer_types"] = [c["layer_types"][0], F]
    if "mrope_section" in c["rope_parameters"]:
        c["rope_parameters"]["mrope_section"] = [2, 1, 1]
    return spec


def write_committed(out, seed):
    for family, scheme in COMMITTED:
        folder = os.path.join(out, f"{family}_{scheme.replace('-', '_')}")
        model, _ = make(family, scheme, folder, seed, small(FAMILIES[family]))
        shutil.rmtree(folder + "/hf")
        gold, st = mm.make_goldens(model, [1, 17, 70], f"{family}/{scheme}/{seed}")
        save_file(gold, os.path.join(folder, "logits.safetensors"))
        size = mm.folder_bytes(folder, lambda f: True)
        print(f"{family:8s} {scheme:16s} {size:8d} std {st['std']:.2f} noise {st['noise']:.1e}")
    missing = [k for k in qb.GGUF_TYPES + tuple(qb.MLX) if not USED.get(k)]
    assert not missing, missing


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", "--out", required=True)
    ap.add_argument("--only", default="")
    ap.add_argument("--apus", help="an apus program: compare")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--drop", action="store_true", help="delete each model after comparing it")
    ap.add_argument("--committed", action="store_true", help="the small set with goldens")
    args = ap.parse_args()
    if args.committed:
        write_committed(args.out, args.seed)
        return
    wanted = [w for w in args.only.split(",") if w]
    bad = 0
    for family in FAMILIES:
        for scheme in schemes(family):
            name = f"{family}/{scheme}"
            if wanted and not any(re.search(w, name) for w in wanted):
                continue
            folder = os.path.join(args.out, family, scheme)
            model, spec = make(family, scheme, folder, args.seed)
            gen = torch.Generator().manual_seed(mm.seed_of(name, "ids"))
            ids = torch.randint(0, spec["config"]["vocab_size"], (40,), generator=gen).tolist()
            logits, rgap, _ = ref.run(model, ids)
            if args.apus:
                r = compare(args.apus, folder, logits, rgap, ids)
                text = r if isinstance(r, str) else " ".join(f"{x:9.2e}" for x in r)
                fail = isinstance(r, str) or r[0] > 1e-3
                bad += fail
                print(f"{name:24s} {text} std {logits.std():.2f}{'  <<<' if fail else ''}",
                      flush=True)
            if args.drop:
                shutil.rmtree(folder)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
