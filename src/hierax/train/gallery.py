"""Gathers what there is to see of a run and hands it to whoever draws; a picture that fails never stops a run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8

from ..data.decode import decode_image
from ..errors import HieraxError
from .evaluate import Accuracy
from .feed import Part, Views, collate
from .methods import MaskedPretraining
from .methods.base import normalized
from .pictures import Pictures, Reconstructions

_log = logging.getLogger(__name__)
_SAMPLES = 8  # images whose reconstruction is shown
_CLASSES = 2000  # a larger confusion matrix takes gigabytes to draw and cannot be read


class Gallery:
    """The pictures of one run; without anybody to draw, nothing is gathered either."""

    def __init__(self, folder: Path, pictures: Pictures | None) -> None:
        self.folder, self.pictures = folder, pictures

    def losses(self, losses: Sequence[float], baseline: float | None) -> None:
        """Write `curves.png`."""
        if self.pictures is not None and losses:
            with _at_most_a_warning("curves.png"):
                self.pictures.curves(losses, baseline, self.folder / "curves.png")

    def answers(self, result: Accuracy, classes: Sequence[str]) -> None:
        """Write `confusion.png`, and `mistakes.png` where there are mistakes that can be shown."""
        if self.pictures is None or not result.total:
            return
        if len(classes) <= _CLASSES:
            with _at_most_a_warning("confusion.png"):
                self.pictures.confusion(counts(result, len(classes)), classes, self.folder / "confusion.png")
        with _at_most_a_warning("mistakes.png"):
            images, captions = mistakes(result, classes)
            if images:
                self.pictures.mistakes(images, captions, self.folder / "mistakes.png")

    def reconstructions(self, method: MaskedPretraining, views: Views) -> None:
        """Write `reconstructions.png` of the first images, always the same views; clips have none."""
        if self.pictures is None or views.config.is_video:
            return
        with _at_most_a_warning("reconstructions.png"):
            part = first_views(views, _SAMPLES)
            if len(part.pixels):
                self.pictures.triptychs(rebuilt(method, part), self.folder / "reconstructions.png")


def counts(result: Accuracy, classes: int) -> Int[np.ndarray, "classes classes"]:
    """The confusion matrix, true classes in rows."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for (truth, answer), count in result.confusion.items():
        matrix[truth, answer] = count
    return matrix


def mistakes(result: Accuracy, classes: Sequence[str]) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[str]]:
    """Images of the most confident mistakes, and what to write below them."""
    images, captions = [], []
    data = result.data
    if data is None:
        return images, captions
    for confidence, _, truth, answer, index in result.worst:
        try:
            image = decode_image(data.read(index))
        except (HieraxError, OSError):  # a clip, or a file that is gone
            continue
        images.append(image)
        captions.append(f"{confidence:.0%} {classes[answer]}\nis {classes[truth]}")
    return images, captions


def first_views(views: Views, count: int) -> Part:
    """One view of each of the first samples."""
    items = [views[index, 0] for index in range(min(count, len(views.data)))]
    single = [(draw, found if isinstance(found, str) else found[:1]) for draw, found in items]
    return collate(single, views.data, (3, *views.config.input_size))


@torch.no_grad()
def rebuilt(method: MaskedPretraining, part: Part) -> Reconstructions:
    """What the autoencoder makes of images, masked as in training."""
    module, spec = method.module.eval(), method.weights.preprocess
    x = normalized(part.pixels, spec, next(module.parameters()).device)  # (b, 3, h, w)
    output = module(x, visible=method.visible(part).to(x.device))
    rows, columns = module.unit
    return Reconstructions(
        images=x.cpu().numpy(),
        visible=output.visible.cpu().numpy(),
        predictions=output.prediction.float().cpu().numpy(),
        pixels=module.pixels,
        unit=(rows, columns),
        normalized=module.normalize_target,
        preprocess=spec,
    )


@contextlib.contextmanager
def _at_most_a_warning(name: str) -> Iterator[None]:
    """Turn whatever goes wrong into a warning: hours of training are worth more than a picture."""
    try:
        yield
    except Exception as error:
        _log.warning("%s was not drawn, the run goes on: %s: %s", name, type(error).__name__, error)
