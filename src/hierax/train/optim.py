"""What the optimiser is told: parameter groups, learning rates by layer and by step, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..model.layers import decays, grouped, layer_of
from .recipe import Recipe


def parameter_groups(module: nn.Module, config: ModelConfig, recipe: Recipe) -> list[dict[str, Any]]:
    """Every trainable parameter once, grouped by weight decay and learning rate.

    Returns:
        Groups with `params`, `names`, `weight_decay` and `lr_scale`, from the first layer to the last.

    Source: Meta's fine-tuning branch; birder's optimizer groups.
    """
    depth = sum(config.depths)
    last = depth if recipe.groups == "meta" else depth + 1  # of norm and head

    def place(name: str, ndim: int) -> tuple[int, bool]:
        layer = layer_of(name, last) if recipe.layer_decay < 1 else last
        # As Meta has it, the mask token and the positions of MAE's decoder do decay.
        return layer, "norm" not in name if recipe.groups == "birder" else decays(name, ndim)

    return [
        {**group, "weight_decay": recipe.weight_decay * decay, "lr_scale": recipe.layer_decay ** (last - layer)}
        for (layer, decay), group in grouped(module, place)
    ]


def build_optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser over these groups; learning rates are set before every step."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.peak_lr, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(recipe.betas[0], recipe.betas[1]))


def learning_rate(step: int, recipe: Recipe, *, total: int, warmup: int) -> float:
    """Learning rate of the optimiser step that follows `step` finished ones, of `total`.

    The k-th of the `warmup` steps has k / warmup of the peak, so that no step is spent at zero; then half a cosine from
    the peak to `min_lr`, or a constant.
    """
    peak = recipe.peak_lr
    if step < warmup:
        return peak * (step + 1) / warmup
    if recipe.schedule == "constant":
        return peak
    progress = (step - warmup) / max(total - warmup, 1)
    return recipe.min_lr + (peak - recipe.min_lr) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


WARMUP_SHARE = 0.2  # of a run, at most, for a warm-up in epochs: no published recipe has more


def warmup_steps(recipe: Recipe, *, samples: int, total: int) -> int:
    """Steps of the warm-up in a run of `total` over so many samples."""
    if recipe.warmup_steps is not None:
        return recipe.warmup_steps
    read = recipe.batch_size // recipe.repeats  # by a step
    return min(math.ceil(recipe.warmup_epochs / recipe.repeats * samples / read), math.ceil(WARMUP_SHARE * total))


class AveragedWeights:
    """Exponential moving average of a network's parameters, in float32.

    Attributes:
        values: The average of each, by name.
        updates: How often it was moved.

    Source: of the warm-up, tf.train.ExponentialMovingAverage's `num_updates`.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float, *, warmup: bool = False) -> None:
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.values = {name: parameter.detach().clone().float() for name, parameter in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Move towards the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        self.updates += 1
        for name, parameter in parameters:
            self.values[name].lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Exchange averaged and present weights; a second call undoes it."""
        for name, parameter in parameters:
            present = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(present)
