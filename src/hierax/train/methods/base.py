"""What the loop asks of a way to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ...config import PreprocessSpec
from ...weights.state import Weights
from ..batches import Part


@dataclass(frozen=True)
class StepContext:
    """Where a run is: what a method may need to know besides the pixels.

    Attributes:
        step: Optimiser steps that are done.
        total: Steps of the run.
        seed: A number for this part of this step on this process.
    """

    step: int
    total: int
    seed: int


class Method(Protocol):
    """A way to train.

    Attributes:
        weights: What it started from.
        baseline: A loss that means nothing has been learned, None where there is none.
    """

    weights: Weights
    baseline: float | None

    @property
    def module(self) -> nn.Module:
        """What is trained; the loop may wrap it for several processes."""
        ...

    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the samples of a part, and parts of it to show."""
        ...

    def after_step(self, context: StepContext) -> None:
        """Whatever must follow an optimiser step."""
        ...


def normalized(pixels: Tensor, spec: PreprocessSpec, device: torch.device) -> Tensor:
    """Bytes as network input."""
    shape = (1, 3, *[1] * (pixels.ndim - 2))
    mean = torch.tensor(spec.mean, device=device).view(shape)
    std = torch.tensor(spec.std, device=device).view(shape)
    return pixels.to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)
