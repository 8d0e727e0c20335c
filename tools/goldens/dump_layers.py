#!/usr/bin/env python3
"""Print what the reference computes layer by layer, to find the first layer where apus differs.

    dump_layers.py MODEL --ids 5,7,11            all layers at the last position
    dump_layers.py MODEL --prompt 2 --pos 16     prompt 2 of the folder's logits.safetensors
    dump_layers.py MODEL --ids 5 --detail --values 8

MODEL is a model folder. One line a stage: name, root mean square over the row, first values.
--detail adds every module inside the layers (projections, norms, routers, attention, MLP).
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import reference as ref  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--ids", help="comma-separated token ids")
    ap.add_argument("--prompt", type=int, help="take ids_<k> of logits.safetensors")
    ap.add_argument("--pos", type=int, default=-1, help="position to print (default last)")
    ap.add_argument("--values", type=int, default=6)
    ap.add_argument("--detail", action="store_true")
    args = ap.parse_args()
    if args.prompt is not None:
        ids = load_file(os.path.join(args.model, "logits.safetensors"))[f"ids_{args.prompt}"]
        ids = ids.tolist()
    else:
        ids = [int(x) for x in args.ids.split(",")]
    model = ref.load(args.model)
    pos = args.pos % len(ids)

    def show(name, x):
        if not torch.is_tensor(x) or x.dtype == torch.bool:
            return
        x = x.detach()
        if x.dim() >= 2 and x.shape[0] == 1 and x.shape[1] == len(ids):
            x = x[0, pos]
        elif x.dim() >= 1 and x.shape[0] == len(ids):
            x = x[pos]
        elif x.dim() >= 1 and x.shape[0] % len(ids) == 0:
            x = x.reshape(len(ids), -1)[pos]
        else:
            return
        x = x.reshape(-1).double()
        vals = " ".join(f"{v: .6f}" for v in x[: args.values].tolist())
        print(f"{name:58s} n={x.numel():5d} rms={x.pow(2).mean().sqrt().item():.7f}  {vals}")

    def hook(name):
        def fn(_m, _a, out):
            outs = out if isinstance(out, tuple) else (out,)
            for i, o in enumerate(outs):
                show(name if len(outs) == 1 else f"{name}[{i}]", o)
        return fn

    for name, mod in model.named_modules():
        depth = name.count(".")
        layer = "DecoderLayer" in type(mod).__name__
        top = depth == 1 and not name.endswith(("layers", "rotary_emb"))
        if layer or top or name == "lm_head" or (args.detail and ".layers." in name):
            if "rotary" not in name:
                mod.register_forward_hook(hook(name))
    logits, rgap, _ = ref.run(model, ids)
    show("logits", logits)
    top = torch.topk(logits[pos], 3)
    print("top 3:", list(zip(top.indices.tolist(), [round(v, 5) for v in top.values.tolist()])))
    if rgap is not None:
        print("smallest router gap so far:", f"{rgap[pos].item():.3e}")


if __name__ == "__main__":
    main()
