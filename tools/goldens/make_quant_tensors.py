#!/usr/bin/env python3
"""Random tensors of every quantised type and what gguf-py, mlx and torch decode them to.

    make_quant_tensors.py tests/unit/tensor/data/quant.bin

Records: name [16], u32 {bits, group, group_rows, rows, cols, bytes of data, of scales, of biases},
scale type [16], data, scales, biases, f32 [rows, cols]. Little-endian.
"""

import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import quant_blocks as qb  # noqa: E402
import torch  # noqa: E402

SCALES = dict(qb.RANDOM, Q4_0=(0,), Q4_1=(0, 2), Q5_0=(0,), Q5_1=(0, 2), Q8_0=(0,))


def record(f, name, values, data, scales=b"", biases=b"", kind="", bits=0, group=0, group_rows=1):
    rows, cols = values.shape
    f.write(name.encode().ljust(16, b"\0"))
    f.write(struct.pack("<8I", bits, group, group_rows, rows, cols, len(data), len(scales),
                        len(biases)))
    f.write(kind.encode().ljust(16, b"\0") + data + scales + biases)
    f.write(np.ascontiguousarray(values, dtype="<f4").tobytes())


def gguf_type(f, name, rng):
    """Any bytes; scales of any size, float16 denormals and both signs included."""
    values, size = qb.block_of(name)
    n = max(2, 512 // values)
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in SCALES.get(name, ()):
        scale = np.exp2(rng.uniform(-20, 6, n)) * rng.choice([-1, 1], n)
        qb.put(blocks, at, scale)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(0, 200, n)
        blocks[0, 0] = 0
        blocks[1, 0] = 1
    raw = blocks.reshape(2, -1)
    record(f, name.lower(), qb.decode_gguf(raw, name).reshape(2, -1), raw.tobytes())


def as_bytes(a):
    a = a.astype(mx.float32) if a.dtype == mx.bfloat16 else a
    a = np.array(a)
    if a.dtype == np.float32:  # bf16, widened above
        a = (a.view(np.uint32) >> 16).astype(np.uint16)
    return a.tobytes()


def mlx_type(f, scheme, rng):
    q = qb.MLX[scheme]
    x = rng.normal(size=(3, 256)).astype(np.float32)
    parts, back = qb.encode_mlx(x, scheme)
    affine = q["mode"] == "affine"
    kind = "bf16" if affine else "f8_e4m3" if q["mode"] == "nvfp4" else "u8"
    record(f, "mlx_" + q["mode"], back, as_bytes(parts["weight"]), as_bytes(parts["scales"]),
           as_bytes(parts["biases"]) if affine else b"", kind, q["bits"], q["group_size"])


def fp8(f, scale_dtype, kind, rng):
    x = torch.from_numpy(rng.normal(size=(150, 200)).astype(np.float32))[-131:]
    q, scale, back = qb.encode_fp8(x, scale_dtype)
    record(f, "fp8", back.numpy(), q.view(torch.uint8).numpy().tobytes(),
           scale.view(torch.uint8).numpy().tobytes(), b"", kind, 8, 128, 128)


def main():
    rng = np.random.default_rng(3)
    with open(sys.argv[1], "wb") as f:
        for name in qb.GGUF_TYPES:
            if name not in qb.PLAIN:
                gguf_type(f, name, rng)
        for scheme in qb.MLX:
            mlx_type(f, scheme, rng)
        fp8(f, torch.float32, "f32", rng)
        fp8(f, torch.bfloat16, "bf16", rng)


if __name__ == "__main__":
    main()
