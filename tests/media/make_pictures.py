#!/usr/bin/env python3
"""Make the small pictures, films and sounds in tests/media/data, and goldens.txt, what Pillow and the
reference's processors make of them. Needs torch, torchvision, transformers, Pillow, soundfile and numpy.

    make_pictures.py           everything
    make_pictures.py --keep    only goldens.txt, of the files that are there

A line of goldens.txt: FILE KIND BUDGET, then for KIND "pixels" WIDTH HEIGHT CRC (of the upright RGB bytes), else
PARTS ROWS WIDTH TOKENS CRC (of the F32 values of all rows that are no filling).
"""
import io
import struct
import sys
import warnings
import wave
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageOps
from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor
from transformers.models.gemma4_unified.image_processing_gemma4_unified import Gemma4UnifiedImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

warnings.simplefilter("ignore")
DATA = Path(__file__).parent / "data"
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
FRAMES, DELAY = 40, 100  # of the films, in ms


def scene(h, w, channels, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    planes = [128 + 80 * np.sin(x / (3 + k) + seed) * np.cos(y / (5 - k % 3)) + rng.normal(0, 12, (h, w))
              for k in range(channels)]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(w, h, depth, color, rows, interlace=0, extra=b""):
    head = struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, interlace)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def interlaced(pixels):
    h, w, _ = pixels.shape
    rows = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        part = pixels[y0::dy, x0::dx]
        if part.size:
            rows += b"".join(b"\0" + r.tobytes() for r in part)
    return png(w, h, 8, {3: 2, 4: 6}[pixels.shape[2]], rows, 1)


def deep(pixels, color):
    """16 bits, the lower ones of which are noise."""
    h, w, _ = pixels.shape
    wide = pixels.astype(">u2") * 256 + np.random.default_rng(1).integers(0, 256, pixels.shape)
    return png(w, h, 16, color, b"".join(b"\0" + r.astype(">u2").tobytes() for r in wide))


def save(name, image, **options):
    image.save(DATA / name, **options)


def make_pictures():
    rgb, rgba = scene(37, 53, 3, 1), scene(24, 40, 4, 2)
    image, alpha = Image.fromarray(rgb), Image.fromarray(rgba)
    save("rgb.png", image)
    save("alpha.png", alpha)
    save("gray_alpha.png", Image.merge("LA", (alpha.convert("L"), alpha.getchannel(3))))
    save("gray.png", image.convert("L"))
    save("bits.png", image.convert("1"))
    save("key.png", image, transparency=tuple(int(v) for v in rgb[5, 5]))
    palette = image.quantize(13)
    save("palette.png", palette)
    save("palette_alpha.png", palette, transparency=bytes(range(0, 250, 20)))
    (DATA / "interlaced.png").write_bytes(interlaced(rgb))
    (DATA / "interlaced_alpha.png").write_bytes(interlaced(rgba))
    (DATA / "deep.png").write_bytes(deep(rgb, 2))
    (DATA / "deep_gray.png").write_bytes(deep(rgb[..., :1], 0))
    (DATA / "deep_alpha.png").write_bytes(deep(rgba, 6))
    save("rgb.jpg", image, quality=80)
    save("half.jpg", image, quality=60, subsampling=1)
    save("gray.jpg", image.convert("L"))
    save("cmyk.jpg", Image.fromarray(scene(20, 30, 4, 3), "CMYK"))
    save("progressive.jpg", image, progressive=True)
    for o in range(2, 9):
        exif = Image.Exif()
        exif[0x112] = o
        save(f"turned{o}.jpg", image.crop((0, 0, 24, 9)), exif=exif)
    exif = Image.Exif()
    exif[0x112] = 6
    save("turned.png", image, exif=exif)
    save("turned.webp", image, exif=exif, quality=50)
    save("lossy.webp", image, quality=70)
    save("lossless.webp", alpha, lossless=True)
    save("alpha.webp", alpha, quality=60)
    save("still.gif", palette)
    save("transparent.gif", palette, transparency=3, interlace=1)
    save("one.png", image.crop((0, 0, 1, 1)))
    save("long.png", image.crop((0, 0, 53, 1)))


def make_films():
    frames = []
    canvas = scene(16, 24, 3, 4)
    for i in range(FRAMES):
        canvas = canvas.copy()
        canvas[i % 9:i % 9 + 5, i % 17:i % 17 + 6] = scene(5, 6, 3, 50 + i)
        frames.append(Image.fromarray(canvas))
    small = [f.quantize(16) for f in frames]
    options = {"save_all": True, "duration": DELAY}
    save("film.gif", small[0], append_images=small[1:], disposal=1, **options)
    save("film.png", frames[0], append_images=frames[1:], **options)
    save("film.webp", frames[0], append_images=frames[1:], quality=30, **options)


def make_sounds():
    t = np.arange(8000) / 16000
    x = 0.5 * np.sin(2 * np.pi * (200 + 2000 * t) * t)
    for name, width in (("sound8.wav", 1), ("sound16.wav", 2), ("sound24.wav", 3), ("sound32.wav", 4)):
        with wave.open(str(DATA / name), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(width)
            f.setframerate(16000)
            v = np.round(x[:2000] * (2 ** (8 * width - 1) - 1)).astype(np.int64)
            f.writeframes((v + 128).astype(np.uint8).tobytes() if width == 1
                          else v.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes())
    both = np.stack([x[:2000], 0.5 * x[:2000]], -1).astype("<f4")
    head = struct.pack("<HHIIHH", 3, 2, 16000, 16000 * 8, 8, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", both.nbytes) + both.tobytes()
    (DATA / "float_stereo.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    for name, kind in (("sound.flac", "PCM_16"), ("sound.aiff", "PCM_16"), ("sound.mp3", None), ("sound.ogg", "VORBIS")):
        soundfile.write(DATA / name, x[:2000], 16000, subtype=kind)
    soundfile.write(DATA / "stereo.flac", np.stack([x, 0.5 * x], -1), 48000, subtype="PCM_24")


def make_damaged():
    """Files that must be refused with a sentence."""
    (DATA / "bomb.png").write_bytes(png(60000, 60000, 8, 2, b"\0" * 100))
    (DATA / "wide.png").write_bytes(png(70000, 1, 8, 0, b"\0" * 70001))
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    (DATA / "bomb.gif").write_bytes(gif + b"\x08\x01\x00\x00;")
    for name in ("rgb.png", "rgb.jpg", "progressive.jpg", "lossy.webp", "still.gif"):
        whole = (DATA / name).read_bytes()
        (DATA / f"cut_{name}").write_bytes(whole[:len(whole) * 2 // 3])
    sound = (DATA / "sound16.wav").read_bytes()
    (DATA / "cut_sound.wav").write_bytes(sound[:600])
    sound = (DATA / "stereo.flac").read_bytes()
    (DATA / "cut_sound.flac").write_bytes(sound[:len(sound) * 2 // 3])


def crc(array):
    return f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"


def upright(name):
    image = ImageOps.exif_transpose(Image.open(DATA / name))
    if image.mode == "I;16":  # Pillow would clip what is above 255
        return Image.fromarray(np.repeat((np.array(image) >> 8).astype(np.uint8)[..., None], 3, 2))
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image)
    return image.convert("RGB")


def golden_pictures(out):
    gemma, unified = Gemma4ImageProcessor(), Gemma4UnifiedImageProcessor()
    qwen = Qwen2VLImageProcessor(**HALF, patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216})
    names = sorted(p.name for p in DATA.iterdir() if p.suffix in (".png", ".jpg", ".webp", ".gif")
                   and not p.name.startswith(("cut", "bomb", "wide")))
    for name in names:
        image = upright(name)
        print(name, "pixels", 0, image.width, image.height, crc(np.array(image)), file=out)
    for name, budget in (("rgb.png", 280), ("rgb.jpg", 70), ("alpha.png", 1120), ("one.png", 140), ("long.png", 560)):
        for kind, p in (("gemma", gemma), ("embedder", unified)):
            f = p(images=[upright(name)], max_soft_tokens=budget, return_tensors="np")
            n = int((f["image_position_ids"][0, :, 0] >= 0).sum())
            v = f["pixel_values"][0, :n]
            print(name, kind, budget, 1, n, v.shape[1], int(f["num_soft_tokens_per_image"][0]), crc(v), file=out)
        f = qwen(images=[upright(name)], return_tensors="np")
        v = f["pixel_values"]
        print(name, "qwen", 0, 1, v.shape[0], v.shape[1], v.shape[0] // 4, crc(v), file=out)


def golden_films(out):
    gemma = Gemma4VideoProcessor()
    qwen = Qwen3VLVideoProcessor(**HALF, size={"shortest_edge": 4096, "longest_edge": 25165824}, cap_pixels_per_frame=False)
    for name in ("film.gif", "film.png", "film.webp"):
        film = Image.open(DATA / name)
        frames = []
        for i in range(film.n_frames):
            film.seek(i)
            frames.append(np.array(film.convert("RGB")))
        meta = {"total_num_frames": len(frames), "fps": 1000 / DELAY, "duration": len(frames) * DELAY / 1000,
                "frames_indices": list(range(len(frames)))}
        f = gemma(videos=[np.stack(frames)], video_metadata=[dict(meta)], return_tensors="pt")
        n = int((f["video_position_ids"][0, :, 0] >= 0).sum())
        v = f["pixel_values_videos"][:, :n].numpy()
        print(name, "gemma", 0, v.shape[0], n, v.shape[2], int(f["num_soft_tokens_per_video"][0]), crc(v), file=out)
        f = qwen(videos=[np.stack(frames)], video_metadata=[dict(meta)], return_tensors="pt")
        v, grid = f["pixel_values_videos"].numpy(), f["video_grid_thw"][0].tolist()
        print(name, "qwen", 0, grid[0], grid[1] * grid[2], v.shape[1], grid[1] * grid[2] // 4, crc(v), file=out)


def golden_sounds(out):
    frames = Gemma4UnifiedAudioFeatureExtractor()
    for name in ("sound16.wav",):
        with wave.open(str(DATA / name)) as f:
            x = np.frombuffer(f.readframes(f.getnframes()), "<i2") / np.float32(32768)
        v = np.asarray(frames([x.astype(np.float32)], return_tensors="np")["input_features"][0], np.float32)
        print(name, "embedder", 0, 1, v.shape[0], v.shape[1], v.shape[0], crc(v), file=out)


def main():
    DATA.mkdir(exist_ok=True)
    if sys.argv[1:] != ["--keep"]:
        make_pictures()
        make_films()
        make_sounds()
        make_damaged()
    out = io.StringIO()
    golden_pictures(out)
    golden_films(out)
    golden_sounds(out)
    (DATA / "goldens.txt").write_text(out.getvalue())


if __name__ == "__main__":
    main()
