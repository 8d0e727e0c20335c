#!/usr/bin/env python3
"""Make tiny random checkpoints with a draft head, and what the reference drafts with it.

    make_draft_goldens.py -o tests/golden_draft/data           the committed set
    make_draft_goldens.py -o DIR --sweep 20 --seed 7           random shapes (not committed)

Model and head are the reference's own classes, in float32: the head's layer is transformers' MtpLayer around a decoder
layer of the model's kind. It is run on all pairs at once, without a cache. draft.safetensors has for each prompt k:

    ids_k     i32 [n]     the prompt
    bonus_k   i32 [1]     the token after it
    draft_k   i32 [4]     a chain of guesses
    logits_k  f32 [4, V]  that they are the largest of
    gap_k     f32 [4]     by so much
"""

import argparse
import copy
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_model_goldens as mm  # noqa: E402
import reference as ref  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers.modeling_layers import MtpLayer  # noqa: E402

CHAIN = 4
LENGTHS = [1, 2, 9, 65, 150]
F, LIN = mm.F, mm.LIN

# form: how the tensors of the head are written. "separate": in a file of their own; "prefixed": as model.mtp.
MODELS = {
    "q35_dense": dict(model_type="qwen3_5_text", config=dict(
        mm.QWEN, vocab_size=203, hidden_size=40, intermediate_size=56, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, head_dim=24, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
        layer_types=[LIN, LIN, LIN, F], tie_word_embeddings=True,
        rope_parameters=mm.qwen_rope(0.25))),
    "q35_separate": dict(model_type="qwen3_5_text", form="separate", config=dict(
        mm.QWEN, vocab_size=131, hidden_size=50, intermediate_size=38, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16, linear_num_key_heads=1,
        linear_num_value_heads=3, linear_key_head_dim=12, linear_value_head_dim=20,
        layer_types=[LIN, F, LIN], tie_word_embeddings=False,
        rope_parameters=mm.qwen_rope(0.5, 1e6))),
    "q35moe_split": dict(model_type="qwen3_5_moe_text", experts="split", config=dict(
        mm.QWEN, vocab_size=203, hidden_size=42, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=16, linear_value_head_dim=16, num_experts=7, num_experts_per_tok=3,
        moe_intermediate_size=20, shared_expert_intermediate_size=14,
        layer_types=[LIN, LIN, LIN, F], rope_parameters=mm.qwen_rope(0.25))),
    "q35moe_fused": dict(model_type="qwen3_5_moe_text", experts="fused", form="prefixed", config=dict(
        mm.QWEN, vocab_size=167, hidden_size=48, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=1, head_dim=16, linear_num_key_heads=1, linear_num_value_heads=2,
        linear_key_head_dim=16, linear_value_head_dim=16, num_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=18, shared_expert_intermediate_size=24, tie_word_embeddings=True,
        layer_types=[LIN, F], rope_parameters=mm.qwen_rope(0.5))),
    "q3next": dict(model_type="qwen3_next", experts="split", config=dict(
        mm.QWEN, vocab_size=203, hidden_size=40, intermediate_size=36, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, head_dim=16, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=16,
        norm_topk_prob=True, layer_types=[LIN, LIN, LIN, F],
        rope_parameters=mm.qwen_rope(0.25))),
}

# name of a part of MtpLayer -> in the files, behind "mtp."
NAMES = {"enorm.": "pre_fc_norm_embedding.", "hnorm.": "pre_fc_norm_hidden.", "eh_proj.": "fc.",
         "post_norm.": "norm.", "mtp_block.": "layers.0."}


def file_name(name):
    for part, to in NAMES.items():
        if name.startswith(part):
            return to + name[len(part):]
    raise KeyError(name)


def make_head(model, spec, seed):
    """The reference's head, its weights rounded to what the files hold."""
    config = copy.deepcopy(model.config)
    decoder = model.model.layers
    full = max(i for i, t in enumerate(config.layer_types) if t == F)
    norm = type(decoder[0].input_layernorm)
    head = MtpLayer(config, type(decoder[0]), norm, full).float().eval()
    head.requires_grad_(False)
    store = mm.DTYPES[spec.get("store", "bf16")]
    with torch.no_grad():
        for name, t in head.state_dict().items():
            gen = torch.Generator().manual_seed(mm.seed_of(seed, "head", name))
            t.copy_(mm.fill(file_name(name), tuple(t.shape), config, gen).to(store).float())
    return head


@torch.no_grad()
def run_head(model, head, tokens, hidden):
    """Normed rows of the head for pairs (tokens[i], hidden[i]), the first one at position 1."""
    n = len(tokens)
    rows = torch.tensor([tokens])
    position = torch.arange(1, n + 1)[None]
    x = model.get_input_embeddings()(rows)
    angles = model.model.rotary_emb(x, position[None].expand(3, 1, n)
                                    if model.config.model_type != "qwen3_next" else position)
    mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
    return head(x, hidden[None], angles, mask, position, None)[0]


@torch.no_grad()
def chain(model, head, ids):
    out = model.model(torch.tensor([ids]), use_cache=False)
    h = out.last_hidden_state[0]  # after the final norm
    bonus = int(model.lm_head(h[-1]).argmax())
    tokens, hidden, logits = ids[1:] + [bonus], h, []
    for _ in range(CHAIN):
        g = run_head(model, head, tokens, hidden)[-1:]
        logits.append(model.lm_head(g)[0])
        tokens = tokens + [int(logits[-1].argmax())]
        hidden = torch.cat([hidden, g])
    return bonus, tokens[-CHAIN:], torch.stack(logits)


def write_head(head, spec, folder):
    store = mm.DTYPES[spec.get("store", "bf16")]
    form = spec.get("form")
    tensors = {"mtp." + file_name(n): t.to(store) for n, t in head.state_dict().items()}
    if spec.get("experts") == "split":
        tensors = mm.split_experts(tensors)
    if form == "prefixed":
        tensors = {"model." + n: t for n, t in tensors.items()}
    if form == "separate":
        save_file(tensors, os.path.join(folder, "mtp.safetensors"))
        return
    tensors.update(ref.read_tensors(folder))
    mm.write_tensors(folder, tensors, spec.get("shards", 1))


def one(name, spec, folder, seed):
    plain = {k: v for k, v in spec.items() if k != "form"}
    model = mm.make_model(plain, seed)
    mm.write_model(model, plain, folder, seed)
    head = make_head(model, spec, seed)
    write_head(head, spec, folder)
    gold, least = {}, 1e9
    for k, n in enumerate(LENGTHS):
        gen = torch.Generator().manual_seed(mm.seed_of(seed, "draft", k))
        ids = torch.randint(0, model.config.vocab_size, (n,), generator=gen).tolist()
        bonus, draft, logits = chain(model, head, ids)
        top = torch.topk(logits, 2, dim=-1).values
        gold[f"ids_{k}"] = torch.tensor(ids, dtype=torch.int32)
        gold[f"bonus_{k}"] = torch.tensor([bonus], dtype=torch.int32)
        gold[f"draft_{k}"] = torch.tensor(draft, dtype=torch.int32)
        gold[f"logits_{k}"] = logits.float().contiguous()
        gold[f"gap_{k}"] = (top[:, 0] - top[:, 1]).float()
        least = min(least, gold[f"gap_{k}"].min().item())
    save_file(gold, os.path.join(folder, "draft.safetensors"))
    print(f"{name:24s} std {logits.std().item():.2f} least gap {least:.1e}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", "--out", required=True)
    ap.add_argument("--only", help="comma-separated names of the committed set")
    ap.add_argument("--sweep", type=int, default=0, help="make that many random shapes instead")
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    i = 0
    while args.sweep and i < args.sweep:
        rng = random.Random(mm.seed_of("draft", args.seed, i))
        spec = mm.random_spec(rng)
        while spec["model_type"] not in ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"):
            spec = mm.random_spec(rng)
        spec["config"]["layer_types"][-1] = F
        spec["config"].pop("mlp_only_layers", None)
        spec["config"].pop("decoder_sparse_step", None)
        spec["form"] = rng.choice([None, "separate", "prefixed"])
        name = f"s{args.seed}_{i:03d}_{spec['model_type'].replace('_text', '')}"
        folder = os.path.join(args.out, name)
        try:
            one(name, spec, folder, f"draft/{args.seed}/{i}")
        except Exception as e:  # a shape that the reference itself refuses
            print(f"{name}: left out, {type(e).__name__}: {str(e)[:200]}")
            shutil.rmtree(folder, ignore_errors=True)
        i += 1
    for name, spec in MODELS.items():
        if not args.sweep and (not args.only or name in args.only.split(",")):
            one(name, spec, os.path.join(args.out, name), f"draft/{name}/{args.seed}")


if __name__ == "__main__":
    main()
