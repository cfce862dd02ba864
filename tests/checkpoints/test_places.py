import logging

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import Source
from dynrefer.checkpoints.places import check_filled, without_memory
from dynrefer.models.vision import VisionEncoder

EVA = FORMATS["eva_vit_g"]


def tower_of(image_size, empty=False, name="eva_giant_patch14_clip_224", **options):
    torch.manual_seed(image_size)
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, **options}
    with without_memory(empty):
        return VisionEncoder(name, image_size, options=sizes)


def test_modules_without_memory():
    with without_memory(dtype=torch.bfloat16):
        layer = nn.Linear(10**4, 10**4)
        norm = nn.BatchNorm1d(3)
        shared = nn.Linear(2, 2)
        shared.weight = nn.Parameter(torch.zeros(2), requires_grad=False)
        layer.twin = nn.Linear(1, 1)
        layer.twin.weight = layer.weight
    assert layer.weight.is_meta and layer.bias.dtype == torch.bfloat16
    assert layer.twin.weight is layer.weight and layer.weight.requires_grad
    assert not shared.weight.requires_grad
    assert norm.weight.is_meta and not norm.running_mean.is_meta
    assert not nn.Linear(2, 2).weight.is_meta
    with without_memory(False):
        assert not nn.Linear(2, 2).weight.is_meta
    with pytest.raises(RuntimeError, match="inside"), without_memory():
        raise RuntimeError("inside")
    assert not nn.Linear(2, 2).weight.is_meta


def test_what_no_file_holds_is_named():
    with without_memory():
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(
        ValueError, match="no file holds 2 of the model's tensors: 0.weight, 0.bias"
    ):
        check_filled(model)
    check_filled(nn.Linear(2, 2))


def test_a_tower_without_memory_computes_as_the_one_with_it():
    vision, empty = tower_of(32), tower_of(32, empty=True)
    assert all(parameter.is_meta for parameter in empty.parameters())
    Source(vision.state_dict(), FORMATS["vision"], "state dict").load(empty, prefix="vision.")
    check_filled(empty)
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(vision.eval()(crops), empty.eval()(crops))


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(("old", "new"), [(32, 64), (64, 32), (32, 56)])
def test_position_embeddings_are_interpolated_with_a_notice(old, new, empty, caplog):
    source, target = tower_of(old), tower_of(new, empty)
    Source(source.tower.state_dict(), EVA, "a.pth").load(target, prefix="vision.")
    positions = source.tower.pos_embed
    expected = resample_abs_pos_embed(positions, [new // 8, new // 8], antialias=False)
    assert expected.shape == (1, 1 + (new // 8) ** 2, 16)
    torch.testing.assert_close(target.tower.pos_embed, expected)
    assert torch.equal(target.tower.pos_embed[:, 0], positions[:, 0])
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    message = f"a.pth: position embeddings are interpolated to {new // 8} x {new // 8} patches"
    assert record.getMessage() == message
    target.norm = nn.LayerNorm(16)
    assert torch.isfinite(target(torch.zeros(1, 3, new, new, dtype=torch.uint8))).all()


def test_interpolated_positions_stay_where_they_were():
    """A ramp to the right and one downwards stay so; bicubic interpolation is within 0.05."""
    source, target = tower_of(64), tower_of(128)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = torch.stack([x, y], dim=-1).repeat(1, 1, 8).view(1, 64, 16)
    source.tower.pos_embed.data[:, 1:] = plane
    Source(source.tower.state_dict(), EVA, "state dict").load(target, prefix="vision.")
    grid = target.tower.pos_embed[0, 1:].view(16, 16, 16)
    centre = torch.arange(4.0, 12) / 2 - 0.25
    torch.testing.assert_close(grid[8, 4:12, 0], centre, atol=0.05, rtol=0)
    torch.testing.assert_close(grid[4:12, 8, 1], centre, atol=0.05, rtol=0)


def test_positions_of_registers_are_kept():
    """This tower has positions for patches alone."""
    options = {"name": "vit_tiny_patch16_224", "reg_tokens": 2, "no_embed_class": True}
    source, target = tower_of(32, **options), tower_of(64, **options)
    Source(source.tower.state_dict(), EVA, "state dict").load(target, prefix="vision.")
    expected = resample_abs_pos_embed(
        source.tower.pos_embed, [8, 8], num_prefix_tokens=0, antialias=False
    )
    torch.testing.assert_close(target.tower.pos_embed, expected)


@pytest.mark.parametrize("shape", [(1, 18, 16), (1, 1, 16), (1, 17, 8), (2, 17, 16), (17, 16)])
def test_positions_that_are_no_square_grid(shape):
    target = tower_of(64)
    state = target.tower.state_dict() | {"pos_embed": torch.zeros(shape)}
    with pytest.raises(ValueError, match=r"vision.tower.pos_embed: file .* model \(1, 65, 16\)"):
        Source(state, EVA, "state dict").load(target, prefix="vision.")
