import pytest
import torch

from dynrefer.models.vision import CLIP_MEAN, CLIP_STD, VisionEncoder

TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def encoder(name="vit_tiny_patch16_224", image_size=32, freeze=False, **options):
    torch.manual_seed(0)
    extra = {key: options.pop(key) for key in ("drop_last_blocks",) if key in options}
    return VisionEncoder(name, image_size, options={**TINY, **options}, freeze=freeze, **extra)


def crops(number=3, side=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, side, side), dtype=torch.uint8, generator=generator)


def test_tokens_are_the_towers_without_its_norm():
    vision = encoder().eval()
    x = crops()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    features = vision.tower.patch_embed((x / 255 - mean) / std)
    features = vision.tower._pos_embed(features)
    for block in vision.tower.blocks:
        features = block(features)
    torch.testing.assert_close(vision(x), vision.norm(features))
    assert (vision.width, vision.grid, vision.patch, vision.norm.eps) == (32, 4, 8.0, 1e-5)


def test_uint8_and_normalised_floats_give_the_same_tokens():
    vision = encoder().eval()
    torch.testing.assert_close(vision(crops()), vision(vision.normalize(crops())))


@pytest.mark.parametrize("floating", [False, True])
def test_tokens_of_a_tower_in_half_precision_come_back_in_the_norms(floating):
    vision = encoder(freeze=True)
    exact = vision(crops())
    vision.tower.to(torch.bfloat16)
    x = (crops() / 255 - vision.mean) / vision.std if floating else crops()
    tokens = vision(x)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, exact, atol=0.15, rtol=0)


def test_a_frozen_tower_stays_in_evaluation_mode_and_without_graph():
    vision = encoder(freeze=True, drop_path_rate=0.9, proj_drop_rate=0.9)
    outer = torch.nn.ModuleList([vision]).train()
    with_graph = []
    vision.norm.register_forward_hook(lambda *_: with_graph.append(torch.is_grad_enabled()))
    assert outer.training and not any(module.training for module in vision.modules())
    tokens = vision(crops())
    assert not tokens.requires_grad and torch.equal(tokens, vision(crops()))
    assert not any(parameter.requires_grad for parameter in vision.parameters())
    assert with_graph == [False, False]


def test_a_trained_tower_has_gradients_everywhere_and_changes_mode():
    vision = encoder().train()
    assert vision.tower.training
    vision(crops()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in vision.parameters())
    assert not vision.eval().tower.training


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        vision = VisionEncoder(
            "vit_tiny_patch16_224",
            32,
            options=TINY,
            freeze=False,
            gradient_checkpointing=checkpointing,
        ).train()
        assert vision.tower.grad_checkpointing is checkpointing
        vision(crops()).square().sum().backward()
        gradients.append([parameter.grad for parameter in vision.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "options", "image_size", "has_class_token"),
    [
        ("vit_tiny_patch16_224", {}, 32, True),
        ("vit_tiny_patch16_224", {"reg_tokens": 3}, 32, True),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 32, False),
        (
            "vit_tiny_patch16_224",
            {"class_token": False, "global_pool": "avg", "reg_tokens": 3},
            32,
            False,
        ),
        ("vit_base_patch16_siglip_224", {}, 32, False),
        ("eva02_tiny_patch14_224", {}, 32, True),
        ("vit_base_patch16_rope_reg1_gap_256", {}, 32, False),
        ("vit_tiny_r_s16_p8_224", {"patch_size": 2}, 64, True),
    ],
)
def test_towers_of_many_kinds(name, options, image_size, has_class_token):
    vision = encoder(name, image_size, **options).eval()
    x = crops(side=image_size)
    tokens = vision(x)
    everything = vision.norm(vision.tower.forward_features(vision.normalize(x)))
    prefix = vision.tower.num_prefix_tokens
    patches = vision.grid**2
    assert tokens.shape == (3, 1 + patches, 32) and everything.shape[1] == prefix + patches
    torch.testing.assert_close(tokens[:, 1:], everything[:, prefix:])
    plain = vision.tower.forward_features(vision.normalize(x))
    expected = plain[:, 0] if has_class_token else plain[:, prefix:].mean(dim=1)
    torch.testing.assert_close(tokens[:, 0], vision.norm(expected))
    tokens.square().sum().backward()
    unused = {name for name, parameter in vision.named_parameters() if parameter.grad is None}
    assert not {name for name in unused if "reg" not in name and "pos_embed" not in name}


def test_blocks_left_out():
    whole, short = encoder().eval(), encoder(drop_last_blocks=1).eval()
    assert len(short.tower.blocks) == 1
    tokens = whole.tower._pos_embed(whole.tower.patch_embed(whole.normalize(crops())))
    torch.testing.assert_close(short(crops()), whole.norm(whole.tower.blocks[0](tokens)))


@pytest.mark.parametrize("number", [2, 3, -1])
def test_more_blocks_left_out_than_there_are(number):
    with pytest.raises(ValueError, match=f"drop_last_blocks: {number}; .* 2 blocks, valid is 0 to"):
        encoder(drop_last_blocks=number)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("vit_tinny", {}, "timm cannot build 'vit_tinny'"),
        ("vit_tiny_patch16_224", {"deepness": 3}, "timm cannot build .*deepness"),
        ("resnet18", {}, "timm cannot build 'resnet18'"),
        ("swin_tiny_patch4_window7_224", {}, "has no transformer blocks|timm cannot build"),
    ],
)
def test_towers_that_do_not_fit(name, options, match):
    with pytest.raises(ValueError, match=f"(?s)model.vision.*{match}"):
        encoder(name, **options)


def test_image_size_must_be_a_multiple_of_the_patch():
    with pytest.raises(ValueError, match="model.image_size: 36 is not a multiple .* 8 pixels"):
        encoder(image_size=36)
