#!/usr/bin/env python3
"""Small GGUF files and config.json texts that fuzzing starts from.

    make_quant_seeds.py tests/fuzz/gguf/corpus tests/fuzz/quant_config/corpus
"""

import copy
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gguf  # noqa: E402
import make_quant_models as qm  # noqa: E402
import numpy as np  # noqa: E402
import quant_blocks as qb  # noqa: E402

WORDS = ["<unk>", "<eos>", "<bos>", "a", "b", "ab", "<0x0A>", "<|tool_call>", "<|im_end|>", "[PAD9]"]
TYPES = [2, 3, 3, 1, 1, 1, 6, 4, 3, 5]


def tokenizer(w, gemma):
    w.add_tokenizer_model("gemma4" if gemma else "gpt2")
    if not gemma:
        w.add_tokenizer_pre("qwen35")
    w.add_token_list(WORDS)
    w.add_token_types(TYPES)
    w.add_token_merges(["a b"])
    w.add_eos_token_id(1)
    w.add_chat_template("{{ messages }}")


def family(folder, name, part=None):
    spec = copy.deepcopy(qm.FAMILIES[name])
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(os.path.join(folder, name), spec["arch"])
    qm.gguf_metadata(w, spec)
    tokenizer(w, spec["arch"] == "gemma4")
    w.add_tensor("token_embd.weight", rng.normal(size=(10, 4)).astype(np.float32))
    if spec["arch"] == "gemma4":
        freqs = [1.0] * 16 + [1e30] * 48
        w.add_tensor("rope_freqs.weight", np.array(freqs, dtype=np.float32))
        w.add_tensor("blk.2.attn_k.weight", np.zeros((2, 4), dtype=np.float16))
    else:
        w.add_uint32("split.count", 1)
        w.add_string(spec["arch"] + ".rope.scaling.type", "yarn")
        w.add_float32(spec["arch"] + ".rope.scaling.factor", 4.0)
        w.add_uint32(spec["arch"] + ".rope.scaling.original_context_length", 1024)
        w.add_tensor("output.weight", np.zeros((10, 4), dtype=np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def types(folder, names, out):
    rng = np.random.default_rng(2)
    w = gguf.GGUFWriter(os.path.join(folder, out), "qwen35")
    for i, t in enumerate(names):
        raw, _ = qb.encode_gguf(rng.normal(size=(1, 256)), t, rng)
        w.add_tensor(f"blk.{i}.attn_q.weight", raw, raw_dtype=None if t in ("F32", "F16")
                     else gguf.GGMLQuantizationType[t])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    for name in qm.FAMILIES:
        family(sys.argv[1], name)
    small = [t for t in qb.GGUF_TYPES if t != "F32"]
    types(sys.argv[1], small[:7], "types1")
    types(sys.argv[1], small[7:14], "types2")
    types(sys.argv[1], small[14:], "types3")
    texts = {"mlx": {"quantization": {"group_size": 64, "bits": 4, "mode": "affine",
                                      "a.mlp.gate": {"group_size": 32, "bits": 8}, "b": False,
                                      "c": {"mode": "mxfp4"}, "d": True,
                                      "e": {"mode": "nvfp4", "group_size": 16}}},
             "mxfp8": {"quantization_config": {"group_size": 32, "bits": 8, "mode": "mxfp8"}},
             "fp8": {"text_config": {"quantization_config": {
                 "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                 "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}}},
             "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
             "none": {"model_type": "qwen3_moe"}}
    for name, o in texts.items():
        with open(os.path.join(sys.argv[2], name), "w") as f:
            json.dump(o, f)


if __name__ == "__main__":
    main()
