#!/usr/bin/env python3
"""Make tiny random checkpoints that see and hear, pictures and sounds for them, and the reference's rows and logits.

    make_media_goldens.py -o tests/golden_media/data      the committed set
    make_media_goldens.py -o DIR --only qwen_a            some of it
    make_media_goldens.py -o DIR --sweep 20 --seed 7      random shapes (not committed)

Everything follows from the names and seeds; tests/golden_media/README.md tells what the files hold.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_model_goldens as text_goldens  # noqa: E402
import reference as ref  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

SHORT = 40   # prompts up to this length keep all positions
N_ROWS = 24  # of longer ones
S, F, LIN = "sliding_attention", "full_attention", "linear_attention"
IMAGE, VIDEO, BEGIN, END, AUDIO = 190, 191, 192, 193, 194  # ids of media
BEGIN_AUDIO, END_AUDIO = 195, 196

QWEN = dict(max_position_embeddings=4096, rms_norm_eps=1e-6, vocab_size=203)


def qwen_rope(partial, section, theta=1e7):
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial,
            "mrope_section": section, "mrope_interleaved": True}


# name -> model_type, configs of text and vision, pictures as grids of patches (height, width), or
# (frames, height, width), or sounds as ("sound", rows, rows with filling), and prompts: numbers of text tokens,
# and pictures as "p0"
MODELS = {
    "qwen_a": dict(model_type="qwen3_5", text=dict(
        QWEN, hidden_size=48, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=16, linear_value_head_dim=16, layer_types=[LIN, LIN, LIN, F],
        tie_word_embeddings=False, rope_parameters=qwen_rope(0.5, [3, 3, 2])),
        vision=dict(depth=2, hidden_size=24, intermediate_size=40, num_heads=2, patch_size=4,
                    num_position_embeddings=36, out_hidden_size=48),
        pictures=[(4, 6), (2, 2), (8, 4)],
        prompts=[[3, "p0", 2], ["p1", 1], [5, "p2", 4, "p0", 1, "p1", 30]]),
    # Every layer with attention, heads of 20 and 28, squares of 3 x 3 patches, a table of which a part is
    # used, GELU with erf, pictures of many pages with odd sides.
    "qwen_b": dict(model_type="qwen3_5", text=dict(
        QWEN, hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=24, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=16, linear_value_head_dim=16, layer_types=[F, LIN, F],
        tie_word_embeddings=True, rope_parameters=qwen_rope(1.0, [4, 4, 4], 1e4)),
        vision=dict(depth=3, hidden_size=60, intermediate_size=33, num_heads=3, patch_size=2,
                    num_position_embeddings=30, out_hidden_size=40, spatial_merge_size=3,
                    hidden_act="gelu", in_channels=1, temporal_patch_size=1,
                    rope_parameters={"rope_type": "axial", "rope_theta": 100.0}),
        pictures=[(15, 21), (3, 33), (27, 3), (3, 3)],
        prompts=[[1, "p0"], ["p1", "p2", 2, "p3", 9], [200, "p0", 70, "p2", 3]]),
    "qwen_moe": dict(model_type="qwen3_5_moe", text=dict(
        QWEN, hidden_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, linear_num_key_heads=1, linear_num_value_heads=4, linear_key_head_dim=16,
        linear_value_head_dim=16, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20,
        shared_expert_intermediate_size=24, layer_types=[LIN, LIN, F, LIN],
        rope_parameters=qwen_rope(0.5, [2, 1, 1])),
        vision=dict(depth=1, hidden_size=32, intermediate_size=48, num_heads=4, patch_size=4,
                    num_position_embeddings=49, out_hidden_size=40),
        pictures=[(2, 10), (6, 6)],
        prompts=[[2, "p1", 3, "p0", 4], ["p0", 20]]),
}

MODELS["qwen_video"] = dict(
    MODELS["qwen_a"], pictures=[(3, 4, 6), (2, 4), (2, 2, 2)],
    prompts=[[3, "p0", 2], [1, "p1", 4, "p0", 9], [5, "p2", 4, "p1", 1, "p0", 30]])

GEMMA = dict(pad_token_id=0, bos_token_id=2, eos_token_id=1, max_position_embeddings=4096,
             final_logit_softcapping=30.0, hidden_size_per_layer_input=0, rms_norm_eps=1e-6,
             vocab_size=203)
gemma_rope = text_goldens.gemma_rope

MODELS.update({
    # E-like: bounds around products, per-layer embeddings with another padding id, shared K/V, causal
    # pictures.
    "gemma_e": dict(model_type="gemma4", text=dict(
        GEMMA, pad_token_id=3, vocab_size_per_layer_input=203, hidden_size=40, intermediate_size=44,
        num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
        global_head_dim=24, sliding_window=16, layer_types=[S, S, F, S, F],
        num_kv_shared_layers=2, hidden_size_per_layer_input=10, rope_parameters=gemma_rope(0.25)),
        vision=dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2,
                    num_attention_heads=2, num_key_value_heads=2, head_dim=12, patch_size=4,
                    position_embedding_size=40, use_clipped_linears=True),
        pictures=[(6, 9), (3, 3), (3, 30)], padded=99,
        prompts=[[3, "p0", 2], ["p1", 1], [5, "p2", 4, "p0", "p1", 30]]),
    # 26B-like: experts, pictures that see themselves whole in sliding layers, smaller than them;
    # rows shifted and scaled, heads on fewer key heads, squares of 2 x 2.
    "gemma_moe": dict(model_type="gemma4", text=dict(
        GEMMA, hidden_size=40, intermediate_size=36, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, num_global_key_value_heads=1, head_dim=16, global_head_dim=24,
        attention_k_eq_v=True, sliding_window=20, enable_moe_block=True, num_experts=6,
        top_k_experts=2, moe_intermediate_size=20, layer_types=[S, S, S, F],
        rope_parameters=gemma_rope(0.25), use_bidirectional_attention="vision"),
        vision=dict(hidden_size=40, intermediate_size=28, num_hidden_layers=3,
                    num_attention_heads=4, num_key_value_heads=2, head_dim=8, patch_size=4,
                    pooling_kernel_size=2, position_embedding_size=64, standardize=True),
        pictures=[(6, 12), (2, 2), (10, 10)], padded=120,
        prompts=[[3, "p0", 2], ["p1", 1, "p2"], [5, "p2", 40, "p0", 1, "p1", 30]]),
    # More patches than a piece, more keys than a segment.
    "gemma_large": dict(model_type="gemma4", text=dict(
        GEMMA, hidden_size=24, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, global_head_dim=16, sliding_window=64,
        layer_types=[S, F], rope_parameters=gemma_rope(1.0), use_bidirectional_attention="vision"),
        vision=dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2,
                    num_attention_heads=1, num_key_value_heads=1, head_dim=16, patch_size=1,
                    position_embedding_size=80, use_clipped_linears=True, standardize=True),
        pictures=[(39, 42)], padded=1710,
        prompts=[[2, "p0", 20]]),
    "gemma_unified": dict(model_type="gemma4_unified", text=dict(
        {k: v for k, v in GEMMA.items() if k != "hidden_size_per_layer_input"},
        hidden_size=48, intermediate_size=56, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, num_global_key_value_heads=1, head_dim=16, global_head_dim=32,
        attention_k_eq_v=True, sliding_window=16, layer_types=[S, S, S, F],
        rope_parameters=gemma_rope(0.25), use_bidirectional_attention="vision"),
        vision=dict(patch_size=2, pooling_kernel_size=2, mm_embed_dim=36, mm_posemb_size=30,
                    output_proj_dims=36),
        pictures=[(4, 7), (1, 1), (1, 20)], padded=40,
        prompts=[[3, "p0", 2], ["p1", 1], [5, "p2", 4, "p0", 1, "p1", 30]]),
})


MODELS["gemma_video"] = dict(
    MODELS["gemma_moe"], pictures=[(3, 4, 6), (2, 4), (2, 2, 2)],
    prompts=[[3, "p0", 2], [1, "p1", 4, "p0", 9], [5, "p2", 4, "p1", 1, "p0", 30]])


MODELS.update({
    # E-like: pictures with bounds beside sounds of one piece of the convolutions and of several, cut where no four
    # rows are left, filled up and not.
    "gemma_sound": dict(
        MODELS["gemma_e"], audio=dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, output_proj_dims=20,
            subsampling_conv_channels=[16, 6], conv_kernel_size=5, use_clipped_linears=True),
        pictures=[(6, 9), ("sound", 37, 40), ("sound", 1, 1), ("sound", 301, 301), (3, 3, 6), ("sound", 130, 135)],
        padded=99, bands=16,
        prompts=[[3, "p1", 2], ["p2", 1], [2, "p1", 3, "p0", 4], [5, "p3", 4, "p0", "p1", 9, "p5", 30],
                 [4, "p4", 2, "p1", 1, "p0", 3]]),
    # Another context: blocks that are shorter than what lies before them, so that the farthest rows have no
    # position; no bounds, an odd number of bands, other shares, caps and taps.
    "gemma_sound_b": dict(
        MODELS["gemma_e"], audio=dict(
            hidden_size=28, num_hidden_layers=3, num_attention_heads=2, output_proj_dims=36,
            subsampling_conv_channels=[12, 5], conv_kernel_size=3, use_clipped_linears=False,
            attention_chunk_size=4, attention_context_left=8, attention_logit_cap=3.0, residual_weight=0.7,
            rms_norm_eps=1e-5),
        pictures=[("sound", 200, 200), ("sound", 26, 30)], padded=99, bands=11,
        prompts=[[3, "p0", 2], ["p1", 2, "p0", 12]]),
    # More rows than a piece of the layers.
    "gemma_sound_large": dict(
        MODELS["gemma_large"], audio=dict(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=1, output_proj_dims=12,
            subsampling_conv_channels=[8, 4], attention_chunk_size=20, attention_context_left=13),
        vision=MODELS["gemma_e"]["vision"], pictures=[("sound", 2210, 2210)], bands=8, prompts=[[2, "p0", 20]]),
    "gemma_unified_sound": dict(
        MODELS["gemma_unified"], audio=dict(audio_embed_dim=24),
        pictures=[(4, 7), ("sound", 9, 9), ("sound", 1, 1), ("sound", 600, 600)], bands=24,
        prompts=[[3, "p1", 2], ["p2", 1, "p0"], [5, "p3", 4, "p0", 1, "p1", 30]]),
})


def random_prompts(rng, n_pictures):
    prompts = []
    for _ in range(3):
        parts = []
        for _ in range(rng.randint(1, 4)):
            parts += [rng.randint(1, 30), f"p{rng.randrange(n_pictures)}"]
        prompts.append(parts + [rng.randint(1, 40)])
    return prompts


def random_qwen(rng):
    spec = {"model_type": rng.choice(["qwen3_5", "qwen3_5_moe"])}
    base = MODELS["qwen_a" if spec["model_type"] == "qwen3_5" else "qwen_moe"]
    hidden, heads, merge = 8 * rng.randint(3, 9), rng.randint(1, 5), rng.choice([1, 2, 2, 3])
    spec["text"] = dict(base["text"], hidden_size=hidden)
    spec["vision"] = dict(
        depth=rng.randint(1, 4), hidden_size=4 * heads * rng.randint(1, 12), num_heads=heads,
        intermediate_size=rng.randint(5, 90), patch_size=rng.choice([1, 2, 4]),
        num_position_embeddings=rng.randint(1, 90), out_hidden_size=hidden,
        spatial_merge_size=merge, in_channels=rng.choice([1, 3]),
        temporal_patch_size=rng.choice([1, 2]))
    spec["pictures"] = [(merge * rng.randint(1, 12), merge * rng.randint(1, 12))
                        for _ in range(rng.randint(1, 4))]
    return spec


def random_gemma(rng):
    kind = rng.choice(["gemma_e", "gemma_moe", "gemma_unified"])
    base = MODELS[kind]
    spec = {"model_type": base["model_type"]}
    see = rng.choice([None, "vision"])
    spec["text"] = dict(base["text"], use_bidirectional_attention=see,
                        sliding_window=rng.choice([3, 16, 64, 500]))
    pool, most = rng.choice([1, 2, 3]), 12
    if kind == "gemma_unified":
        dim = rng.randint(8, 60)
        spec["vision"] = dict(patch_size=rng.choice([1, 2]), pooling_kernel_size=pool,
                              mm_embed_dim=dim, mm_posemb_size=40, output_proj_dims=dim)
        pool = 1
    else:
        kv = rng.randint(1, 3)
        spec["vision"] = dict(
            hidden_size=rng.randint(5, 70), intermediate_size=rng.randint(5, 70),
            num_hidden_layers=rng.randint(1, 4), num_key_value_heads=kv,
            num_attention_heads=kv * rng.randint(1, 3), head_dim=4 * rng.randint(1, 12),
            patch_size=rng.choice([1, 2, 4]), position_embedding_size=40,
            pooling_kernel_size=pool, use_clipped_linears=rng.random() < 0.5,
            standardize=rng.random() < 0.5)
        most = 40 // pool // 2
    spec["pictures"] = [(pool * rng.randint(1, most), pool * rng.randint(1, most))
                        for _ in range(rng.randint(1, 4))]
    rows = max(h * w for h, w in spec["pictures"])
    spec["padded"] = -(-rows // pool ** 2) * pool ** 2 + pool ** 2 * rng.randint(0, 3)
    if rng.random() < 0.6:
        add_sounds(spec, rng, kind)
    return spec


def random_audio(rng, kind):
    if kind == "gemma_unified":
        dim = rng.randint(1, 70)
        return dict(audio_embed_dim=dim), dim
    heads = rng.choice([1, 2, 4])
    bands = rng.randint(1, 9)
    left = rng.randint(2, 20)
    return dict(hidden_size=2 * heads * rng.randint(1, 20), num_hidden_layers=rng.randint(1, 4),
                num_attention_heads=heads, output_proj_dims=rng.randint(1, 50),
                subsampling_conv_channels=[4 * bands + rng.randint(0, 3), rng.randint(1, 20)],
                conv_kernel_size=rng.randint(1, 9), use_clipped_linears=rng.random() < 0.5,
                attention_chunk_size=rng.choice([left - 1, left - 1, rng.randint(1, 20)]),
                attention_context_left=left, attention_logit_cap=rng.choice([50.0, 2.0]),
                residual_weight=rng.choice([0.5, 1.0, 0.3])), 4 * bands - rng.randint(0, 3)


def add_sounds(spec, rng, kind):
    spec["audio"], spec["bands"] = random_audio(rng, kind)
    for _ in range(rng.randint(1, 3)):
        n = rng.choice([rng.randint(1, 9), rng.randint(10, 400)])
        spec["pictures"].append(("sound", n, n + rng.choice([0, rng.randint(0, 9)])))


def random_spec(rng):
    spec = rng.choice([random_qwen, random_gemma])(rng)
    spec["prompts"] = random_prompts(rng, len(spec["pictures"]))
    return spec


def classes(model_type):
    name = {"qwen3_5": "Qwen3_5", "qwen3_5_moe": "Qwen3_5Moe", "gemma4": "Gemma4",
            "gemma4_unified": "Gemma4Unified"}[model_type]
    return getattr(tf, name + "Config"), getattr(tf, name + "ForConditionalGeneration")


def media_ids(model_type):
    ids = dict(image_token_id=IMAGE, video_token_id=VIDEO)
    if model_type.startswith("qwen"):
        return dict(ids, vision_start_token_id=BEGIN, vision_end_token_id=END)
    return dict(ids, boi_token_id=BEGIN, eoi_token_id=END, audio_token_id=AUDIO, boa_token_id=BEGIN_AUDIO,
                eoa_token_id=END_AUDIO)


def fill(name, shape, config, gen):
    """Values of a tensor: those of the text model as in make_model_goldens."""
    text = config.text_config
    if ".language_model." in name or name == "lm_head.weight":
        return text_goldens.fill(name.replace("language_model.", ""), shape, text, gen)

    def normal(s):
        return torch.randn(shape, generator=gen) * s

    if name.endswith((".input_min", ".output_min")):
        return -torch.rand(shape, generator=gen) - 1.0
    if name.endswith((".input_max", ".output_max")):
        return torch.rand(shape, generator=gen) + 1.0
    if "std_scale" in name or (len(shape) == 1 and "norm" in name and name.endswith("weight")):
        return 0.5 + torch.rand(shape, generator=gen)
    if len(shape) == 1:
        return normal(0.2)
    if "pos" in name:
        return normal(0.5)
    return normal(1.2 / math.sqrt(math.prod(shape[1:])))


def make_model(spec, seed):
    config_class, model_class = classes(spec["model_type"])
    more = {"audio_config": dict(spec["audio"])} if "audio" in spec else {}
    config = config_class(text_config=dict(spec["text"]), vision_config=dict(spec["vision"]), **more,
                          tie_word_embeddings=spec["text"].get("tie_word_embeddings", True),
                          **media_ids(spec["model_type"]), **spec.get("outer", {}))
    for c in (config, config.text_config, config.vision_config, getattr(config, "audio_config", None)):
        if c is None:
            continue
        c._attn_implementation = "eager"
        c._experts_implementation = "eager"
    model = model_class(config).float().eval()
    model.requires_grad_(False)
    done = set()
    for name, t in model.state_dict().items():
        if t.data_ptr() in done:
            continue
        done.add(t.data_ptr())
        gen = torch.Generator().manual_seed(text_goldens.seed_of(seed, name))
        t.copy_(fill(name, tuple(t.shape), config, gen).to(torch.bfloat16).float())
    return model


# ------------------------------------------------------------------------ pictures


def qwen_picture(spec, grid, gen):
    v = spec["vision"]
    t, h, w = grid if len(grid) == 3 else (1, *grid)
    width = v.get("in_channels", 3) * v.get("temporal_patch_size", 2) * v["patch_size"] ** 2
    values = torch.rand((t * h * w, width), generator=gen) * 2 - 1
    names = ("pixel_values_videos", "video_grid_thw") if len(grid) == 3 else (
        "pixel_values", "image_grid_thw")
    return dict(zip(names, (values, torch.tensor([[t, h, w]], dtype=torch.int32))))


def qwen_tokens(spec, picture):
    _, h, w = next(picture[k] for k in picture if k.endswith("thw"))[0].tolist()
    return h * w // spec["vision"].get("spatial_merge_size", 2) ** 2


def gemma_merge(spec):
    return 1 if spec["model_type"] == "gemma4_unified" else spec["vision"].get("pooling_kernel_size", 3)


def gemma_picture(spec, grid, gen):
    """Patches in raster order, filled up as the processor does it."""
    v, (t, h, w) = spec["vision"], grid if len(grid) == 3 else (1, *grid)
    side = v["patch_size"] * (v["pooling_kernel_size"] if gemma_merge(spec) == 1 else 1)
    n, width, padded = h * w, 3 * side * side, spec["padded"]
    values, pos = torch.zeros(t, padded, width), torch.full((t, padded, 2), -1, dtype=torch.int32)
    values[:, :n] = torch.rand((t, n, width), generator=gen)
    for i in range(n):
        pos[:, i, 0], pos[:, i, 1] = i % w, i // w
    names = ("pixel_values_videos", "video_position_ids") if len(grid) == 3 else (
        "pixel_values", "image_position_ids")
    return dict(zip(names, (values, pos)))


def gemma_tokens(spec, picture):
    pos = next(picture[k] for k in picture if k.endswith("position_ids"))
    return int((pos[0, :, 0] >= 0).sum()) // gemma_merge(spec) ** 2


def sound(spec, grid, gen):
    """Rows of log mel energies or of samples, filled up as the processor does it."""
    _, n, padded = grid
    values, mask = torch.zeros(1, padded, spec["bands"]), torch.zeros(1, padded, dtype=torch.uint8)
    values[0, :n] = torch.randn((n, spec["bands"]), generator=gen)
    mask[0, :n] = 1
    return dict(input_features=values, input_features_mask=mask)


def sound_tokens(spec, picture):
    n = int(picture["input_features_mask"].sum())
    return n if spec["model_type"] == "gemma4_unified" else -(-(-(-n // 2)) // 2)


def is_sound(grid):
    return grid[0] == "sound"


def is_video(grid):
    return len(grid) == 3 and not is_sound(grid)


def make_picture(spec, grid, gen):
    if is_sound(grid):
        return sound(spec, grid, gen)
    make = qwen_picture if spec["model_type"].startswith("qwen") else gemma_picture
    return make(spec, grid, gen)


def n_tokens(spec, picture):
    if "input_features" in picture:
        return sound_tokens(spec, picture)
    count = qwen_tokens if spec["model_type"].startswith("qwen") else gemma_tokens
    return count(spec, picture)


def inputs_of(spec, pictures):
    """What the model takes for these pictures and videos together."""
    out = {}
    for k in ("pixel_values", "image_grid_thw", "image_position_ids", "pixel_values_videos",
              "video_grid_thw", "video_position_ids"):
        parts = [p[k] for p in pictures if k in p]
        if parts:
            out[k] = torch.cat(parts)
            out[k] = out[k] if out[k].is_floating_point() else out[k].long()
    sounds = [p for p in pictures if "input_features" in p]
    if sounds:
        most = max(p["input_features"].shape[1] for p in sounds)
        pad = torch.nn.functional.pad
        out["input_features"] = torch.cat([pad(p["input_features"], (0, 0, 0, most - p["input_features"].shape[1]))
                                           for p in sounds])
        out["input_features_mask"] = torch.cat([pad(p["input_features_mask"], (
            0, most - p["input_features_mask"].shape[1])) for p in sounds]).bool()
    frames = [p["video_position_ids"].shape[0] for p in pictures if "video_position_ids" in p]
    if frames:
        out["num_frames_per_video"] = torch.tensor(frames)
    return out


# ------------------------------------------------------------------------ prompts


def make_prompt(spec, parts, pictures, rng):
    """(ids, indices of its pictures)"""
    ids, used = [], []
    for part in parts:
        if isinstance(part, int):
            ids += [rng.randrange(5, 180) for _ in range(part)]
            continue
        used.append(int(part[1:]))
        p = pictures[used[-1]]
        grid = spec["pictures"][used[-1]]
        if is_sound(grid):
            ids += [BEGIN_AUDIO] + [AUDIO] * n_tokens(spec, p) + [END_AUDIO]
            continue
        for f in range(grid[0] if is_video(grid) else 1):
            place = VIDEO if is_video(grid) else IMAGE
            ids += [6 + f] * is_video(grid) + [BEGIN] + [place] * n_tokens(spec, p) + [END]
    return ids, used


@torch.no_grad()
def run(model, spec, ids, pictures):
    t = torch.tensor([ids])
    more = inputs_of(spec, pictures)
    types = (t == IMAGE).int() + 2 * (t == VIDEO).int() + 3 * (t == AUDIO).int()
    gaps = ref.RouterGaps(model)
    if spec["model_type"] == "gemma4_unified":
        # What generate() does. A plain forward of this class lets full layers look ahead as well.
        more["attention_mask"] = model.create_masks_for_generate(
            model.config, torch.zeros(1, len(ids), 1), None, None, None, mm_token_type_ids=types)
    try:
        out = model(input_ids=t, mm_token_type_ids=types, use_cache=False, **more)
    finally:
        gaps.close()
    return out.logits[0], gaps.running_min()


@torch.no_grad()
def rows_of(model, spec, picture):
    more = inputs_of(spec, [picture])
    if "input_features" in more:
        out = model.model.get_audio_features(**more, return_dict=True)
        return out.pooler_output[out.attention_mask]
    if any("video" in k for k in more):
        out = model.model.get_video_features(**more, return_dict=True)
        return torch.cat(list(out.pooler_output))
    out = model.model.get_image_features(**more, return_dict=True)
    return out.pooler_output[0][:n_tokens(spec, picture)]


def positions(n):
    if n <= SHORT:
        return list(range(n))
    return sorted({round(i * (n - 1) / (N_ROWS - 1)) for i in range(N_ROWS)})


def make(name, spec, folder, seed=0):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model = make_model(spec, f"{seed}/{name}")
    rng = random.Random(text_goldens.seed_of(seed, name, "prompts"))
    pictures, gold = [], {}
    for i, grid in enumerate(spec["pictures"]):
        gen = torch.Generator().manual_seed(text_goldens.seed_of(seed, name, "picture", i))
        pictures.append(make_picture(spec, grid, gen))
        save_file(pictures[i], os.path.join(folder, f"picture_{i}.safetensors"))
        gold[f"rows_{i}"] = rows_of(model, spec, pictures[i]).contiguous()
    for k, parts in enumerate(spec["prompts"]):
        ids, used = make_prompt(spec, parts, pictures, rng)
        logits, gap = run(model, spec, ids, [pictures[i] for i in used])
        pos = positions(len(ids))
        gold[f"ids_{k}"] = torch.tensor(ids, dtype=torch.int32)
        gold[f"pictures_{k}"] = torch.tensor(used, dtype=torch.int32)
        gold[f"pos_{k}"] = torch.tensor(pos, dtype=torch.int32)
        gold[f"logits_{k}"] = logits[pos].contiguous()
        if gap is not None:
            gold[f"rgap_{k}"] = gap[pos].float().contiguous()
    save_file(gold, os.path.join(folder, "gold.safetensors"))
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in ("generation_config.json",):
        path = os.path.join(folder, file)
        if os.path.exists(path):
            os.unlink(path)
    std = torch.cat([gold[k].flatten() for k in gold if k.startswith("logits")]).std().item()
    rows = torch.cat([gold[k].flatten() for k in gold if k.startswith("rows")]).std().item()
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name:12} {size:8} bytes, deviation of rows {rows:.2f}, of logits {std:.2f}")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("-o", "--out", required=True)
    p.add_argument("--only", default="")
    p.add_argument("--sweep", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    for i in range(a.sweep):
        name = f"sweep_{a.seed}_{i}"
        try:
            make(name, random_spec(random.Random(name)), os.path.join(a.out, name))
        except (ValueError, RuntimeError) as e:  # shapes that the reference does not take
            shutil.rmtree(os.path.join(a.out, name))
            print(f"{name}: {e}")
    if a.sweep:
        return
    only = [n for n in a.only.split(",") if n]
    for name, spec in MODELS.items():
        if not only or name in only:
            make(name, spec, os.path.join(a.out, name))


if __name__ == "__main__":
    main()
