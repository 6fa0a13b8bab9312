"""Images in, maps of the size of the images out; who may be asked what is decided here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from ..data.inputs import image_input
from ..data.placing import placed
from ..errors import InputError, UnknownNameError, brief, nearest
from ..model.explainers import EXPLAINERS, heat_maps, predicted, readable, rollout, stage_index
from ..predictor import Predictor, as_list
from ..registry import predictor_of
from .target import check_cell, class_index, is_cell

_PIXELS_AT_ONCE = 1 << 21  # of inputs


def explain(
    source: str | Path | Predictor | None,
    images: Any,
    *,
    method: str = "rollout",
    target: Any = None,
    stage: str | None = None,
) -> Float[ndarray, "n h w"]:
    """Which parts of images an answer comes from, as maps of the size of the images.

    What each method measures, and in which unit:

    - "rollout": the share of the answer that attention and residuals carry from each token of 4 pixels; the shares of
      all tokens add up to 1, less what is spent on padding. Without a target it is about the embedding, with one it
      begins at the cells that speak for the class.
    - "gradcam": activation of a stage's channels times the mean gradient of the class's logit, where positive.
    - "occlusion": by how much the class's probability falls when a square of two cells is covered by the mean colour.

    Values between cells are bilinear; a part of an image that the preprocess cuts off is 0.

    Args:
        source: As for `load`, or a Predictor.
        images: One or many paths, PIL images, uint8 arrays (h, w, 3), or preprocessed tensors, all of one size.
        method: "rollout", "gradcam" or "occlusion".
        target: A class, by name or number; None is the most probable class of each image, and for rollout none in
            particular. For rollout also a cell of the stage, (row, column).
        stage: Whose cells, "stage1" to "stage4": where rollout begins (the last), whose channels Grad-CAM weighs (the
            last), how fine occlusion looks (the last but one).

    Returns:
        Maps in the order of the images, as high and wide as they are.

    Raises:
        UnknownNameError: No such method, class or stage.
        InputError: An image cannot be read or has another size than the first, a network of clips, an exported
            program, or a class is asked of a network without classes.
    """
    predictor = predictor_of(source)
    question = Question(predictor, method, target, stage)
    items = as_list(images, rank=3)
    if not items:
        return np.zeros((0, *predictor.preprocess.size), np.float32)
    prepared = [question.prepare(item) for item in items]
    seen, sizes = sorted({tuple(pixels.shape[-2:]) for pixels, _ in prepared}), sorted({size for _, size in prepared})
    if len(sizes) > 1 or len(seen) > 1:
        several = ", ".join(f"{height} x {width}" for height, width in (sizes if len(sizes) > 1 else seen))
        raise InputError(
            f"Maps are as large as their images, so images of one call must have one size; got {several[:200]} "
            "(height x width). Call once for each size."
        )
    answers = question.answers(torch.stack([pixels for pixels, _ in prepared]))
    specs = [None if isinstance(item, Tensor) else predictor.preprocess for item in items]
    return np.stack([placed(own.cells, sizes[0], spec) for own, spec in zip(answers, specs, strict=True)])


@dataclass(frozen=True)
class Answer:
    """One image's map.

    Attributes:
        cells: Values of the cells of a grid over the network's input.
        label: Of the class that it is about; None where it is about none in particular.
    """

    cells: Float[ndarray, "rows columns"]
    label: str | None


class Question:
    """What is asked of which network; refused before any image is read.

    Attributes:
        predictor: The network.
        method: How.
        target: A class, a cell, or None.
        stage: Counted from 0; None is the method's own.

    Raises:
        UnknownNameError: No such method, class or stage.
        InputError: A network that cannot be asked this.
    """

    def __init__(self, predictor: Predictor, method: str, target: Any = None, stage: Any = None) -> None:
        self.predictor, self.method = predictor, method
        self.encoder = readable(predictor.encoder, predictor.card.name)
        if not isinstance(method, str) or method not in EXPLAINERS:
            known = ", ".join(EXPLAINERS)
            raise UnknownNameError(
                f"Methods are {known}; got {brief(method)}. {nearest(str(method), EXPLAINERS)}".strip()
            )
        self.stage = None if stage is None else stage_index(self.encoder, stage)
        self.cell = self._cell(target) if is_cell(target) else None
        named = target is not None and self.cell is None
        if self.encoder.num_classes == 0 and (named or EXPLAINERS[method].needs_class):
            asked = f"a class of {brief(target)}" if named else f"method={method!r}"
            raise InputError(
                f"A class can be explained of a network that has classes; {predictor.card.name!r} has none, and got "
                f"{asked}. Use method='rollout' without a class, or a checkpoint with classes (`hierax list`)."
            )
        self.index = class_index(target, predictor) if named else None

    @property
    def place(self) -> int:
        """The stage, counted from 0."""
        return range(len(self.encoder.stage_ends))[
            EXPLAINERS[self.method].default if self.stage is None else self.stage
        ]

    def prepare(self, image: Any) -> tuple[Float[Tensor, "3 h w"], tuple[int, int]]:
        """An image as the network's input, and its own height and width.

        Raises:
            InputError: It cannot be read.
        """
        if isinstance(image, Tensor):
            pixels = self.predictor.prepare(image)
            return pixels, (pixels.shape[-2], pixels.shape[-1])
        return image_input(image, self.predictor.preprocess)

    def answers(self, inputs: Float[Tensor, "n 3 h w"], batch_size: int | None = None) -> list[Answer]:
        """The map of each input, and the class that it is about.

        Raises:
            InputError: Numbers overflow, or the inputs are not finite or of an impossible size.
        """
        at_once = batch_size or max(1, _PIXELS_AT_ONCE // (inputs.shape[-1] * inputs.shape[-2]))
        parameter = next(self.encoder.parameters())
        found: list[Answer] = []
        for part in inputs.split(at_once):
            x = part.to(parameter.device, parameter.dtype)
            classes = self._classes(x)
            maps = self._maps(x, classes)
            if not maps.isfinite().all():
                raise InputError(self.predictor.not_finite(parameter.dtype))
            labels = [None] * len(x) if classes is None else [self.predictor.label(int(index)) for index in classes]
            found += map(Answer, maps.cpu().numpy(), labels)
        return found

    def _classes(self, x: Tensor) -> Tensor | None:
        if self.index is not None:
            return torch.full((len(x),), self.index, device=x.device)
        return predicted(self.encoder, x) if EXPLAINERS[self.method].needs_class else None

    def _maps(self, x: Tensor, classes: Tensor | None) -> Tensor:
        if self.cell is None:
            return heat_maps(self.method, self.encoder, x, classes, self.stage)
        stride = self.encoder.strides[self.place]
        start = torch.zeros(len(x), x.shape[2] // stride, x.shape[3] // stride, device=x.device)
        row, column = check_cell(self.cell, (start.shape[1], start.shape[2]))
        start[:, row, column] = 1
        return rollout(self.encoder, x, start, self.place)

    def _cell(self, target: Any) -> tuple[int, int]:
        if self.method != "rollout":
            raise InputError(
                f"A cell can be traced by method='rollout' alone; got {brief(target)} with method={self.method!r}. "
                "Pass a class."
            )
        height, width = self.encoder.input_size[-2:]
        stride = self.encoder.strides[self.place]
        return check_cell(target, (height // stride, width // stride))
