#!/usr/bin/env python3
"""apus run and apus logits with pictures: places in prompts, what is kept of them, refusals.

    test_pictures.py APUS SOURCE_DIR

The models are those of tests/golden_media with a little tokenizer, a template and a processor's settings.
"""
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2])
GOLDEN = ROOT / "tests/golden_media/data"
QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
GEMMA = ["<|image|>", "<|video|>", "<|image>", "<image|>", "<|audio|>"]
IMAGE, VIDEO, BEGIN, END = 190, 191, 192, 193
CHARS = "".join(chr(c) for c in range(33, 127)) + "\u0120\u010a"


def apus(*args, stdin="", status=0):
    r = subprocess.run(APUS + [str(a) for a in args], input=stdin.encode(), capture_output=True,
                       timeout=120)
    out, err = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
    if r.returncode != status:
        raise AssertionError(f"{args}: status {r.returncode}, expected {status}\n{out}\n{err}")
    return out, err


def make_model(folder, golden, tokens, processor):
    """A golden model that reads text: a token for each printable character."""
    shutil.copytree(GOLDEN / golden, folder)
    mark = tokens[0]
    added = [{"id": IMAGE + i, "content": t, "special": True, "single_word": False,
              "lstrip": False, "rstrip": False, "normalized": False} for i, t in enumerate(tokens)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
             "use_regex": False}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
                 "normalizer": None, "pre_tokenizer": level, "post_processor": None,
                 "decoder": level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None,
                           "continuing_subword_prefix": "", "end_of_word_suffix": "",
                           "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                           "vocab": {**{c: 5 + i for i, c in enumerate(CHARS)},
                                     **{t: IMAGE + i for i, t in enumerate(tokens)}},
                           "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    begin, end = (BEGIN, END) if mark == QWEN[0] else (None, None)
    around = (QWEN[2], QWEN[3]) if begin else ("", "")
    template = ("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% else %}"
                + around[0] + "{{ '" + mark + "' if c.type == 'image' else '" + tokens[1] + "' }}"
                + around[1] + "{% endif %}{% endfor %}{% endif %}{% endfor %}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def png(path, width, height, seed):
    raw = b"".join(b"\0" + bytes((x * 7 + y * 13 + c * 50 + seed * 91) % 256
                                 for x in range(width) for c in range(3)) for y in range(height))

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(
        ">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b""))
    return path


def ids_of(text):
    return [5 + CHARS.index("\u0120" if c == " " else c) for c in text]


class Pictures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())
        cls.qwen = make_model(cls.dir / "qwen", "qwen_a", QWEN, {
            "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 64,
            "max_pixels": 4096})
        cls.a = png(cls.dir / "a.png", 24, 16, 1)  # 6 x 4 patches: 6 places
        cls.b = png(cls.dir / "b.png", 16, 16, 2)  # 4

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def run_ids(self, *args):
        out, err = apus("run", self.qwen, *args, "--print-ids", "-n", 8, "--temp", 0,
                        "--ignore-eos")
        return [int(i) for i in out.split()], err

    def file(self, ids):
        path = self.dir / "ids"
        path.write_text(" ".join(map(str, ids)))
        return path

    def test_places_of_a_prompt(self):
        """The template's mark becomes as many places as the picture takes."""
        said, _ = self.run_ids("-i", self.a, "-i", self.b, "what is it?")
        ids = ([BEGIN] + [IMAGE] * 6 + [END] + [BEGIN] + [IMAGE] * 4 + [END]
               + ids_of("what is it?"))
        same, _ = self.run_ids("-i", self.a, "-i", self.b, "--ids", self.file(ids))
        self.assertEqual(said, same)
        other, _ = self.run_ids("-i", self.b, "-i", self.a, "what is it?")
        self.assertNotEqual(said, other)

    def test_raw(self):
        said, _ = self.run_ids("-i", self.a, "--raw", "see " + QWEN[0] + "?")
        same, _ = self.run_ids("-i", self.a, "--ids",
                               self.file(ids_of("see ") + [IMAGE] * 6 + ids_of("?")))
        self.assertEqual(said, same)

    def test_patches_of_a_file(self):
        """What apus patches writes is seen as the picture itself is."""
        patches = self.dir / "a.safetensors"
        apus("patches", self.qwen, self.a, "-o", patches, "--force")
        self.assertEqual(self.run_ids("-i", self.a, "hm")[0], self.run_ids("-i", patches, "hm")[0])

    def test_logits(self):
        ids = self.file([BEGIN] + [IMAGE] * 6 + [END] + ids_of("and") + [IMAGE] * 4 + ids_of("so"))
        out = self.dir / "logits.safetensors"
        apus("logits", self.qwen, "--ids", ids, "-i", self.a, "-i", self.b, "-o", out, "--force")
        first = out.read_bytes()
        apus("logits", self.qwen, "--ids", ids, "-i", self.a, "-i", self.b, "-o", out, "--force",
             "--prefill-chunk", 3)
        self.assertEqual(first, out.read_bytes())

    def test_what_is_kept(self):
        """A second question about the same picture reads its own tokens alone."""
        cache = self.dir / "cache"
        cache.unlink(missing_ok=True)
        self.run_ids("-i", self.a, "--prompt-cache", cache, "what is it?")
        said, err = self.run_ids("-i", self.a, "--prompt-cache", cache, "what was it?")
        self.assertIn("prompt tokens were kept", err)
        kept = int(err.split(" of ")[0].split()[-1])
        self.assertGreaterEqual(kept, 1 + 6 + 1 + len("what "))
        self.assertEqual(said, self.run_ids("-i", self.a, "what was it?")[0])
        said, err = self.run_ids("-i", self.b, "--prompt-cache", cache, "what was it?")
        self.assertIn("1 of ", err)  # the mark before the picture
        self.assertEqual(said, self.run_ids("-i", self.b, "what was it?")[0])

    def test_refusals(self):
        _, err = apus("run", self.qwen, "-i", self.a, "--raw", "no mark", status=1)
        self.assertIn("marks for 0 only", err)
        _, err = apus("run", self.qwen, "--raw", "-i", self.a, QWEN[0] * 2, status=1)
        self.assertIn("only 1 media are given", err)
        _, err = apus("run", self.qwen, "-i", self.a, "--raw", QWEN[1], status=1)
        self.assertIn("medium 1 is", err)
        out = self.dir / "no.safetensors"
        for ids, says in (([IMAGE] * 5, "needs 6 places"), ([IMAGE] * 7, "none of 1 media"),
                          ([IMAGE] * 3 + [7] + [IMAGE] * 3, "found 3 of them")):
            _, err = apus("logits", self.qwen, "--ids", self.file(ids), "-i", self.a, "-o", out,
                          status=1)
            self.assertIn(says, err)
        _, err = apus("run", ROOT / "models/tiny-qwen", "-i", self.a, "x", status=1)
        self.assertIn("text only", err)
        cut = self.dir / "cut.safetensors"
        cut.write_bytes((GOLDEN / "qwen_a/picture_0.safetensors").read_bytes()[:-9])
        apus("logits", self.qwen, "--ids", self.file([IMAGE] * 6), "-i", cut, "-o", out, status=1)
        other = GOLDEN / "qwen_b/picture_3.safetensors"
        _, err = apus("logits", self.qwen, "--ids", self.file([IMAGE] * 2), "-i", other, "-o", out,
                      status=1)
        self.assertIn("values", err)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
