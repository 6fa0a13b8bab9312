"""Which blocks run on what, and in which order tokens lie: worked out once per grid, before any arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..encoder import Block
from .layout import Layout, moves


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of one stage that share their windows.

    Attributes:
        blocks: Indices, first to one past the last.
        move: How tokens are reordered before the run, None where they already lie right.
        items: Independent pieces that each image falls into: its windows, or 1.
        layout: Order of the tokens of one item at the start.
        grid: Of the image's tokens at the end.
        ends_stage: Whether a stage ends here.
        back: How tokens are put back into raster order at the end, None where they already lie so.
    """

    blocks: tuple[int, int]
    move: Tensor | None
    items: int
    layout: Layout
    grid: tuple[int, ...]
    ends_stage: bool
    back: Tensor | None


def index_bytes(runs: tuple[Run, ...]) -> int:
    """Memory of the indices of a schedule."""
    return sum(index.nbytes for run in runs for index in (run.move, run.back) if index is not None)


def schedule(blocks: Sequence[Block], stage_ends: Sequence[int], grid: tuple[int, ...]) -> tuple[Run, ...]:
    """Cut the blocks into runs, so that windows are split as seldom as possible.

    The lag rule makes this pay: a pooled window of one stage is exactly the window of the next, so a plain Hiera
    never reorders tokens after the first block, and HieraDet does once. Global attention takes any order.
    """
    runs: list[Run] = []
    layout = Layout.raster(grid)
    index = 0
    while index < len(blocks):
        before, layout = layout, _for_block(blocks[index], layout)
        split = blocks[index].window is not None and layout.divides
        stop, after = index, layout
        while stop < len(blocks) and (stop == index or stop - 1 not in stage_ends):
            block = blocks[stop]
            if _for_block(block, after) != after or (block.window is not None and after.divides) != split:
                break
            if block.q_stride is not None:
                after = after.pooled(block.q_stride)
            stop += 1
        runs.append(
            Run(
                blocks=(index, stop),
                move=moves(before, layout),
                items=layout.groups[0].count if split else 1,
                layout=Layout.raster(layout.unit) if split else layout,
                grid=after.grid,
                ends_stage=stop - 1 in stage_ends,
                back=moves(after, Layout.raster(after.grid)),
            )
        )
        layout, index = after, stop
    return tuple(runs)


def _for_block(block: Block, layout: Layout) -> Layout:
    """The order that a block needs: its own windows; for global attention any that its pooling can work in."""
    if block.window is not None:
        return Layout(layout.grid, block.window)
    straddled = block.q_stride is not None and any(u % s for u, s in zip(layout.unit, block.q_stride, strict=True))
    return Layout.raster(layout.grid) if straddled else layout
