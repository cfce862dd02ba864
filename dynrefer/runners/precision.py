"""The precision of a run's arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(config: DictConfig, device: torch.device) -> torch.dtype | None:
    """dtype of mixed precision: ``run.precision`` on a GPU with ``run.amp``, else None."""
    if device.type != "cuda" or not config.run.amp:
        return None
    return AUTOCAST[config.run.precision]


def autocast(config: DictConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which the model computes."""
    dtype = autocast_dtype(config, device)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()
