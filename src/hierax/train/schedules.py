"""Numbers that change over a run, each a function of the optimiser step and nothing else.

Published code counts steps in slightly different ways, by which schedules are off by one step from each other. Each
is here under its name: "hierax", "dinov2" and "birder".
"""

from __future__ import annotations

import math
from typing import Literal

Counting = Literal["hierax", "dinov2", "birder"]
_BIRDER_BEGINS = 0.01  # of the peak, at the first step of a warm-up


def cosine(start: float, end: float, step: int, total: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total`."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0))) / 2


def ramp(start: float, end: float, step: int, steps: int, counting: Counting = "hierax") -> float:
    """A line from `start` at step 0 to `end` at step `steps`, and `end` after it; "dinov2" is there a step earlier."""
    steps -= counting == "dinov2"
    return end if step >= steps else start + (end - start) * step / steps


def learning_rate(step: int, peak: float, least: float, *, total: int, warmup: int, counting: Counting) -> float:
    """A linear warm-up, then half a cosine from the peak to the least.

    Source: DINOv2's CosineScheduler; torch's LinearLR and CosineAnnealingLR as birder sets them up.
    """
    if step < warmup:
        if counting == "birder":
            return ramp(_BIRDER_BEGINS * peak, peak, step, warmup)
        return ramp(0.0, peak, step, warmup, counting)
    return cosine(peak, least, step - warmup, total - warmup - (counting == "birder"))


def weight_decay(step: int, start: float, end: float, *, total: int, counting: Counting) -> float:
    """Half a cosine; birder sets it after the step, so the first two are alike."""
    return cosine(start, end, max(step - 1, 0) if counting == "birder" else step, total)


def steps_of(steps: int | None, epochs: float, *, pass_steps: float, total: int, most: float) -> int:
    """Optimiser steps of a phase of a run.

    Args:
        steps: As they are, where they are given.
        epochs: Else passes over the data, but at most a share `most` of the run.
        pass_steps: Optimiser steps of a pass.
        total: Of the run.
        most: Which share.
    """
    return steps if steps is not None else min(round(epochs * pass_steps), math.floor(most * total))
