#!/usr/bin/env python3
"""Write a small Hugging Face folder, tokenizer and chat template included, as a GGUF file.

    make_quant_folder.py models/tiny-qwen -o tiny-qwen.gguf --type Q8_0 [--parts 3]

Only the formats that gguf-py can write (F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 MXFP4) keep the
meaning of the weights. For tests: it holds the whole model in memory.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gguf  # noqa: E402
import make_quant_models as qm  # noqa: E402
import numpy as np  # noqa: E402
import reference as ref  # noqa: E402

ARCH = {"gemma4_text": "gemma4", "qwen3_5_text": "qwen35", "qwen3_5_moe_text": "qwen35moe",
        "qwen3_next": "qwen3next", "qwen3_moe": "qwen3moe"}
# The usual converter marks these as visible, although tokenizer.json has them special.
VISIBLE = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
           "<tool_response|>", '<|"|>')
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def read_json(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return json.load(f)


def add_tokenizer(w, folder, arch, n_vocab):
    tok = read_json(folder, "tokenizer.json")
    cfg = read_json(folder, "tokenizer_config.json")
    gemma = arch == "gemma4"
    tokens = [f"[PAD{i}]" for i in range(n_vocab)]
    types = [UNUSED] * n_vocab
    for text, i in tok["model"]["vocab"].items():
        byte = gemma and len(text) == 6 and text.startswith("<0x")
        tokens[i], types[i] = text, BYTE if byte else NORMAL
    for a in tok["added_tokens"]:
        i = a["id"]
        tokens[i], types[i] = a["content"], CONTROL if a["special"] else USER
        if gemma and a["content"] in VISIBLE:
            types[i] = USER
        if gemma and a["content"] == "<unk>":
            types[i] = UNKNOWN
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]
    w.add_tokenizer_model("gemma4" if gemma else "gpt2")
    if not gemma:
        marks = "\\p{M}" in json.dumps(tok["pre_tokenizer"]).replace("\\\\", "\\")
        w.add_tokenizer_pre("qwen35" if marks else "qwen2")
    w.add_token_list(tokens)
    if gemma:
        w.add_token_scores([-1000.0] * n_vocab)
    w.add_token_types(types)
    w.add_token_merges(merges)
    for kind, add in (("bos", w.add_bos_token_id), ("eos", w.add_eos_token_id),
                      ("pad", w.add_pad_token_id), ("unk", w.add_unk_token_id)):
        text = cfg.get(kind + "_token")
        if text in tokens:
            add(tokens.index(text))
    if gemma:
        w.add_add_space_prefix(False)
    w.add_add_bos_token(False)
    template = cfg.get("chat_template")
    path = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(path):
        with open(path) as f:
            template = f.read()
    if template:
        w.add_chat_template(template)


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder")
    ap.add_argument("-o", "--out", required=True)
    ap.add_argument("--type", default="Q8_0")
    ap.add_argument("--parts", type=int, default=1)
    args = ap.parse_args()
    model = ref.load(args.folder)
    config = read_json(args.folder, "config.json")
    arch = ARCH[config["model_type"]]
    spec = dict(arch=arch, model_type=config["model_type"], config=config)
    qm.write_gguf(model.state_dict(), spec, args.out, args.type, np.random.default_rng(0),
                  parts=args.parts,
                  more=lambda w: add_tokenizer(w, args.folder, arch, config["vocab_size"]))


if __name__ == "__main__":
    main()
