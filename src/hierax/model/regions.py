"""How well masks agree: counts of pixels by class, intersection over union, J of regions and F of their boundaries.

Closed forms on arrays, without any network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


def confusion(truth: Int[ndarray, "*shape"], answer: Int[ndarray, "*shape"], count: int) -> Int[ndarray, "k k"]:
    """Pixels by (true class, answered class); where the truth is negative none is counted.

    Args:
        truth: Classes, negative where nobody says.
        answer: Classes, none negative.
        count: How many classes there are.
    """
    known = truth >= 0
    keys = truth[known].astype(np.int64) * count + answer[known]
    return np.bincount(keys, minlength=count * count).reshape(count, count)


@dataclass(frozen=True)
class Overlap:
    """What counts of pixels say.

    Attributes:
        counts: Pixels by (true class, answered class).
    """

    counts: Int[ndarray, "k k"]

    @property
    def iou(self) -> Float[ndarray, " k"]:
        """Intersection over union of each class; NaN of one that is neither there nor answered."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def mean_iou(self) -> float:
        """The mean over classes that are there or were answered."""
        return _mean(self.iou)

    @property
    def accuracy(self) -> float:
        """Share of right pixels."""
        total = int(self.counts.sum())
        return float(np.diag(self.counts).sum() / total) if total else math.nan

    @property
    def mean_accuracy(self) -> float:
        """The mean over classes that are there of their share of right pixels."""
        own = self.counts.sum(1)
        return _mean(np.divide(np.diag(self.counts), own, out=np.full(len(own), np.nan), where=own > 0))


def region_similarity(
    truth: Bool[ndarray, "h w"], answer: Bool[ndarray, "h w"], void: Bool[ndarray, "h w"] | None = None
) -> float:
    """J: intersection over union of one object; 1 where it is neither there nor answered.

    Args:
        truth: The object.
        answer: What was answered.
        void: Pixels that do not count.

    Source: DAVIS (Perazzi et al. 2016).
    """
    if void is not None:
        truth, answer = truth & ~void, answer & ~void
    union = np.count_nonzero(truth | answer)
    return float(np.count_nonzero(truth & answer) / union) if union else 1.0


def boundary_accuracy(
    truth: Bool[ndarray, "h w"],
    answer: Bool[ndarray, "h w"],
    void: Bool[ndarray, "h w"] | None = None,
    *,
    tolerance: float = 0.008,
) -> float:
    """F: harmonic mean of precision and recall of boundary pixels, which may be off by a share of the diagonal.

    Args:
        truth: The object.
        answer: What was answered.
        void: Pixels that do not count.
        tolerance: Share of the diagonal, rounded up to pixels; from 1 on it is pixels.

    Source: DAVIS (Perazzi et al. 2016), `db_eval_boundary` of davis2017-evaluation.
    """
    if void is not None:
        truth, answer = truth & ~void, answer & ~void
    reach = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*truth.shape))
    ours, theirs = boundary(answer), boundary(truth)
    own, wanted = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not own or not wanted:
        return 1.0 if own == wanted else 0.0
    precision = np.count_nonzero(ours & dilated(theirs, int(reach))) / own
    recall = np.count_nonzero(theirs & dilated(ours, int(reach))) / wanted
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(region: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels that differ from that on the right, below, or below on the right."""
    found = np.zeros_like(region)
    found[:, :-1] |= region[:, :-1] ^ region[:, 1:]
    found[:-1] |= region[:-1] ^ region[1:]
    found[:-1, :-1] |= region[:-1, :-1] ^ region[1:, 1:]
    return found


def dilated(region: Bool[ndarray, "h w"], radius: int) -> Bool[ndarray, "h w"]:
    """Pixels no further than a radius from a region: its union moved over a disk, row of the disk by row."""
    height, width = region.shape
    sums = np.zeros((height, width + 1), np.int64)
    np.cumsum(region, axis=1, out=sums[:, 1:])
    out, columns = np.zeros_like(region), np.arange(width)
    for down in range(-radius, radius + 1):
        reach = math.isqrt(radius * radius - down * down)
        left, right = np.maximum(columns - reach, 0), np.minimum(columns + reach + 1, width)
        wide = sums[:, right] > sums[:, left]
        if abs(down) < height:
            out[max(down, 0) : height + min(down, 0)] |= wide[max(-down, 0) : height - max(down, 0)]
    return out


@dataclass(frozen=True)
class Track:
    """A measure of one object over the frames of a clip.

    Attributes:
        values: In the order of the frames.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return _mean(np.array(self.values))

    @property
    def recall(self) -> float:
        """Share of the frames above one half."""
        return _mean(np.array(self.values) > 0.5) if self.values else math.nan

    @property
    def decay(self) -> float:
        """How much higher the mean of the first quarter is than that of the last.

        Source: `db_statistics` of davis2017-evaluation.
        """
        if not self.values:
            return math.nan
        ends = np.round(np.linspace(1, len(self.values), 5) + 1e-10).astype(int) - 1
        first, last = (np.array(self.values[ends[i] : ends[i + 1] + 1]) for i in (0, 3))
        return _mean(first) - _mean(last)


def _mean(values: Any) -> float:
    """The mean of what is a number; NaN of nothing."""
    good = np.asarray(values, np.float64)
    good = good[~np.isnan(good)]
    return float(good.mean()) if len(good) else math.nan
