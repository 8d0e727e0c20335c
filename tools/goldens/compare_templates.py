#!/usr/bin/env python3
"""Compare apus with Jinja2, as transformers renders, on many conversations.

    compare_templates.py RENDER_BATCH TEMPLATE_DIR [conversations]

RENDER_BATCH is the program of tests/unit/template/render_batch.c. Every template of TEMPLATE_DIR is
rendered by both; where Jinja2 raises, apus has to fail. Exits 1 when anything differs.
"""
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from make_template_goldens import VARS, Maker, render, snippets  # noqa: E402


def batch(program, arg, lines):
    data = "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines)
    out = subprocess.run([program, arg], input=data.encode(), stdout=subprocess.PIPE, check=True).stdout
    return [json.loads(x) for x in out.decode().splitlines()]


def report(name, cases, got, want, show=8):
    bad = errors = 0
    for case, g, w in zip(cases, got, want):
        errors += w is None
        if (w is None) != ("error" in g) or (w is not None and g.get("ok") != w):
            bad += 1
            if bad <= show:
                print("DIFF", name, json.dumps(case, ensure_ascii=False)[:400])
                print("  want", repr(w)[:600])
                print("  got ", repr(g)[:600])
    print(f"{name}: {len(got)} cases, {errors} where Jinja2 raises, {bad} differences")
    return bad + (len(got) != len(want))


def main():
    program, folder = sys.argv[1], Path(sys.argv[2])
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 400
    small = snippets()
    bad = report("snippets", small, batch(program, "-", [{"template": s, "vars": VARS} for s in small]),
                 [render(s, VARS) for s in small], 1000)
    for path in sorted(folder.glob("*.jinja")):
        cases = [Maker(seed).variables() for seed in range(n)]
        text = path.read_text(encoding="utf-8")
        bad += report(path.name, cases, batch(program, str(path), cases), [render(text, c) for c in cases])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
