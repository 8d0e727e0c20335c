"""Compares the towers with Hugging Face in float32: same weights, same rows.

    python test_tower.py
"""
import torch
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig, Gemma4VisionConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4MultimodalEmbedder, Gemma4VisionModel
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeVisionConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeVisionModel

from tower import CONFIG, GemmaTower, QwenTower


def strange(tower):
    """Away from the round initial values."""
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return tower


def part(state, prefix):
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def qwen(rows, columns):
    tower = strange(QwenTower())
    hf = Qwen3_5MoeVisionModel(Qwen3_5MoeVisionConfig(**CONFIG["qwen"])).eval()
    hf.load_state_dict(tower.state_dict())
    pixels = torch.rand(2, 3, rows * 16, columns * 16)
    patches = (2 * pixels - 1).view(2, 3, rows // 2, 2, 16, columns // 2, 2, 16).permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = patches.reshape(2, rows * columns, 3, 1, 16, 16).expand(-1, -1, -1, 2, -1, -1).flatten(0, 1).flatten(1)
    return tower(pixels, torch.float32).flatten(0, 1), hf(patches, grid_thw=torch.tensor([[1, rows, columns]] * 2)).pooler_output


def gemma(rows, columns):
    tower = strange(GemmaTower())
    config = Gemma4VisionConfig(**CONFIG["gemma"])
    hf, embed = Gemma4VisionModel(config).eval(), Gemma4MultimodalEmbedder(config, Gemma4TextConfig(hidden_size=256))
    hf.load_state_dict(part(tower.state_dict(), "vision_tower."))
    embed.load_state_dict(part(tower.state_dict(), "embed_vision."))
    pixels = torch.rand(2, 3, rows * 8, columns * 8)
    patches = pixels.view(2, 3, rows, 8, columns, 8).permute(0, 2, 4, 3, 5, 1).reshape(2, rows * columns, -1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    at = torch.stack([x, y], -1).view(1, -1, 2).expand(2, -1, -1)
    return tower(pixels, torch.float32).flatten(0, 1), embed(hf(patches, at).last_hidden_state)


@torch.no_grad()
def main():
    torch.manual_seed(3)
    for name, both, grids in (("qwen", qwen, [(8, 8), (6, 10), (12, 8)]), ("gemma", gemma, [(24, 24), (21, 30), (33, 18)])):
        for grid in grids:
            got, want = both(*grid)
            diff = (got - want).abs().max().item()
            print(name, grid, "rows up to", round(want.abs().max().item(), 2), "max difference", diff)
            assert diff < 1e-4
    for tower in (QwenTower(), GemmaTower()):
        print(type(tower).__name__, sum(p.numel() for p in tower.parameters()), "parameters")


if __name__ == "__main__":
    main()
