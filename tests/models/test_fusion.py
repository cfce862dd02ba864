import pytest
import torch
from torchvision.ops import roi_align

from dynrefer.models.fusion import ViewFusion

WIDTH, GRID, PATCH = 8, 4, 8.0
SIDE = GRID * PATCH


def fusion(num_views=3):
    torch.manual_seed(0)
    module = ViewFusion(WIDTH, num_views, GRID, PATCH)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def inputs(regions, num_views, crops, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(crops, 1 + GRID**2, WIDTH, generator=generator)
    view_index = torch.randint(0, crops, (regions, num_views), generator=generator)
    corners = torch.rand(regions, num_views, 2, 2, generator=generator).mul(SIDE).sort(dim=2)[0]
    return tokens, view_index, corners.flatten(2)


def test_shared_crops_are_as_good_as_copies():
    module = fusion()
    tokens, view_index, boxes = inputs(regions=5, num_views=3, crops=4)
    copies, own_index = tokens[view_index].flatten(0, 1), torch.arange(15).view(5, 3)
    torch.testing.assert_close(
        module(tokens, view_index, boxes), module(copies, own_index, boxes), rtol=1e-5, atol=1e-5
    )


def test_a_region_does_not_depend_on_the_others():
    module = fusion()
    tokens, view_index, boxes = inputs(regions=5, num_views=3, crops=4)
    whole = module(tokens, view_index, boxes)
    for i in range(5):
        alone = module(tokens, view_index[i : i + 1], boxes[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_views_are_not_alike():
    module = fusion()
    tokens, view_index, boxes = inputs(regions=2, num_views=3, crops=6)
    reordered = module(tokens, view_index[:, [0, 2, 1]], boxes[:, [0, 2, 1]])
    assert (reordered - module(tokens, view_index, boxes)).abs().max() > 0.1


def test_region_maps_are_roi_aligned_one_by_one():
    module = fusion()
    tokens, view_index, boxes = inputs(regions=3, num_views=3, crops=4)
    maps = module.region_maps(tokens, view_index, boxes)
    assert maps.shape == (3, 3, WIDTH, GRID, GRID)
    for region in range(3):
        for view in range(3):
            crop = tokens[view_index[region, view], 1:].T.reshape(1, WIDTH, GRID, GRID)
            expected = roi_align(
                crop, [boxes[region, view : view + 1]], GRID, 1 / PATCH, sampling_ratio=2
            )
            torch.testing.assert_close(maps[region, view], expected[0])


def test_one_view_has_no_alignment():
    module = fusion(1)
    assert module.alignment is None
    tokens, view_index, boxes = inputs(regions=2, num_views=1, crops=2)
    maps = module.region_maps(tokens, view_index, boxes)[:, 0]
    views = torch.cat([tokens[view_index[:, 0], :1], maps.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(module(tokens, view_index, boxes), module.mlp(views))


def test_view_0_is_not_aligned_and_leads_the_channels():
    module = fusion()
    tokens, view_index, boxes = inputs(regions=2, num_views=3, crops=6)
    maps = module.region_maps(tokens, view_index, boxes)
    reference = maps[:, 0]
    parts = [reference, *(module.alignment(maps[:, view], reference) for view in (1, 2))]
    summary = tokens[view_index, 0]
    rows = [
        torch.cat([summary[:, v : v + 1], part.flatten(2).transpose(1, 2)], dim=1)
        for v, part in enumerate(parts)
    ]
    expected = module.mlp(torch.cat(rows, dim=-1))
    torch.testing.assert_close(module(tokens, view_index, boxes), expected, rtol=1e-5, atol=1e-5)


def test_no_regions():
    tokens, view_index, boxes = inputs(regions=0, num_views=3, crops=1)
    assert fusion()(tokens, view_index, boxes).shape == (0, 1 + GRID**2, WIDTH)


@pytest.mark.parametrize("num_views", [1, 2, 4])
def test_wrong_number_of_views(num_views):
    with pytest.raises(ValueError, match=f"fuses 3 views .*, the batch has {num_views}"):
        fusion()(*inputs(regions=2, num_views=num_views, crops=4))


def test_bad_construction():
    with pytest.raises(ValueError, match="does not divide the vision width 6"):
        ViewFusion(6, 2, GRID, PATCH)
