#!/usr/bin/env python3
"""Writes the configuration files beside this script from the tables of the model specifications.

The released models' shapes; names of folders say which. Run it in this folder.
"""
import json
import os

GEMMA_COMMON = dict(
    attention_bias=False, attention_dropout=0.0, bos_token_id=2, dtype="bfloat16", eos_token_id=1,
    final_logit_softcapping=30.0, global_head_dim=512, head_dim=256,
    hidden_activation="gelu_pytorch_tanh", initializer_range=0.02, pad_token_id=0,
    rms_norm_eps=1e-06, tie_word_embeddings=True, use_cache=True, vocab_size=262144,
    vocab_size_per_layer_input=262144,
    rope_parameters={
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
                           "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}})


def gemma(every, **kw):
    n = kw["num_hidden_layers"]
    types = ["full_attention" if i % every == every - 1 else "sliding_attention" for i in range(n)]
    return dict(GEMMA_COMMON, layer_types=types, **kw)


E2B = gemma(5, hidden_size=1536, num_hidden_layers=35, num_attention_heads=8,
            num_key_value_heads=1, num_global_key_value_heads=None, attention_k_eq_v=False,
            intermediate_size=6144, use_double_wide_mlp=True, sliding_window=512,
            num_kv_shared_layers=20, hidden_size_per_layer_input=256, enable_moe_block=False,
            num_experts=None, top_k_experts=None, moe_intermediate_size=None,
            max_position_embeddings=131072, use_bidirectional_attention=None)
E4B = dict(gemma(6, hidden_size=2560, num_hidden_layers=42, num_attention_heads=8,
                 num_key_value_heads=2, num_global_key_value_heads=None, attention_k_eq_v=False,
                 intermediate_size=10240, use_double_wide_mlp=False, sliding_window=512,
                 num_kv_shared_layers=18, hidden_size_per_layer_input=256, enable_moe_block=False,
                 max_position_embeddings=131072, use_bidirectional_attention=None))
BIG = dict(attention_k_eq_v=True, use_double_wide_mlp=False, sliding_window=1024,
           num_kv_shared_layers=0, max_position_embeddings=262144,
           use_bidirectional_attention="vision")
G12B = gemma(6, hidden_size=3840, num_hidden_layers=48, num_attention_heads=16,
             num_key_value_heads=8, num_global_key_value_heads=1, intermediate_size=15360, **BIG)
G26B = gemma(6, hidden_size=2816, num_hidden_layers=30, num_attention_heads=16,
             num_key_value_heads=8, num_global_key_value_heads=2, intermediate_size=2112,
             hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=128,
             top_k_experts=8, moe_intermediate_size=704, **BIG)
G31B = gemma(6, hidden_size=5376, num_hidden_layers=60, num_attention_heads=32,
             num_key_value_heads=16, num_global_key_value_heads=4, intermediate_size=21504,
             hidden_size_per_layer_input=0, enable_moe_block=False, **BIG)


def outer(kind, text, eos=None, **kw):
    cls = {"gemma4": "Gemma4", "gemma4_unified": "Gemma4Unified", "qwen3_5": "Qwen3_5",
           "qwen3_5_moe": "Qwen3_5Moe"}[kind]
    c = dict(architectures=[cls + "ForConditionalGeneration"], model_type=kind,
             text_config=dict(text, model_type=kind + "_text"),
             vision_config={"model_type": kind + "_vision"}, **kw)
    if eos is not None:
        c["eos_token_id"] = eos
    return c


def flat(kind, text):
    cls = {"gemma4_text": "Gemma4", "gemma4_unified_text": "Gemma4Unified",
           "qwen3_5_text": "Qwen3_5", "qwen3_5_moe_text": "Qwen3_5Moe"}[kind]
    return dict(text, model_type=kind, architectures=[cls + "ForCausalLM"])


def per_layer(text, kv):
    """What transformers >= 5.15 writes instead of the two global keys."""
    c = {k: v for k, v in text.items()
         if k not in ("global_head_dim", "num_global_key_value_heads")}
    over = {"head_dim": 512}
    if kv:
        over["num_key_value_heads"] = kv
    full = [i for i, t in enumerate(text["layer_types"]) if t == "full_attention"]
    width = len(str(full[-1]))
    c["per_layer_config"] = {str(i).zfill(width): over for i in full}
    return c


QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25,
             "mrope_section": [11, 11, 10], "mrope_interleaved": True}
QWEN_COMMON = dict(
    attention_bias=False, attention_dropout=0.0, attn_output_gate=True, dtype="bfloat16",
    eos_token_id=248044, full_attention_interval=4, head_dim=256, hidden_act="silu",
    initializer_range=0.02, linear_conv_kernel_dim=4, linear_key_head_dim=128,
    linear_value_head_dim=128, linear_num_key_heads=16, mamba_ssm_dtype="float32",
    max_position_embeddings=262144, mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False,
    rms_norm_eps=1e-06, use_cache=True, vocab_size=248320, rope_parameters=QWEN_ROPE)


def qwen(n, **kw):
    types = ["full_attention" if (i + 1) % 4 == 0 else "linear_attention" for i in range(n)]
    return dict(QWEN_COMMON, num_hidden_layers=n, layer_types=types, **kw)


Q08 = qwen(24, hidden_size=1024, num_attention_heads=8, num_key_value_heads=2,
           intermediate_size=3584, linear_num_value_heads=16, tie_word_embeddings=True)
Q35 = qwen(40, hidden_size=2048, num_attention_heads=16, num_key_value_heads=2,
           num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512,
           shared_expert_intermediate_size=512, linear_num_value_heads=32, mlp_only_layers=[],
           router_aux_loss_coef=0.001, output_router_logits=False, tie_word_embeddings=False)


def saved_flat(text):
    """As transformers saves the text-only class: no interval, no gate, no mtp."""
    c = {k: v for k, v in text.items()
         if k not in ("full_attention_interval", "attn_output_gate", "mamba_ssm_dtype")
         and not k.startswith("mtp_")}
    c.update(eos_token_id=None, bos_token_id=None, partial_rotary_factor=0.25)
    return c


NEXT = dict(
    architectures=["Qwen3NextForCausalLM"], model_type="qwen3_next", attention_bias=False,
    bos_token_id=151643, eos_token_id=151645, decoder_sparse_step=1, full_attention_interval=4,
    head_dim=256, hidden_act="silu", hidden_size=2048, intermediate_size=5632,
    linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_num_key_heads=16,
    linear_num_value_heads=32, linear_value_head_dim=128, max_position_embeddings=262144,
    mlp_only_layers=[], moe_intermediate_size=512, norm_topk_prob=True, num_attention_heads=16,
    num_experts=512, num_experts_per_tok=10, num_hidden_layers=48, num_key_value_heads=2,
    partial_rotary_factor=0.25, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=10000000,
    shared_expert_intermediate_size=512, tie_word_embeddings=False, vocab_size=151936)
Q30 = dict(
    architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", attention_bias=False,
    bos_token_id=151643, eos_token_id=151645, decoder_sparse_step=1, head_dim=128,
    hidden_act="silu", hidden_size=2048, intermediate_size=6144, max_position_embeddings=40960,
    max_window_layers=48, mlp_only_layers=[], moe_intermediate_size=768, norm_topk_prob=True,
    num_attention_heads=32, num_experts=128, num_experts_per_tok=8, num_hidden_layers=48,
    num_key_value_heads=4, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000.0,
    sliding_window=None, tie_word_embeddings=False, use_sliding_window=False, vocab_size=151936)
YARN = dict(Q35, rope_parameters=dict(QWEN_ROPE, rope_type="yarn", factor=4.0,
                                      original_max_position_embeddings=262144),
            max_position_embeddings=1010000)
Q30_NEW = {k: v for k, v in Q30.items() if k not in ("rope_theta", "rope_scaling", "num_experts")}
Q30_NEW.update(num_local_experts=128,
               rope_parameters={"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                                "original_max_position_embeddings": 32768})

GEMMA_GEN = dict(bos_token_id=2, do_sample=True, eos_token_id=[1, 106, 50], pad_token_id=0,
                 temperature=1.0, top_k=64, top_p=0.95)
QWEN_GEN = dict(do_sample=True, eos_token_id=[248046, 248044], pad_token_id=248044,
                temperature=1.0, top_k=20, top_p=0.95)

FILES = {
    "gemma4-e2b": (outer("gemma4", E2B, [1, 106], tie_word_embeddings=True), GEMMA_GEN),
    "gemma4-e4b": (outer("gemma4", E4B, [1, 106], tie_word_embeddings=True), GEMMA_GEN),
    "gemma4-12b": (outer("gemma4_unified", G12B, [1, 106]),
                   dict(GEMMA_GEN, suppress_tokens=[258883, 258882])),
    "gemma4-26b": (outer("gemma4", G26B, [1, 106]), GEMMA_GEN),
    "gemma4-31b": (outer("gemma4", G31B, [1, 106]), GEMMA_GEN),
    "gemma4-31b-flat-per-layer": (flat("gemma4_text", per_layer(G31B, 4)), None),
    "gemma4-e2b-flat-per-layer": (flat("gemma4_text", per_layer(E2B, None)), None),
    "gemma4-12b-flat": (flat("gemma4_unified_text", G12B), None),
    "qwen3_5-0.8b": (outer("qwen3_5", Q08, tie_word_embeddings=True), QWEN_GEN),
    "qwen3_5-0.8b-flat": (flat("qwen3_5_text", saved_flat(Q08)), None),
    "qwen3_5-35b-a3b": (outer("qwen3_5_moe", Q35, tie_word_embeddings=False), QWEN_GEN),
    "qwen3_5-35b-a3b-flat": (flat("qwen3_5_moe_text", saved_flat(Q35)), None),
    "qwen3_5-35b-a3b-yarn": (outer("qwen3_5_moe", YARN), None),
    "qwen3-next": (NEXT, None),
    "qwen3-30b-a3b": (Q30, dict(eos_token_id=[151645, 151643], do_sample=True, temperature=0.6,
                                top_k=20, top_p=0.95)),
    "qwen3-30b-a3b-yarn": (Q30_NEW, None),
}

for name, (config, gen) in FILES.items():
    os.makedirs(name, exist_ok=True)
    with open(name + "/config.json", "w") as f:
        json.dump(config, f, separators=(",", ":"))
        f.write("\n")
    if gen:
        with open(name + "/generation_config.json", "w") as f:
            json.dump(gen, f, separators=(",", ":"))
            f.write("\n")
