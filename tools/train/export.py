"""Writes a trained state as a Hugging Face folder in bfloat16.

    python export.py qwen|gemma WEIGHTS.pt

The tokenizer and the chat template are already in the folder; this adds config.json,
generation_config.json and model.safetensors.
"""
import json
import os
import sys

import torch

from chatformat import MODEL_DIR, load_tokenizer
from model import CONFIG


def special_ids(family):
    tok = load_tokenizer(family)
    names = {"qwen": ["<|im_end|>", "<|endoftext|>"], "gemma": ["<eos>", "<turn|>", "<|tool_response>"]}[family]
    return [tok.token_to_id(n) for n in names]


def to_hugging_face(family, state):
    """A transformers model with these weights."""
    import transformers
    cfg = dict(CONFIG[family])
    cls = getattr(transformers, cfg["architectures"][0])
    config = cls.config_class(**{k: v for k, v in cfg.items() if k not in ("architectures", "model_type", "dtype")})
    hf = cls(config)
    missing, unexpected = hf.load_state_dict(state, strict=False)
    missing = [m for m in missing if m != "lm_head.weight"] if cfg["tie_word_embeddings"] else missing
    assert not missing and not unexpected, (missing, unexpected)
    hf.tie_weights()
    return hf


def export(family, state):
    folder = MODEL_DIR[family]
    hf = to_hugging_face(family, {k: v.float() for k, v in state.items()}).to(torch.bfloat16)
    ends = special_ids(family)
    if family == "qwen":
        hf.config.eos_token_id, hf.config.pad_token_id = ends[0], ends[1]
    hf.save_pretrained(folder)
    if family == "gemma":                     # the flat form of the released files
        config = {**CONFIG[family], "eos_token_id": ends[:2]}
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config, f, indent=2)
            f.write("\n")
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": ends}
    if family == "gemma":
        generation.update(bos_token_id=2, pad_token_id=0)
    else:
        generation.update(pad_token_id=ends[1])
    with open(os.path.join(folder, "generation_config.json"), "w") as f:
        json.dump(generation, f, indent=2)
        f.write("\n")
    size = os.path.getsize(os.path.join(folder, "model.safetensors"))
    assert size <= 12_000_000, size
    print(family, "model.safetensors", size, "bytes")


if __name__ == "__main__":
    export(sys.argv[1], torch.load(sys.argv[2], map_location="cpu"))
