"""Writes a trained state as a Hugging Face folder in bfloat16.

    python export.py qwen|gemma WEIGHTS.pt

The tokenizer and the chat template are already in the folder; this adds config.json,
preprocessor_config.json, generation_config.json, model.safetensors and the marks of pictures in the tokenizer.
"""
import json
import os
import sys

import torch

import tower
from chatformat import MODEL_DIR, load_tokenizer
from model import CONFIG, MARKS, Tiny


def special_ids(family):
    tok = load_tokenizer(family)
    names = {"qwen": ["<|im_end|>", "<|endoftext|>"], "gemma": ["<eos>", "<turn|>", "<|tool_response>"]}[family]
    return [tok.token_to_id(n) for n in names]


def name_of(family, name):
    """A parameter's name in the files."""
    if name.startswith("eyes."):
        rest = name.removeprefix("eyes.")
        return f"model.visual.{rest}" if family == "qwen" else f"model.{rest}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def whole_config(family):
    """config.json of the model with eyes."""
    text = {k: v for k, v in CONFIG[family].items() if k not in ("architectures", "model_type", "dtype")}
    ends = special_ids(family)
    marks = {"image_token_id": MARKS["image"], "video_token_id": MARKS["video"], "tie_word_embeddings": text["tie_word_embeddings"],
             "dtype": "bfloat16"}
    if family == "qwen":
        text = {"model_type": "qwen3_5_moe_text", "dtype": "bfloat16", **text, "eos_token_id": ends[0], "pad_token_id": ends[1]}
        return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", **marks,
                "vision_start_token_id": MARKS["begin"], "vision_end_token_id": MARKS["end"], "text_config": text,
                "vision_config": {"model_type": "qwen3_5_moe", **tower.CONFIG[family]}}
    text = {"model_type": "gemma4_text", "dtype": "bfloat16", **text, "eos_token_id": ends[:2]}
    return {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", **marks, "boi_token_id": MARKS["begin"],
            "eoi_token_id": MARKS["end"], "eos_token_id": ends[:2], "vision_soft_tokens_per_image": 70, "audio_config": None,
            "text_config": text, "vision_config": {"model_type": "gemma4_vision", **tower.CONFIG[family]}}


def processor_config(family):
    """preprocessor_config.json: pictures become 16 to 24 tokens (qwen), or up to 70 (gemma)."""
    c = tower.CONFIG[family]
    if family == "qwen":
        cell = (c["patch_size"] * c["spatial_merge_size"]) ** 2
        return {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": c["patch_size"],
                "temporal_patch_size": c["temporal_patch_size"], "merge_size": c["spatial_merge_size"], "resample": 3,
                "size": {"shortest_edge": 16 * cell, "longest_edge": 24 * cell}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return {"image_processor_type": "Gemma4ImageProcessor", "patch_size": c["patch_size"], "max_soft_tokens": 70, "resample": 3,
            "pooling_kernel_size": c["pooling_kernel_size"], "do_normalize": False}


def to_hugging_face(family, state):
    """A transformers model with these weights."""
    import transformers
    config = whole_config(family)
    cls = getattr(transformers, config["architectures"][0])
    hf = cls(cls.config_class(**{k: v for k, v in config.items() if k not in ("architectures", "model_type", "dtype")})).float()
    missing, unexpected = hf.load_state_dict({name_of(family, k): v for k, v in state.items()}, strict=False)
    missing = [m for m in missing if m != "lm_head.weight"] if config["tie_word_embeddings"] else missing
    assert not missing and not unexpected, (missing, unexpected)
    hf.tie_weights()
    return hf


def published(family):
    """The weights in models/, under the names of model.py; of a model without eyes as far as they go."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    with open(os.path.join(MODEL_DIR[family], "config.json")) as f:
        sees = "vision_config" in json.load(f)
    hf = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(MODEL_DIR[family], dtype=torch.float32)
    state = hf.state_dict()
    if not sees:
        return state
    names = Tiny(family).state_dict()
    return {name: state[name_of(family, name)] for name in names}


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def export(family, state):
    folder = MODEL_DIR[family]
    hf = to_hugging_face(family, {k: v.float() for k, v in state.items()}).to(torch.bfloat16)
    hf.save_pretrained(folder)
    load_tokenizer(family).save(os.path.join(folder, "tokenizer.json"))
    write_json(folder, "config.json", whole_config(family))
    write_json(folder, "preprocessor_config.json", processor_config(family))
    ends = special_ids(family)
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": ends}
    generation |= {"bos_token_id": 2, "pad_token_id": 0} if family == "gemma" else {"pad_token_id": ends[1]}
    write_json(folder, "generation_config.json", generation)
    size = os.path.getsize(os.path.join(folder, "model.safetensors"))
    assert size <= 14_000_000, size
    print(family, "model.safetensors", size, "bytes")


if __name__ == "__main__":
    export(sys.argv[1], torch.load(sys.argv[2], map_location="cpu"))
