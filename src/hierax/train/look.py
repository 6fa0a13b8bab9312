"""A short look at training images before a recipe is chosen: their shapes, and what mirroring does to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from ..data.datasets.samples import TrainingData
from ..data.datasets.some import some_of
from ..data.decode import decode_image
from ..data.sources import is_video
from ..errors import HieraxError

MOST = 240  # images that are looked at: seconds, even of photographs
_ROWS, _FLAT = 64, 24  # of an image that are looked at, and grey levels between darkest and lightest of a flat one
_SOME = 0.1  # of the images, from which on flat ones are told of
_SIDE = 12  # pixels of the thumbnails that are compared
_SURE = 3.0  # standard errors from which on a difference is no accident
_KEPT = 0.75  # of what thumbnails tell beyond accident, mirror images must keep at least as much


@dataclass(frozen=True)
class Mirror:
    """Whether an image and its mirror image are nearest to an image of the same class, by thumbnails alone.

    Attributes:
        looked: Images that were compared with all others.
        plain: How many are nearest to another of their class.
        mirrored: How many of their mirror images are.
        chance: How many would be by accident.
        changed: Classes whose mirror images are found much more rarely than the images.
    """

    looked: int = 0
    plain: int = 0
    mirrored: int = 0
    chance: float = 0.0
    changed: tuple[int, ...] = ()

    @property
    def telling(self) -> bool:
        """Whether thumbnails tell the classes apart at all, so that something follows from them."""
        spread = math.sqrt(max(self.chance * (1 - self.chance / max(self.looked, 1)), 1.0))
        return self.plain > self.chance + _SURE * spread

    @property
    def harmless(self) -> bool:
        """Whether mirror images were seen to keep their class."""
        kept = self.mirrored - self.chance
        return self.telling and not self.changed and kept >= _KEPT * (self.plain - self.chance)


@dataclass(frozen=True)
class Look:
    """What some images are like.

    Attributes:
        mirror: What mirroring does to them.
        sizes: (height, width) of each.
        flat: How many are of one colour, or nearly.
    """

    mirror: Mirror = Mirror()
    sizes: tuple[tuple[int, int], ...] = ()
    flat: int = 0

    def remarks(self) -> list[str]:
        """What a person should know of what is in the images."""
        if self.flat < max(1, _SOME * len(self.sizes)):
            return []
        return [
            f"{self.flat} of {len(self.sizes)} images that were looked at are of one colour, or nearly: transparency "
            "shows white, and of numbers of 16 bits the high ones count. If there is more to see in them, save them "
            "with that background, or stretched over all their bits."
        ]


def look(data: TrainingData) -> Look:
    """Look at up to `MOST` images, as many of each class, always the same; clips are not looked at."""
    thumbs, labels, sizes, flat = [], [], [], 0
    for index in some_of(data.labels, MOST):
        try:
            source = data.read(int(index))
            if is_video(source) or (isinstance(source, np.ndarray) and source.ndim == 4):
                continue
            pixels = decode_image(source)
        except (HieraxError, OSError, MemoryError):  # told when it is to be trained on
            continue
        labels.append(int(data.labels[index]))
        sizes.append((pixels.shape[0], pixels.shape[1]))
        flat += _is_flat(pixels)
        small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        thumbs.append(np.asarray(small, np.float32) / 255)
    found = mirror(np.stack(thumbs), np.array(labels)) if thumbs else Mirror()
    return Look(found, tuple(sizes), flat)


def _is_flat(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether hardly anything can be seen, by some rows and columns."""
    some = pixels[:: max(1, pixels.shape[0] // _ROWS), :: max(1, pixels.shape[1] // _ROWS)]
    return bool(np.ptp(some, axis=(0, 1)).max() < _FLAT)


def mirror(thumbs: Float[np.ndarray, "n h w 3"], labels: Int[np.ndarray, " n"]) -> Mirror:
    """Nearest neighbours of thumbnails and of their mirror images, among the thumbnails of all other images."""
    count = len(thumbs)
    if count < 2:
        return Mirror()
    rows, turned = _standard(thumbs), _standard(thumbs[:, :, ::-1])
    hits = []
    for queries in (rows, turned):
        likeness = queries @ rows.T
        np.fill_diagonal(likeness, -np.inf)
        hits.append(labels[likeness.argmax(1)] == labels)
    plain, mirrored = hits
    same = np.array([(labels == label).sum() - 1 for label in labels])
    changed = [int(label) for label in np.unique(labels) if _dropped(plain[labels == label], mirrored[labels == label])]
    return Mirror(count, int(plain.sum()), int(mirrored.sum()), float((same / (count - 1)).sum()), tuple(changed))


def _standard(thumbs: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Rows of mean 0 and length 1, so that brightness and contrast do not count."""
    rows = thumbs.reshape(len(thumbs), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _dropped(plain: np.ndarray, mirrored: np.ndarray) -> bool:
    """Whether fewer mirror images are right than accident explains (McNemar's test)."""
    lost, won = int((plain & ~mirrored).sum()), int((mirrored & ~plain).sum())
    return lost - won > _SURE * math.sqrt(max(lost + won, 1))
