"""Which cells of which crops are hidden from a student: blocks, as many as a ratio that is spread over the step.

Half of a step's crops hide nothing. The ratios of the others are stratified: the i-th of n is drawn from the i-th of n
equal parts of the range, and which crop gets which is drawn too. Every crop has a generator of its own, so any
split of a step over processes hides the same.

Source: DINOv2's collate and masking; the blocks are those of BEiT, arXiv:2106.08254.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool
from numpy.random import Generator

_TRIES = 10
_ORDER, _CROP = 6, 7  # random streams of a step


@dataclass(frozen=True, kw_only=True)
class BlockMasks:
    """How cells are hidden.

    Attributes:
        grid: Cells of a crop, (rows, columns).
        share: Of the crops, how many hide anything.
        ratio: Of a crop's cells, (smallest, largest).
        blocks: "dinov2" gives up where ten blocks did not fit, so some crops hide fewer cells than they should;
            "birder" draws only blocks that can fit.
        least: Cells of a block.
        aspect: Height over width of a block, (smallest, largest).
    """

    grid: tuple[int, int]
    share: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)
    blocks: Literal["dinov2", "birder"] = "dinov2"
    least: int = 4
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def draw(self, seed: int, samples: int, places: Sequence[int], crops: int) -> Bool[np.ndarray, "rows h w"]:
        """Hidden cells of some samples' crops, crop-major: first the first crop of each.

        Args:
            seed: Of the step.
            samples: Samples of the whole step, on all processes.
            places: Which of them are wanted.
            crops: Crops of each sample.
        """
        count = int(samples * crops * self.share)
        order = np.random.Generator(np.random.PCG64([seed, _ORDER])).permutation(samples * crops)
        bounds = np.linspace(*self.ratio, count + 1)
        found = np.zeros((crops, len(places), *self.grid), dtype=bool)
        for crop, row in np.ndindex(crops, len(places)):
            number = crop * samples + places[row]
            turn = int(order[number])
            if turn < count:
                rng = np.random.Generator(np.random.PCG64([seed, _CROP, number]))
                wanted = int(math.prod(self.grid) * rng.uniform(bounds[turn], bounds[turn + 1]))
                self._fill(found[crop, row], wanted, rng)
        return found.reshape(-1, *self.grid)

    def _fill(self, hidden: Bool[np.ndarray, "h w"], wanted: int, rng: Generator) -> None:
        """Hide blocks until as many cells as wanted are hidden, or no more block fits."""
        count, most = 0, hidden.size // 2
        while count < wanted:
            added = self._add(hidden, min(wanted - count, most), rng)
            if not added:
                return
            count += added

    def _add(self, hidden: Bool[np.ndarray, "h w"], most: int, rng: Generator) -> int:
        """Hide one block that adds at most so many cells; how many it added, 0 where none was found."""
        height, width = hidden.shape
        low, high = self.aspect
        fits = self.blocks == "birder"
        largest = min(most, width**2 * high, height**2 / low) if fits else most
        if largest < 1:
            return 0
        for _ in range(_TRIES):
            least = min(self.least, largest) if fits else self.least
            area = least + (largest - least) * rng.random()  # DINOv2 draws less than the least where little is left
            bounds = (max(low, area / width**2), min(high, height**2 / area)) if fits else (low, high)
            aspect = math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if fits:
                h, w = max(h, 1), max(w, 1)
            if (h <= height and w <= width) if fits else (h < height and w < width):
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                block = hidden[top : top + h, left : left + w]
                added = block.size - int(block.sum())
                if 0 < added <= most:
                    block[:] = True
                    return added
        return 0
