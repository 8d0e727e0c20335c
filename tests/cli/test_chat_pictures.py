#!/usr/bin/env python3
"""Pictures in apus chat, and --image-tokens, with a random model that sees.

    test_chat_pictures.py APUS SOURCE_DIR
"""
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2]).resolve()
DATA = ROOT / "tests/media/data"
SEEING = ROOT / "tests/golden_media/data/qwen_a"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]
TEMPLATE = """{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.content is string -%}{{- m.content -}}
{%- else -%}
{%- for part in m.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part.type == 'text' -%}{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


def byte_alphabet():
    """The characters that byte-level BPE writes the 256 bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) if b in plain else chr(256 + sum(x not in plain for x in range(b))) for b in range(256)]


def read_safetensors(path):
    data = path.read_bytes()
    n, = struct.unpack("<Q", data[:8])
    head = json.loads(data[8:8 + n])
    head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n:][slice(*v["data_offsets"])]) for k, v in head.items()}


def write_safetensors(path, tensors):
    head, body = {}, b""
    for k, (dtype, shape, data) in tensors.items():
        head[k] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def seeing_model(folder):
    """The golden checkpoint with room for a vocabulary of bytes, a tokenizer, a template and a processor."""
    folder.mkdir()
    vocab = 256 + len(SPECIAL)
    tensors = read_safetensors(SEEING / "model.safetensors")
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, [vocab, shape[1]], (data * 2)[:vocab * shape[1] * 2])
    write_safetensors(folder / "model.safetensors", tensors)
    config = json.loads((SEEING / "config.json").read_text())
    ids = {s: 256 + i for i, s in enumerate(SPECIAL)}
    config |= {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
               "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}
    config["text_config"] |= {"vocab_size": vocab, "eos_token_id": ids["<|im_end|>"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0",
        "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for s, i in ids.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(byte_alphabet())}, "merges": []}}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "patch_size": 4, "size": {"shortest_edge": 4096, "longest_edge": 16384}}))
    return folder


class Pictures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = Path(tempfile.mkdtemp(prefix="apus-pictures-"))
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        cls.model = seeing_model(cls.tmp / "model")
        cls.spaced = cls.tmp / "a picture.png"
        shutil.copy(DATA / "rgb.png", cls.spaced)

    def apus(self, *args, stdin=None, status=0):
        r = subprocess.run([*APUS, *map(str, args)], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                           capture_output=True, text=True, errors="replace", timeout=120)
        self.assertEqual(r.returncode, status, f"{args}\n{r.stdout}\n{r.stderr}")
        return r.stdout, r.stderr

    def run_json(self, *args, **kw):
        out, _ = self.apus("run", self.model, *args, "--json", "--print-ids", "--ignore-eos", "--temp", "0", "-n", "12",
                           "--ctx", "2000", **kw)
        r = json.loads(out)
        return r["ids"], r["usage"]["prompt_tokens"]

    def patches_grid(self, picture, *options):
        out = self.tmp / "patches.safetensors"
        self.apus("patches", self.model, picture, *options, "-o", out, "--force")
        return struct.unpack("<3i", read_safetensors(out)["image_grid_thw"][2])

    def test_image_tokens(self):
        grid = self.patches_grid(DATA / "rgb.png", "--image-tokens", "6")
        _, n_text = self.run_json("What?")
        _, n = self.run_json("What?", "-i", DATA / "rgb.png", "--image-tokens", "6")
        self.assertEqual(n, n_text + 2 + grid[1] * grid[2] // 4)
        self.assertLessEqual(grid[1] * grid[2] // 4, 6)
        self.apus("run", self.model, "--image-tokens", "70", "x", status=2)

    # ---- chat

    def chat(self, stdin, status=0):
        out, err = self.apus("chat", self.model, "--temp", "0", "-n", "4", "--ctx", "2000", stdin=stdin, status=status)
        return out, err

    def test_chat_image(self):
        out, err = self.chat(f"/image {DATA / 'rgb.png'}\nWhat?\nAnd now?\n")
        n = int(re.search(r"rgb.png: a picture of (\d+) tokens, shown with the next message", out)[1])
        first, second = map(int, re.findall(r"prompt (\d+) tokens", err))
        self.assertGreater(first, n)
        self.assertLess(second, n)  # the picture is in the session already

    def test_chat_dropped(self):
        for line in (f"'{self.spaced}' What?", f'"{self.spaced}" What?', f"{self.spaced} What?".replace("a picture", "a\\ picture"),
                     f"file://{self.spaced} What?".replace("a picture", "a%20picture")):
            out, _ = self.chat(line + "\n")
            self.assertIn("a picture.png: a picture of ", out, line)
        out, _ = self.chat(f"{DATA / 'rgb.png'} {DATA / 'alpha.png'}\nWhat?\n")
        self.assertEqual(out.count("shown with the next message"), 2)
        out, _ = self.chat("/nowhere/photo.png What?\n")
        self.assertIn("unknown command", out)

    def test_chat_refused(self):
        out, err = self.chat("/image\n/image /nowhere.png\n/image " + str(DATA / "goldens.txt") + "\nHello\n")
        self.assertIn("expected /image FILE", out)
        self.assertIn("/nowhere.png", err)
        self.assertIn("expected a JPEG, PNG, WebP or GIF", err)

    def test_chat_new_and_again(self):
        out, err = self.chat(f"/image {DATA / 'rgb.png'}\nWhat?\n/again\n/new\n/image {DATA / 'alpha.png'}\nWhat?\n/again\n")
        self.assertNotIn("apus chat:", err)
        self.assertIn("a new conversation", out)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
