"""Updates of the weights: AdamW, the scale of fp16, clipping, and steps that must not be taken."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dynrefer.config import ConfigError
from dynrefer.models.dynrefer import DynRefer
from dynrefer.runners.precision import autocast_dtype

logger = logging.getLogger(__name__)

# Steps in a row with gradients that are not finite; fp16 alone needs some to find its scale.
MOST_SKIPPED = 20


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


class Updates:
    """Changes a model's weights by their gradients, as the configuration's run section says.

    ``skipped`` counts the updates that were left out, ``in_a_row`` the latest of them. Raises
    ConfigError where nothing of the model trains.
    """

    def __init__(self, config: DictConfig, model: DynRefer) -> None:
        self.run, self.model = config.run, model
        groups = parameter_groups(model, self.run.weight_decay)
        if not any(group["params"] for group in groups):
            raise ConfigError("every part of the model is frozen (model.freeze); nothing to train")
        self.optimizer = torch.optim.AdamW(groups, lr=self.run.init_lr, betas=(0.9, self.run.beta2))
        needs_scaler = autocast_dtype(config, model.device) == torch.float16
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=needs_scaler)
        self.skipped = self.in_a_row = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        states = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return {**states, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Takes the moments and scale of a checkpoint; decay and betas stay the configuration's.

        Raises ValueError where the checkpoint at ``path`` trained other parameters.
        """
        wanted = [{**group} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ValueError(
                f"{path} trained other parameters (model.freeze, model.caption_decoder.lora); "
                f"run.load_ckpt_path={path} starts from its weights alone"
            ) from error
        for group, values in zip(self.optimizer.param_groups, wanted, strict=True):
            group.update(values)
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients together, of which every process has the same."""
        self.scaler.unscale_(self.optimizer)
        return nn.utils.get_total_norm(self._gradients().values())

    def apply(self, norm: Tensor, is_finite: bool, where: str) -> None:
        """Changes the weights, unless the gradients, whose norm is given, are not finite.

        Raises FloatingPointError, which says ``where`` training stood, after ``MOST_SKIPPED``
        updates in a row that were left out.
        """
        if is_finite:
            if self.run.max_grad_norm is not None:
                parameters = self.model.parameters()
                nn.utils.clip_grads_with_norm_(parameters, self.run.max_grad_norm, norm)
            self.scaler.step(self.optimizer)
            self.in_a_row = 0
        else:
            self._skip(where)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: p.grad for name, p in named if p.grad is not None}

    def _skip(self, where: str) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        gradients = self._gradients()
        names = [name for name, grad in gradients.items() if not torch.isfinite(grad).all()]
        listed = ", ".join(names[:3]) or "their norm alone is too large"
        what = f"{where}: gradients of {len(names)} of {len(gradients)} tensors are not finite"
        if self.in_a_row == MOST_SKIPPED:
            raise FloatingPointError(
                f"{what} ({listed}), for the {MOST_SKIPPED}th step in a row; a lower run.init_lr, "
                "a longer run.warmup_steps or run.max_grad_norm may help"
            )
        logger.warning("%s (%s); step skipped, %d so far", what, listed, self.skipped)
