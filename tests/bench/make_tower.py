"""Write a model that is nothing but a tower of full size, with random weights: what bench_tower times.

    make_tower.py FROM TO [--layers N]

FROM: a small Gemma with a standardised tower (tests/golden_media/data/gemma_large); its text model stays as it is. The
tower becomes that of Gemma 4 26B and 31B: 27 layers of 1,152, 16 heads of 72.
"""
import argparse
import json
import os
import pathlib
import random
import struct

HIDDEN, FFN, HEADS, HEAD, POSITIONS, PATCH = 1152, 4304, 16, 72, 10240, 16
TINY = bytes(i & 0x7F for i in range(256)), bytes(i & 0x80 | 0x3C for i in range(256))
ONE = struct.pack("<H", 0x3F80)


def values(count, ones):
    """bf16 of both signs, between 2^-7 and 2^-6; or ones."""
    if ones:
        return ONE * count
    raw = bytearray(2 * count)
    raw[0::2] = random.randbytes(count).translate(TINY[0])
    raw[1::2] = random.randbytes(count).translate(TINY[1])
    return bytes(raw)


def tower(layers, text_hidden):
    """Names and shapes, and whether all is one."""
    top = "model.vision_tower."
    yield "model.embed_vision.embedding_projection.weight", [text_hidden, HIDDEN], False
    yield top + "patch_embedder.input_proj.weight", [HIDDEN, 3 * PATCH * PATCH], False
    yield top + "patch_embedder.position_embedding_table", [2, POSITIONS, HIDDEN], False
    yield top + "std_bias", [HIDDEN], False
    yield top + "std_scale", [HIDDEN], True
    for i in range(layers):
        layer = f"{top}encoder.layers.{i}."
        for name in "input", "post_attention", "pre_feedforward", "post_feedforward":
            yield f"{layer}{name}_layernorm.weight", [HIDDEN], True
        for name in "qkvo":
            yield f"{layer}self_attn.{name}_proj.linear.weight", [HIDDEN, HIDDEN], False
        for name in "qk":
            yield f"{layer}self_attn.{name}_norm.weight", [HEAD], True
        for name, shape in ("gate", [FFN, HIDDEN]), ("up", [FFN, HIDDEN]), ("down", [HIDDEN, FFN]):
            yield f"{layer}mlp.{name}_proj.linear.weight", shape, False


def read(path):
    """name -> (entry, bytes)"""
    raw = path.read_bytes()
    (n,) = struct.unpack_from("<Q", raw)
    head = json.loads(raw[8:8 + n])
    head.pop("__metadata__", None)
    return {k: (v, raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in head.items()}


def write(path, tensors):
    head, at = {}, 0
    for name, (entry, data) in tensors.items():
        head[name] = dict(entry, data_offsets=[at, at + len(data)])
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            f.write(data)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("source", type=pathlib.Path)
    ask.add_argument("to", type=pathlib.Path)
    ask.add_argument("--layers", type=int, default=27)
    a = ask.parse_args()
    random.seed(1)
    config = json.loads((a.source / "config.json").read_text())
    config["vision_config"].update(
        head_dim=HEAD, hidden_size=HIDDEN, intermediate_size=FFN, num_attention_heads=HEADS, num_hidden_layers=a.layers,
        num_key_value_heads=HEADS, patch_size=PATCH, position_embedding_size=POSITIONS, use_clipped_linears=False)
    tensors = {k: v for k, v in read(a.source / "model.safetensors").items() if "vision" not in k}
    for name, shape, ones in tower(a.layers, config["text_config"]["hidden_size"]):
        count = 1
        for n in shape:
            count *= n
        tensors[name] = {"dtype": "BF16", "shape": shape}, values(count, ones)
    os.makedirs(a.to, exist_ok=True)
    (a.to / "config.json").write_text(json.dumps(config, indent=1))
    write(a.to / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
