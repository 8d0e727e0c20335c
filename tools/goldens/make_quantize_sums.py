#!/usr/bin/env python3
"""What `apus quantize` must write, by MLX: SHA-256 of the packed integers, scales and biases.

    make_quantize_sums.py > tests/cli/data/quantize_sums.json

Which modules are quantised, and with how many bits, is the test's to say; here every matrix of the
sources is quantised with each of a few bit-widths, so that the test finds whatever it looks for.
"""

import glob
import hashlib
import json
import os

import mlx.core as mx
import numpy as np

ROOT = os.path.join(os.path.dirname(__file__), "../..")
SOURCES = {"models/tiny-gemma": (4, 8), "tests/golden/data/g4_moe6": (3, 8),
           "tests/golden/data/g4_kv_long": (6,), "tests/golden/data/q35moe_split": (5,),
           "tests/golden/data/q35_mm": (2, 8), "tests/golden/data/q3next": (3, 8)}
GROUP = 32


def digest(a):
    wide = {mx.bfloat16: mx.uint16, mx.float16: mx.uint16, mx.float32: mx.uint32}
    a = a.view(wide[a.dtype]) if a.dtype in wide else a
    return hashlib.sha256(np.array(a).tobytes()).hexdigest()


def modules(name, w):
    """Names that MLX gives to what a tensor holds."""
    stem, _, leaf = name.rpartition("experts.")
    if leaf not in ("gate_up_proj", "down_proj"):
        return {name.removesuffix(".weight"): w}
    switch = stem + ("switch_mlp." if "mlp." in name else "experts.switch_glu.")
    if leaf == "down_proj":
        return {switch + leaf: w}
    half = w.shape[1] // 2
    return {switch + "gate_proj": w[:, :half], switch + "up_proj": w[:, half:]}


def main():
    mx.set_default_device(mx.cpu)
    out = {}
    for source, widths in SOURCES.items():
        for path in sorted(glob.glob(os.path.join(ROOT, source, "model*.safetensors"))):
            for name, w in sorted(mx.load(path).items()):
                if w.ndim < 2 or w.shape[-1] % GROUP:
                    continue
                for module, part in modules(name, w).items():
                    for bits in widths:
                        q = mx.quantize(part, group_size=GROUP, bits=bits)
                        joined = "".join(digest(a) for a in q)
                        key = hashlib.sha256(joined.encode()).hexdigest()[:24]
                        out.setdefault(source, {}).setdefault(str(bits), {})[module] = key
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
