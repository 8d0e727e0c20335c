#!/usr/bin/env python3
"""apus patches.

    test_patches.py APUS SOURCE_DIR
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
DATA = ROOT / "tests/media/data"
GEMMA = ROOT / "models/configs/gemma-4-E2B-it"
QWEN = ROOT / "models/configs/Qwen3.5-4B"


def goldens():
    """(file, kind) -> budget, parts, rows, width, tokens, crc"""
    out = {}
    for line in (DATA / "goldens.txt").read_text().splitlines():
        name, kind, *numbers, crc = line.split()
        out[name, kind] = (*map(int, numbers), int(crc, 16))
    return out


class Patches(unittest.TestCase):
    def setUp(self):
        self.tmp = Path(tempfile.mkdtemp(prefix="apus-patches-"))
        self.addCleanup(shutil.rmtree, self.tmp)
        self.out = self.tmp / "out.safetensors"

    def patches(self, model, picture, *options, status=0):
        self.out.unlink(missing_ok=True)
        r = subprocess.run([*APUS, "patches", model, picture, *options, "-o", self.out],
                           capture_output=True, text=True, timeout=120)
        self.assertEqual(r.returncode, status, r.stderr)
        if status:
            self.assertFalse(self.out.exists())
            return r.stderr
        data = self.out.read_bytes()
        n, = struct.unpack("<Q", data[:8])
        self.assertEqual(n % 8, 0)
        return {k: (v["dtype"], v["shape"], data[8 + n:][slice(*v["data_offsets"])])
                for k, v in json.loads(data[8:8 + n]).items()}

    def test_gemma(self):
        for name in ("rgb.png", "rgb.jpg", "alpha.png", "one.png", "long.png"):
            budget, _, rows, width, _, crc = goldens()[name, "gemma"]
            t = self.patches(GEMMA, DATA / name, "--image-tokens", str(budget))
            dtype, shape, values = t["pixel_values"]
            self.assertEqual((dtype, shape), ("F32", [1, 9 * budget, width]))
            self.assertEqual(zlib.crc32(values[:4 * rows * width]), crc)
            self.assertFalse(any(values[4 * rows * width:]))
            dtype, shape, pos = t["image_position_ids"]
            self.assertEqual((dtype, shape), ("I32", [1, 9 * budget, 2]))
            pos = struct.unpack(f"<{18 * budget}i", pos)
            across = max(pos[0::2]) + 1
            self.assertEqual(pos[:2 * rows], tuple(v for i in range(rows) for v in (i % across, i // across)))
            self.assertEqual(set(pos[2 * rows:]), {-1} if rows < 9 * budget else set())

    def test_qwen(self):
        for name in ("rgb.png", "rgb.jpg", "alpha.png", "one.png", "long.png"):
            _, _, rows, width, _, crc = goldens()[name, "qwen"]
            t = self.patches(QWEN, DATA / name)
            dtype, shape, values = t["pixel_values"]
            self.assertEqual((dtype, shape, zlib.crc32(values)), ("F32", [rows, width], crc))
            dtype, shape, grid = t["image_grid_thw"]
            grid = struct.unpack("<3i", grid)
            self.assertEqual((dtype, shape, grid[0], grid[1] * grid[2]), ("I32", [1, 3], 1, rows))

    def test_videos(self):
        _, parts, rows, width, _, crc = goldens()["film.gif", "qwen"]
        t = self.patches(QWEN, DATA / "film.gif")
        self.assertEqual(zlib.crc32(t["pixel_values_videos"][2]), crc)
        self.assertEqual(t["video_grid_thw"][2][:4], struct.pack("<i", parts))
        _, parts, rows, width, _, crc = goldens()["film.png", "gemma"]
        t = self.patches(GEMMA, DATA / "film.png")
        self.assertEqual(t["pixel_values_videos"][1], [parts, 630, width])
        self.assertEqual(t["video_position_ids"][1], [parts, 630, 2])
        still = self.patches(GEMMA, DATA / "film.png", "--still")
        self.assertEqual(still["pixel_values"][1], [1, 2520, width])

    def test_folder_of_pictures(self):
        film = self.tmp / "film"
        film.mkdir()
        for i in range(5):
            shutil.copy(DATA / "rgb.png", film / f"{i}.png")
        t = self.patches(QWEN, film)
        self.assertEqual(t["video_grid_thw"][2][:4], struct.pack("<i", 2))
        shutil.copy(DATA / "alpha.png", film / "9.png")
        self.assertIn("film/9.png: 40 x 24 pixels, the film's first picture has 53 x 37",
                      self.patches(QWEN, film, status=1))

    def test_sound(self):
        t = self.patches(GEMMA, DATA / "sound16.wav")
        dtype, shape, _ = t["input_features"]
        self.assertEqual((dtype, shape[0], shape[2]), ("F32", 1, 128))
        dtype, mask_shape, mask = t["input_features_mask"]
        self.assertEqual((dtype, mask_shape, set(mask[:12])), ("U8", shape[:2], {1}))
        self.assertIn("does not hear sound", self.patches(QWEN, DATA / "sound16.wav", status=1))
        self.assertIn("is damaged or cut short", self.patches(GEMMA, DATA / "cut_sound.flac", status=1))
        self.assertEqual(self.patches(GEMMA, DATA / "sound.flac")["input_features"][1], shape)

    def test_settings_of_the_model(self):
        model = self.tmp / "model"
        shutil.copytree(GEMMA, model)
        (model / "processor_config.json").write_text('{"image_processor": {"max_soft_tokens": 70}}')
        self.assertEqual(self.patches(model, DATA / "rgb.png")["pixel_values"][1], [1, 630, 768])
        (model / "processor_config.json").write_text('{"image_processor": {"max_soft_tokens": 71}}')
        self.assertIn("processor_config.json: image_processor.max_soft_tokens: expected 70, 140",
                      self.patches(model, DATA / "rgb.png", status=1))

    def test_refused(self):
        for name, says in (("bomb.png", "60000 x 60000 pixels, at most 100000000"), ("cut_rgb.jpg", "cut short"),
                           ("goldens.txt", "expected a JPEG, PNG, WebP or GIF picture"), ("nowhere.png", "nowhere.png")):
            err = self.patches(GEMMA, DATA / name, status=1)
            self.assertIn(says, err)
            self.assertEqual(err.count("\n"), 1)
            self.assertIn(name, err)
        self.assertIn("70, 140, 280, 560 or 1120", self.patches(GEMMA, DATA / "rgb.png", "--image-tokens", "100", status=1))
        self.assertIn("takes text only", self.patches(ROOT / "models/configs/Qwen3-30B-A3B", DATA / "rgb.png", status=1))

    def test_usage(self):
        for args in (["patches"], ["patches", GEMMA, "-o", self.out], ["patches", GEMMA, DATA / "rgb.png"]):
            self.assertEqual(subprocess.run([*APUS, *args], capture_output=True).returncode, 2, args)
        self.patches(GEMMA, DATA / "rgb.png")
        r = subprocess.run([*APUS, "patches", GEMMA, DATA / "rgb.jpg", "-o", self.out], capture_output=True, text=True)
        self.assertEqual(r.returncode, 1)
        self.assertIn("--force", r.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
