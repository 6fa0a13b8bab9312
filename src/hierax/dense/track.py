"""A mask that follows a clip: each frame takes its labels from the first and from those just before it.

Source: the label propagation of DINO on DAVIS 2017 (arXiv:2104.14294, `eval_video_segmentation.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from ..errors import InputError
from ..model.affinity import spread_labels
from ..predictor import Predictor
from ..schema import positive
from .labels import pixel_classes
from .maps import CellMaps, Dense, default_view

STAGES = ("stage2", "stage3")
SIZE = 480


@dataclass(frozen=True)
class Following:
    """How labels are propagated.

    Attributes:
        frames: Frames just before one that it takes labels from, beside the first.
        radius: Cells, each way, in which like ones are sought.
        top_k: How many cells count.
        temperature: A cell weighs exp(cosine / temperature).
    """

    frames: int = 7
    radius: int = 12
    top_k: int = 5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        positive(frames=self.frames, radius=self.radius, top_k=self.top_k)
        if not 0 < self.temperature < 100:
            raise InputError(f"A temperature is above 0 and below 100; got {self.temperature}.")


class Tracker:
    """Follows the labels of a first frame.

    Args:
        maps: What makes the features.
        pixels: The first frame.
        classes: Class of each of its pixels, -1 where it has none.
        count: How many classes there are.
        how: Settings.
    """

    def __init__(
        self,
        maps: CellMaps,
        pixels: UInt8[ndarray, "h w 3"],
        classes: Int[ndarray, "h w"],
        count: int,
        how: Following | None = None,
    ) -> None:
        self.maps, self.how = maps, how or Following()
        features = cell_features(maps, pixels)
        labels = _one_hot(classes, (features.shape[1], features.shape[2]), count)
        self._first = (features, labels)
        self._last: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.how.frames)

    def follow(self, pixels: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w"]:
        """The class of each pixel of the next frame."""
        features = cell_features(self.maps, pixels)
        how = self.how
        options = {"radius": how.radius, "top_k": how.top_k, "temperature": how.temperature}
        labels = spread_labels(features, [self._first, *self._last], **options)  # type: ignore[arg-type]
        self._last.append((features, labels))
        return pixel_classes(_stretched(labels), (pixels.shape[0], pixels.shape[1]))


def tracking_maps(
    predictor: Predictor, stages: Sequence[str] | None = None, size: int | str | None = None, tile: int | None = None
) -> Dense:
    """A network as labels follow its maps: of stages 2 and 3, frames of 480 pixels."""
    known = STAGES if stages is None else stages
    return Dense(predictor, known, default_view(predictor, SIZE if size is None else size, tile))


def cell_features(maps: CellMaps, pixels: UInt8[ndarray, "h w 3"]) -> Float[Tensor, "c h w"]:
    """Cells of length 1: all stages resized to the finest, each of one length, joined."""
    grid = maps.grid((pixels.shape[0], pixels.shape[1]))
    parts = []
    for found in maps.maps(pixels).values():
        resized = F.interpolate(found[None], size=grid, mode="bilinear", align_corners=False)[0]
        parts.append(F.normalize(resized, dim=0))
    return torch.cat(parts) / len(parts) ** 0.5


def _one_hot(classes: Int[ndarray, "h w"], grid: tuple[int, int], count: int) -> Float[Tensor, "k h w"]:
    """The class at the centre of each cell; none where that pixel has none."""
    rows, columns = ((2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(grid, classes.shape, strict=True))
    cells = torch.from_numpy(classes[rows[:, None], columns].astype(np.int64))
    return torch.stack([(cells == number).float() for number in range(count)])


def _stretched(labels: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """Each class from 0 to 1, as the protocol does before it compares them; what is the same everywhere stays."""
    low, high = labels.amin((1, 2), keepdim=True), labels.amax((1, 2), keepdim=True)
    return torch.where(high > low, (labels - low) / (high - low).clamp(min=1e-12), labels)
