"""The two tiny architectures in plain PyTorch, written for fast training.

The mathematics and the parameter names are those of Hugging Face's Qwen3_5MoeForCausalLM and
Gemma4ForCausalLM (test_model.py compares the logits), but everything that works token by token runs
on one flat [T, C] batch of fixed size, the experts are computed densely and masked (they are small),
and the gated delta rule runs in chunks of 64 tokens whose only serial part is one small matrix
product per chunk. A row of the batch holds one conversation, padded at the end.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from tower import GemmaTower, Holder, QwenTower, leaf

CHUNK = 64
VOCAB = 1552                           # 1,536 of text, the marks of pictures, and room
MARKS = {"begin": 1536, "end": 1537, "image": 1538, "video": 1539}

CONFIG = {
    "qwen": {
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "dtype": "bfloat16",
        "vocab_size": VOCAB, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
        "linear_num_key_heads": 4, "linear_num_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 64, "shared_expert_intermediate_size": 192, "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0, "partial_rotary_factor": 0.25,
                            "mrope_section": [3, 3, 2], "mrope_interleaved": True},
        "partial_rotary_factor": 0.25, "tie_word_embeddings": False, "attention_bias": False,
        "router_aux_loss_coef": 0.001, "output_router_logits": False, "initializer_range": 0.02, "use_cache": True,
        "bos_token_id": None,
    },
    "gemma": {
        "architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "dtype": "bfloat16",
        "vocab_size": VOCAB, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "global_head_dim": 128, "num_global_key_value_heads": 1,
        "attention_k_eq_v": True, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2, "sliding_window": 256,
        "intermediate_size": 320, "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2,
        "moe_intermediate_size": 64, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 0, "use_double_wide_mlp": False, "max_position_embeddings": 8192,
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                            "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0,
                                               "partial_rotary_factor": 0.25}},
        "final_logit_softcapping": 30.0, "tie_word_embeddings": True, "attention_bias": False,
        "attention_dropout": 0.0, "use_bidirectional_attention": "vision", "initializer_range": 0.02, "use_cache": True,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    },
}


def rms(x, w, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rms_plain(x, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def lin(x, w, dt):
    """Matrix product in the compute type `dt`."""
    return F.linear(x.to(dt), w.to(dt))


def rotate(x, cos, sin):
    """Split-half rotation of the first 2*cos.shape[-1] dims of x [T, heads, d]."""
    r = cos.shape[-1]
    a, b, rest = x[..., :r], x[..., r:2 * r], x[..., 2 * r:]
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s, rest], -1)


def rotate_wide(x, cos, sin):
    """Split-half rotation over the whole head; angles beyond the given ones are zero."""
    d, r = x.shape[-1], cos.shape[-1]
    a, b = x[..., :d // 2], x[..., d // 2:]
    c, s = cos[:, None], sin[:, None]
    a0, b0 = a[..., :r], b[..., :r]
    return torch.cat([a0 * c - b0 * s, a[..., r:], b0 * c + a0 * s, b[..., r:]], -1)


def choose(p, k):
    """0/1 mask of the k largest probabilities of each row."""
    left, mask = p, torch.zeros_like(p)
    for _ in range(k):
        hit = (left >= left.amax(-1, keepdim=True)).to(p.dtype)
        mask = mask + hit
        left = left - 2 * hit
    return mask.clamp(max=1).detach()


def balance_loss(p, mask, valid):
    """Switch-style load balance: 1 when all experts are used alike."""
    n = valid.sum().clamp(min=1)
    share = (mask * valid[:, None]).sum(0) / (n * mask.shape[1]) * mask.shape[1]
    prob = (p * valid[:, None]).sum(0) / n
    return (share * prob).sum() * p.shape[1] / mask.sum(1).mean().detach()


# ------------------------------------------------------------------ gated delta rule, by chunks

class UnitLowerInverse(torch.autograd.Function):
    """(I + A)^-1 of strictly lower A [..., 64, 64], merging blocks of 1, 2, 4 ... 32."""

    @staticmethod
    def forward(ctx, a, masks):
        x = torch.eye(CHUNK, device=a.device, dtype=a.dtype).expand_as(a).contiguous()
        for m in masks:
            x = x - x @ (a * m) @ x
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        xt = x.transpose(-1, -2)
        return -(xt @ grad @ xt).tril(-1), None


class ChunkScan(torch.autograd.Function):
    """S[c+1] = M[c] S[c] + H[c], S[0] = 0; returns the state that enters each chunk. [B, n, D, E]"""

    @staticmethod
    def forward(ctx, m, h):
        n = m.shape[1]
        s = torch.zeros_like(h)
        for c in range(n - 1):
            s[:, c + 1] = torch.baddbmm(h[:, c], m[:, c], s[:, c])
        ctx.save_for_backward(m, s)
        return s

    @staticmethod
    def backward(ctx, grad):
        m, s = ctx.saved_tensors
        n = m.shape[1]
        d = torch.zeros_like(grad)              # gradient of S[c+1], stored at c
        run = None
        mt = m.transpose(-1, -2)
        for c in range(n - 2, -1, -1):
            run = grad[:, c + 1] if run is None else torch.baddbmm(grad[:, c + 1], mt[:, c + 1], run)
            d[:, c] = run
        return d @ s.transpose(-1, -2), d


def block_masks(device):
    """Mask of the off-diagonal block that each merge fills in."""
    i = torch.arange(CHUNK, device=device)
    out = []
    size = 1
    while size < CHUNK:
        same = (i[:, None] // (2 * size)) == (i[None] // (2 * size))
        out.append((same & ((i[:, None] // size) % 2 == 1) & ((i[None] // size) % 2 == 0)).float())
        size *= 2
    return out


def delta_inputs(x, pos, norm, w_qkv, w_z, w_b, w_a, conv, a_log, dt_bias, hk, hv, dk, dv, dt):
    """Everything of a delta layer before the chunk algebra; x [T, H] is the residual stream."""
    h = rms(x, 1 + norm)
    u = lin(h, w_qkv, dt).float()
    z = lin(h, w_z, dt)
    beta = torch.sigmoid(F.linear(h, w_b))
    g = -a_log.exp() * F.softplus(F.linear(h, w_a) + dt_bias)
    y = u * conv[:, 0, 3]
    for j in range(1, 4):
        back = F.pad(u, (0, 0, j, 0))[:-j] * (pos >= j).float()[:, None]
        y = y + back * conv[:, 0, 3 - j]
    y = F.silu(y)
    q, k, v = y.split([hk * dk, hk * dk, hv * dv], -1)
    n = x.shape[0] // CHUNK
    q = q.view(n, CHUNK, hk, dk).transpose(1, 2)
    k = k.view(n, CHUNK, hk, dk).transpose(1, 2)
    q = q * torch.rsqrt(q.pow(2).sum(-1, keepdim=True) + 1e-6) * dk ** -0.5
    k = k * torch.rsqrt(k.pow(2).sum(-1, keepdim=True) + 1e-6)
    v = v.view(n, CHUNK, hv, dv).transpose(1, 2)
    beta = beta.view(n, CHUNK, hv).transpose(1, 2)
    total = g.view(n, CHUNK, hv).transpose(1, 2).cumsum(-1)          # [n, hv, 64]
    low = torch.ones(CHUNK, CHUNK, device=x.device, dtype=torch.bool).tril()
    gamma = torch.where(low, total[..., :, None] - total[..., None, :], -1e9).exp()
    r = hv // hk
    kk = (k @ k.transpose(-1, -2)).repeat_interleave(r, 1)
    a = (beta[..., None] * kk * gamma).tril(-1)
    p = (q @ k.transpose(-1, -2)).repeat_interleave(r, 1) * gamma
    return q.contiguous(), k.contiguous(), v.contiguous(), z, beta.contiguous(), total.contiguous(), a, p


def delta_chunks(q, k, v, beta, total, t, p, r):
    """Chunk matrices: the state update S' = M S + H and the output O = base + reach S."""
    qr, kr = q.repeat_interleave(r, 1), k.repeat_interleave(r, 1)
    e = total.exp()[..., None]
    u = t @ (beta[..., None] * v)
    w = t @ (beta[..., None] * e * kr)
    last = total[..., -1:]
    tail = (kr * (last - total).exp()[..., None]).transpose(-1, -2)
    eye = torch.eye(k.shape[-1], device=k.device)
    m = last.exp()[..., None] * eye - tail @ w
    return m, tail @ u, p @ u, e * qr - p @ w


def delta_output(x, base, reach, s, z, norm, w_out, hv, dv, dt):
    o = base + reach @ s                                            # [n, hv, 64, dv]
    o = o.transpose(1, 2).reshape(-1, hv, dv)
    y = rms(o, norm) * F.silu(z.view(-1, hv, dv).float())
    return x + lin(y.reshape(-1, hv * dv), w_out, dt).float()


# ------------------------------------------------------------------ attention and experts

def qwen_attn_inputs(x, pos, freq, norm, w_q, w_k, w_v, q_norm, k_norm, nq, nkv, d, dt):
    h = rms(x, 1 + norm)
    q, gate = lin(h, w_q, dt).view(-1, nq, 2 * d).float().split(d, -1)
    k = lin(h, w_k, dt).view(-1, nkv, d).float()
    v = lin(h, w_v, dt).view(-1, nkv, d)
    angle = pos.float()[:, [i % 3 for i in range(freq.shape[0])]] * freq
    cos, sin = angle.cos(), angle.sin()
    q = rotate(rms(q, 1 + q_norm), cos, sin)
    k = rotate(rms(k, 1 + k_norm), cos, sin)
    g = nq // nkv
    return q.to(dt), k.to(dt).repeat_interleave(g, 1), v.repeat_interleave(g, 1), gate


def qwen_attn_output(x, o, gate, w_o, dt):
    return x + lin(o.float().reshape(gate.shape) .mul(torch.sigmoid(gate)).flatten(1), w_o, dt).float()


def experts_dense(h, weight, w_gu, w_down, act, dt):
    """All experts at once; `weight` [T, E] is zero where an expert was not chosen."""
    e, two_i, c = w_gu.shape
    i = two_i // 2
    gu = lin(h, w_gu.reshape(e * two_i, c), dt).view(-1, e, 2, i).float()
    y = act(gu[:, :, 0]) * gu[:, :, 1] * weight[..., None]
    return lin(y.reshape(-1, e * i), w_down.permute(1, 0, 2).reshape(c, e * i), dt).float()


def gelu(x):
    return F.gelu(x, approximate="tanh")


def qwen_moe(x, valid, norm, router, w_gu, w_down, s_gate, s_up, s_down, s_mix, k, dt):
    h = rms(x, 1 + norm)
    p = F.linear(h, router).softmax(-1)
    mask = choose(p, k)
    w = p * mask
    w = w / w.sum(-1, keepdim=True)
    y = experts_dense(h, w, w_gu, w_down, F.silu, dt)
    s = F.silu(lin(h, s_gate, dt).float()) * lin(h, s_up, dt).float()
    y = y + torch.sigmoid(F.linear(h, s_mix)) * lin(s, s_down, dt).float()
    return x + y, balance_loss(p, mask, valid)


def gemma_attn_inputs(x, pos, freq, norm, w_q, w_k, w_v, q_norm, k_norm, nq, nkv, d, dt):
    h = rms(x, norm)
    q = lin(h, w_q, dt).view(-1, nq, d).float()
    k = lin(h, w_k, dt).view(-1, nkv, d).float()
    v = k if w_v is None else lin(h, w_v, dt).view(-1, nkv, d).float()
    angle = pos.float()[:, None] * freq
    cos, sin = angle.cos(), angle.sin()
    q = rotate_wide(rms(q, q_norm), cos, sin)
    k = rotate_wide(rms(k, k_norm), cos, sin)
    g = nq // nkv
    return q.to(dt), k.to(dt).repeat_interleave(g, 1), rms_plain(v).to(dt).repeat_interleave(g, 1)


def gemma_attn_output(x, o, w_o, post, dt):
    return x + rms(lin(o.flatten(1), w_o, dt).float(), post)


def gemma_moe(x, valid, pre, post, pre2, post1, post2, d_gate, d_up, d_down, r_scale, r_proj, e_scale, w_gu, w_down,
              scalar, k, dt):
    h = rms(x, pre)
    d = lin(gelu(lin(h, d_gate, dt).float()) * lin(h, d_up, dt).float(), d_down, dt).float()
    p = F.linear(rms_plain(x) * r_scale * x.shape[-1] ** -0.5, r_proj).softmax(-1)
    mask = choose(p, k)
    w = p * mask
    w = w / w.sum(-1, keepdim=True) * e_scale
    m = experts_dense(rms(x, pre2), w, w_gu, w_down, gelu, dt)
    f = rms(d, post1) + rms(m, post2)
    return (x + rms(f, post)) * scalar, balance_loss(p, mask, valid)


def head_losses(x, norm, w_head, cap, target, kind, dt):
    """(answer loss sum, prompt loss sum); kind is 0 pad, 1 prompt, 2 answer, of the target token."""
    logits = lin(rms(x, norm), w_head, dt).float()
    if cap:
        logits = cap * torch.tanh(logits / cap)
    nll = torch.logsumexp(logits, -1) - logits.gather(1, target[:, None])[:, 0]
    return (nll * (kind == 2)).sum(), (nll * (kind == 1)).sum()


# ------------------------------------------------------------------ the modules: names as in the files

def weight(*shape, gain=0.6, **kw):
    return Holder(weight=leaf(*shape, std=gain * shape[-1] ** -0.5, **kw))


def norm_weight(n, fill):
    return Holder(weight=leaf(n, fill=fill))


class Tiny(nn.Module):
    def __init__(self, family, dt=torch.float32):
        super().__init__()
        self.family, self.dt, self.c = family, dt, CONFIG[family]
        self.fast = {}                       # compiled versions of the token-wise functions
        c = self.c
        h = c["hidden_size"]
        build = self.qwen_layer if family == "qwen" else self.gemma_layer
        embed = leaf(c["vocab_size"], h, std=0.2 if family == "qwen" else h ** -0.5)
        self.model = Holder(embed_tokens=Holder(weight=embed),
                            layers=nn.ModuleList(build(i) for i in range(c["num_hidden_layers"])),
                            norm=norm_weight(h, 0.0 if family == "qwen" else 1.0))
        if family == "qwen":
            self.lm_head = weight(c["vocab_size"], h, gain=0.5)
        self.eyes = QwenTower() if family == "qwen" else GemmaTower()
        self.masks = {}

    def qwen_layer(self, i):
        c = self.c
        h, d, nq, nkv = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
        e, w, s = c["num_experts"], c["moe_intermediate_size"], c["shared_expert_intermediate_size"]
        layer = Holder(input_layernorm=norm_weight(h, 0.0), post_attention_layernorm=norm_weight(h, 0.0))
        if c["layer_types"][i] == "full_attention":
            layer.self_attn = Holder(q_proj=weight(2 * nq * d, h), k_proj=weight(nkv * d, h), v_proj=weight(nkv * d, h),
                                     o_proj=weight(h, nq * d, gain=0.2), q_norm=norm_weight(d, 0.0), k_norm=norm_weight(d, 0.0))
        else:
            hk, hv, dk, dv = (c["linear_num_key_heads"], c["linear_num_value_heads"], c["linear_key_head_dim"],
                              c["linear_value_head_dim"])
            channels = 2 * hk * dk + hv * dv
            step = torch.exp(torch.linspace(math.log(0.001), math.log(0.2), hv))
            layer.linear_attn = Holder(
                in_proj_qkv=weight(channels, h), in_proj_z=weight(hv * dv, h), in_proj_b=weight(hv, h),
                in_proj_a=weight(hv, h), conv1d=Holder(weight=leaf(channels, 1, 4, std=0.4)),
                A_log=nn.Parameter(torch.linspace(0.2, 1.5, hv).flip(0)), dt_bias=nn.Parameter(step + torch.log(-torch.expm1(-step))),
                norm=norm_weight(dv, 1.0), out_proj=weight(h, hv * dv, gain=0.2))
        layer.mlp = Holder(
            gate=weight(e, h, gain=0.3),
            experts=Holder(gate_up_proj=leaf(e, 2 * w, h, std=0.6 * h ** -0.5), down_proj=leaf(e, h, w, std=0.3 * w ** -0.5)),
            shared_expert=Holder(gate_proj=weight(s, h), up_proj=weight(s, h), down_proj=weight(h, s, gain=0.2)),
            shared_expert_gate=weight(1, h, gain=0.3))
        return layer

    def gemma_layer(self, i):
        c = self.c
        h, nq = c["hidden_size"], c["num_attention_heads"]
        full = c["layer_types"][i] == "full_attention"
        d = c["global_head_dim"] if full else c["head_dim"]
        nkv = c["num_global_key_value_heads"] if full else c["num_key_value_heads"]
        e, w, f = c["num_experts"], c["moe_intermediate_size"], c["intermediate_size"]
        attn = Holder(q_proj=weight(nq * d, h), k_proj=weight(nkv * d, h), o_proj=weight(h, nq * d),
                      q_norm=norm_weight(d, d ** -0.25), k_norm=norm_weight(d, d ** -0.25))
        if not full:
            attn.v_proj = weight(nkv * d, h)
        return Holder(
            self_attn=attn, input_layernorm=norm_weight(h, 1.0), post_attention_layernorm=norm_weight(h, 0.3),
            pre_feedforward_layernorm=norm_weight(h, 1.0), post_feedforward_layernorm=norm_weight(h, 0.3),
            pre_feedforward_layernorm_2=norm_weight(h, 1.0), post_feedforward_layernorm_1=norm_weight(h, 1.0),
            post_feedforward_layernorm_2=norm_weight(h, 1.0), layer_scalar=leaf(1, fill=1.0),
            mlp=Holder(gate_proj=weight(f, h), up_proj=weight(f, h), down_proj=weight(h, f)),
            router=Holder(proj=weight(e, h, gain=1.0), scale=leaf(h, fill=4.0), per_expert_scale=leaf(e, fill=1.0)),
            experts=Holder(gate_up_proj=leaf(e, 2 * w, h, std=0.6 * h ** -0.5), down_proj=leaf(e, h, w, std=0.6 * w ** -0.5)))

    def frequencies(self, layer_type, device):
        """Angles per position; computed in float32 as the reference does."""
        c, p = self.c, self.c["rope_parameters"]
        if self.family == "qwen":
            r = int(c["head_dim"] * p["partial_rotary_factor"])
            return 1.0 / p["rope_theta"] ** (torch.arange(0, r, 2, device=device).float() / r)
        p = p[layer_type]
        if layer_type == "sliding_attention":
            d = c["head_dim"]
            return 1.0 / p["rope_theta"] ** (torch.arange(0, d, 2, device=device).float() / d)
        d = c["global_head_dim"]
        n = int(p["partial_rotary_factor"] * d // 2)
        return 1.0 / p["rope_theta"] ** (torch.arange(0, 2 * n, 2, device=device).float() / d)

    def call(self, f, *args):
        return self.fast.get(f.__name__, f)(*args)

    def compile(self):
        """Fuse the token-wise functions; their batch is always the same size."""
        for f in (delta_inputs, delta_chunks, delta_output, qwen_attn_inputs, qwen_attn_output, qwen_moe,
                  gemma_attn_inputs, gemma_attn_output, gemma_moe, head_losses):
            self.fast[f.__name__] = torch.compile(f, dynamic=False)

    def attend(self, q, k, v, rows, window, scale, block=None):
        """block [rows, length]: which picture a token is of, -1 for none; a picture sees itself whole."""
        q, k, v = (t.view(rows, -1, t.shape[-2], t.shape[-1]).transpose(1, 2) for t in (q, k, v))
        length = q.shape[2]
        if block is not None:
            assert length <= window
            i = torch.arange(length, device=q.device)
            same = (block[:, :, None] == block[:, None]) & (block >= 0)[:, :, None]
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=(same | (i[:, None] >= i[None]))[:, None], scale=scale)
        elif window and length > window:
            key = (length, q.device, q.dtype)
            if key not in self.masks:
                i = torch.arange(length, device=q.device)
                far = i[:, None] - i[None]
                self.masks[key] = ((far >= 0) & (far < window))[None, None]
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=self.masks[key], scale=scale)
        else:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return o.transpose(1, 2).flatten(0, 1)

    def hidden(self, ids, rows, valid, pictures=None):
        """ids [T] of `rows` conversations of equal length (a multiple of 64) -> ([T, H], balance loss).
        pictures: (pixels [N, 3, height, width] from 0 to 1, rope positions [T, 3]) in the order of their marks,
        of which there are exactly as many as the pictures have tokens."""
        c, dt = self.c, self.dt
        length = ids.shape[0] // rows
        pos = torch.arange(length, device=ids.device).repeat(rows)
        x = F.embedding(ids, self.model.embed_tokens.weight)
        if self.family == "gemma":
            x = x * c["hidden_size"] ** 0.5
        rope, block = pos[:, None].expand(-1, 3).contiguous(), None
        if pictures is not None:
            pixels, rope = pictures
            seen = self.eyes(pixels, dt).flatten(0, 1)
            mark = ids == MARKS["image"]
            x = torch.where(mark[:, None], seen[(mark.cumsum(0) - 1).clamp(min=0, max=seen.shape[0] - 1)], x)
            mark = mark.view(rows, length)
            first = mark & ~F.pad(mark, (1, 0))[:, :-1]
            block = torch.where(mark, first.cumsum(1), -1)
        aux = 0.0
        freq = {t: self.frequencies(t, ids.device) for t in set(c["layer_types"])} if self.family == "gemma" else \
            self.frequencies(None, ids.device)
        merge = block_masks(ids.device) if self.family == "qwen" else None
        for kind, l in zip(c["layer_types"], self.model.layers):
            if self.family == "qwen":
                x, a = self.qwen_block(x, l, kind, pos, rope, freq, rows, valid, merge)
            else:
                x, a = self.gemma_block(x, l, kind, pos, freq[kind], rows, valid, block)
            aux = aux + a / c["num_hidden_layers"]
        return x, aux

    def qwen_block(self, x, l, kind, pos, rope, freq, rows, valid, merge):
        c, dt = self.c, self.dt
        if kind == "full_attention":
            a, d = l.self_attn, c["head_dim"]
            q, k, v, gate = self.call(qwen_attn_inputs, x, rope, freq, l.input_layernorm.weight, a.q_proj.weight,
                                      a.k_proj.weight, a.v_proj.weight, a.q_norm.weight, a.k_norm.weight,
                                      c["num_attention_heads"], c["num_key_value_heads"], d, dt)
            o = self.attend(q, k, v, rows, 0, d ** -0.5)
            x = self.call(qwen_attn_output, x, o, gate, a.o_proj.weight, dt)
        else:
            a = l.linear_attn
            hk, hv, dk, dv = (c["linear_num_key_heads"], c["linear_num_value_heads"], c["linear_key_head_dim"],
                              c["linear_value_head_dim"])
            q, k, v, z, beta, total, mat, p = self.call(
                delta_inputs, x, pos, l.input_layernorm.weight, a.in_proj_qkv.weight, a.in_proj_z.weight,
                a.in_proj_b.weight, a.in_proj_a.weight, a.conv1d.weight, a.A_log, a.dt_bias, hk, hv, dk, dv, dt)
            t = UnitLowerInverse.apply(mat, merge)
            m, h, base, reach = self.call(delta_chunks, q, k, v, beta, total, t, p, hv // hk)
            n = m.shape[0] // rows
            stack = lambda y: y.view(rows, n, hv, dk, -1).transpose(1, 2).reshape(rows * hv, n, dk, -1)
            s = ChunkScan.apply(stack(m), stack(h))
            s = s.view(rows, hv, n, dk, dv).transpose(1, 2).reshape(rows * n, hv, dk, dv)
            x = self.call(delta_output, x, base, reach, s, z, a.norm.weight, a.out_proj.weight, hv, dv, dt)
        f = l.mlp
        return self.call(qwen_moe, x, valid, l.post_attention_layernorm.weight, f.gate.weight, f.experts.gate_up_proj,
                         f.experts.down_proj, f.shared_expert.gate_proj.weight, f.shared_expert.up_proj.weight,
                         f.shared_expert.down_proj.weight, f.shared_expert_gate.weight, c["num_experts_per_tok"], dt)

    def gemma_block(self, x, l, kind, pos, freq, rows, valid, block):
        c, dt, a = self.c, self.dt, l.self_attn
        full = kind == "full_attention"
        d = c["global_head_dim"] if full else c["head_dim"]
        nkv = c["num_global_key_value_heads"] if full else c["num_key_value_heads"]
        q, k, v = self.call(gemma_attn_inputs, x, pos, freq, l.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight,
                            None if full else a.v_proj.weight, a.q_norm.weight, a.k_norm.weight,
                            c["num_attention_heads"], nkv, d, dt)
        o = self.attend(q, k, v, rows, 0 if full else c["sliding_window"], 1.0, None if full else block)
        x = self.call(gemma_attn_output, x, o, a.o_proj.weight, l.post_attention_layernorm.weight, dt)
        return self.call(
            gemma_moe, x, valid, l.pre_feedforward_layernorm.weight, l.post_feedforward_layernorm.weight,
            l.pre_feedforward_layernorm_2.weight, l.post_feedforward_layernorm_1.weight,
            l.post_feedforward_layernorm_2.weight, l.mlp.gate_proj.weight, l.mlp.up_proj.weight, l.mlp.down_proj.weight,
            l.router.scale, l.router.proj.weight, l.router.per_expert_scale, l.experts.gate_up_proj,
            l.experts.down_proj, l.layer_scalar, c["top_k_experts"], dt)

    def head(self):
        if self.family == "qwen":
            return 1 + self.model.norm.weight, self.lm_head.weight, 0.0
        return self.model.norm.weight, self.model.embed_tokens.weight, self.c["final_logit_softcapping"]

    def loss(self, ids, kind, rows, pictures=None):
        """Mean answer loss, mean prompt loss and balance loss of one batch; ids, kind [T]."""
        x, aux = self.hidden(ids, rows, (kind > 0).float(), pictures)
        target = F.pad(ids[1:], (0, 1))
        of = F.pad(kind[1:], (0, 1)).view(rows, -1).clone()
        of[:, -1] = 0
        of = of.view(-1)
        norm, w, cap = self.head()
        answer, prompt = self.call(head_losses, x, norm, w, cap, target, of, self.dt)
        return answer / (of == 2).sum().clamp(min=1), prompt / (of == 1).sum().clamp(min=1), aux

    @torch.no_grad()
    def logits(self, ids, rows, pictures=None):
        """Logits [rows, L, V]; L must be a multiple of 64."""
        fast, self.fast = self.fast, {}
        x, _ = self.hidden(ids.view(-1), rows, torch.ones(ids.numel(), device=ids.device), pictures)
        self.fast = fast
        norm, w, cap = self.head()
        y = lin(rms(x, norm), w, self.dt).float()
        y = cap * torch.tanh(y / cap) if cap else y
        return y.view(rows, -1, y.shape[-1])
