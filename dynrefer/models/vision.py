"""The vision encoder: any timm tower that keeps a grid of patch tokens."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dynrefer.models.parts import BUILD_ERRORS, Part, without_autocast

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(Part):
    """uint8 crops -> CLS and patch tokens (EVA-CLIP g/14 in the paper, without its last block).

    The tower's own final norm is removed; ``norm`` (BLIP-2's ln_vision) takes its place.

    Args:
        name: timm name of the tower, e.g. "eva_giant_patch14_clip_224".
        image_size: side of the square crops in pixels.
        drop_last_blocks: how many of the tower's last blocks are left out.
        options: further arguments of ``timm.create_model`` (depth, embed_dim, ...).
        freeze: True for a tower and norm that training leaves as they are.
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
        self.tower = _timm_tower(name, {"img_size": image_size, **(options or {})})
        depth = len(self.tower.blocks)
        if not 0 <= drop_last_blocks < depth:
            raise ValueError(
                f"model.vision.drop_last_blocks: {drop_last_blocks}; '{name}' has {depth} blocks, "
                f"valid is 0 to {depth - 1}"
            )
        self.tower.blocks = self.tower.blocks[: depth - drop_last_blocks]
        # Tensors that files hold and this encoder does not, and why (dynrefer.checkpoints.loading).
        reason = "the tower's last blocks (model.vision.drop_last_blocks)"
        blocks = range(depth - drop_last_blocks, depth)
        self.left_out = {rf"tower\.blocks\.{block}\..*": reason for block in blocks}
        self.tower.norm = nn.Identity()
        for unused in ("fc_norm", "attn_pool"):  # both belong to the tower's classifier
            if hasattr(self.tower, unused):
                setattr(self.tower, unused, None)
        if gradient_checkpointing:
            self.tower.set_grad_checkpointing(True)
        self.width: int = self.tower.embed_dim
        self.grid: int = self.tower.patch_embed.grid_size[0]
        self.patch: float = self.tower.patch_embed.feat_ratio()
        if self.grid < 1 or image_size != self.grid * self.patch:
            raise ValueError(
                f"model.image_size: {image_size} is not a multiple of the patches of '{name}', "
                f"{self.patch} pixels"
            )
        self.image_size = image_size
        self.has_class_token = getattr(self.tower, "cls_token", None) is not None
        self.norm = nn.LayerNorm(self.width, eps=1e-5)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(not freeze)

    @property
    def precision(self) -> torch.dtype:
        """dtype of the tower's weights."""
        return next(self.tower.parameters()).dtype

    def normalize(self, crops: Tensor) -> Tensor:
        """uint8 [U, 3, S, S] -> float of the tower's precision, by the CLIP mean and std."""
        return ((crops.float() / 255 - self.mean) / self.std).to(self.precision)

    def forward(self, crops: Tensor) -> Tensor:
        """uint8 crops [U, 3, S, S] (or normalised float) -> tokens [U, 1 + g * g, C], CLS first."""
        # A tower held in half precision runs in it, whatever the precision of the run.
        is_half = self.precision != torch.float32
        with self.graph():
            is_raw = crops.dtype == torch.uint8
            pixels = self.normalize(crops) if is_raw else crops.to(self.precision)
            # Convolutions on the CPU take half the time with the channels last.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with without_autocast(crops.device) if is_half else nullcontext():
                tokens = self.tower.forward_features(pixels).to(self.norm.weight.dtype)
            patches = tokens[:, self.tower.num_prefix_tokens :]
            # A tower without a CLS token (registers are none) is summarised by its patches' mean.
            has_class = self.has_class_token
            summary = tokens[:, :1] if has_class else patches.mean(dim=1, keepdim=True)
            return self.norm(torch.cat([summary, patches], dim=1))


def _timm_tower(name: str, options: dict[str, Any]) -> nn.Module:
    """timm's model without a classifier; raises ValueError where it cannot be used here."""
    try:
        tower = timm.create_model(name, num_classes=0, **options)
    except BUILD_ERRORS as error:
        raise ValueError(
            f"model.vision, model.image_size: timm cannot build '{name}' with {options}: "
            f"{str(error) or repr(error)}"
        ) from error
    if not hasattr(tower, "blocks") or not hasattr(tower, "num_prefix_tokens"):
        raise ValueError(
            f"model.vision.name: '{name}' has no transformer blocks over patch tokens; "
            "choose a ViT-like tower of timm"
        )
    return tower
