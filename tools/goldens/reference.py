"""The reference classes of transformers as an oracle: load a model folder, run it, look inside.

Everything runs on the CPU, in float32 with eager attention and eager experts, one thread, so that
the numbers are the same at every run. `double()` computes the same pass in float64.
"""

import contextlib
import copy
import glob
import json
import os
import re

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("USE_HUB_KERNELS", "0")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
import transformers as tf  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers.models.gemma4_unified import configuration_gemma4_unified as _gu  # noqa: E402
from transformers.models.gemma4_unified import modeling_gemma4_unified as _gum  # noqa: E402
from transformers.models.qwen3_5 import configuration_qwen3_5 as _q5  # noqa: E402
from transformers.models.qwen3_5 import modeling_qwen3_5 as _q5m  # noqa: E402
from transformers.models.qwen3_5_moe import configuration_qwen3_5_moe as _q5e  # noqa: E402
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as _q5em  # noqa: E402
from transformers.models.gemma4 import configuration_gemma4 as _g4  # noqa: E402
from transformers.models.gemma4 import modeling_gemma4 as _g4m  # noqa: E402

tf.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# text model_type -> (text config class, causal class)
CLASSES = {
    "gemma4_text": (_g4.Gemma4TextConfig, _g4m.Gemma4ForCausalLM),
    "gemma4_unified_text": (_gu.Gemma4UnifiedTextConfig, _gum.Gemma4UnifiedForCausalLM),
    "qwen3_5_text": (_q5.Qwen3_5TextConfig, _q5m.Qwen3_5ForCausalLM),
    "qwen3_5_moe_text": (_q5e.Qwen3_5MoeTextConfig, _q5em.Qwen3_5MoeForCausalLM),
    "qwen3_next": (tf.Qwen3NextConfig, tf.Qwen3NextForCausalLM),
    "qwen3_moe": (tf.Qwen3MoeConfig, tf.Qwen3MoeForCausalLM),
    "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM),
    "gemma3_text": (tf.Gemma3TextConfig, tf.Gemma3ForCausalLM),
}


def build(model_type, config):
    """A float32 causal model of a text config object, eager everywhere."""
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = CLASSES[model_type][1](config).float().eval()
    model.requires_grad_(False)
    return model


def read_tensors(folder):
    """All tensors of a folder, sharded or not."""
    out = {}
    for path in sorted(glob.glob(os.path.join(folder, "model*.safetensors"))):
        out.update(load_file(path))
    return out


def text_state(tensors, model):
    """Names of a checkpoint (any prefix, fused or per-expert) to those of the text class."""
    embed = [n for n in tensors if n.endswith("embed_tokens.weight")]
    assert len(embed) == 1, embed
    prefix = embed[0][: -len("embed_tokens.weight")]
    want = model.state_dict()
    got = {}
    per_expert = {}
    for name, t in tensors.items():
        if name.startswith(prefix):
            name = "model." + name[len(prefix):]
        m = re.fullmatch(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight", name)
        if m and name.startswith("model."):
            per_expert.setdefault(m[1], {})[int(m[2]), m[3]] = t
        elif name in want:
            got[name] = t
    for base, parts in per_expert.items():
        n = 1 + max(e for e, _ in parts)
        got[base + ".gate_up_proj"] = torch.stack(
            [torch.cat([parts[e, "gate"], parts[e, "up"]]) for e in range(n)])
        got[base + ".down_proj"] = torch.stack([parts[e, "down"] for e in range(n)])
    if "lm_head.weight" in want and "lm_head.weight" not in got:
        got["lm_head.weight"] = got["model.embed_tokens.weight"]
    missing = [n for n in want if n not in got]
    assert not missing, f"missing tensors: {missing}"
    return {n: t.float() for n, t in got.items()}


def text_config(folder):
    """(model_type, config object) of the text model of a folder."""
    with open(os.path.join(folder, "config.json")) as f:
        outer = json.load(f)
    inner = copy.deepcopy(outer.get("text_config", outer))
    if "tie_word_embeddings" in outer:
        inner["tie_word_embeddings"] = outer["tie_word_embeddings"]
    model_type = inner["model_type"]
    return model_type, CLASSES[model_type][0](**inner)


def load(folder):
    """The float32 reference model of any folder that apus reads, by tensor names."""
    model_type, config = text_config(folder)
    model = build(model_type, config)
    model.load_state_dict(text_state(read_tensors(folder), model), strict=True)
    return model


@contextlib.contextmanager
def double(model):
    """Inside: `model` computes in float64, also where its code says float32. Rotary tables stay
    what they are by definition: float32 angles."""
    saved = (torch.float32, torch.float, torch.Tensor.float)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    f32, dt_float, to_float = saved
    ropes = []

    def enter():
        torch.float32 = torch.float64
        torch.float = torch.float64
        torch.Tensor.float = torch.Tensor.double

    def leave():
        torch.float32, torch.float, torch.Tensor.float = f32, dt_float, to_float

    for name, mod in model.named_modules():
        if "RotaryEmbedding" in type(mod).__name__:
            plain = mod.forward

            def angles(x, *args, _plain=plain, **kwargs):
                leave()
                try:
                    cos, sin = _plain(torch.zeros(1, dtype=f32), *args, **kwargs)
                finally:
                    enter()
                return cos.double(), sin.double()

            mod.forward = angles
            ropes.append(mod)
    model.double()
    enter()
    try:
        yield model
    finally:
        leave()
        for mod in ropes:
            del mod.forward
        model.float()
        model.load_state_dict(state)


class RouterGaps:
    """Records, while a forward runs, each router's distance of the k-th to the next logit."""

    def __init__(self, model):
        self.gaps, self.hit, self.hooks = [], {}, []
        for name, mod in model.named_modules():
            kind = type(mod).__name__
            if kind.endswith("TopKRouter"):
                self._add(mod, name, lambda out: out[0], mod.top_k)
            elif kind.endswith("TextRouter"):
                self._add(mod.proj, name, lambda out: out, mod.config.top_k_experts)

    def _add(self, mod, name, pick, k):
        def hook(_m, _args, out):
            logits = pick(out).detach().reshape(-1, pick(out).shape[-1])
            top = torch.sort(logits, dim=-1, descending=True)
            if k < logits.shape[-1]:
                self.gaps.append((top.values[:, k - 1] - top.values[:, k]).double())
            used = self.hit.setdefault(name, set())
            used.update(top.indices[:, :k].reshape(-1).tolist())
        self.hooks.append(mod.register_forward_hook(hook))

    def running_min(self):
        """f64 [T]: smallest gap over layers and over this and all earlier positions, or None."""
        if not self.gaps:
            return None
        return torch.cummin(torch.stack(self.gaps).min(dim=0).values, dim=0).values

    def close(self):
        for h in self.hooks:
            h.remove()


@torch.no_grad()
def run(model, ids):
    """(logits [T, V], running router gap [T] or None, router name -> experts used)."""
    gaps = RouterGaps(model)
    try:
        logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        gaps.close()
    return logits, gaps.running_min(), gaps.hit


@torch.no_grad()
def greedy(model, ids, n):
    """n greedy tokens, with the reference's own cache."""
    out, cache = [], None
    if getattr(model.config, "sliding_window", None) == 1:
        # Its sliding cache keeps everything instead of nothing for a window of one (`[-0:]`).
        for _ in range(n):
            out.append(int(run(model, list(ids) + out)[0][-1].argmax()))
        return out
    feed = torch.tensor([list(ids)])
    for _ in range(n):
        r = model(feed, past_key_values=cache, use_cache=True)
        cache = r.past_key_values
        out.append(int(r.logits[0, -1].argmax()))
        feed = torch.tensor([[out[-1]]])
    return out
