"""The vision encoder: any timm tower that keeps a grid of patch tokens."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(nn.Module):
    """uint8 crops -> CLS and patch tokens (EVA-CLIP g/14 in the paper, without its last block).

    The tower's own final norm is removed; ``norm`` (BLIP-2's ln_vision) takes its place.

    Args:
        name: timm name of the tower, e.g. "eva_giant_patch14_clip_224".
        image_size: side of the square crops in pixels.
        drop_last_blocks: how many of the tower's last blocks are left out.
        options: further arguments of ``timm.create_model`` (depth, embed_dim, ...).
        freeze: True runs the tower and its norm without a graph and always in evaluation mode.
        gradient_checkpointing: recompute the blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        name: str,
        image_size: int = 224,
        drop_last_blocks: int = 0,
        options: Mapping[str, Any] | None = None,
        freeze: bool = True,
        gradient_checkpointing: bool = False,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
    ) -> None:
        super().__init__()
        options = {"num_classes": 0, "img_size": image_size, **(options or {})}
        try:
            self.tower = timm.create_model(name, **options)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"model.vision: timm cannot build '{name}' with {options}: {error}"
            ) from error
        if not hasattr(self.tower, "blocks") or not hasattr(self.tower, "num_prefix_tokens"):
            raise ValueError(
                f"model.vision.name: '{name}' has no transformer blocks over patch tokens; "
                "choose a ViT-like tower of timm"
            )
        if drop_last_blocks:
            self.tower.blocks = self.tower.blocks[: len(self.tower.blocks) - drop_last_blocks]
        self.tower.norm = nn.Identity()
        if hasattr(self.tower, "fc_norm"):
            self.tower.fc_norm = nn.Identity()
        if gradient_checkpointing:
            self.tower.set_grad_checkpointing(True)
        self.width: int = self.tower.embed_dim
        self.grid: int = self.tower.patch_embed.grid_size[0]
        self.patch: float = image_size / self.grid
        self.image_size = image_size
        self.norm = nn.LayerNorm(self.width, eps=1e-5)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.frozen = freeze
        self.requires_grad_(not freeze)

    def train(self, mode: bool = True) -> "VisionEncoder":
        """A frozen tower stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def normalize(self, crops: Tensor) -> Tensor:
        """uint8 [U, 3, S, S] -> float of the tower's precision, by the CLIP mean and std."""
        normalized = (crops.float() / 255 - self.mean) / self.std
        return normalized.to(next(self.tower.parameters()).dtype)

    def forward(self, crops: Tensor) -> Tensor:
        """uint8 crops [U, 3, S, S] (or normalised float) -> tokens [U, 1 + g * g, C], CLS first."""
        with torch.no_grad() if self.frozen else nullcontext():
            pixels = self.normalize(crops) if crops.dtype == torch.uint8 else crops
            tokens = self.tower.forward_features(pixels)
            prefix = self.tower.num_prefix_tokens
            patches = tokens[:, prefix:]
            # A tower without a CLS token is summarised by the mean of its patches.
            summary = tokens[:, :1] if prefix else patches.mean(dim=1, keepdim=True)
            return self.norm(torch.cat([summary, patches], dim=1).to(self.norm.weight.dtype))
