"""Quantise matrices as GGUF, MLX and block FP8 do, and decode them again with the formats' own
libraries (gguf-py, mlx, torch). What a library can only decode gets random blocks of a sane size."""

import mlx.core as mx
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import quants

# type -> offsets of the float16 fields in a block: scale, and what is subtracted
RANDOM = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
          "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,),
          "IQ4_NL": (0,), "IQ4_XS": (0,)}
PLAIN = ("F32", "F16", "BF16")
EXACT = PLAIN + ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
GGUF_TYPES = EXACT + tuple(RANDOM)


def block_of(name):
    """(values, bytes) of a block."""
    from gguf.constants import GGML_QUANT_SIZES
    return GGML_QUANT_SIZES[T[name]]


def put(blocks, at, values):
    blocks[:, at:at + 2] = values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def decode_gguf(raw, name):
    if name in ("F32", "F16"):
        return raw.astype(np.float32)
    return np.ascontiguousarray(quants.dequantize(raw, T[name]), dtype=np.float32)


def random_blocks(shape, name, std, rng):
    """Blocks of random bytes whose scales give values of about that standard deviation."""
    values, size = block_of(name)
    n = int(np.prod(shape)) // values
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    fields = RANDOM[name]
    spread = rng.uniform(0.5, 1.5, n) * np.where(rng.random(n) < 0.3, -1, 1)
    one, zero = np.ones(n), np.zeros(n)

    def decoded(scales):
        for at, s in zip(fields, scales):
            put(blocks, at, s)
        return decode_gguf(blocks, name)

    if len(fields) == 2:
        up, down = decoded((one, zero)).mean(), -decoded((zero, one)).mean()
        scales = (spread, spread * up / down)
    else:
        scales = (spread,)
    now = decoded(scales).std()
    decoded([s * (std / now) for s in scales])
    return blocks.reshape(*shape[:-1], shape[-1] // values * size)


def encode_gguf(x, name, rng):
    """float32 array -> (raw array for GGUFWriter, what it decodes to)"""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if name == "F32":
        raw = x
    elif name == "F16":
        raw = x.astype(np.float16)
    elif name in EXACT:
        raw = quants.quantize(x, T[name])
    else:
        raw = random_blocks(x.shape, name, float(x.std()), rng)
    back = decode_gguf(raw, name).reshape(x.shape)
    assert np.isfinite(back).all(), name
    return raw, back


# MLX: scheme name -> arguments of mx.quantize
MLX = {f"affine{b}g{g}": dict(bits=b, group_size=g, mode="affine")
       for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)}
MLX.update(mxfp4=dict(bits=4, group_size=32, mode="mxfp4"),
           nvfp4=dict(bits=4, group_size=16, mode="nvfp4"),
           mxfp8=dict(bits=8, group_size=32, mode="mxfp8"))


def encode_mlx(x, scheme, scale_dtype=mx.bfloat16):
    """float32 [.., K] -> ({"weight", "scales", ["biases"]} as mx arrays, decoded float32)"""
    q = MLX[scheme]
    parts = mx.quantize(mx.array(x).astype(scale_dtype), **q)
    out = dict(zip(("weight", "scales", "biases"), parts))
    if q["mode"] == "affine":
        back = mx.dequantize(parts[0], parts[1].astype(mx.float32), parts[2].astype(mx.float32), **q)
    else:
        back = mx.dequantize(parts[0], parts[1], **q, dtype=mx.float32)
    mx.eval(back)
    return out, np.array(back, dtype=np.float32)


def encode_fp8(x, scale_dtype=torch.float32):
    """float32 tensor [R, K] -> (e4m3 tensor, scales [R/128, K/128], decoded float32)"""
    rows, cols = x.shape
    br, bc = (rows + 127) // 128, (cols + 127) // 128
    pad = torch.zeros(br * 128, bc * 128)
    pad[:rows, :cols] = x
    blocks = pad.reshape(br, 128, bc, 128)
    scale = (blocks.abs().amax(dim=(1, 3)) / 448.0).clamp_min(1e-12).to(scale_dtype)
    wide = scale.float()[:, None, :, None]
    q = (blocks / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
    back = (q.float() * wide).reshape(pad.shape)[:rows, :cols].contiguous()
    q = q.reshape(pad.shape)[:rows, :cols].contiguous()
    return q, scale, back
