"""The two vision towers in plain PyTorch; names and mathematics are those of Qwen3_5MoeVisionModel and
Gemma4VisionModel (test_model.py compares them). All pictures of a batch have one size.
"""
import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "qwen": {"depth": 3, "hidden_size": 128, "intermediate_size": 384, "num_heads": 4, "patch_size": 16, "in_channels": 3,
             "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 256, "out_hidden_size": 256,
             "hidden_act": "gelu_pytorch_tanh", "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}},
    "gemma": {"num_hidden_layers": 3, "hidden_size": 128, "intermediate_size": 288, "num_attention_heads": 4,
              "num_key_value_heads": 4, "head_dim": 32, "patch_size": 8, "pooling_kernel_size": 3,
              "position_embedding_size": 128, "standardize": True, "use_clipped_linears": False, "rms_norm_eps": 1e-6,
              "hidden_activation": "gelu_pytorch_tanh", "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}},
}


def leaf(*shape, std=None, fill=None):
    return nn.Parameter(torch.empty(*shape).normal_(0, std) if fill is None else torch.full(shape, float(fill)))


class Holder(nn.Module):
    """A module that only holds named parameters and children."""

    def __init__(self, **kw):
        super().__init__()
        for k, v in kw.items():
            setattr(self, k, v)


def weight(rows, columns, gain=0.6):
    return Holder(weight=leaf(rows, columns, std=gain * columns ** -0.5))


def biased(rows, columns, gain=0.6):
    return Holder(weight=leaf(rows, columns, std=gain * columns ** -0.5), bias=leaf(rows, fill=0))


def layer_norm(n):
    return Holder(weight=leaf(n, fill=1), bias=leaf(n, fill=0))


def rms(x, w=None):
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x if w is None else x * w


def angles(rows, columns, order, quarter, base, device):
    """cos and sin [patches, 2, quarter] of a picture's rows and columns, patches in `order`."""
    freq = base ** -(torch.arange(quarter, device=device).float() / quarter)
    at = torch.stack([order // columns, order % columns], -1).float()
    a = at[..., None] * freq
    return a.cos(), a.sin()


class QwenTower(nn.Module):
    def __init__(self):
        super().__init__()
        c = self.c = CONFIG["qwen"]
        h, i, p = c["hidden_size"], c["intermediate_size"], c["patch_size"]
        wide = h * c["spatial_merge_size"] ** 2
        first = leaf(h, 3, c["temporal_patch_size"], p, p, std=0.6 * (6 * p * p) ** -0.5)
        self.patch_embed = Holder(proj=Holder(weight=first, bias=leaf(h, fill=0)))
        self.pos_embed = Holder(weight=leaf(c["num_position_embeddings"], h, std=0.3))
        self.blocks = nn.ModuleList(
            Holder(norm1=layer_norm(h), norm2=layer_norm(h), attn=Holder(qkv=biased(3 * h, h), proj=biased(h, h, 0.3)),
                   mlp=Holder(linear_fc1=biased(i, h), linear_fc2=biased(h, i, 0.3))) for _ in range(c["depth"]))
        self.merger = Holder(norm=layer_norm(h), linear_fc1=biased(wide, wide), linear_fc2=biased(c["out_hidden_size"], wide))
        self.known = {}

    def constants(self, rows, columns, device):
        """For a grid of patches: their order, rope, and where the table of positions is read, with weights."""
        if (rows, columns) in self.known:
            return self.known[rows, columns]
        c, m = self.c, self.c["spatial_merge_size"]
        order = torch.arange(rows * columns, device=device).view(rows // m, m, columns // m, m).transpose(1, 2).flatten()
        cos, sin = angles(rows, columns, order, c["hidden_size"] // c["num_heads"] // 4,
                          c["rope_parameters"]["rope_theta"], device)
        side = int(c["num_position_embeddings"] ** 0.5)
        y, x = (torch.linspace(0, side - 1, n, device=device) for n in (rows, columns))
        index, share = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                yi, xi = (torch.clamp(v.int() + d, max=side - 1).long() for v, d in ((y, dy), (x, dx)))
                wy, wx = ((v - v.int()) if d else 1 - (v - v.int()) for v, d in ((y, dy), (x, dx)))
                index.append((yi[:, None] * side + xi[None]).flatten()[order])
                share.append((wy[:, None] * wx[None]).flatten()[order])
        self.known[rows, columns] = order, cos, sin, torch.stack(index), torch.stack(share)
        return self.known[rows, columns]

    def forward(self, pixels, dt):
        """pixels [N, 3, H, W] from 0 to 1 -> rows [N, tokens, 256]"""
        c, p = self.c, self.c["patch_size"]
        n, _, height, width = pixels.shape
        order, cos, sin, index, share = self.constants(height // p, width // p, pixels.device)
        w = self.patch_embed.proj.weight.sum(2)                # both frames are the same picture
        x = F.conv2d((2 * pixels - 1).to(dt), w.to(dt), self.patch_embed.proj.bias.to(dt), stride=p).float()
        x = x.flatten(2).transpose(1, 2)[:, order]
        x = x + (self.pos_embed.weight[index] * share[..., None]).sum(0)
        heads = c["num_heads"]
        for b in self.blocks:
            h = lin(norm(x, b.norm1), b.attn.qkv, dt).float().view(n, -1, 3, heads, c["hidden_size"] // heads)
            q, k, v = (t.transpose(1, 2) for t in h.unbind(2))
            o = F.scaled_dot_product_attention(self.rotate(q, cos, sin).to(dt), self.rotate(k, cos, sin).to(dt), v.to(dt))
            x = x + lin(o.transpose(1, 2).flatten(2), b.attn.proj, dt).float()
            y = F.gelu(lin(norm(x, b.norm2), b.mlp.linear_fc1, dt).float(), approximate="tanh")
            x = x + lin(y, b.mlp.linear_fc2, dt).float()
        x = norm(x, self.merger.norm).reshape(n, -1, 4 * c["hidden_size"])
        return lin(F.gelu(lin(x, self.merger.linear_fc1, dt).float()), self.merger.linear_fc2, dt).float()

    @staticmethod
    def rotate(x, cos, sin):
        """x [N, heads, patches, d]; rows' angles, then columns', in the first half of d and again in the second."""
        a, b = x.chunk(2, -1)
        c, s = cos.flatten(1), sin.flatten(1)
        return torch.cat([a * c - b * s, b * c + a * s], -1)


class GemmaTower(nn.Module):
    """The tower and what brings its rows into the text model's width."""

    def __init__(self):
        super().__init__()
        c = self.c = CONFIG["gemma"]
        h, i, p, d = c["hidden_size"], c["intermediate_size"], c["patch_size"], c["head_dim"]
        linear = lambda r, k, gain=0.6: Holder(linear=weight(r, k, gain))
        scale = lambda n, v=1.0: Holder(weight=leaf(n, fill=v))
        self.vision_tower = Holder(
            patch_embedder=Holder(input_proj=weight(h, 3 * p * p), position_embedding_table=leaf(
                2, c["position_embedding_size"], h, std=0.3)),
            encoder=Holder(layers=nn.ModuleList(Holder(
                self_attn=Holder(q_proj=linear(h, h), k_proj=linear(h, h), v_proj=linear(h, h), o_proj=linear(h, h),
                                 q_norm=scale(d, d ** -0.25), k_norm=scale(d, d ** -0.25)),
                mlp=Holder(gate_proj=linear(i, h), up_proj=linear(i, h), down_proj=linear(h, i)),
                input_layernorm=scale(h), post_attention_layernorm=scale(h, 0.5), pre_feedforward_layernorm=scale(h),
                post_feedforward_layernorm=scale(h, 0.5)) for _ in range(c["num_hidden_layers"]))),
            std_bias=leaf(h, fill=0), std_scale=leaf(h, fill=1))
        self.embed_vision = Holder(embedding_projection=weight(256, h))
        self.known = {}

    def constants(self, rows, columns, device):
        if (rows, columns) not in self.known:
            order = torch.arange(rows * columns, device=device)
            cos, sin = angles(rows, columns, order, self.c["head_dim"] // 4, self.c["rope_parameters"]["rope_theta"], device)
            swap = lambda t: t.flip(1)                         # columns, x, come first
            self.known[rows, columns] = order // columns, order % columns, swap(cos), swap(sin)
        return self.known[rows, columns]

    def forward(self, pixels, dt):
        """pixels [N, 3, H, W] from 0 to 1 -> rows [N, tokens, 256]"""
        c, p, t = self.c, self.c["patch_size"], self.vision_tower
        n, _, height, width = pixels.shape
        rows, columns = height // p, width // p
        y, x, cos, sin = self.constants(rows, columns, pixels.device)
        patches = pixels.view(n, 3, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, -1)
        table = t.patch_embedder.position_embedding_table
        h = lin(2 * patches - 1, t.patch_embedder.input_proj, dt).float() + table[0][x] + table[1][y]
        heads, d = c["num_attention_heads"], c["head_dim"]
        for l in t.encoder.layers:
            a = l.self_attn
            z = rms(h, l.input_layernorm.weight)
            q, k, v = (lin(z, w.linear, dt).float().view(n, -1, heads, d).transpose(1, 2) for w in (a.q_proj, a.k_proj, a.v_proj))
            q = self.rotate(rms(q, a.q_norm.weight), cos, sin)
            k = self.rotate(rms(k, a.k_norm.weight), cos, sin)
            o = F.scaled_dot_product_attention(q.to(dt), k.to(dt), rms(v).to(dt), scale=1.0)
            o = lin(o.transpose(1, 2).flatten(2), a.o_proj.linear, dt).float()
            h = h + rms(o, l.post_attention_layernorm.weight)
            z = rms(h, l.pre_feedforward_layernorm.weight)
            z = F.gelu(lin(z, l.mlp.gate_proj.linear, dt).float(), approximate="tanh") * lin(z, l.mlp.up_proj.linear, dt).float()
            h = h + rms(lin(z, l.mlp.down_proj.linear, dt).float(), l.post_feedforward_layernorm.weight)
        s = c["pooling_kernel_size"]
        h = h.view(n, rows // s, s, columns // s, s, -1).mean((2, 4)).flatten(1, 2) * c["hidden_size"] ** 0.5
        h = (h - t.std_bias) * t.std_scale
        return lin(rms(h), self.embed_vision.embedding_projection, dt).float()

    @staticmethod
    def rotate(x, cos, sin):
        """x [N, heads, patches, d]: each half of d by the angles of one axis."""
        out = []
        for axis, half in enumerate(x.chunk(2, -1)):
            a, b = half.chunk(2, -1)
            c, s = cos[:, axis], sin[:, axis]
            out.append(torch.cat([a * c - b * s, b * c + a * s], -1))
        return torch.cat(out, -1)


def norm(x, p):
    return F.layer_norm(x, x.shape[-1:], p.weight, p.bias, 1e-6)


def lin(x, p, dt):
    bias = getattr(p, "bias", None)
    return F.linear(x.to(dt), p.weight.to(dt), None if bias is None else bias.to(dt))
