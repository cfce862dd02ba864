"""The training loop: epochs, ranks, checkpoints, logs."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dynrefer.config import ConfigError, to_plain
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import (
    DatasetRequest,
    RegionDatasets,
    build_dataset,
    data_sources,
)
from dynrefer.datasets.loading import make_loader, start_loading
from dynrefer.distributed import (
    TrainingBatchSampler,
    barrier,
    is_main,
    mean_over_processes,
    world_size,
)
from dynrefer.models.dynrefer import DynRefer
from dynrefer.progress import Progress
from dynrefer.registry import registry
from dynrefer.runners.checkpointing import (
    Position,
    evaluated_score,
    load_checkpoint,
    note_evaluated,
    point,
    save_checkpoint,
)
from dynrefer.runners.evaluation import Metrics, evaluate, headline, tasks_of
from dynrefer.runners.logs import RunLog, metric_table
from dynrefer.runners.precision import autocast
from dynrefer.runners.resuming import check_same_data, checkpoint_to_resume, tell_changes
from dynrefer.runners.run_folder import CHECKPOINTS, LOG, begin
from dynrefer.runners.schedules import Schedule
from dynrefer.runners.updates import Updates
from dynrefer.stopping import Stopped, StopRequest, handling_signals
from dynrefer.vocabulary import TagVocabulary

logger = logging.getLogger(__name__)


def training_data(config: DictConfig, tags: TagVocabulary) -> RegionDatasets:
    """All datasets that have annotations for ``run.train_splits``; ConfigError where none has."""
    selector = config.run.train_view_selector
    parts = [
        part
        for name, dataset in config.datasets.items()
        for split in config.run.train_splits
        if data_sources(dataset, split)
        for part in build_dataset(
            DatasetRequest.of(config, name, split, selector, tags, training=True)
        ).datasets
    ]
    if not parts:
        raise ConfigError(
            f"no dataset has annotations for run.train_splits={list(config.run.train_splits)}"
        )
    return RegionDatasets(parts)


@registry.register("runner", "epoch")
class EpochRunner:
    """Trains for ``run.max_epoch`` epochs and evaluates after them.

    The model is on its device already, and the run's folder is there; ``dataset`` is that of
    :func:`training_data`.
    """

    def __init__(
        self, config: DictConfig, model: DynRefer, output_dir: Path, dataset: RegionDatasets
    ) -> None:
        self.config, self.run, self.model = config, config.run, model
        self.output_dir, self.checkpoints = output_dir, output_dir / CHECKPOINTS
        self.tasks = tasks_of(config)
        if self.run.save_every and self.run.save_every % self.run.accum_grad_iters:
            raise ConfigError(
                f"run.save_every: {self.run.save_every} is not a multiple of run.accum_grad_iters, "
                f"{self.run.accum_grad_iters}; a checkpoint holds no half-summed gradients"
            )
        self.dataset = dataset
        self.sampler = TrainingBatchSampler(
            len(self.dataset), self.run.batch_size_train, self.run.seed
        )
        if self.run.accum_grad_iters > len(self.sampler):
            raise ConfigError(
                f"run.accum_grad_iters: {self.run.accum_grad_iters}; valid is at most the steps of "
                f"an epoch, {len(self.sampler)}"
            )
        self.updates = Updates(config, model)
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
        self.saved: Path | None = None  # this run's newest checkpoint
        self.stop = StopRequest(insists=world_size() == 1)
        self.wrapped: nn.Module = model
        if world_size() > 1:
            devices = [model.device] if model.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(model, device_ids=devices)

    def train(self) -> Metrics:
        """Runs the remaining epochs; returns the metrics of the last evaluation.

        Raises Stopped by SIGTERM or Ctrl-C, after a checkpoint was saved, and FloatingPointError
        where a loss, or the gradients of many steps in a row, are not finite.
        """
        path = checkpoint_to_resume(self.config, self.output_dir)
        if path is not None:
            self.resume(path)
        begin(self.config, self.output_dir)
        if self.saved is not None and is_main():  # what came after it is not part of the run
            point(self.checkpoints / "last", self.saved)
        plain, place = to_plain(self.config), (self.position.epoch, self.position.step)
        self.log = RunLog(self.output_dir / LOG, plain, self.run.wandb, place)
        metrics: Metrics = {}
        try:
            with handling_signals(self.stop):
                for epoch in range(self.position.epoch, self.run.max_epoch):
                    self._train_epoch(epoch)
                    metrics = self._evaluate_epoch(epoch) or metrics
        except Stopped as stop:
            raise Stopped(stop.number, self.kept()) from None
        except Exception as error:
            error.kept = self.kept()  # for entry_point's message
            raise
        finally:
            self.log.close()
        return metrics

    def kept(self) -> str:
        """What there is of the run, and how to go on with it."""
        if self.saved is None:
            return "no checkpoint is written yet"
        return f"{self.saved} is whole; the same command with run.resume=auto goes on from it"

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint, exactly as if training had not stopped.

        Raises ValueError where the data would come in another order, or other parameters train.
        """
        keys = ("updates", "samples", "config")
        self.position, state = load_checkpoint(path, self.model, keys)
        check_same_data(path, state, self.config, len(self.dataset))
        self.updates.load_state_dict(state["updates"], path)
        score = evaluated_score(path)
        if score is not None:
            self.position.epoch, self.position.step = self.position.epoch + 1, 0
            self.position.best_score = score
        if not (self.checkpoints / "best").exists():
            # The best so far lies in another run's folder: this one keeps the best of its own.
            self.position.best_score = float("-inf")
        if path.resolve().parent == self.checkpoints.resolve():
            self.saved = path.resolve()
        logger.info("%s: epoch %d, step %d", path, self.position.epoch + 1, self.position.step)
        tell_changes(path, state["config"], self.config)

    def save(self) -> None:
        """Writes a checkpoint at the present position."""
        self.log.sync()
        state = {"updates": self.updates.state_dict(), "samples": len(self.dataset)}
        state["config"] = to_plain(self.config)
        self.saved = save_checkpoint(
            self.checkpoints, self.model, self.config, self.position, state, self.saved
        )

    def _batches(self, epoch: int) -> Iterator[RegionBatch]:
        self.dataset.set_epoch(epoch)
        self.sampler.set_position(epoch, self.position.step)
        loader = make_loader(self.dataset, self.run, self.model.device, batch_sampler=self.sampler)
        return start_loading(loader)

    def _train_epoch(self, epoch: int) -> None:
        self.model.train()
        steps, name = len(self.sampler), f"epoch {epoch + 1}/{self.run.max_epoch}"
        places = {"initial": self.position.step, "total": steps}
        bar = Progress(self._batches(epoch), desc=name, unit="step", **places)
        began, regions = time.perf_counter(), 0
        self.stop.waits = True
        for step, batch in enumerate(bar, start=self.position.step):
            rate = self.learning_rate(epoch, step)
            losses, signal_number = self._step(batch, step, rate)
            self.position.step = step + 1
            self.position.global_step += 1
            regions += len(batch) * world_size()
            if step % self.run.log_freq == 0 or step + 1 == steps:
                self.log.write(
                    {"epoch": epoch, "step": step, "lr": rate, **losses}
                    | {"regions_per_second": round(regions / (time.perf_counter() - began), 2)}
                    | ({"skipped": self.updates.skipped} if self.updates.skipped else {})
                )
            bar.set_postfix(loss=f"{losses['total']:.3f}", refresh=False)
            due = self.run.save_every and (step + 1) % self.run.save_every == 0
            if due or signal_number or step + 1 == steps:
                self.save()
            if signal_number:
                raise Stopped(signal_number)
        self.stop.waits = False
        self.dataset.report_unreadable()
        if self.stop.number:  # after the last step
            raise Stopped(self.stop.number)

    def _step(self, batch: RegionBatch, step: int, rate: float) -> tuple[dict[str, float], int]:
        """Forward, backward and, at the end of an accumulation, the update.

        Returns the losses, as means over the processes; and after an update the number of the
        signal that one of the processes got, else 0.
        """
        self.updates.set_rate(rate)
        size = self.run.accum_grad_iters
        in_group = min(size, len(self.sampler) - step // size * size)
        last = (step % size) + 1 == in_group
        keep_local = world_size() > 1 and not last
        with self.wrapped.no_sync() if keep_local else nullcontext():
            with autocast(self.config, self.model.device):
                losses = vars(self.wrapped(batch.to(self.model.device, non_blocking=True)))
            self.updates.scaler.scale(losses["total"] / in_group).backward()
        values = {name: loss.detach().float() for name, loss in losses.items()}
        if last:
            values["norm"] = self.updates.gradient_norm()
            values["signal"] = torch.full_like(values["norm"], self.stop.number)
        # One exchange and one wait for the device; all processes come to the same decisions.
        means = mean_over_processes(torch.stack([*values.values()])).tolist()
        shared = dict(zip(values, means, strict=True))
        if last:
            where = f"epoch {self.position.epoch + 1}, step {step + 1}, learning rate {rate:g}"
            self.updates.apply(values["norm"], math.isfinite(shared.pop("norm")), where)
        # Processes may have got different signals, or none yet.
        stopped = self.stop.number or signal.SIGTERM if shared.pop("signal", 0) else 0
        return shared, stopped

    def _evaluate_epoch(self, epoch: int) -> Metrics:
        """Evaluates where the epoch is due, after which ``best`` may point to its checkpoint.

        The best epoch is the one with the highest mean score over ``run.valid_splits``.
        """
        last_epoch = epoch + 1 == self.run.max_epoch
        due = last_epoch or (epoch + 1) % self.run.eval_every == 0
        metrics: Metrics = {}
        scores: list[float] = []
        for split in self.run.valid_splits if due else ():
            metrics = evaluate(self.config, self.model, split, self.output_dir, f"epoch{epoch + 1}")
            scores.append(headline(metrics, self.tasks))
            self.log.write(
                {"epoch": epoch, "split": split, "score": scores[-1], "metrics": metrics}
            )
            logger.info("%s after epoch %d:\n%s", split, epoch + 1, metric_table(metrics))
        is_best = bool(scores) and sum(scores) / len(scores) > self.position.best_score
        if is_best:
            self.position.best_score = sum(scores) / len(scores)
        if self.saved is None:  # it goes on from the end of an epoch in another run's folder
            self.save()
        if is_main():
            if is_best:
                point(self.checkpoints / "best", self.saved)
            self.log.sync()
            note_evaluated(self.checkpoints, self.saved, self.position.best_score)
        barrier()  # all of them load the same `best`
        self.position.epoch, self.position.step = epoch + 1, 0
        return metrics
