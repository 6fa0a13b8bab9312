"""What a way to train is: everything that the loop, the recipe and the command line ask of it, and what they assume."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ...data.augment import Augment, AugmentSettings
from ...data.datasets.open import open_data
from ...data.datasets.samples import TrainingData
from ...data.datasets.some import sizes_of
from ...data.erase import erase
from ...data.framing import remark
from ...model.encoder import Encoder
from ...model.metrics import Accuracy
from ...weights.card import Weights
from ..batches import Part
from ..bounds import Bound, Levels
from ..devices import Devices
from ..optim import learning_rate, parameter_groups
from ..recipe import Recipe, Task

# What becomes of the frames of one image or clip, given the view's random number: tensors by name. One that also is a
# `ShrinkingViews` lets large photographs be decoded smaller.
MakeViews = Callable[[UInt8[np.ndarray, "t h w 3"], int], dict[str, Tensor]]

ERASED = "erased"  # the view that holds the rectangles of "pixels" that `Method.input` fills with noise


@dataclass(frozen=True)
class StepContext:
    """Where a run is: what a method may need to know besides the views.

    Attributes:
        step: Optimiser steps that are done.
        total: Steps of the run.
        seed: A number for this part of this step on this process.
        pass_steps: Steps of one pass over the data.
        samples: Views of the step, on all processes together.
        places: Which of them this part's are.
    """

    step: int
    total: int
    seed: int
    pass_steps: float
    samples: int = 0
    places: Sequence[int] = ()


class Method(abc.ABC):
    """A way to train.

    Attributes:
        name: Its name in recipes and in `METHODS`.
        task: What it is a method of.
        Settings: A dataclass: the keys of its table in a recipe.
        preset: The recipe for small data, by its name among the presets; None is a recipe of defaults.
        extras: File name of what `beside` gives; None writes nothing.
        picture: File name of what `draw` draws; None draws nothing.
        shown: Samples that are drawn.
        baseline: A loss that means nothing has been learned, None where there is none.
        chance: What parts of the loss are while nothing has been learned, by name.
        telling: Names of other values that `loss` shows and that tell how it goes.
        weights: What it started from; their `config` and `preprocess` are the result's.
        module: What is trained; the loop may wrap it for several processes.
        kept: What is kept beside it (a teacher, a centre, a queue) as modules and buffers: moved to the device with it
            and saved in checkpoints, but not trained. It must be the same on every process.
    """

    name: ClassVar[str]
    task: ClassVar[Task]
    Settings: ClassVar[type]
    preset: ClassVar[str | None] = None
    extras: ClassVar[str | None] = None
    picture: ClassVar[str | None] = None
    shown: int = 8
    baseline: float | None = None
    chance: Mapping[str, float] = MappingProxyType({})
    telling: ClassVar[tuple[str, ...]] = ()
    weights: Weights
    module: nn.Module

    def __init__(self, weights: Weights, recipe: Recipe, classes: list[str]) -> None:
        """Shape weights, given or random (no tensors), for the task; `classes` is empty for data without labels."""
        self.weights, self.recipe, self.settings, self.classes = weights, recipe, recipe.settings, classes
        self.kept = nn.Module()

    @classmethod
    def open(cls, data: Any, recipe: Recipe) -> tuple[TrainingData, TrainingData | None]:
        """Samples to train on, and those to validate on.

        Raises:
            InputError: No data, or data that the method cannot learn from.
        """
        return open_data(data, split=recipe.split, labelled=False), None

    @classmethod
    def suited(
        cls, samples: int, weights: Weights, recipe: Recipe, asked: Collection[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Keys that suit so many samples beside what is asked for, where no recipe is named; and lines that say why."""
        return {}, []

    def views(self) -> MakeViews:
        """What makes views: the processes that read are given it, so it must be picklable and hold no network."""
        return self.settings.views(self.weights)

    @abc.abstractmethod
    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the samples of a part, and parts of it to show; `model` is the module, wrapped."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups, each with `params`, `names`, `weight_decay` and `lr_scale`."""
        return parameter_groups(self.module, self.weights.config, self.recipe)

    def learning_rate(self, step: int, *, total: int, warmup: int) -> float:
        """Of the optimiser step that follows `step` finished ones; groups take their share of it."""
        return learning_rate(step, self.recipe, total=total, warmup=warmup)

    def clip_scopes(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together."""
        return [[parameter for parameter in self.module.parameters() if parameter.requires_grad]]

    def before_step(self, context: StepContext, groups: list[dict[str, Any]]) -> None:  # noqa: B027
        """What happens to gradients and to the optimiser's groups between the backward pass and clipping."""

    def after_step(self, context: StepContext) -> None:  # noqa: B027
        """What follows an optimiser step, such as a teacher's average."""

    def draw(self, part: Part) -> Any:
        """A sheet of some samples, in eval mode; called for the same samples throughout the run."""
        raise NotImplementedError

    def validate(self, data: TrainingData, devices: Devices) -> Accuracy:
        """Exact counts over all processes, in eval mode."""
        raise NotImplementedError

    def result(self) -> nn.Module:
        """The network whose weights the run yields."""
        return self.module

    def beside(self) -> dict[str, Tensor]:
        """What is written beside the result, in a file of the name `extras`, for runs that go on from it."""
        return {}

    def probed(self) -> Encoder:
        """The encoder whose features are looked at during the run."""
        result = self.result()
        return getattr(result, "encoder", result)  # type: ignore[return-value]

    def bounds(self) -> list[Bound]:
        """What values must not lie beyond."""
        return []

    def remarks(self, data: TrainingData) -> list[str]:
        """What the images themselves tell a person before the first step: whether crops show little of them."""
        whole = "resize=squash " if hasattr(self.settings, "resize") else ""
        option = f"--set {whole}input_size=[{{height}},{{width}}]"
        cropped = getattr(self.settings, "resize", None) != "squash"
        found = remark(sizes_of(data), self.weights.config, cropped=True, option=option) if cropped else None
        return [found] if found else []

    def levels(self) -> Levels:
        """What a person is shown during the run, each beside its chance level or its bound."""
        levels: Levels = {name: (value, "chance") for name, value in self.chance.items()}
        limits = {bound.value: bound.most if math.isfinite(bound.most) else bound.least for bound in self.bounds()}
        for name in (*self.telling, *limits):
            levels[name] = (limits[name], "collapse beyond") if name in limits else (None, "")
        return levels

    def advice(self, samples: int) -> list[str]:
        """What the size of a data set lets a person hope for."""
        return []

    def input(self, part: Part, name: str = "pixels") -> Float[Tensor, "b ..."]:
        """Views of a part, bytes (..., 3, [t,] h, w), as network input on the module's device, erased where drawn."""
        spec, device = self.weights.preprocess, next(self.module.parameters()).device
        axes = len(self.weights.config.input_size)
        mean, std = (_of_bytes(values, axes, device) for values in (spec.mean, spec.std))
        pixels = part.views[name].to(device, non_blocking=True).float().sub_(mean).div_(std)
        if name == "pixels" and ERASED in part.views:
            erase(pixels, part.views[ERASED])
        return pixels


@functools.lru_cache(maxsize=8)
def _of_bytes(values: tuple[float, ...], axes: int, device: torch.device) -> Float[Tensor, "3 ..."]:
    """One number a channel, of 255, brought to the device once: every copy there makes the host wait."""
    return torch.tensor(values, device=device).mul_(255).view(3, *[1] * axes)


@dataclass(frozen=True, kw_only=True)
class OneView(AugmentSettings):
    """Settings of a method that sees one view of a sample, "pixels".

    Attributes:
        resize: How images become the input, in training and of the result: "shortest" crops them to its shape, "squash"
            brings the whole image to it, however that distorts. None is the model's own way, and crops in training.
    """

    resize: Literal["shortest", "squash"] | None = None

    def views(self, weights: Weights) -> View:
        """What makes the view, of the size of the network's input."""
        height, width = weights.config.input_size[-2:]
        settings = {field.name: getattr(self, field.name) for field in fields(AugmentSettings)}
        spec = weights.preprocess
        red, green, blue = (min(round(255 * value), 255) for value in spec.mean)
        whole = self.resize == "squash"
        look = {"bicubic": spec.interpolation == "bicubic", "fill": (red, green, blue), "whole": whole}
        return View(Augment(size=(height, width), **look, **settings), weights.config.is_video)


@dataclass(frozen=True)
class View:
    """One view of a sample: "pixels", and "erased" where the settings erase.

    Attributes:
        augment: What changes the frames.
        video: Whether the network takes clips.
    """

    augment: Augment
    video: bool

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"], key: int, size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The view of frames, or of those of a source of that size, (height, width), which were decoded smaller."""
        made = self.augment(frames, key, size)
        views = {"pixels": (made.permute(1, 0, 2, 3) if self.video else made[0]).contiguous()}  # (3, [t,] h, w)
        return views | ({ERASED: self.augment.erased(key)} if self.augment.erasing else {})

    def shrink(self, size: tuple[int, int], key: int) -> int:
        """By how much the source may be decoded smaller."""
        return self.augment.shrink(size, key)
