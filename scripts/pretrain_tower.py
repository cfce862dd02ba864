"""Pretrains a vision tower on tight crops, by the classes and attributes of annotated regions.

The published model starts from EVA-CLIP's tower. The shapes world has no such thing, so this makes
one in about a minute; DynRefer then trains it further with its other parts.

python scripts/pretrain_tower.py --cfg-path configs/train/shapes.yaml --out output/tower
"""

import argparse
import logging
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm

from dynrefer.config import load_config
from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import DatasetRequest, build_dataset, build_view_selector
from dynrefer.distributed import TrainingBatchSampler
from dynrefer.models.builders import build_vision, load_vocabularies
from dynrefer.runners.logs import make_output_dir, set_up_logging
from dynrefer.runners.schedules import Schedule, cosine_by_step

logger = logging.getLogger("pretrain_tower")


def targets_of(index: AnnotationIndex, classes: tuple[str, ...]) -> dict[int | str, Tensor]:
    """Class and attribute labels of every region by id: [1 + A], the class first."""
    targets = {}
    for region in (index.region(position) for position in range(len(index))):
        label = classes.index(region.extra_info["coco_result"]["category"])
        targets[region.id] = torch.tensor([label, *region.extra_info["ovad_result"]["att_vec"]])
    return targets


def loss_of(logits: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Cross-entropy of the class, and of each labelled attribute."""
    attributes = targets[:, 1:]
    by_attribute = functional.binary_cross_entropy_with_logits(
        logits[:, num_classes:], attributes.clamp(min=0).float(), reduction="none"
    )
    labelled = (attributes >= 0).float()
    return functional.cross_entropy(logits[:, :num_classes], targets[:, 0]) + (
        (by_attribute * labelled).sum() / len(logits)
    )


def main() -> None:
    """Trains for some epochs over the training split and writes ``vision.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg-path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of vision.safetensors")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=8, help="images a step, with all regions")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    set_up_logging()
    out = make_output_dir(arguments.out)
    config = load_config(arguments.cfg_path)
    torch.manual_seed(config.run.seed)
    vocabularies = load_vocabularies(config.model)
    name, dataset_config = next(iter(config.datasets.items()))
    selector = build_view_selector(OmegaConf.create({"name": "stochastic", "ratios": None}), 1)
    data = build_dataset(
        DatasetRequest(
            name=name,
            split="train",
            config=dataset_config,
            selector=selector,
            num_views=1,
            image_size=config.model.image_size,
            tags=vocabularies.tags,
            seed=config.run.seed,
            training=False,
        )
    )
    classes = vocabularies.classes.names
    targets = targets_of(data.datasets[0].index, classes)
    config.model.vision.checkpoint = None
    vision = build_vision(config.model).train()
    head = nn.Linear(vision.width, len(classes) + len(vocabularies.attributes))
    sampler = TrainingBatchSampler(len(data), arguments.images, config.run.seed)
    parameters = [*vision.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.05)
    rate = cosine_by_step(
        Schedule(arguments.learning_rate, 0.0, 0.0, 30, arguments.epochs, len(sampler))
    )
    began = time.perf_counter()
    for epoch in range(arguments.epochs):
        sampler.set_position(epoch)
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=RegionBatch.collate)
        progress = tqdm(loader, desc=f"tower {epoch + 1}/{arguments.epochs}", unit="step")
        for step, batch in enumerate(progress):
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch, step)
            tokens = vision(batch.crops[batch.view_index[:, 0]])
            labels = torch.stack([targets[id_] for id_ in batch.ids])
            loss = loss_of(head(tokens[:, 1:].mean(dim=1)), labels, len(classes))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    part = out / "vision.safetensors.part"
    save_file(vision.state_dict(), part)
    part.replace(out / "vision.safetensors")
    logger.info("%s after %.0f s", out / "vision.safetensors", time.perf_counter() - began)


if __name__ == "__main__":
    main()
