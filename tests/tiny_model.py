"""A whole model, small enough for tests, every part built from configuration as in a real run."""

from math import prod
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dynrefer.config import load_config
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.shapes.vocabularies import write_vocabularies
from dynrefer.models.builders import build_model
from dynrefer.models.dynrefer import DynRefer


def tiny_config(folder: Path) -> DictConfig:
    """A complete configuration without datasets, its files in ``folder``.

    ``folder/vocabulary`` gets the shapes world's tags, attributes, classes and tokenizer,
    ``folder/tiny.yaml`` the configuration; runs write to ``folder/output``. The model has 0.17 M
    parameters, all trainable: crops of 32 x 32 pixels, patches of 8 x 8, 3 views.
    """
    vocabulary = folder / "vocabulary"
    if not vocabulary.exists():
        vocabulary.mkdir(parents=True)
        write_vocabularies(vocabulary)
    decoder = {"width": 32, "heads": 2, "layers": 1, "intermediate": 64}
    language_model = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 2, "num_layers": 1}
    config = {
        "model": {
            "arch": "dynrefer_t5",
            "num_views": 3,
            "image_size": 32,
            "vision": {
                "name": "vit_tiny_patch16_224",
                "drop_last_blocks": 0,
                "options": {"patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2},
                "freeze": False,
                "precision": "fp32",
            },
            "qformer": {
                "num_query_tokens": 4,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "freeze_query_tokens": False,
            },
            "tag_decoder": decoder,
            "region_text_decoder": decoder,
            "text_encoder": {"name": "word_features", "options": {"width": 32}},
            "caption_decoder": {
                "config": language_model,
                "tokenizer": str(vocabulary / "tokenizer"),
                "freeze": False,
                "precision": "fp32",
            },
            "vocabulary": {
                "tags": str(vocabulary / "tags.txt"),
                "attributes": str(vocabulary / "attributes.json"),
                "classes": str(vocabulary / "classes.json"),
            },
        },
        "run": {
            "output_dir": str(folder / "output"),
            "batch_size_train": 4,
            "batch_size_eval": 4,
            "num_workers": 0,
            "max_epoch": 1,
            "warmup_steps": 1,
            "amp": False,
            "precision": "fp32",
            "device": "cpu",
            "threads": 1,
            "log_freq": 1,
        },
    }
    path = folder / "tiny.yaml"
    OmegaConf.save(OmegaConf.create(config), path)
    return load_config(path)


def tiny_run(folder: Path, world: Path) -> Path:
    """Configuration file of a whole run of the tiny model on a shapes world, in ``folder``.

    It recognises classes only, the one task that needs neither captions nor Java.
    """
    tiny_config(folder)
    annotations = {split: [str(world / f"{split}.json")] for split in ("train", "val", "test")}
    run = {
        "base": str(folder / "tiny.yaml"),
        "datasets": {"shapes": {"build_info": {"annotations": annotations}}},
        "run": {"tasks": ["region_recognition"], "init_lr": 1e-3},
    }
    path = folder / "run.yaml"
    OmegaConf.save(OmegaConf.create(run), path)
    return path


def tiny_model(config: DictConfig, seed: int = 0) -> DynRefer:
    """The configuration's model with large random weights, the same ones for the same seed.

    With the usual small ones, an untrained model says nearly the same of every region.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config.model)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.5 / prod(parameter.shape[1:]) ** 0.5)
    return model.eval()


def tiny_batch(model: DynRefer, regions: int, seed: int = 0) -> RegionBatch:
    """Random crops, boxes, captions and tags for the tiny model; regions share some crops."""
    generator = torch.Generator().manual_seed(seed)
    views, side = model.fusion.num_views, model.vision.image_size
    crops = max(regions, views)
    tags = model.vocabularies.tags.names
    words = [tags[i] for i in torch.randint(len(tags), (3 * regions,), generator=generator)]
    corners = torch.rand(regions, views, 2, 2, generator=generator).mul(side).sort(dim=2)[0]
    return RegionBatch(
        crops=torch.randint(0, 256, (crops, 3, side, side), dtype=torch.uint8, generator=generator),
        view_index=torch.randint(crops, (regions, views), generator=generator),
        region_boxes=corners.flatten(2).floor(),
        ratios=torch.rand(regions, views, generator=generator),
        captions=["a " + " ".join(words[i : i + 1 + i % 3]) for i in range(regions)],
        ids=[100 + i for i in range(regions)],
        image_ids=[i // 2 for i in range(regions)],
        tags=torch.rand(regions, len(tags), generator=generator) < 0.2,
        control_words=[words[i] + "|" if i % 2 else "|" for i in range(regions)],
    )
