#!/usr/bin/env python3
"""apus run, logits and chat with sounds: places in prompts, order among pictures, what is kept of them, refusals.

    test_sounds.py APUS SOURCE_DIR

The models are those of tests/golden_media with a little tokenizer, a template and a processor's settings.
"""
import json
import math
import shutil
import struct
import sys
import tempfile
import unittest
import wave
from pathlib import Path

from test_pictures import CHARS, GOLDEN, IMAGE, ROOT, apus, ids_of, png

MARKS = ["<|image|>", "<|video|>", "<|image>", "<image|>", "<|audio|>", "<|audio>", "<audio|>"]
BEGIN, END, AUDIO, BEGIN_AUDIO, END_AUDIO = 192, 193, 194, 195, 196
TEMPLATE = ("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
            "{% if c.type == 'text' %}{{ c.text }}{% else %}{{ '<|' + c.type + '|>' }}{% endif %}"
            "{% endfor %}{% endif %}{% endfor %}")


def hearing_model(folder, golden, processor):
    """A golden model that reads text: a token for each printable character."""
    shutil.copytree(GOLDEN / golden, folder)
    added = [{"id": IMAGE + i, "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False} for i, t in enumerate(MARKS)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    vocab = {**{c: 5 + i for i, c in enumerate(CHARS)}, **{t: IMAGE + i for i, t in enumerate(MARKS)}}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def wav(path, samples, rate=16000, pitch=440):
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(b"".join(struct.pack("<h", int(12000 * math.sin(i * pitch * 2 * math.pi / rate)))
                               for i in range(samples)))
    return path


class Sounds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.model = hearing_model(cls.dir / "model", "gemma_sound", {
            "patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70, "feature_size": 16})
        cls.unified = hearing_model(cls.dir / "unified", "gemma_unified_sound", {
            "patch_size": 2, "pooling_kernel_size": 2, "max_soft_tokens": 70, "audio_samples_per_token": 24})
        cls.deaf = hearing_model(cls.dir / "deaf", "gemma_e", {
            "patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70, "feature_size": 16})
        cls.high = wav(cls.dir / "high.wav", 8000)          # 49 rows: 13 places
        cls.low = wav(cls.dir / "low.wav", 4000, 8000, 90)  # likewise, at half the rate
        cls.short = wav(cls.dir / "short.wav", 1600)        # 9 rows: 3 places
        cls.picture = png(cls.dir / "a.png", 24, 24, 1)

    def run_ids(self, *args, model=None):
        out, err = apus("run", model or self.model, *args, "--print-ids", "-n", 8, "--temp", 0, "--ignore-eos")
        return [int(i) for i in out.split()], err

    def file(self, ids):
        path = self.dir / "ids"
        path.write_text(" ".join(map(str, ids)))
        return path

    def places(self, n):
        return [BEGIN_AUDIO] + [AUDIO] * n + [END_AUDIO]

    def picture_places(self):
        out, _ = apus("run", self.model, "-i", self.picture, "x", "--json", "-n", 1)
        return json.loads(out)["usage"]["prompt_tokens"] - 3

    def test_places_of_a_prompt(self):
        said, _ = self.run_ids("--audio", self.high, "--audio", self.short, "what?")
        ids = self.file(self.places(13) + self.places(3) + ids_of("what?"))
        self.assertEqual(said, self.run_ids("--audio", self.high, "--audio", self.short, "--ids", ids)[0])
        self.assertNotEqual(said, self.run_ids("--audio", self.low, "--audio", self.short, "--ids", ids)[0])

    def test_order_among_pictures(self):
        """The prompt has them as the options come."""
        seen = [BEGIN] + [IMAGE] * self.picture_places() + [END]
        first, _ = self.run_ids("-i", self.picture, "--audio", self.high, "what?")
        last, _ = self.run_ids("--audio", self.high, "-i", self.picture, "what?")
        one = self.file(seen + self.places(13) + ids_of("what?"))
        self.assertEqual(first, self.run_ids("-i", self.picture, "--audio", self.high, "--ids", one)[0])
        other = self.file(self.places(13) + seen + ids_of("what?"))
        self.assertEqual(last, self.run_ids("-i", self.picture, "--audio", self.high, "--ids", other)[0])

    def test_without_a_tower(self):
        said, _ = self.run_ids("--audio", self.short, "hm", model=self.unified)
        ids = self.file(self.places(math.ceil(1600 / 24)) + ids_of("hm"))
        self.assertEqual(said, self.run_ids("--audio", self.short, "--ids", ids, model=self.unified)[0])

    def test_rows_of_a_file(self):
        """What apus patches writes is heard as the sound itself is."""
        rows = self.dir / "high.safetensors"
        apus("patches", self.model, self.high, "-o", rows, "--force")
        self.assertEqual(self.run_ids("--audio", self.high, "hm")[0], self.run_ids("--audio", rows, "hm")[0])

    def test_logits(self):
        """Sounds fill their places and pictures theirs, whatever the order of the options."""
        seen = [BEGIN] + [IMAGE] * self.picture_places() + [END]
        ids = self.file(self.places(3) + ids_of("and") + seen + ids_of("so") + self.places(13) + ids_of("on"))
        sounds = ["--audio", self.short, "--audio", self.high]
        outs = []
        for order in (sounds + ["-i", self.picture], ["-i", self.picture] + sounds,
                      sounds + ["-i", self.picture, "--prefill-chunk", 3]):
            out = self.dir / "logits.safetensors"
            apus("logits", self.model, "--ids", ids, *order, "-o", out, "--force")
            outs.append(out.read_bytes())
        self.assertEqual(outs[0], outs[1])
        self.assertEqual(outs[0], outs[2])

    def test_what_is_kept(self):
        cache = self.dir / "cache"
        cache.unlink(missing_ok=True)
        self.run_ids("--audio", self.high, "--prompt-cache", cache, "what is it?")
        said, err = self.run_ids("--audio", self.high, "--prompt-cache", cache, "what was it?")
        self.assertGreaterEqual(int(err.split(" of ")[0].split()[-1]), 1 + 13 + 1 + len("what "))
        self.assertEqual(said, self.run_ids("--audio", self.high, "what was it?")[0])
        said, err = self.run_ids("--audio", self.low, "--prompt-cache", cache, "what was it?")
        self.assertIn("1 of ", err)  # the mark before the sound
        self.assertEqual(said, self.run_ids("--audio", self.low, "what was it?")[0])

    def test_chat(self):
        out, err = apus("chat", self.model, "--temp", 0, "-n", 4, stdin=f"/audio {self.high}\nWhat?\n"
                        f"/image {self.picture}\nAnd that?\n/audio\n")
        self.assertIn("high.wav: a sound of 13 tokens", out)
        self.assertIn("a.png: a picture of", out)
        self.assertIn("expected /audio FILE", out)
        self.assertNotIn("apus chat:", err)
        out, err = apus("chat", self.model, "--temp", 0, "-n", 4, stdin=f"{self.high} What?\n")
        self.assertIn("a sound of 13 tokens", out)

    def test_refusals(self):
        for args, says in ((("-i", self.high), "given with --audio"),
                           (("--audio", self.picture), "given with --image")):
            _, err = apus("run", self.model, *args, "x", status=1)
            self.assertIn(says, err)
        _, err = apus("run", self.deaf, "--audio", self.high, "x", status=1)
        self.assertIn("audio_config", err)
        _, err = apus("chat", self.deaf, "-n", 4, stdin=f"/audio {self.high}\nWhat?\nHello\n")
        self.assertIn("audio_config", err)
        _, err = apus("run", ROOT / "models/tiny-gemma", "--audio", self.high, "x", status=1)
        self.assertIn("text only", err)
        out = self.dir / "no.safetensors"
        for ids, says in (([AUDIO] * 12, "needs 13 places"), ([AUDIO] * 14, "none of 1 media"),
                          ([IMAGE] * 13, "needs 13 places (id 194)")):
            _, err = apus("logits", self.model, "--ids", self.file(ids), "--audio", self.high, "-o", out, status=1)
            self.assertIn(says, err)
        other = GOLDEN / "gemma_sound_b/picture_1.safetensors"  # rows of 11 values
        _, err = apus("logits", self.model, "--ids", self.file([AUDIO] * 7), "--audio", other, "-o", out, status=1)
        self.assertIn("rows of 16 values, found 11", err)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
