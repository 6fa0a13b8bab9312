"""Which borders of windows a stage's map may show, and how much it does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from ..config import ModelConfig, block_table

Period = tuple[int, int]  # pixels from one border to the next, down and across


@dataclass(frozen=True)
class Stage:
    """The windows behind a stage's map.

    Attributes:
        number: 1 to 4.
        stride: Pixels of a cell.
        grid: Cells, (rows, columns).
        periods: Of the windows of its blocks and of those before, the largest first; only such of two cells or more
            that end inside the map.
        strip: Pixels at the bottom and at the right whose windows in this stage are filled up with padding.
    """

    number: int
    stride: int
    grid: tuple[int, int]
    periods: tuple[Period, ...]
    strip: tuple[int, int]


def stages_of(config: ModelConfig) -> list[Stage]:
    """The windows of an image network at its input size."""
    height, width = config.input_size
    found, known = [], set[Period]()
    for number, stride in enumerate(config.strides, start=1):
        down = across = 0
        for block in block_table(config):
            if block.stage == number and block.window is not None:
                cell = stride // config.q_stride[-1] if block.q_stride else stride  # of the grid that is cut
                period = (block.window[0] * cell, block.window[1] * cell)
                known.add(period)
                down, across = max(down, height % period[0]), max(across, width % period[1])
        shown = [p for p in known if min(p) >= 2 * stride and (p[0] < height or p[1] < width)]
        grid = (height // stride, width // stride)
        found.append(Stage(number, stride, grid, tuple(sorted(shown, reverse=True)), (down, across)))
    return found


def border_ratios(cells: Float[ndarray, "rows columns c"], stage: Stage) -> dict[Period | str, float]:
    """Mean distance of neighbours across borders over that of neighbours with no border between them.

    A pair that crosses borders of several windows counts for the largest.

    Args:
        cells: A map of the stage.
        stage: Its windows.

    Returns:
        By period, and "strip" for the border of the strip; NaN where there is no such pair, or no difference at all.
    """
    values = np.asarray(cells, np.float64)
    distances = [np.linalg.norm(np.diff(values, axis=axis), axis=-1) for axis in (0, 1)]
    ends = [np.arange(1, count) * stage.stride for count in stage.grid]  # pixels at which each pair meets
    left = [np.ones(len(end), bool) for end in ends]
    crossing: dict[Period | str, list[Bool[ndarray, " pairs"]]] = {}
    for period in stage.periods:
        crossing[period] = [rest & (end % step == 0) for rest, end, step in zip(left, ends, period, strict=True)]
        left = [rest & ~own for rest, own in zip(left, crossing[period], strict=True)]
    if any(stage.strip):
        starts = [count * stage.stride - part for count, part in zip(stage.grid, stage.strip, strict=True)]
        crossing["strip"] = [end == start for end, start in zip(ends, starts, strict=True)]
    inside = _mean(distances, left)
    return {period: _mean(distances, own) / inside if inside else np.nan for period, own in crossing.items()}


def _mean(distances: list[ndarray], chosen: list[Bool[ndarray, " pairs"]]) -> float:
    """Mean over the chosen pairs, those that lie below each other and those beside each other."""
    parts = np.concatenate([distances[0][chosen[0]].ravel(), distances[1][:, chosen[1]].ravel()])
    return float(parts.mean()) if parts.size else np.nan
