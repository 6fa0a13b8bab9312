"""Gathers what there is to see of a run and hands it to whoever draws; a picture that fails never stops a run."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from ..data.decode import decode_image
from ..errors import HieraxError
from ..model.metrics import Accuracy
from .batches import Part, Views, collate
from .devices import Devices
from .methods import MaskedPretraining
from .methods.base import normalized
from .pictures import Pictures, Reconstructions

_log = logging.getLogger(__name__)
_SAMPLES = 8  # images whose reconstruction is shown
_CLIPS, _FRAMES = 2, 4  # clips, and frames of each
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

    def left_out(self, classes: int) -> list[str]:
        """Which pictures there will not be, and why."""
        if self.pictures is None or classes <= _CLASSES:
            return []
        return [f"confusion.png is not drawn: {classes} classes are more than the {_CLASSES} that can be read"]

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

    def reconstructions(self, method: MaskedPretraining, views: Views, devices: Devices) -> None:
        """Write `reconstructions.png` of the first images, or of frames of the first clips; always the same views.

        The main process writes. Where weights are spread over processes, all of them must compute.
        """
        if self.pictures is None or not (devices.main or devices.sharded):
            return
        part = None
        with _at_most_a_warning("reconstructions.png"):
            part = first_views(views, _CLIPS if views.config.is_video else _SAMPLES)
        empty = part is None or not len(part.pixels)
        if part is None or (devices.any(empty) if devices.sharded else empty):
            return
        with _at_most_a_warning("reconstructions.png"):
            made = rebuilt(method, part)
            if devices.main:
                self.pictures.triptychs(made, self.folder / "reconstructions.png")


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
    """What the autoencoder makes of images or clips, masked as in training."""
    module, spec = method.module.eval(), method.weights.preprocess
    x = normalized(part.pixels, spec, next(module.parameters()).device)  # (b, 3, h, w)
    output = module(x, visible=method.visible(part).to(x.device))
    images, visible = x.cpu().numpy(), output.visible.cpu().numpy()
    predictions = output.prediction.float().cpu().numpy()
    rows, columns = module.unit[-2:]
    if module.config.is_video:
        stride = module.config.patch_stride[0]
        clips = [
            frames(clip[:, ::stride], seen, made, pixels=module.pixels, unit=(rows, columns))
            for clip, seen, made in zip(images, visible, predictions, strict=True)
        ]
        images, visible, predictions = (list(column) for column in zip(*itertools.chain(*clips), strict=True))
    return Reconstructions(
        images=images,
        visible=visible,
        predictions=predictions,
        pixels=module.pixels,
        unit=(rows, columns),
        normalized=module.normalize_target,
        preprocess=spec,
    )


def frames(
    clip: Float[np.ndarray, "3 t h w"],
    visible: Int[np.ndarray, " n"],
    predictions: Float[np.ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A few frames of a clip, evenly spread, each with its visible mask units and the predictions of its hidden tokens.

    Args:
        clip: The frame of each decoder token in time, preprocessed.
        visible: Row-major indices of the mask units that were kept, over time, rows and columns.
        predictions: For each hidden token in raster order, its square as (row, column, channel).
        pixels: Side of a token's square.
        unit: Rows and columns of a mask unit in tokens; it is one token long.
    """
    _, times, height, width = clip.shape
    shown = np.zeros((times, height // (unit[0] * pixels), width // (unit[1] * pixels)), bool)
    shown.flat[visible] = True
    hidden = np.repeat(np.repeat(~shown, unit[0], 1), unit[1], 2).reshape(times, -1).sum(1)  # tokens of each frame
    squares = predictions.reshape(-1, pixels, pixels, 3).transpose(0, 3, 1, 2).reshape(len(predictions), -1)
    parts = np.split(squares, np.cumsum(hidden)[:-1])
    some = np.flatnonzero(shown.any((1, 2)))  # a frame of which nothing was seen shows nothing
    chosen = some[np.unique(np.linspace(0, len(some) - 1, _FRAMES).round().astype(int))]
    return [(clip[:, time], np.flatnonzero(shown[time]), parts[time]) for time in chosen]


@contextlib.contextmanager
def _at_most_a_warning(name: str) -> Iterator[None]:
    """Turn whatever goes wrong into a warning: hours of training are worth more than a picture."""
    try:
        yield
    except Exception as error:
        _log.warning("%s was not drawn, the run goes on: %s: %s", name, type(error).__name__, error)
