#!/usr/bin/env python3
"""Write tests/unit/tokenizer/data: small tokenizers and what the tokenizers library does with them.

Run from the repository root; needs the package tokenizers. Everything is generated from seeds.

A golden file has one case a line, bytes in hexadecimal, "-" for nothing:
  E flags text ids    text to ids; flags as APUS_TOK_*
  D flags ids text    ids to text; flags 1 = special tokens left out
"""
import copy
import json
import os
import random
import unicodedata

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

OUT = "tests/unit/tokenizer/data"
SPECIAL, BOS = 1, 2

QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")

QWEN_TOKENS = [(t, True) for t in (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>").split()] + [(t, False) for t in (
        "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
        "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>").split()] + [
            (t, True) for t in ("<|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> "
                                "<tts_text_eod> <tts_text_bos_single> <|audio_pad|>").split()]

GEMMA_TOKENS = ("<pad> <eos> <bos> <unk> <mask> <|tool> <tool|> <|tool_call> <tool_call|> "
                "<|tool_response> <tool_response|> <|\"|> <|think|> <|channel> <channel|> <|turn> <turn|> "
                "<|image> <image|> <|audio> <audio|> <|image|> <|audio|> <|video|>").split()

# ---------------------------------------------------------------- corpus

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'm sure they'll say we've won.",
    "It's 12345 meters; that's 3.14159 times more than she'd thought, and you're WE'LL O'Neill.",
    "def encode(self, text: str) -> list[int]:\n    return [self.vocab[t] for t in text.split()]\n",
    "for (int i = 0; i < n; i++) {\n\tsum += a[i] * b[i]; // dot product\n}\n\n\n",
    "Größe, Straße, Übermut und Ärger; café résumé naïve façade; ąęśćżźółń; İstanbul ığüşöç.",
    "Привет, мир! Как дела? Съешь ещё этих мягких французских булок, да выпей чаю.",
    "你好世界。今天天气很好,我们去公园散步吧!机器学习模型的推理引擎。",
    "こんにちは、世界。カタカナとひらがな、漢字が混ざった文章です。",
    "안녕하세요 세계. 한국어 문장도 토큰으로 나누어야 합니다.",
    "नमस्ते दुनिया। यह एक परीक्षण वाक्य है।  สวัสดีชาวโลก  שלום עולם  مرحبا بالعالم",
    "👋🌍🚀 emoji 👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪🇫🇷 ✅ ❤️ 👍🏽",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": [1, 2, 3]}}",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- item one\n- item two\n  - nested\n\n```c\nint x;\n```\n",
]


def corpus(rng, n=1500):
    syll = ["ka", "to", "ing", "er", "un", "re", "tion", "al", "ment", "pre", "ly", "es", "ed", "or", "is", "an"]
    lines = []
    for _ in range(n):
        kind = rng.random()
        if kind < 0.4:
            lines.append(rng.choice(SENTENCES))
        else:
            words = ["".join(rng.choice(syll) for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(3, 12))]
            lines.append(rng.choice(["", " ", "  ", "\t", "    "]) + " ".join(words) + rng.choice([".", "!\n", "\n\n", "?", ""]))
    return lines


# ---------------------------------------------------------------- tokenizers

def added(content, special, **kw):
    d = {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": special}
    d.update(kw)
    return d


def number(doc, tokens):
    """Give added tokens the ids that the library will."""
    vocab, nxt, out = doc["model"]["vocab"], len(doc["model"]["vocab"]), []
    for t in tokens:
        if t["content"] in vocab:
            out.append({"id": vocab[t["content"]], **t})
        else:
            out.append({"id": nxt, **t})
            nxt += 1
    doc["added_tokens"] = sorted(out, key=lambda t: t["id"])


def train_bytes(vocab_size, pattern):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(corpus(random.Random(1)), trainer)
    return json.loads(tok.to_str())["model"]


def train_chars(vocab_size, first):
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁\n]+|\n+|▁+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, limit_alphabet=300,
                                  special_tokens=first)
    tok.train_from_iterator(corpus(random.Random(2)), trainer)
    return json.loads(tok.to_str())["model"]


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def base(model, normalizer, pre, post, decoder):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post,
            "decoder": decoder, "model": model}


def qwen(vocab_size=1100, pattern=QWEN35):
    doc = base(train_bytes(vocab_size, pattern), {"type": "NFC"},
               {"type": "Sequence", "pretokenizers": [split(pattern), dict(BYTE_LEVEL)]},
               dict(BYTE_LEVEL), dict(BYTE_LEVEL))
    number(doc, [added(t, s) for t, s in QWEN_TOKENS])
    return doc


def template(token, tid, tail=None):
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {token: {"id": token, "ids": [tid], "tokens": [token]}}
    if tail:
        single.append({"SpecialToken": {"id": tail[0], "type_id": 0}})
        special[tail[0]] = {"id": tail[0], "ids": [tail[1]], "tokens": [tail[0]]}
    return {"type": "TemplateProcessing", "single": single,
            "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special}


GEMMA_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}


def gemma(vocab_size=1500):
    first = GEMMA_TOKENS + ["<0x%02X>" % i for i in range(256)]
    doc = base(train_chars(vocab_size, first),
               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
               split(" ", "MergedWithPrevious", kind="String"), template("<bos>", 2), GEMMA_DECODER)
    number(doc, [added(t, True) for t in GEMMA_TOKENS])
    return doc


ODD_TOKENS = [added("<l>", True, lstrip=True), added("<r>", True, rstrip=True),
              added("<lr>", False, lstrip=True, rstrip=True), added("word", False, single_word=True),
              added("two words", False, normalized=True), added("é", False, normalized=True),
              added("\n\n", False), added("\n\n\n", False), added("<n>", True, normalized=True),
              added("  ", False), added("wordy", False), added("<|im", True), added("ing", False, single_word=True,
                                                                                    normalized=True)]


def variants():
    """Other arrangements of the supported components, small."""
    out = {}
    q, g = qwen(500, QWEN2), gemma(700)

    d = copy.deepcopy(q)
    d["model"]["ignore_merges"] = True
    d["model"]["merges"] = [" ".join(m) for m in d["model"]["merges"]]
    # Words that are whole tokens though no merges make them.
    for w in ("Ġzqx", "QQQ", "ÃŁ"):
        d["model"]["vocab"].setdefault(w, len(d["model"]["vocab"]))
    number(d, [added(t, s) for t, s in QWEN_TOKENS])
    start = d["added_tokens"][1]["id"]
    d["post_processor"] = {"type": "Sequence", "processors": [
        dict(BYTE_LEVEL), template("<|im_start|>", start, ("<|im_end|>", start + 1))]}
    out["ignore_merges"] = d

    d = copy.deepcopy(q)
    d["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    number(d, [added(t, s) for t, s in QWEN_TOKENS[:3]] + ODD_TOKENS)
    out["prefix_space"] = d

    d = copy.deepcopy(g)
    number(d, [added(t, True) for t in GEMMA_TOKENS] + ODD_TOKENS + [added("▁▁", False), added("<x> y", True, normalized=True)])
    out["odd_added"] = d

    d = copy.deepcopy(g)
    d["model"]["byte_fallback"] = False
    d["model"]["vocab"] = {t: i for i, t in enumerate(t for t in d["model"]["vocab"] if not t.startswith("<0x"))}
    d["post_processor"] = template("<bos>", 2, ("<eos>", 1))
    d["decoder"] = None
    d["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, split("▁", "MergedWithNext", kind="String")]}
    out["fused_unk"] = d

    d = copy.deepcopy(g)
    d["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    d["pre_tokenizer"] = None
    d["decoder"] = {"type": "Sequence", "decoders": GEMMA_DECODER["decoders"] + [
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    out["llama"] = d

    d = copy.deepcopy(out["fused_unk"])
    d["model"]["fuse_unk"] = False
    d["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[a-c]\\p{Nd}+"}, "content": "<X>"}
    d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    d["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    out["metaspace"] = d

    # Only compared, not committed, from here on.
    for k, behavior in enumerate(("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")):
        for invert in (False, True):
            d = copy.deepcopy(out["fused_unk"])
            d["normalizer"] = None
            d["pre_tokenizer"] = split(r"\s|[^\s\p{L}\p{N}]+" if k % 2 else r"\s+|\d", behavior, invert)
            out[f"split_{behavior}_{invert}"] = d
    for name in ("Whitespace", "WhitespaceSplit"):
        d = copy.deepcopy(out["fused_unk"])
        d["normalizer"] = None
        d["pre_tokenizer"] = {"type": name}
        out[name] = d
    d = copy.deepcopy(out["fused_unk"])
    d["model"]["byte_fallback"] = True
    for i in range(0x80, 0xF0):  # some bytes only: others fall to unk, in the library's order
        d["model"]["vocab"]["<0x%02X>" % i] = len(d["model"]["vocab"])
    d["pre_tokenizer"] = {"type": "Digits", "individual_digits": False}
    d["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": "▁", "start": 0, "stop": 1}]}
    out["half_bytes"] = d
    d = copy.deepcopy(out["metaspace"])
    d["pre_tokenizer"]["prepend_scheme"] = d["decoder"]["prepend_scheme"] = "always"
    del d["model"]["unk_token"]
    out["metaspace_always"] = d
    d = copy.deepcopy(q)
    d["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    out["gpt2"] = d
    return out


def pairs(pattern):
    """A byte-level tokenizer that joins any two bytes: every word boundary shows in the ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rng = random.Random(3)
    merges = [[a, b] for a in alphabet for b in alphabet]
    rng.shuffle(merges)
    vocab = {t: i for i, t in enumerate(alphabet + [a + b for a, b in merges])}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}
    pre = {"type": "Sequence", "pretokenizers": [split(pattern), dict(BYTE_LEVEL)]} if pattern else \
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    doc = base(model, {"type": "NFC"}, pre, dict(BYTE_LEVEL), dict(BYTE_LEVEL))
    number(doc, [added(t, s) for t, s in QWEN_TOKENS])
    return doc


COMMITTED = ("ignore_merges", "prefix_space", "odd_added", "fused_unk", "llama", "metaspace")


# ---------------------------------------------------------------- strings

MARKS = [chr(c) for c in range(0x300, 0x370)] + [chr(c) for c in (0x483, 0x591, 0x5B0, 0x64B, 0x651, 0x93C, 0x94D, 0x9BE, 0xE38,
                                                                  0xF71, 0x1039, 0x1AB0, 0x20D0, 0x3099, 0x302A, 0xFE20, 0x1D165,
                                                                  0x898, 0x1ABF, 0x10EFD, 0x1E4EC, 0xC3C)]
COMPOSING = "aeiouAEIOUsSlLnNcCkKwyYdD" + "αεηιουω" + "кгиеу" + "かきくはひ" + "\u09c7\u0b47\u1025\u0dd9\u212B\u2126\u0958\ufb2a\u1111\u1171\u11b6"
SPACES = [" ", "  ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x85", "\xa0", "\u1680", "\u180e", "\u2003", "\u2028", "\u202f", "\u3000", "\u200b", "\ufeff"]
EMOJI = ["👨", "👩", "👧", "\u200d", "\ufe0f", "🏽", "🇩", "🇪", "❤", "🏳", "🌈", "1\ufe0f\u20e3"]
PIECES = ["'s", "'T", "'re", "'LL", "'\u017f", "'ve", "don't", "I'M", " the", "The", "ing", "tion", "def ", "return", "();", "==", "!=",
          "//", "/*", "->", "0x1F", "123", "3.14", "１２３", "٣٤", "Ⅳ", "½", "²", "<", ">", "|", "<|", "|>", "▁", "▁▁", "_", "@#$%", "…", "“", "word", "words"]


def cp(rng, lo, hi):
    while True:
        c = rng.randint(lo, hi)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def any_char(rng):
    r = rng.random()
    if r < 0.25:
        return cp(rng, 0, 0x7F)
    if r < 0.4:
        return cp(rng, 0x80, 0x7FF)
    if r < 0.65:
        return cp(rng, 0x800, 0xFFFF)
    if r < 0.85:
        return cp(rng, 0x10000, 0x1FFFF)
    return cp(rng, 0x20000, 0x10FFFF)


def piece(rng, tokens):
    r = rng.randrange(16)
    if r == 0:
        return rng.choice(tokens)
    if r == 1:
        t = rng.choice(tokens)
        return t[:rng.randint(0, len(t))] + rng.choice(["", " ", "x", rng.choice(tokens)])
    if r == 2:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5)))
    if r == 3:
        return "".join(any_char(rng) for _ in range(rng.randint(1, 6)))
    if r == 4:
        return rng.choice(COMPOSING) + "".join(rng.choice(MARKS) for _ in range(rng.randint(0, 5)))
    if r == 5:
        s = cp(rng, 0xAC00, 0xD7A3)
        return unicodedata.normalize("NFD", s) if rng.random() < 0.6 else s + cp(rng, 0x1160, 0x11FF)
    if r == 6:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 5)))
    if r == 7:
        return str(rng.randint(0, 10 ** rng.randint(1, 12)))
    if r == 8:
        s = rng.choice(SENTENCES)
        a = rng.randrange(len(s))
        return s[a:a + rng.randint(1, 30)]
    if r == 9:
        return rng.choice([" ", "a", "\n", "1", "中", "!", "\u0301", "é", "🌍", "▁", " \n", "ab"]) * rng.randint(1, 12)
    if r == 10:
        return unicodedata.normalize("NFD", rng.choice(SENTENCES)[:rng.randint(1, 40)])
    if r == 11:
        return rng.choice(tokens) + rng.choice(SPACES) + rng.choice(tokens)
    if r == 12:
        return rng.choice(["", " "]) + "".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(1, 10)))
    return rng.choice(PIECES)


def text(rng, tokens):
    """Bytes, mostly UTF-8."""
    s = "".join(piece(rng, tokens) for _ in range(rng.choice([1, 1, 2, 3, 5, 8])))
    if rng.random() < 0.005:
        s += rng.choice([" ", "a", "\n", "1", "中", "!", "\u0301", "\u0316\u0301", "ab ", "▁", "\U0001F30D", "\t\n"]) * rng.randint(50, 3000) \
            + piece(rng, tokens)
    b = s.encode("utf-8", "surrogatepass")
    if rng.random() < 0.12:
        b = bytearray(b)
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(b))
            if rng.random() < 0.5 and at < len(b):
                del b[at]
            else:
                b[at:at] = bytes([rng.choice([rng.randrange(256), 0xE2, 0xF0, 0xED, 0xC0, 0x80, 0xFF])])
        b = bytes(b)
    return b


def ids(rng, n_ids, byte_ids, start):
    """Ids to decode: pieces of real encodings, random ids, runs of byte tokens."""
    out = list(start)
    for _ in range(rng.randint(1, 4)):
        r = rng.random()
        if r < 0.4:
            out += [rng.randrange(n_ids) for _ in range(rng.randint(1, 12))]
        elif r < 0.7 and byte_ids:
            data = "".join(any_char(rng) for _ in range(rng.randint(1, 5))).encode()
            if rng.random() < 0.4:
                data = data[rng.randint(0, 2):len(data) - rng.randint(0, 2)]
            out += [byte_ids[b] for b in data]
        else:
            a = rng.randint(0, len(out))
            del out[a:a + rng.randint(0, 2)]
    return out


# ---------------------------------------------------------------- reference

class Reference:
    def __init__(self, doc):
        self.doc = doc
        self.tok = Tokenizer.from_str(json.dumps(doc))
        vocab = self.tok.get_vocab(True)
        self.n_ids = max(vocab.values()) + 1
        self.tokens = [t["content"] for t in doc["added_tokens"]]
        if any(f"<0x{b:02X}>" in vocab for b in range(256)):
            self.bytes = {b: vocab.get(f"<0x{b:02X}>", 0) for b in range(256)}
        else:
            self.bytes = {}

    def encode(self, data, flags):
        self.tok.encode_special_tokens = not flags & SPECIAL
        return self.tok.encode(data.decode("utf-8", "replace"), add_special_tokens=bool(flags & BOS)).ids

    def decode(self, ids_, skip):
        return self.tok.decode(ids_, skip_special_tokens=bool(skip)).encode()


def cases(ref, rng, n):
    """n encodings and n decodings as (op, flags, input, output)."""
    for i in range(n):
        b = text(rng, ref.tokens)
        flags = (SPECIAL, SPECIAL, 0, SPECIAL | BOS)[i % 4]
        got = ref.encode(b, flags)
        yield "E", flags, b, got
        d = got[:60] if i % 2 else ids(rng, ref.n_ids, ref.bytes, got[:rng.randint(0, 20)])
        yield "D", i % 3 % 2, d, ref.decode(d, i % 3 % 2)


FIXED = ["", " ", "  ", "\n", "hello world", " hello", "hello  world", "Hello, World!", "a" * 300, " " * 300 + "x", "\n" * 200, "1" * 100,
         "\u0301" * 50, "e\u0316\u0301\u0316\u0301", "<|im_start|>user\nhi<|im_end|>\n<think>\n", "<bos><|turn>user\nhi<turn|>",
         "e\u0301\u0323", "\u1100\u1161\u11a8", "\uac00\u11a8", "\uac00\u11a7", "\u0344", "\u2126\u212b", "\ufb2c", "\ud55c\uad6d"] + SENTENCES


def write(name, doc, n, rng):
    with open(f"{OUT}/{name}.json", "w") as f:
        json.dump(doc, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    ref = Reference(doc)
    number_list = lambda v: ",".join(map(str, v)) or "-"
    with open(f"{OUT}/{name}.golden", "w") as f:
        for s in FIXED:
            got = ref.encode(s.encode(), SPECIAL)
            f.write(f"E {SPECIAL} {s.encode().hex() or '-'} {number_list(got)}\n")
        for op, flags, a, b in cases(ref, rng, n):
            if len(a) > 120:
                continue
            row = (a.hex() or "-", number_list(b)) if op == "E" else (number_list(a), b.hex() or "-")
            f.write(f"{op} {flags} {row[0]} {row[1]}\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    rng = random.Random(7)
    write("qwen", qwen(), 250, rng)
    write("gemma", gemma(), 250, rng)
    v = variants()
    for name in COMMITTED:
        write(name, v[name], 80, rng)


if __name__ == "__main__":
    main()
