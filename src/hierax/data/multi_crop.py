"""Two large crops of an image and some small ones, each changed on its own; one decode for all.

Source: multi-crop arXiv:2006.09882; the policies are in crop_changes.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from .augment import Augment
from .crop_changes import POLICIES, Policy

LARGE = 2  # crops of an image
_COLOURS = 8  # the stream of a crop's key that its colours come from


@dataclass(frozen=True)
class MultiCrop:
    """What makes the crops of a sample: "large" (2, 3, h, w) and, where there are any, "small" (n, 3, h, w), bytes.

    Attributes:
        large: What cuts the two large crops.
        small: What cuts the small ones.
        count: How many small ones.
        policy: What becomes of their colours, a name in `crop_changes.POLICIES`.
    """

    large: Augment
    small: Augment
    count: int
    policy: str

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"], key: int, size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The crops of an image, or of one of that size, (height, width), which was decoded smaller."""
        crops = [self._crop(frames[:1], key, index, size) for index in range(LARGE + self.count)]
        views = {"large": torch.stack(crops[:LARGE])}
        return views | ({"small": torch.stack(crops[LARGE:])} if self.count else {})

    def shrink(self, size: tuple[int, int], key: int) -> int:
        """By how much the source may be decoded smaller for every crop."""
        return min(self._cut(key, index)[0].shrink(size, self._key(key, index)) for index in range(LARGE + self.count))

    def _crop(self, frames: UInt8[np.ndarray, "t h w 3"], key: int, index: int, size: tuple[int, int] | None) -> Tensor:
        own = self._key(key, index)
        cut, policy = self._cut(key, index)
        return policy(cut(frames, own, size)[0], np.random.Generator(np.random.PCG64([own, _COLOURS])))

    def _cut(self, key: int, index: int) -> tuple[Augment, Policy]:
        """What cuts a crop, and what then changes it."""
        policy = POLICIES[self.policy][min(index, LARGE)]
        cut = self.large if index < LARGE else self.small
        if policy.either and self._key(key, index) % 2:
            cut = dataclasses.replace(cut, bicubic=False)
        return cut, policy

    def _key(self, key: int, index: int) -> int:
        """A random number for each crop."""
        return int(np.random.SeedSequence([key, index]).generate_state(1, np.uint64)[0])
