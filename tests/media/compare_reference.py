#!/usr/bin/env python3
"""`apus patches` beside the reference's processors, over generated pictures of all sizes and shapes.

    compare_reference.py APUS [--count N] [--seed S] [--videos N] [--sounds N]

Needs torch, torchvision, transformers, Pillow, numpy and safetensors. Prints for each processor the largest
difference and the share of values that differ; exits 1 if that is more than 1/255 or 0.1 %, or if shapes or
positions differ. Log mel energies may differ by 1e-3: the reference's transform is one of float32.
"""
import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import warnings
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor
from transformers.models.gemma4_unified.image_processing_gemma4_unified import Gemma4UnifiedImageProcessor
from transformers.models.gemma4_unified.video_processing_gemma4_unified import Gemma4UnifiedVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

warnings.simplefilter("ignore")
torch.set_num_threads(1)
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
QWEN = dict(HALF, patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216})
QWEN_VIDEO = dict(HALF, size={"shortest_edge": 4096, "longest_edge": 25165824}, cap_pixels_per_frame=False)
ROOT = Path(__file__).resolve().parents[2]


class Comparison:
    """Differences of one kind of output, added up."""

    def __init__(self, name):
        self.name, self.cases, self.values, self.differ, self.largest, self.errors = name, 0, 0, 0, 0.0, []

    def add(self, case, got, want):
        self.cases += 1
        for key, w in want.items():
            g = got.get(key)
            if g is None or g.shape != w.shape:
                self.errors.append(f"{case}: {key} {None if g is None else g.shape}, reference {w.shape}")
            elif w.dtype.kind == "f":
                d = np.abs(g.astype(np.float64) - w)
                self.values += d.size
                self.differ += int((d != 0).sum())
                self.largest = max(self.largest, float(d.max(initial=0)))
                if d.max(initial=0) > 0.01:
                    self.errors.append(f"{case}: {key} differs by {d.max()}")
            elif not np.array_equal(g, w):
                self.errors.append(f"{case}: {key} differs")

    def report(self, largest, most=1e-3):
        share = self.differ / max(1, self.values)
        ok = not self.errors and self.largest <= largest * 1.0001 and share <= most
        print(f"{self.name:24} {self.cases:4} cases, {self.values:12} values, largest difference {self.largest:.3g}, "
              f"{100 * share:.4f} % differ{'' if ok else '  FAILED'}")
        for e in self.errors[:10]:
            print("   ", e)
        return ok


def tensors(features, keys):
    return {k: np.asarray(features[k]) for k in keys}


def model_folder(tmp, name, config, processor):
    folder = tmp / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def run(apus, model, file, out, *options):
    r = subprocess.run([apus, "patches", model, file, *options, "-o", out, "--force"], capture_output=True, text=True)
    if r.returncode:
        return r.stderr.strip()
    return load_file(out)


# ---------------------------------------------------------------- what is generated

def scene(rng, h, w, c=3):
    """Waves, edges and noise: what resampling is sensitive to."""
    y, x = np.ogrid[0:h, 0:w]
    out = np.empty((h, w, c), np.uint8)
    for k in range(c):
        fx, fy = rng.uniform(0.001, 1.5, 2)
        a = 128 + 90 * np.sin(fx * x + k) * np.cos(fy * y)
        if rng.random() < 0.5:
            a = a + rng.normal(0, 25, (h, w))
        if rng.random() < 0.3:
            a = np.where((x // max(1, w // 7) + y // max(1, h // 5)) % 2, a, 255 - a)
        out[..., k] = np.clip(a, 0, 255)
    return out


def sizes(rng, count):
    """From 1 x 1 to 8000 x 6000, all shapes."""
    fixed = [(1, 1), (1, 2), (2, 1), (1, 150), (150, 1), (1, 1000), (3000, 100), (100, 3000), (8000, 40), (40, 8000),
             (224, 224), (480, 640), (768, 768), (1080, 1920), (6000, 8000), (8000, 6000), (4000, 3000)]
    yield from fixed[:count]
    for _ in range(count - len(fixed)):
        while True:
            h, w = (int(2 ** rng.uniform(0, math.log2(8000))) for _ in range(2))
            if h * w <= 12_000_000 and (h * w < 2_000_000 or rng.random() < 0.3):
                break
        yield h, w


def save_picture(rng, path, h, w):
    """In one of the formats; returns the picture's path."""
    kind = rng.choice(["png", "png", "jpg", "jpg", "webp", "gray.jpg", "gray.png", "rgba.png", "palette.png", "gif",
                       "exif.jpg", "cmyk.jpg", "progressive.jpg", "la.png"])
    if kind.endswith("webp") and max(h, w) > 16000:
        kind = "png"
    out = path / f"picture.{kind}"
    if kind in ("rgba.png", "cmyk.jpg"):
        im = Image.fromarray(scene(rng, h, w, 4), "RGBA" if kind == "rgba.png" else "CMYK")
    else:
        im = Image.fromarray(scene(rng, h, w))
    options = {}
    if kind.startswith("gray"):
        im = im.convert("L")
    if kind.startswith("la"):
        im = Image.merge("LA", (im.convert("L"), im.getchannel(1)))
    if kind.startswith("palette") or kind == "gif":
        im = im.quantize(int(rng.integers(2, 64)))
        if rng.random() < 0.3:
            options["transparency"] = 1
    if kind.startswith("exif"):
        options["exif"] = Image.Exif()
        options["exif"][0x112] = int(rng.integers(1, 9))
    if kind.endswith(".jpg") or kind == "jpg":
        options |= {"quality": int(rng.integers(20, 100)), "progressive": kind.startswith("progressive")}
        if kind != "gray.jpg" and kind != "cmyk.jpg":
            options["subsampling"] = int(rng.integers(0, 3))
    if kind.endswith("png"):
        options["compress_level"] = 1
    im.save(out, **options)
    return out


# ---------------------------------------------------------------- comparisons

def compare_pictures(args, tmp, models):
    rng = np.random.default_rng(args.seed)
    gemma, unified, qwen = Gemma4ImageProcessor(), Gemma4UnifiedImageProcessor(), Qwen2VLImageProcessor(**QWEN)
    result = {k: Comparison(k) for k in ("gemma", "gemma without tower", "qwen")}
    refused = 0
    for i, (h, w) in enumerate(sizes(rng, args.count)):
        file = save_picture(rng, tmp, h, w)
        picture = ImageOps.exif_transpose(Image.open(file))
        budget = int(rng.choice([70, 140, 280, 560, 1120]))
        case = f"{i}: {file.name} {h}x{w}, {budget} tokens"
        for name, processor in (("gemma", gemma), ("gemma without tower", unified)):
            if name != "gemma" and i % 4:
                continue
            want = processor(images=[picture], max_soft_tokens=budget, return_tensors="np")
            got = run(args.apus, models[name], file, tmp / "out.safetensors", "--image-tokens", str(budget))
            if isinstance(got, str):
                result[name].errors.append(f"{case}: {got}")
            else:
                result[name].add(case, got, tensors(want, ["pixel_values", "image_position_ids"]))
        got = run(args.apus, models["qwen"], file, tmp / "out.safetensors")
        try:
            want = qwen(images=[picture], return_tensors="np")
        except ValueError as e:
            refused += 1
            if not isinstance(got, str) or "200 times" not in got:
                result["qwen"].errors.append(f"{case}: reference refuses ({e}), apus: {got if isinstance(got, str) else 'takes it'}")
            continue
        if isinstance(got, str):
            result["qwen"].errors.append(f"{case}: {got}")
        else:
            result["qwen"].add(case, got, tensors(want, ["pixel_values", "image_grid_thw"]))
    print(f"{refused} pictures are too long for qwen, here as there")
    return [result["gemma"].report(1 / 255), result["gemma without tower"].report(1 / 255), result["qwen"].report(2 / 255)]


def compare_videos(args, tmp, models):
    rng = np.random.default_rng(args.seed + 1)
    gemma, unified, qwen = Gemma4VideoProcessor(), Gemma4UnifiedVideoProcessor(), Qwen3VLVideoProcessor(**QWEN_VIDEO)
    result = {k: Comparison(k + " video") for k in ("gemma", "gemma without tower", "qwen")}
    for i in range(args.videos):
        n, h, w = int(rng.integers(32, 80)), int(rng.integers(8, 200)), int(rng.integers(8, 200))
        frames = np.stack([scene(rng, h, w) for _ in range(n)])
        ms = int(rng.integers(2, 30)) * 10
        file = tmp / "film.png"
        ims = [Image.fromarray(f) for f in frames]
        ims[0].save(file, save_all=True, append_images=ims[1:], duration=ms, compress_level=1)
        meta = {"total_num_frames": n, "fps": 1000 / ms, "duration": n * ms / 1000, "frames_indices": list(range(n))}
        for name, p, keys in (("gemma", gemma, ["pixel_values_videos", "video_position_ids"]),
                              ("gemma without tower", unified, ["pixel_values_videos", "video_position_ids"]),
                              ("qwen", qwen, ["pixel_values_videos", "video_grid_thw"])):
            got = run(args.apus, models[name], file, tmp / "out.safetensors")
            want = p(videos=[frames], video_metadata=[dict(meta)], return_tensors="pt")
            if isinstance(got, str):
                result[name].errors.append(f"{i}: {got}")
            else:
                result[name].add(f"{i}: {n} frames {h}x{w} {ms} ms", got, tensors(want, keys))
    return [result["gemma"].report(1 / 255), result["gemma without tower"].report(1 / 255), result["qwen"].report(2 / 255)]


def compare_sounds(args, tmp, models):
    rng = np.random.default_rng(args.seed + 2)
    mel, frames = Gemma4AudioFeatureExtractor(), Gemma4UnifiedAudioFeatureExtractor()
    result = {k: Comparison(k + " sound") for k in ("gemma", "gemma without tower")}
    for i in range(args.sounds):
        n = [1600, 480000, 500001, 16000][i] if i < 4 else int(2 ** rng.uniform(9, 19))
        t = np.arange(n) / 16000
        x = 0.4 * np.sin(2 * np.pi * rng.uniform(50, 7000) * t) + rng.normal(0, 0.05, n) * rng.integers(0, 2)
        pcm = np.clip(x * 32768, -32768, 32767).astype("<i2")
        file = tmp / "sound.wav"
        with wave.open(str(file), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(16000)
            f.writeframes(pcm.tobytes())
        signal = (pcm / 32768).astype(np.float32)
        for name, p in (("gemma", mel), ("gemma without tower", frames)):
            want = p([signal], return_tensors="np")
            got = run(args.apus, models[name], file, tmp / "out.safetensors")
            if isinstance(got, str):
                result[name].errors.append(f"{i}: {n} samples: {got}")
                continue
            want = {"input_features": np.asarray(want["input_features"], np.float32),
                    "input_features_mask": np.asarray(want["input_features_mask"], np.uint8)}
            result[name].add(f"{i}: {n} samples", got, want)
    return [result["gemma"].report(1e-3, most=1), result["gemma without tower"].report(0)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("apus")
    p.add_argument("--count", type=int, default=500)
    p.add_argument("--videos", type=int, default=10)
    p.add_argument("--sounds", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    random.seed(args.seed)
    configs = ROOT / "models/configs"
    gemma = json.loads((configs / "gemma-4-E2B-it/config.json").read_text())
    unified = json.loads((configs / "gemma-4-31B-it/config.json").read_text())
    unified["model_type"] = "gemma4_unified"
    unified["text_config"]["model_type"] = "gemma4_unified_text"
    unified.pop("architectures", None)
    qwen = json.loads((configs / "Qwen3.5-4B/config.json").read_text())
    with tempfile.TemporaryDirectory() as t:
        tmp = Path(t)
        models = {
            "gemma": model_folder(tmp, "gemma", gemma, {"image_processor": Gemma4ImageProcessor().to_dict(),
                                                        "video_processor": Gemma4VideoProcessor().to_dict(),
                                                        "feature_extractor": {"sampling_rate": 16000}}),
            "gemma without tower": model_folder(tmp, "unified", unified, {}),
            "qwen": model_folder(tmp, "qwen", qwen, {"image_processor": Qwen2VLImageProcessor(**QWEN).to_dict(),
                                                     "video_processor": Qwen3VLVideoProcessor(**QWEN_VIDEO).to_dict()}),
        }
        ok = compare_pictures(args, tmp, models) + compare_videos(args, tmp, models) + compare_sounds(args, tmp, models)
    sys.exit(0 if all(ok) else 1)


if __name__ == "__main__":
    main()
