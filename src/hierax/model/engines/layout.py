"""The order in which the fast engines keep tokens: window by window, real tokens only.

A layout lists a grid's tokens unit by unit. Where the unit does not divide the grid, the far windows are simply
smaller: nothing is padded, and `Group.missing` says how many keys the readable encoder would have padded there.
A layout whose unit is the whole grid is plain raster order.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Windows of one shape, consecutive in the layout.

    Attributes:
        start: First token of the group.
        count: How many windows.
        shape: Tokens of each along each axis.
        missing: Tokens by which each falls short of the full window.
    """

    start: int
    count: int
    shape: tuple[int, ...]
    missing: int

    @property
    def stop(self) -> int:
        """One past the last token."""
        return self.start + self.count * math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """An order of a grid's tokens: unit by unit, row-major inside and among them."""

    grid: tuple[int, ...]
    unit: tuple[int, ...]

    @classmethod
    def raster(cls, grid: tuple[int, ...]) -> Layout:
        """Plain row-major order."""
        return cls(grid, grid)

    @property
    def divides(self) -> bool:
        """Whether every window is full."""
        return all(g % u == 0 for g, u in zip(self.grid, self.unit, strict=True))

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """Windows by shape: the full ones first, then those cut off by the far edges."""
        groups: list[Group] = []
        for spans in _cells(self):
            shape = tuple(length for _, _, length in spans)
            count = math.prod(windows for _, windows, _ in spans)
            start = groups[-1].stop if groups else 0
            groups.append(Group(start, count, shape, math.prod(self.unit) - math.prod(shape)))
        return tuple(groups)

    def pooled(self, stride: tuple[int, ...]) -> Layout:
        """The layout after pooling cells of that stride inside each unit."""
        return Layout(
            tuple(g // s for g, s in zip(self.grid, stride, strict=True)),
            tuple(u // s for u, s in zip(self.unit, stride, strict=True)),
        )


def _cells(layout: Layout) -> itertools.product:
    """Windows of one shape at a time: their (start, count, length) along each axis, the full ones before the cut."""
    axes = []
    for g, u in zip(layout.grid, layout.unit, strict=True):
        spans = ((0, g // u, u), (g - g % u, 1, g % u))
        axes.append([span for span in spans if span[1] * span[2]])
    return itertools.product(*axes)


def order(layout: Layout) -> Tensor:
    """Raster index of each token of the layout, (tokens,)."""
    raster = torch.arange(math.prod(layout.grid)).reshape(layout.grid)
    parts = []
    rank = len(layout.grid)
    for spans in _cells(layout):
        part = raster
        for axis, (start, windows, length) in enumerate(spans):
            part = part.narrow(axis, start, windows * length)
        part = part.reshape([n for _, windows, length in spans for n in (windows, length)])
        parts.append(part.permute(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)).flatten())
    return torch.cat(parts)


def moves(source: Layout, target: Layout) -> Tensor | None:
    """Which token of the source layout stands at each place of the target; None where nothing moves."""
    with torch.inference_mode(False):
        back = order(source).argsort()
        index = back[order(target)]
    return None if bool((index.diff() == 1).all()) else index
