#!/usr/bin/env python3
"""Checksums of what gguf-py makes of the tiny models' matrices, for tests/cli/test_gguf.py.

    make_gguf_sums.py build/apus > tests/cli/data/gguf_sums.json

The numbers are taken from files that apus writes as f32; gguf-py quantises them.
"""
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

ROOT = Path(__file__).resolve().parents[2]
TYPES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "mxfp4", "bf16", "f16")


def main():
    out = {}
    for model in ("models/tiny-qwen", "models/tiny-gemma"):
        with tempfile.TemporaryDirectory() as d:
            subprocess.run([sys.argv[1], "quantize", ROOT / model, d + "/x.gguf", "--to", "f32"],
                           check=True)
            tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(d + "/x.gguf").tensors}
        out[model] = {t: {} for t in TYPES}
        for name, x in tensors.items():
            if x.ndim < 2 or "conv1d" in name:
                continue
            for t in TYPES:
                q = quants.quantize(x, getattr(gguf.GGMLQuantizationType, t.upper()))
                out[model][t][name] = hashlib.sha256(q.tobytes()).hexdigest()[:16]
    json.dump(out, sys.stdout, indent=0, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
