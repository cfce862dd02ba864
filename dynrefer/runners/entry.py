"""What train.py and evaluate.py do: check, build, run."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dynrefer import distributed
from dynrefer.assets import fetch_hint, local_path
from dynrefer.checkpoints.configs import folder_config
from dynrefer.checkpoints.loading import load_weights
from dynrefer.config import ConfigError, load_config, require
from dynrefer.config.values import listed
from dynrefer.distributed import is_main
from dynrefer.models.builders import load_model, load_vocabularies, warn_of_noise
from dynrefer.models.dynrefer import DynRefer
from dynrefer.registry import registry
from dynrefer.runners.epoch_runner import training_data
from dynrefer.runners.evaluation import (
    FROM_CONFIG,
    Metrics,
    check_evaluation,
    evaluate,
    ground_truth,
    published,
    score_file,
    tasks_of,
)
from dynrefer.runners.logs import metric_table, set_up_logging
from dynrefer.runners.run_folder import CHECKPOINTS, claimed_folder, make_output_dir

logger = logging.getLogger(__name__)

# Files that must be there before minutes are spent on building a model.
_CHECKPOINT_KEYS = (
    "run.load_ckpt_path",
    "run.resume_ckpt_path",
    "model.pretrained",
    "model.vision.checkpoint",
)
# Captions need the text tower, whatever embeddings are kept (model.vocabulary.cache).
_TRAINING_KEYS = ("model.text_encoder.options.checkpoint",)


def train_main(arguments: argparse.Namespace) -> None:
    """Trains, or evaluates where ``run.evaluate`` is true, as the release's train.py does."""
    config = load_config(arguments.cfg_path, arguments.options)
    if config.run.evaluate:
        _evaluate_model(config, _evaluated_splits(config))
        return
    device = _start(config, training=True)
    with claimed_folder(config) as output_dir:
        _train(config, device, output_dir)


def _train(config: DictConfig, device: torch.device, output_dir: Path) -> None:
    build_runner = registry.get("runner", config.run.runner)
    registry.get("lr_schedule", config.run.lr_sched)
    registry.get("model", config.model.arch)
    registry.get("text_encoder", config.model.text_encoder.name)
    vocabularies = load_vocabularies(config.model)
    data = training_data(config, vocabularies.tags)
    if config.model.loss.tag and is_main() and not any(part.has_tags() for part in data.datasets):
        logger.warning(
            "no training region has tags (extra_info.parser_result; scripts/convert/add_tags.py "
            "writes them): the tag decoder learns that there are none"
        )
    check_evaluation(config, [*config.run.valid_splits, *config.run.test_splits], vocabularies)
    model = _model(config, device)
    build_runner(config, model, output_dir, data).train()
    if config.run.test_splits:
        checkpoints = output_dir / CHECKPOINTS
        best = checkpoints / ("best" if (checkpoints / "best").exists() else "last")
        load_weights(model, best)
        for split in config.run.test_splits:
            _show(config, evaluate(config, model, split, output_dir, best.name), split)


def evaluate_main(arguments: argparse.Namespace) -> None:
    """Evaluates a checkpoint, or scores a result file."""
    config = evaluation_config(arguments)
    splits = [arguments.split] if arguments.split else _evaluated_splits(config)
    if arguments.res_path is None:
        _evaluate_model(config, splits)
        return
    set_up_logging()
    if len(splits) != 1:
        raise ConfigError(f"--res-path scores one split; choose with --split from {splits}")
    truth = ground_truth(config, splits[0], load_vocabularies(config.model))
    _show(config, score_file(config, splits[0], arguments.res_path, truth), splits[0])


def _evaluated_splits(config: DictConfig) -> list[str]:
    splits = list(config.run.valid_splits) or list(config.run.test_splits)
    if not splits:
        raise ConfigError("run.valid_splits and run.test_splits are empty; which is evaluated?")
    return splits


def evaluation_config(arguments: argparse.Namespace) -> DictConfig:
    """The configuration of ``--cfg-path`` with the weights of ``--checkpoint``, or the latter's."""
    path = arguments.cfg_path
    if path is None and arguments.checkpoint is None:
        raise ConfigError("give --cfg-path, or --checkpoint for a checkpoint's own configuration")
    if path is None:
        return folder_config(arguments.checkpoint, arguments.options)
    config = load_config(path, arguments.options)
    if arguments.checkpoint is not None:
        config.run.load_ckpt_path = str(arguments.checkpoint)
    return config


def prepare_evaluation(config: DictConfig, splits: Sequence[str], output_dir: Path) -> DynRefer:
    """The model of an evaluation, after checks of everything that it will need.

    Raises ConfigError where no weights are configured; FileNotFoundError, PermissionError or
    ValueError where files are missing or broken, or ``output_dir`` cannot be written.
    """
    if not (config.run.load_ckpt_path or config.model.pretrained):
        raise ConfigError(
            "run.load_ckpt_path and model.pretrained are not set; evaluation needs weights"
        )
    device = _start(config)
    make_output_dir(output_dir)
    check_evaluation(config, splits, load_vocabularies(config.model))
    # A language model of billions is not loaded for classes and attributes.
    captions = any("caption" in task.decoders for task in tasks_of(config))
    model = _model(config, device, captions)
    if is_main():
        warn_of_noise(model, config)
    return model


def _evaluate_model(config: DictConfig, splits: list[str]) -> None:
    output_dir = Path(require(config, "run.output_dir"))
    model = prepare_evaluation(config, splits, output_dir)
    for split in splits:
        _show(config, evaluate(config, model, split, output_dir, FROM_CONFIG), split)


def _start(config: DictConfig, training: bool = False) -> torch.device:
    """Joins the processes and prepares logging, threads and random numbers."""
    for key in (*_CHECKPOINT_KEYS, *(_TRAINING_KEYS if training else ())):
        for path in listed(OmegaConf.select(config, key)):
            if not Path(local_path(path)).exists():
                place = f"no checkpoint at {path}, on this machine's disk"
                raise FileNotFoundError(f"{key}: {place}{fetch_hint(path)}")
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = distributed.start(config.run.device)
    set_up_logging()
    logger.info("%d process(es) on %s", distributed.world_size(), device)
    torch.manual_seed(config.run.seed + distributed.rank())
    return device


def _model(config: DictConfig, device: torch.device, captions: bool = True) -> DynRefer:
    """The model on its device with the checkpoints of ``run.load_ckpt_path``."""
    # Every process starts from the same weights; dropout differs between them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = load_model(config, captions)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info("%.2f M parameters, %.2f M of them trainable", total / 1e6, trainable / 1e6)
    return model.to(device)


def _show(config: DictConfig, metrics: Metrics, split: str) -> None:
    if is_main():
        print(f"\n{split}\n{metric_table(metrics, published=published(config, split))}")
