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

from seeing import DATA, ROOT, read_safetensors, seeing_model

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]


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
