"""Fusion of a region's views: RoIAlign, deformable alignment to view 0, MLP over channels."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from dynrefer.models.deformable import DeformableAlignment
from dynrefer.models.parts import Part


class ViewFusion(Part):
    """Tokens of the views of N regions -> one set of region tokens each.

    Args:
        width: channels C of the vision tokens.
        num_views: views V of a region; the MLP's input is V * C wide, so it is fixed by training.
        grid: patches g a side of a crop.
        patch: pixels a patch.
        groups: channel groups of the deformable alignment.
    """

    def __init__(
        self, width: int, num_views: int, grid: int, patch: float, groups: int = 4
    ) -> None:
        super().__init__()
        self.num_views, self.grid, self.patch = num_views, grid, patch
        self.alignment = DeformableAlignment(width, groups) if num_views > 1 else None
        self.mlp = nn.Sequential(
            nn.Linear(num_views * width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def region_maps(self, tokens: Tensor, view_index: Tensor, region_boxes: Tensor) -> Tensor:
        """RoIAlign of every view: [N, V, C, g, g]; each crop's map is read where it lies."""
        maps = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        boxes = region_boxes.to(maps.dtype).flatten(0, 1)
        rois = torch.cat([view_index.reshape(-1, 1).to(boxes), boxes], dim=1)
        aligned = roi_align(
            maps, rois, self.grid, spatial_scale=1 / self.patch, sampling_ratio=2, aligned=False
        )
        return aligned.unflatten(0, view_index.shape)

    def forward(self, tokens: Tensor, view_index: Tensor, region_boxes: Tensor) -> Tensor:
        """Fuses the views of each region.

        Args:
            tokens: vision tokens of the distinct crops, CLS first, [U, 1 + g * g, C].
            view_index: which crop each view is, int64 [N, V].
            region_boxes: the region inside each view's crop, xyxy pixels, float [N, V, 4].

        Returns:
            Region tokens [N, 1 + g * g, C].
        """
        if view_index.shape[1] != self.num_views:
            raise ValueError(
                f"the model fuses {self.num_views} views (model.num_views), "
                f"the batch has {view_index.shape[1]}"
            )
        return self.fuse(tokens, view_index, self.region_maps(tokens, view_index, region_boxes))

    def fuse(self, tokens: Tensor, view_index: Tensor, maps: Tensor) -> Tensor:
        """Region tokens [N, 1 + g * g, C] of the views' maps, as ``region_maps`` gives them."""
        if self.alignment is not None:
            reference = maps[:, :1].expand_as(maps[:, 1:]).flatten(0, 1)
            aligned = self.alignment(maps[:, 1:].flatten(0, 1), reference)
            maps = torch.cat([maps[:, :1], aligned.unflatten(0, maps[:, 1:].shape[:2])], dim=1)
        summary = tokens[view_index.flatten(), 0].unflatten(0, view_index.shape)
        views = torch.cat([summary.unsqueeze(2), maps.flatten(3).transpose(2, 3)], dim=2)
        return self.mlp(views.transpose(1, 2).flatten(2))
