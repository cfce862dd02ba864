"""Learning rates as functions of epoch and step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dynrefer.registry import registry


@dataclass(frozen=True)
class Schedule:
    """Numbers that a schedule is made of; ``warmup_start`` -1 means no ramp, as published."""

    peak: float
    minimum: float
    warmup_start: float
    warmup_steps: int
    epochs: int
    steps_per_epoch: int


LearningRate = Callable[[int, int], float]


def _warm_up(numbers: Schedule, step: int) -> float:
    start = numbers.peak if numbers.warmup_start < 0 else numbers.warmup_start
    share = min(step / max(numbers.warmup_steps, 1), 1.0)
    return start + (numbers.peak - start) * share


def _cosine(numbers: Schedule, progress: float) -> float:
    height = (1 + math.cos(math.pi * progress)) / 2
    return numbers.minimum + (numbers.peak - numbers.minimum) * height


@registry.register("lr_schedule", "linear_warmup_cosine_lr")
def cosine_by_epoch(numbers: Schedule) -> LearningRate:
    """As published: linear warm-up within epoch 0, then a cosine that steps once an epoch."""

    def learning_rate(epoch: int, step: int) -> float:
        return _warm_up(numbers, step) if epoch == 0 else _cosine(numbers, epoch / numbers.epochs)

    return learning_rate


@registry.register("lr_schedule", "linear_warmup_cosine_step_lr")
def cosine_by_step(numbers: Schedule) -> LearningRate:
    """Linear warm-up, then a cosine over all remaining steps; for short training from scratch."""
    total = max(numbers.epochs * numbers.steps_per_epoch - numbers.warmup_steps, 1)

    def learning_rate(epoch: int, step: int) -> float:
        done = epoch * numbers.steps_per_epoch + step
        if done < numbers.warmup_steps:
            return _warm_up(numbers, done)
        return _cosine(numbers, min((done - numbers.warmup_steps) / total, 1.0))

    return learning_rate
