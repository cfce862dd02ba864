import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.ops import deform_conv2d

from dynrefer.models.deformable import (
    TAPS,
    DeformableAlignment,
    deformable_sample,
    sampling_matrix,
)


def by_grid_sample(values, offset_mask, groups, side):
    """One bilinear sample a tap and group, by grid_sample."""
    regions, positions, channels = values.shape
    maps = values.transpose(1, 2).reshape(regions, groups, channels // groups, side, side)
    field = offset_mask[..., : groups * 27].view(regions, positions, groups, 27)
    cell = torch.arange(positions)
    result = torch.zeros_like(maps)
    for group in range(groups):
        for tap in range(TAPS):
            dx, dy = field[:, :, group, 2 * tap], field[:, :, group, 2 * tap + 1]
            x = cell % side - 1 + tap // 3 + dx
            y = torch.div(cell, side, rounding_mode="floor") - 1 + tap % 3 + dy
            grid = 2 * torch.stack([x, y], dim=-1) / (side - 1) - 1
            sample = functional.grid_sample(
                maps[:, group], grid.view(regions, side, side, 2), align_corners=True
            )
            weight = field[:, :, group, 2 * TAPS + tap].view(regions, 1, side, side)
            result[:, group] = result[:, group] + weight * sample
    return result.flatten(1, 2).flatten(2).transpose(1, 2)


def by_deform_conv2d(values, offset_mask, groups, side):
    """torchvision's modulated deformable convolution: taps run y-major, offsets are (dy, dx)."""
    regions, positions, channels = values.shape
    maps = values.transpose(1, 2).reshape(regions, channels, side, side)
    field = offset_mask[..., : groups * 27].view(regions, positions, groups, 27)
    offsets = field[..., :18].view(regions, positions, groups, 3, 3, 2)  # x, y, (dx, dy)
    weights = field[..., 18:].view(regions, positions, groups, 3, 3)
    offsets = offsets.permute(0, 2, 4, 3, 5, 1).flip(4)  # group, y, x, (dy, dx), position
    weights = weights.permute(0, 2, 4, 3, 1)
    sampled = deform_conv2d(
        maps,
        offsets.reshape(regions, -1, side, side),
        torch.ones(channels, 1, 3, 3, dtype=values.dtype),
        padding=1,
        mask=weights.reshape(regions, -1, side, side),
    )
    return sampled.flatten(2).transpose(1, 2)


def case(seed, regions, groups, side, width, reach, padding=5):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(regions, side * side, groups * width, generator=generator)
    offset_mask = torch.randn(regions, side * side, groups * 27 + padding, generator=generator)
    offset_mask.view(regions, side * side, -1)[..., : groups * 27].unflatten(-1, (groups, 27))[
        ..., :18
    ].mul_(reach)
    return values.requires_grad_(), offset_mask.requires_grad_()


def value_and_gradients(sample, values, offset_mask, groups, side):
    result = sample(values, offset_mask, groups, side)
    # Weights that differ from place to place, so that a swap of two places shows.
    factor = torch.linspace(-1, 1, result.numel()).view_as(result)
    return (result, *torch.autograd.grad((factor * result).sum(), (values, offset_mask)))


@pytest.mark.parametrize("reference", [by_grid_sample, by_deform_conv2d])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 4),
    side=st.integers(2, 5),
    reach=st.sampled_from([0.3, 1.5, 20.0]),
)
def test_agrees_with_other_forms(reference, seed, groups, side, reach):
    inputs = case(seed, 2, groups, side, 3, reach)
    ours = value_and_gradients(deformable_sample, *inputs, groups, side)
    theirs = value_and_gradients(reference, *inputs, groups, side)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_without_offsets_it_is_a_convolution_with_x_major_taps():
    side, kernel = 4, torch.randn(3, 3)
    image = torch.randn(1, 1, side, side)
    offset_mask = torch.zeros(1, side * side, 32)
    offset_mask[..., 18:27] = kernel.T.flatten()  # tap 3 i + j, i over x
    sampled = deformable_sample(image.flatten(2).transpose(1, 2), offset_mask, 1, side)
    expected = functional.conv2d(image, kernel.view(1, 1, 3, 3), padding=1)
    torch.testing.assert_close(sampled.view(1, 1, side, side), expected)


def test_matrix_rows_and_padding_channels():
    _, offset_mask = case(0, 2, 2, 3, 1, 1.0)
    matrix = sampling_matrix(offset_mask, 2, 3)
    assert matrix.shape == (2, 2, 9, 9)
    changed = offset_mask.detach().clone()
    changed[..., 54:] += 100
    assert torch.equal(matrix, sampling_matrix(changed, 2, 3))


def test_offsets_outside_the_map_sample_zero():
    values, offset_mask = case(0, 1, 1, 3, 2, 0.0)
    with torch.no_grad():
        offset_mask[..., :18] = 1e6
    assert torch.equal(deformable_sample(values, offset_mask, 1, 3), torch.zeros(1, 9, 2))


def test_numbers_that_are_not_finite_reach_the_result():
    """A NaN ends in a loss that names the regions, not in an index error of the device."""
    values, offset_mask = case(0, 2, 1, 3, 2, 1.0)
    with torch.no_grad():
        offset_mask[0, 4, 2] = float("nan")
        offset_mask[0, 5, 2] = float("inf")
    sampled = deformable_sample(values, offset_mask, 1, 3)
    assert sampled[0, 4:6].isnan().all()
    assert torch.isfinite(sampled[1]).all()


def test_a_fresh_module_outputs_its_bias():
    alignment = DeformableAlignment(8)
    view, reference = torch.randn(2, 3, 8, 4, 4)
    torch.nn.init.normal_(alignment.output_proj.bias)
    expected = alignment.output_proj.bias.view(1, 8, 1, 1).expand(3, 8, 4, 4)
    assert torch.equal(alignment(view, reference), expected)


def test_maps_pass_through_where_training_starts_from_scratch():
    alignment = DeformableAlignment(8, groups=2)
    alignment.pass_through()
    view, reference = torch.randn(2, 3, 8, 4, 4)
    flat = alignment.output_proj(alignment.value_proj(view.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(alignment(view, reference).flatten(2).transpose(1, 2), flat)


def test_alignment_is_made_of_its_published_steps():
    alignment = DeformableAlignment(8)
    for parameter in alignment.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    view, reference = torch.randn(2, 3, 8, 4, 4)
    # With 8 groups over 16 channels, output channel c sees channels 2 c and 2 c + 1.
    both = torch.cat([view, reference], dim=1)
    kernel = alignment.offset_mask_dw.weight
    context = torch.cat(
        [
            functional.conv2d(both[:, 2 * c : 2 * c + 2], kernel[c : c + 1], padding=1)
            for c in range(8)
        ],
        dim=1,
    ) + alignment.offset_mask_dw.bias.view(1, 8, 1, 1)
    offset_mask = alignment.offset_mask(context.flatten(2).transpose(1, 2))
    values = alignment.value_proj(view.flatten(2).transpose(1, 2))
    sampled = by_grid_sample(values, offset_mask, 4, 4)
    expected = alignment.output_proj(sampled).transpose(1, 2).reshape(3, 8, 4, 4)
    torch.testing.assert_close(alignment(view, reference), expected, rtol=1e-4, atol=1e-4)


def test_size_of_the_offset_layer():
    assert DeformableAlignment(8, groups=4).offset_mask.out_features == 112
    assert DeformableAlignment(8, groups=8).offset_mask.out_features == 216


def test_groups_must_divide_the_width():
    with pytest.raises(ValueError, match="4 does not divide the vision width 10"):
        DeformableAlignment(10)


def test_places_and_weights_are_computed_in_float32():
    """In bf16 a place of the map is off by up to a sixteenth of a cell."""
    values, offset_mask = case(0, 2, 2, 16, 3, 1.0)
    half = offset_mask.detach().bfloat16()
    matrix = sampling_matrix(half, 2, 16)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, sampling_matrix(half.float(), 2, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(matrix, sampling_matrix(half, 2, 16))
        sampled = deformable_sample(values.detach().bfloat16(), half, 2, 16)
    exact = deformable_sample(values.detach(), half.float(), 2, 16)
    assert sampled.dtype == torch.bfloat16
    assert (sampled - exact).norm() / exact.norm() < 0.006
