"""Compares the training model with Hugging Face in float32: same weights, same logits.

    python test_model.py [qwen|gemma]
"""
import sys

import torch

from export import to_hugging_face
from model import Tiny


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
            want = hf(ids).logits
        got = model.logits(ids.view(-1), 2)
        diff = (got - want).abs().max().item()
        print(family, length, "logits up to", round(want.abs().max().item(), 2), "max difference", diff)
        assert diff < 2e-3
    ids = torch.randint(20, 1500, (2 * 128,))
    kind = torch.ones_like(ids)
    kind[60:] = 2
    answer, prompt, aux = model.loss(ids, kind, 2)
    (answer + prompt + aux).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    print(family, "parameters", sum(p.numel() for p in model.parameters()), "losses", answer.item(), prompt.item(), aux.item())


if __name__ == "__main__":
    for name in sys.argv[1:] or ["qwen", "gemma"]:
        check(name)
