"""A few samples that stand for a set: which, and how large their images are."""

from __future__ import annotations

import contextlib

import numpy as np
from jaxtyping import Int

from ...errors import HieraxError
from ..decode import upright_size
from ..sources import is_video
from .samples import TrainingData

_SIZES = 32  # images whose size is looked at


def some_of(labels: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    """Positions of some samples, evenly over the classes and over each class, always the same."""
    classes = np.unique(labels)
    each, chosen = max(2, most // len(classes)), []
    for label in classes[: most // 2]:
        members = np.flatnonzero(labels == label)
        chosen.append(members[np.unique(np.linspace(0, len(members) - 1, each).round().astype(int))])
    return np.concatenate(chosen)


def sizes_of(data: TrainingData) -> list[tuple[int, int]]:
    """(height, width) of some images, by what their files declare; of clips and of what cannot be read nothing."""
    sizes = []
    for index in some_of(data.labels, _SIZES):
        with contextlib.suppress(HieraxError, OSError):
            source = data.read(int(index))
            if not is_video(source):
                sizes.append(upright_size(source))
    return sizes
