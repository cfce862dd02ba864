"""Pretrains an encoder on annotated regions: vision tower, fusion, Q-Former and text encoder.

The published model starts from EVA-CLIP's two towers and BLIP-2's Q-Former. The shapes world has
nothing of the kind, so this makes it in minutes; DynRefer trains from it with both towers frozen,
as published. First the vision side learns classes, attributes and what is beside a region. Then,
with that side locked, the text encoder learns to tell which caption, class and attributes belong to
which region (contrast of CLIP, locked as in LiT, arXiv 2111.07991): regions are encoded once, so
captions are seen many times in seconds.

    python scripts/pretrain_encoder.py --cfg-path configs/train/shapes.yaml --out output/encoder
    torchrun --standalone --nproc_per_node=2 scripts/pretrain_encoder.py ...   # the same, faster
"""

import argparse
from pathlib import Path

from dynrefer.command_line import at_least, config_parser, entry_point


def _arguments() -> argparse.Namespace:
    parser = config_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--epochs", type=at_least(1), default=2)
    parser.add_argument("--images", type=at_least(1), default=2, help="a step, with all regions")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--text-images", type=at_least(1), default=1200, help="for the text tower")
    parser.add_argument("--text-steps", type=at_least(1), default=1200)
    parser.add_argument("--text-batch", type=at_least(1), default=64, help="regions a step")
    parser.add_argument("--text-learning-rate", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":  # before the imports that take seconds
    arguments = _arguments()

import logging
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dynrefer import distributed
from dynrefer.checkpoints.files import TRAINABLE, UNTRAINED
from dynrefer.checkpoints.loading import split_trainable
from dynrefer.config import load_config
from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import (
    DatasetRequest,
    RegionDatasets,
    build_dataset,
)
from dynrefer.distributed import (
    EvaluationSampler,
    TrainingBatchSampler,
    is_main,
    rank,
    world_size,
)
from dynrefer.files import write_atomically
from dynrefer.models.builders import build_model
from dynrefer.models.dynrefer import DynRefer
from dynrefer.models.text_encoder import TextEncoder
from dynrefer.models.vision import VisionEncoder
from dynrefer.progress import Progress
from dynrefer.runners.logs import set_up_logging
from dynrefer.runners.run_folder import make_output_dir
from dynrefer.runners.schedules import Schedule, cosine_by_step
from dynrefer.vocabulary import Vocabularies

logger = logging.getLogger("pretrain_encoder")

ENCODED_IMAGES = 16  # a batch
POOLED = 3  # cells a side of a view's region map: its edges, where neighbours show, and its middle
HIDDEN = 256
CONTRAST_WIDTH = 128
WARMUP_STEPS = 30


class Labels:
    """What the heads learn of each region: its class, its attributes, and what is beside it.

    Each is a softmax: one of the classes, one of each type of attributes, one of all tags in which
    the region's ``tag_set2`` (of other objects) share the target. ``groups`` are their sizes in the
    order of the logits.
    """

    def __init__(self, index: AnnotationIndex, vocabularies: Vocabularies) -> None:
        classes = vocabularies.classes.names
        types = [entry.type for entry in vocabularies.attributes.entries]
        tags = len(vocabularies.tags)
        self.groups = [len(classes), *(len(list(members)) for _, members in groupby(types)), tags]
        self.named = len(classes) + len(types)  # the first so many labels have phrases
        self._by_id = {}
        for region in (index.region(position) for position in range(len(index))):
            class_ = torch.zeros(len(classes))
            class_[classes.index(region.extra_info["coco_result"]["category"])] = 1
            attributes = torch.tensor(region.extra_info["ovad_result"]["att_vec"]).clamp(min=0)
            beside = torch.zeros(tags)
            beside[region.extra_info["parser_result"]["tag_set2"]] = 1
            self._by_id[region.id] = torch.cat([class_, attributes, beside])

    def of(self, ids: Sequence[int | str]) -> Tensor:
        """Positives of regions, float [N, sum of groups]; unlabelled counts as none."""
        return torch.stack([self._by_id[id_] for id_ in ids])


class PretrainedEncoder(nn.Module):
    """The encoder of a DynRefer with two heads that are thrown away afterwards.

    One reads the region's map of each of the first two views, so that a tower learns at every
    scale; one reads the queries, so that fusion and Q-Former learn to combine the views.
    """

    def __init__(self, model: DynRefer, groups: list[int]) -> None:
        super().__init__()
        self.vision, self.fusion, self.qformer = model.vision, model.fusion, model.qformer
        self.groups = groups
        self.view_head = nn.Sequential(
            nn.Linear(model.vision.width * POOLED**2, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, sum(groups)),
        )
        # Linear, and apart for each query: behind a deeper head the queries of all regions become
        # nearly alike, and behind their mean the queries of one region do.
        queries = model.qformer.query_tokens.shape[1]
        self.query_head = nn.Linear(queries * model.qformer.width, sum(groups))

    def forward(self, batch: RegionBatch, labels: Tensor) -> Tensor:
        """Sum of the losses of both heads, a scalar."""
        tokens = self.vision(batch.crops)
        maps = self.fusion.region_maps(tokens, batch.view_index, batch.region_boxes)
        near = maps[:, :2]
        views = functional.adaptive_avg_pool2d(near.flatten(0, 1), POOLED).flatten(1)
        queries = self.qformer(self.fusion.fuse(tokens, batch.view_index, maps))
        by_view = self.view_head(views).unflatten(0, near.shape[:2]).unbind(1)
        return sum(
            _loss(logits, labels, self.groups)
            for logits in (*by_view, self.query_head(queries.flatten(1)))
        )


def _loss(logits: Tensor, labels: Tensor, groups: list[int]) -> Tensor:
    """Sum over the groups of the cross-entropy of the regions that have a positive there."""
    total = logits.new_zeros(())
    pairs = zip(logits.split(groups, dim=1), labels.split(groups, dim=1), strict=True)
    for group_logits, positives in pairs:
        count = positives.sum(dim=1, keepdim=True)
        target = positives / count.clamp(min=1)
        losses = functional.cross_entropy(group_logits, target, reduction="none")
        total = total + losses.sum() / (count > 0).sum().clamp(min=1)
    return total


def use_sine_positions(vision: VisionEncoder) -> None:
    """Starts a tower's position embeddings as sines, from which it learns faster where things are.

    The embeddings of the class token and the like stay as they are.
    """
    grid = vision.grid
    sines = build_sincos2d_pos_embed([grid, grid], dim=vision.width, temperature=100.0)
    with torch.no_grad():
        vision.tower.pos_embed[0, -(grid**2) :] = sines


class TextContrast(nn.Module):
    """A text encoder with two projections, thrown away afterwards, and CLIP's contrast.

    ``groups`` are how many classes and attributes of each type there are, each a softmax over
    their phrases.
    """

    def __init__(self, text_encoder: TextEncoder, region_width: int, groups: list[int]) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.groups = groups
        self.region_projection = nn.Linear(region_width, CONTRAST_WIDTH)
        self.text_projection = nn.Linear(text_encoder.width, CONTRAST_WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(
        self, regions: Tensor, captions: Sequence[str], phrases: Sequence[str], labels: Tensor
    ) -> Tensor:
        """Mean cross-entropy of finding each other, regions [B, region_width] and B captions, plus
        that of finding each region's class and attributes, ``labels`` [B, P], by P ``phrases``."""
        region = functional.normalize(self.region_projection(regions), dim=-1)
        texts = self.text_projection(self.text_encoder([*captions, *phrases]))
        scores = region @ functional.normalize(texts, dim=-1).T * self.log_scale.exp()
        logits, named = scores.split([len(captions), len(phrases)], dim=1)
        own = torch.arange(len(logits), device=logits.device)
        both = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
        return both / 2 + _loss(named, labels, self.groups) / len(self.groups)


def training_images(
    config: DictConfig, vocabularies: Vocabularies, selector: DictConfig
) -> RegionDatasets:
    """The training split, an image with all its regions a sample, views as ``selector`` says."""
    name = next(iter(config.datasets))
    tags = vocabularies.tags
    return build_dataset(DatasetRequest.of(config, name, "train", selector, tags, training=False))


def _check_shares(options: argparse.Namespace) -> None:
    for name in ("images", "text_images", "text_batch"):
        number = getattr(options, name)
        if number < 1 or number % world_size():
            raise ValueError(
                f"--{name.replace('_', '-')} {number}: must be a positive multiple of the "
                f"{world_size()} process(es)"
            )


def optimise(
    module: nn.Module, batches: Iterable[tuple], steps: int, learning_rate: float, title: str
) -> None:
    """A step for each batch, whose parts ``module`` makes a loss of; shows loss, rate, time left.

    AdamW with a warm-up and a cosine; gradients are averaged over the processes.
    """
    wrapped = DistributedDataParallel(module) if world_size() > 1 else module
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    rate = cosine_by_step(Schedule(learning_rate, 0.0, 0.0, WARMUP_STEPS, 1, steps))
    progress = Progress(batches, title, total=steps, unit="step")
    for step, batch in enumerate(progress):
        for group in optimizer.param_groups:
            group["lr"] = rate(0, step)
        loss = wrapped(*batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)


def train_encoder(
    model: DynRefer, config: DictConfig, options: argparse.Namespace, labels: Labels
) -> None:
    """Vision tower, fusion and Q-Former learn classes and attributes from views drawn at random."""
    views = OmegaConf.create({"name": "stochastic", "ratios": None})
    data = training_images(config, model.vocabularies, views)
    sampler = TrainingBatchSampler(len(data), options.images // world_size(), config.run.seed)

    def batches() -> Iterator[tuple[RegionBatch, Tensor]]:
        for epoch in range(options.epochs):
            sampler.set_position(epoch)
            for batch in DataLoader(data, batch_sampler=sampler, collate_fn=RegionBatch.collate):
                yield batch.to(model.device), labels.of(batch.ids).to(model.device)

    encoder = PretrainedEncoder(model, labels.groups).to(model.device).train()
    steps = options.epochs * len(sampler)
    optimise(encoder, batches(), steps, options.learning_rate, "encoder")


@torch.no_grad()
def encode_regions(
    model: DynRefer, data: RegionDatasets, images: int
) -> tuple[Tensor, list[str], list[int | str]]:
    """Queries [N, Q * D], captions and ids: this process's share of the first ``images`` images."""
    loader = DataLoader(
        data,
        batch_size=ENCODED_IMAGES,
        sampler=EvaluationSampler(min(images, len(data))),
        collate_fn=RegionBatch.collate,
    )
    queries, captions, ids = [], [], []
    model.eval()
    for batch in Progress(loader, "encoding regions", unit="batch"):
        queries.append(model.encode(batch.to(model.device)).flatten(1))
        captions += batch.captions
        ids += batch.ids
    return torch.cat(queries), captions, ids


def random_batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices below ``count``: ``steps`` batches of ``size``, or of all where there are fewer."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(count, generator=generator).tolist()
        yield [order.pop() for _ in range(size)]


def train_text_encoder(
    model: DynRefer, config: DictConfig, options: argparse.Namespace, every: Labels
) -> None:
    """The text encoder learns which text belongs to which region; the vision side is locked.

    Views are those of the evaluation (``run.view_selector``), in which most can be seen. Each
    process contrasts within its own share of regions and of the batch; an attribute goes by one of
    its phrases, drawn anew each step, a class by its only one.
    """
    data = training_images(config, model.vocabularies, config.run.view_selector)
    regions, captions, ids = encode_regions(model, data, options.text_images)
    labels, groups = every.of(ids)[:, : every.named].to(model.device), every.groups[:-1]
    contrast = TextContrast(model.text_encoder, regions.shape[1], groups).to(model.device).train()
    size, seed = options.text_batch // world_size(), config.run.seed + rank()
    drawn = random.Random(seed)
    classes = model.vocabularies.classes.phrases
    attributes = [entry.phrases for entry in model.vocabularies.attributes.entries]
    batches = (
        (
            regions[chosen],
            [captions[index] for index in chosen],
            [*classes, *map(drawn.choice, attributes)],
            labels[chosen],
        )
        for chosen in random_batches(len(captions), size, options.text_steps, seed)
    )
    optimise(contrast, batches, options.text_steps, options.text_learning_rate, "text encoder")


def main(options: argparse.Namespace) -> None:
    """Trains both sides on the training split; ``--out`` becomes a checkpoint folder."""
    config = load_config(options.cfg_path, options.options)
    device = distributed.start(config.run.device)
    set_up_logging()
    _check_shares(options)
    out = make_output_dir(options.out)
    config.model.pretrained = None
    config.model.vision.freeze, config.model.freeze = False, []
    torch.manual_seed(config.run.seed)
    model = build_model(config.model).to(device)
    use_sine_positions(model.vision)
    began = time.perf_counter()
    data = training_images(config, model.vocabularies, config.run.view_selector)
    labels = Labels(data.datasets[0].index, model.vocabularies)
    train_encoder(model, config, options, labels)
    if model.text_encoder.trainable:  # not fixed features, nor a tower with weights of its own
        train_text_encoder(model, config, options, labels)
    if is_main():
        path = out / f"{TRAINABLE}.safetensors"
        tensors = split_trainable(model)[0]
        notes = {UNTRAINED: "tag_decoder region_text_decoder caption_decoder"}
        write_atomically(path, lambda part: save_file(tensors, part, notes))
        logger.info("%s after %.0f s", path, time.perf_counter() - began)


if __name__ == "__main__":
    entry_point(main, arguments)
