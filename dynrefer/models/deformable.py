"""Modulated deformable sampling in the form of DCNv4, in plain PyTorch.

The nine weighted bilinear samples of a position are a sparse row over the map's positions, so one
group of channels is sampled by one matrix product. Of the exact forms that
scripts/benchmark_deformable.py compares it is the fastest that is simple (docs/benchmarks.md).
"""

import torch
from torch import Tensor, nn

TAPS = 9  # 3 x 3


def sampling_matrix(offset_mask: Tensor, groups: int, side: int) -> Tensor:
    """The linear map that a field of offsets and weights stands for.

    Args:
        offset_mask: [N, side * side, >= groups * 27]; each group holds 9 pairs (dx, dy) in map
            cells, then 9 weights, taps in x-major order. Further channels are padding.
        groups: number of channel groups.
        side: side of the square map.

    Returns:
        [N, groups, side * side, side * side]; row p holds the weights of every source position in
        the sample at p. Positions outside the map count as zero.
    """
    regions, positions, _ = offset_mask.shape
    field = offset_mask[..., : groups * 3 * TAPS].float().view(regions, positions, groups, 3 * TAPS)
    offsets = field[..., : 2 * TAPS].unflatten(-1, (TAPS, 2))
    weights = field[..., 2 * TAPS :]

    cell = torch.arange(positions, device=field.device)
    tap = torch.arange(TAPS, device=field.device)
    x = (cell % side).view(1, -1, 1, 1) - 1 + tap // 3 + offsets[..., 0]
    y = (cell // side).view(1, -1, 1, 1) - 1 + tap % 3 + offsets[..., 1]
    left, top = x.detach().floor(), y.detach().floor()

    columns, values = [], []
    for corner_x in (0, 1):
        for corner_y in (0, 1):
            source_x, source_y = left + corner_x, top + corner_y
            share = (1 - (x - source_x).abs()) * (1 - (y - source_y).abs())
            inside = (source_x >= 0) & (source_x < side) & (source_y >= 0) & (source_y < side)
            values.append(share * weights * inside)
            # A NaN is inside nowhere: it gets a valid column and stays in the values.
            columns.append(torch.where(inside, source_y * side + source_x, 0.0))
    columns_of_all = torch.cat(columns, dim=-1).long().transpose(1, 2)
    values_of_all = torch.cat(values, dim=-1).transpose(1, 2)
    matrix = values_of_all.new_zeros(regions, groups, positions, positions)
    return matrix.scatter_add(-1, columns_of_all, values_of_all)


def deformable_sample(values: Tensor, offset_mask: Tensor, groups: int, side: int) -> Tensor:
    """Samples a map at nine offset positions a cell and sums them by weight.

    Args:
        values: the map, [N, side * side, C].
        offset_mask: as in :func:`sampling_matrix`.

    Returns:
        [N, side * side, C].
    """
    matrix = sampling_matrix(offset_mask, groups, side).to(values.dtype)
    by_group = values.unflatten(-1, (groups, -1)).transpose(1, 2)
    return (matrix @ by_group).transpose(1, 2).flatten(-2)


class DeformableAlignment(nn.Module):
    """Moves the region map of one view onto the region map of view 0 (paper: view alignment).

    Args:
        width: channels C of the maps.
        groups: channel groups that share offsets; must divide ``width``.
    """

    def __init__(self, width: int, groups: int = 4) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(
                f"model.fusion.groups: {groups} does not divide the vision width {width}"
            )
        self.groups = groups
        # With C groups over 2C channels every output channel sees two neighbouring channels of
        # the concatenation, not one of each map; the published weights were trained so.
        self.offset_mask_dw = nn.Conv2d(2 * width, width, 3, padding=1, groups=width)
        padded = -(-groups * 3 * TAPS // 8) * 8
        self.offset_mask = nn.Linear(width, padded)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero offsets and weights, so that a fresh module outputs ``output_proj``'s bias."""
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def pass_through(self) -> None:
        """No offsets, weight 1 at the centre: at first each map passes as it is."""
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        centres = torch.arange(self.groups) * 3 * TAPS + 2 * TAPS + TAPS // 2
        self.offset_mask.bias.data[centres] = 1.0

    def forward(self, view: Tensor, reference: Tensor) -> Tensor:
        """Maps [N, C, g, g] of a view and of view 0 -> the view's map, aligned, [N, C, g, g]."""
        side = view.shape[-1]
        context = self.offset_mask_dw(torch.cat([view, reference], dim=1))
        offset_mask = self.offset_mask(context.flatten(2).transpose(1, 2))
        values = self.value_proj(view.flatten(2).transpose(1, 2))
        sampled = deformable_sample(values, offset_mask, self.groups, side)
        return self.output_proj(sampled).transpose(1, 2).unflatten(2, (side, side))
