"""Trains the two tokenizers on generated conversations and writes the files of the model folders.

    python make_tokenizer.py qwen|gemma

qwen   byte-level BPE: NFC, the family's split pattern, special tokens at the end of the table
gemma  BPE with byte fallback: a space becomes U+2581, special tokens at the start of the table
Digits are always single tokens.
"""
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import generate
from chatformat import MEDIA, MODEL_DIR

VOCAB = 1536
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_PLAIN = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
                 "<|tool_response>", "<tool_response|>", '<|"|>', "<|think|>", "<|channel>", "<channel|>", "<|turn>",
                 "<turn|>"]


def corpus(n=40000, seed=11):
    """Text to learn merges from: everything but the random strings of the copy skill."""
    rng = random.Random(seed)
    for _ in range(n):
        item = generate.conversation(rng)
        if item["skill"] == "copy":
            continue
        for m in item["messages"]:
            yield m["content"]
            yield m.get("reasoning_content") or ""
            for c in m.get("tool_calls") or []:
                f = c["function"]
                yield f"<function={f['name']}>\n" + "".join(f"<parameter={k}>\n{v}\n</parameter>\n"
                                                           for k, v in f["arguments"].items()) + "</function>"
        for t in item["tools"] or []:
            yield json.dumps(t)
            yield "declaration:" + t["function"]["name"] + "{description:,parameters:{properties:{,required:[,type:"
    for role in ["system\n", "user\n", "assistant\n", "model\n", "thought\n", "response:", "call:", "{value:", "STRING", "INTEGER", "OBJECT"]:
        for _ in range(400):
            yield role


def make_qwen():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    extra = QWEN_SPECIAL + QWEN_PLAIN
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(extra), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tok.train_from_iterator(corpus(), trainer)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in QWEN_SPECIAL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in QWEN_PLAIN])
    settings = {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace", "split_special_tokens": False,
                "clean_up_tokenization_spaces": False, "model_max_length": 8192}
    return tok, settings


def make_gemma():
    # Merges are learned inside words, single digits and runs of newlines; without a splitter they
    # then never cross these borders, which is how the family's tokenizer behaves as well.
    learn = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    learn.normalizer = normalizers.Replace(" ", "▁")
    learn.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{N}|▁?\p{L}+|\n+|▁?[^\p{L}\p{N}\n▁]+|▁+"), "isolated")
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=GEMMA_SPECIAL + byte_tokens, show_progress=False)
    learn.train_from_iterator(corpus(), trainer)
    made = json.loads(learn.to_str())["model"]
    tok = Tokenizer(models.BPE(vocab=made["vocab"], merges=[tuple(m) for m in made["merges"]], byte_fallback=True,
                               unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in GEMMA_SPECIAL])
    settings = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
                "mask_token": "<mask>", "padding_side": "left", "clean_up_tokenization_spaces": False,
                "spaces_between_special_tokens": False, "model_max_length": 8192}
    return tok, settings


def main():
    family = sys.argv[1]
    tok, settings = make_qwen() if family == "qwen" else make_gemma()
    folder = MODEL_DIR[family]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in MEDIA[family]])
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump(settings, f, indent=2, ensure_ascii=False)
        f.write("\n")
    print(family, tok.get_vocab_size())


if __name__ == "__main__":
    main()
