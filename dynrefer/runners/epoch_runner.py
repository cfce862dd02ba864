"""The training loop: epochs, ranks, checkpoints, logs."""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from dynrefer.config import ConfigError, to_plain
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import (
    DatasetRequest,
    RegionDatasets,
    build_dataset,
    build_view_selector,
    data_sources,
)
from dynrefer.datasets.loading import start_loading
from dynrefer.distributed import (
    TrainingBatchSampler,
    is_main,
    mean_over_processes,
    world_size,
)
from dynrefer.models.dynrefer import DynRefer, Losses
from dynrefer.registry import registry
from dynrefer.runners.checkpointing import Position, load_checkpoint, save_checkpoint
from dynrefer.runners.evaluation import Metrics, evaluate, headline, tasks_of
from dynrefer.runners.logs import RunLog, metric_table
from dynrefer.runners.precision import autocast, autocast_dtype
from dynrefer.runners.schedules import Schedule
from dynrefer.vocabulary import TagVocabulary

logger = logging.getLogger(__name__)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters for AdamW; decay as published, by dimensions and parts of the name."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or any(part in name for part in ("bias", "ln", "bn"))
            groups[not exempt].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def training_data(config: DictConfig, tags: TagVocabulary) -> RegionDatasets:
    """All datasets that have annotations for ``run.train_splits``, one after the other.

    Raises:
        ConfigError: no dataset has any.
    """
    selector = build_view_selector(config.run.train_view_selector, config.model.num_views)
    parts = []
    for name, dataset in config.datasets.items():
        for split in config.run.train_splits:
            if not data_sources(dataset, split):
                continue
            request = DatasetRequest(
                name=name,
                split=split,
                config=dataset,
                selector=selector,
                num_views=config.model.num_views,
                image_size=config.model.image_size,
                tags=tags,
                seed=config.run.seed,
                training=True,
            )
            parts += build_dataset(request).datasets
    if not parts:
        raise ConfigError(
            f"no dataset has annotations for run.train_splits={list(config.run.train_splits)}"
        )
    return RegionDatasets(parts)


@registry.register("runner", "epoch")
class EpochRunner:
    """Trains for ``run.max_epoch`` epochs and evaluates after them.

    Args:
        config: the whole configuration.
        model: on its device already.
        output_dir: folder of the run, which exists.
    """

    def __init__(self, config: DictConfig, model: DynRefer, output_dir: Path) -> None:
        self.config, self.run, self.model = config, config.run, model
        self.output_dir = output_dir
        self.tasks = tasks_of(config)
        if self.run.save_every and self.run.save_every % self.run.accum_grad_iters:
            raise ConfigError(
                f"run.save_every: {self.run.save_every} is not a multiple of run.accum_grad_iters, "
                f"{self.run.accum_grad_iters}; a checkpoint holds no half-summed gradients"
            )
        self.dataset = training_data(config, model.vocabularies.tags)
        self.sampler = TrainingBatchSampler(
            len(self.dataset), self.run.batch_size_train, self.run.seed
        )
        groups = parameter_groups(model, self.run.weight_decay)
        if not any(group["params"] for group in groups):
            raise ConfigError("every part of the model is frozen (model.freeze); nothing to train")
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.run.init_lr,
            betas=(0.9, self.run.beta2),
        )
        needs_scaler = autocast_dtype(config, model.device) == torch.float16
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=needs_scaler)
        self.learning_rate = registry.get("lr_schedule", self.run.lr_sched)(
            Schedule(
                self.run.init_lr,
                self.run.min_lr,
                self.run.warmup_lr,
                self.run.warmup_steps,
                self.run.max_epoch,
                len(self.sampler),
            )
        )
        self.position = Position()
        self.wrapped: nn.Module = model
        if world_size() > 1:
            devices = [model.device] if model.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(model, device_ids=devices)

    def train(self) -> Metrics:
        """Runs the remaining epochs; returns the metrics of the last evaluation."""
        if self.run.resume_ckpt_path:
            self.resume(Path(self.run.resume_ckpt_path))
        log = RunLog(self.output_dir, to_plain(self.config), self.run.wandb)
        metrics: Metrics = {}
        try:
            for epoch in range(self.position.epoch, self.run.max_epoch):
                self._train_epoch(epoch, log)
                metrics = self._evaluate_epoch(epoch, log) or metrics
        finally:
            log.close()
        return metrics

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint, exactly as if training had not stopped."""
        self.position, training = load_checkpoint(path, self.model)
        self.optimizer.load_state_dict(training["optimizer"])
        self.scaler.load_state_dict(training["scaler"])
        if not (self.output_dir / "checkpoints" / "best").exists():
            # The best so far lies in another run's folder: this one keeps the best of its own.
            self.position.best_score = float("-inf")
        if self.position.step > len(self.sampler):
            raise ValueError(
                f"{path} stands at step {self.position.step} of an epoch that has "
                f"{len(self.sampler)} now; run.batch_size_train or the data are others"
            )
        logger.info("resumed %s at epoch %d", path, self.position.epoch)

    def save(self, links: tuple[str, ...] = ("last",)) -> None:
        """Writes a checkpoint at the present position."""
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(
            self.output_dir / "checkpoints",
            self.model,
            self.config,
            self.position,
            training,
            links,
        )

    def _batches(self, epoch: int) -> Iterator[RegionBatch]:
        self.dataset.set_epoch(epoch)
        self.sampler.set_position(epoch, self.position.step)
        return start_loading(
            DataLoader(
                self.dataset,
                batch_sampler=self.sampler,
                num_workers=self.run.num_workers,
                collate_fn=RegionBatch.collate,
                pin_memory=self.model.device.type == "cuda",
                # A generator of its own: the loader must not move the model's random numbers.
                generator=torch.Generator().manual_seed(self.run.seed + epoch),
            )
        )

    def _train_epoch(self, epoch: int, log: RunLog) -> None:
        self.model.train()
        steps = len(self.sampler)
        progress = tqdm(
            self._batches(epoch),
            desc=f"epoch {epoch + 1}/{self.run.max_epoch}",
            initial=self.position.step,
            total=steps,
            unit="step",
            disable=not is_main(),
        )
        began, regions = time.perf_counter(), 0
        for step, batch in enumerate(progress, start=self.position.step):
            rate = self.learning_rate(epoch, step)
            losses = self._step(batch, step, rate)
            self.position.step = step + 1
            self.position.global_step += 1
            regions += len(batch) * world_size()
            if step % self.run.log_freq == 0 or step + 1 == steps:
                seconds = time.perf_counter() - began
                values = {
                    name: mean_over_processes(value).item() for name, value in vars(losses).items()
                }
                log.write(
                    {"epoch": epoch, "step": step, "lr": rate, **values}
                    | {"regions_per_second": round(regions / seconds, 2)}
                )
                progress.set_postfix(loss=f"{values['total']:.3f}", refresh=False)
            if self.run.save_every and (step + 1) % self.run.save_every == 0:
                self.save()
        self.position.epoch, self.position.step = epoch + 1, 0

    def _step(self, batch: RegionBatch, step: int, rate: float) -> Losses:
        """Forward, backward and, at the end of an accumulation, the update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        size = self.run.accum_grad_iters
        in_group = min(size, len(self.sampler) - step // size * size)
        last = (step % size) + 1 == in_group
        keep_local = world_size() > 1 and not last
        with self.wrapped.no_sync() if keep_local else nullcontext():
            with autocast(self.config, self.model.device):
                losses = self.wrapped(batch.to(self.model.device, non_blocking=True))
            self.scaler.scale(losses.total / in_group).backward()
        if last:
            if self.run.max_grad_norm is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.run.max_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        return losses

    def _evaluate_epoch(self, epoch: int, log: RunLog) -> Metrics:
        """Evaluates where the epoch is due, and writes the checkpoint of the epoch.

        The best epoch is the one with the highest mean score over ``run.valid_splits``.
        """
        last_epoch = epoch + 1 == self.run.max_epoch
        due = last_epoch or (epoch + 1) % self.run.eval_every == 0
        links: tuple[str, ...] = ("last",)
        metrics: Metrics = {}
        scores: list[float] = []
        for split in self.run.valid_splits if due else ():
            metrics = evaluate(self.config, self.model, split, self.output_dir, f"epoch{epoch + 1}")
            scores.append(headline(metrics, self.tasks))
            log.write({"epoch": epoch, "split": split, "score": scores[-1], "metrics": metrics})
            logger.info("%s after epoch %d:\n%s", split, epoch + 1, metric_table(metrics))
        if scores and sum(scores) / len(scores) > self.position.best_score:
            self.position.best_score = sum(scores) / len(scores)
            links = ("last", "best")
        self.save(links)
        return metrics
