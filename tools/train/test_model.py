"""Compares the training model with Hugging Face in float32: same weights, same logits.

    python test_model.py [qwen|gemma]
"""
import random
import sys

import torch

import pictures
import train
from export import to_hugging_face
from model import MARKS, Tiny


def patches_of(family, pixels):
    """What the processors make of pictures without resizing; pixels [N, 3, H, W] from 0 to 1."""
    n, _, height, width = pixels.shape
    if family == "qwen":
        rows, columns = height // 16, width // 16
        x = (2 * pixels - 1).view(n, 3, rows // 2, 2, 16, columns // 2, 2, 16).permute(0, 2, 5, 3, 6, 1, 4, 7)
        x = x.reshape(n, rows * columns, 3, 1, 256).expand(-1, -1, -1, 2, -1).reshape(n * rows * columns, -1)
        return {"pixel_values": x, "image_grid_thw": torch.tensor([[1, rows, columns]] * n)}
    rows, columns = height // 8, width // 8
    x = pixels.view(n, 3, rows, 8, columns, 8).permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, -1)
    y, x_at = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return {"pixel_values": x, "image_position_ids": torch.stack([x_at, y], -1).view(1, -1, 2).expand(n, -1, -1)}


def seen_alike(family, model, hf):
    """Two conversations with two pictures each, as the data has them."""
    enc = train.Encoder(family)
    grid = pictures.GRIDS[family][1]
    length = train.SEEN_LENGTHS[family][1]
    items = [pictures.conversation(random.Random(i), pictures.grid_size(family, grid), "order") | {"grid": grid} for i in range(2)]
    key, ids, _, seen = train.pack([(*enc(it), it["pictures"]) for it in items], (length, grid, 2))
    ids = torch.from_numpy(ids).long()
    pixels, rope = train.look(*(torch.from_numpy(t) for t in seen))
    assert (ids == MARKS["image"]).sum() == 4 * grid[0] * grid[1]
    with torch.no_grad():
        want = hf(input_ids=ids.view(2, -1), mm_token_type_ids=(ids == MARKS["image"]).view(2, -1).int(), **patches_of(family, pixels)).logits
    got = model.logits(ids, 2, (pixels, rope))
    diff = (got - want).abs().max().item()
    print(family, "with pictures: logits up to", round(want.abs().max().item(), 2), "max difference", diff)
    assert diff < 2e-3


def check(family):
    torch.manual_seed(3)
    model = Tiny(family)
    with torch.no_grad():                     # away from the round initial values
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1 * p.std().nan_to_num(0.1).clamp(min=0.02))
    hf = to_hugging_face(family, model.state_dict()).float().eval()
    for length in (64, 448):
        ids = torch.randint(20, 1500, (2, length))
        with torch.no_grad():
            want = hf(input_ids=ids).logits
        got = model.logits(ids.view(-1), 2)
        diff = (got - want).abs().max().item()
        print(family, length, "logits up to", round(want.abs().max().item(), 2), "max difference", diff)
        assert diff < 2e-3
    seen_alike(family, model, hf)
    ids = torch.randint(20, 1500, (2 * 128,))
    kind = torch.ones_like(ids)
    kind[60:] = 2
    answer, prompt, aux = model.loss(ids, kind, 2)
    (answer + prompt + aux).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if not n.startswith("eyes."))
    print(family, "parameters", sum(p.numel() for p in model.parameters()), "losses", answer.item(), prompt.item(), aux.item())


if __name__ == "__main__":
    for name in sys.argv[1:] or ["qwen", "gemma"]:
        check(name)
