"""The `torch` engine: folded weights, and windows that stay split from block to block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..encoder import Encoder
from .base import EMBEDDING, Engine, Recent
from .blocks import FastBlock
from .products import Cast, Packed, Plain, product_kind
from .schedule import Run, index_bytes, schedule
from .threads import spread

# The MLP's hidden layer and the qkv of as many tokens stay in the caches; fewer rows leave BLAS idle.
HIDDEN_BYTES = 6_000_000
FEWEST_ROWS = 784
# Position tables and schedules kept: of that many sizes, and bytes of each kind.
SIZES, TABLE_BYTES = 32, 64_000_000


class TorchEngine(Engine):
    """The numbers of the readable encoder within rounding: nothing padded, nothing copied twice.

    Attributes:
        kind: The kind of its matrix products.
        blocks: The encoder's blocks, folded and fused.
        position: Position vectors (1, *grid, c) of a token grid.
        schedule: The runs of blocks for a token grid.
    """

    name = "torch"

    def __init__(self, encoder: Encoder, products: str | None = None) -> None:
        super().__init__(encoder)
        self.kind = product_kind(self.dtype, self.device.type, products)
        self.choice += f", {self.kind.__name__.lower()} products"
        with torch.inference_mode(False), torch.no_grad():
            blocks: list[Any] = list(encoder.blocks)
            self.blocks = [FastBlock(block, self.kind) for block in blocks]

        def position(grid: tuple[int, ...]) -> Float[Tensor, "1 *grid c"]:
            with torch.inference_mode(False), torch.no_grad():
                return encoder.position(grid).contiguous()

        self.position = Recent(SIZES, position, attrgetter("nbytes"), TABLE_BYTES)
        self.schedule = Recent(SIZES, partial(schedule, blocks, encoder.stage_ends), index_bytes, TABLE_BYTES)

    def run(self, x: Float[Tensor, "b 3 *pixels"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """Stage maps, or the embedding: pooling takes tokens in any order, so none are put back for it."""
        return self._spread(partial(self._part, last=last), x)

    def through(self, tokens: Float[Tensor, "b *grid c"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """Stage maps of tokens that have their positions, as those of masked images, which stand in columns."""
        return self._spread(partial(self._blocks, last=last), tokens)

    def _spread(self, run: Callable[[Tensor], list[Tensor]], x: Tensor) -> list[Tensor]:
        if issubclass(self.kind, Cast):  # autocast belongs to a thread, like grad mode
            run = torch.autocast(x.device.type, dtype=self.kind.dtype)(run)
        parts = spread(run, x)
        return parts[0] if len(parts) == 1 else [torch.cat(found) for found in zip(*parts, strict=True)]

    def _part(self, x: Float[Tensor, "b 3 *pixels"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        channels_last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        tokens = self.encoder.patch_embed(x.contiguous(memory_format=channels_last))
        return self._blocks(tokens + self.position(tuple(tokens.shape[1:-1])), last)

    def _blocks(self, tokens: Float[Tensor, "b *grid c"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """All blocks; the tokens are overwritten."""
        grid = tuple(tokens.shape[1:-1])
        tokens = tokens.flatten(1, -2)
        maps: list[Tensor] = []
        keep = False
        for run in self.schedule(grid):
            tokens = self._run(run, tokens, keep=keep)
            keep = run.ends_stage and last != EMBEDDING  # a map may share their memory
            if keep:
                whole = tokens if run.back is None else tokens.index_select(1, run.back.to(tokens.device))
                maps.append(whole.unflatten(1, run.grid))
                if len(maps) > last:
                    break
        return [self.encoder.pool(tokens)] if last == EMBEDDING else maps

    def _run(self, run: Run, x: Float[Tensor, "b tokens c"], *, keep: bool) -> Float[Tensor, "b pooled d"]:
        """A run of blocks over every item; x is overwritten unless it must be kept."""
        blocks = self.blocks[slice(*run.blocks)]
        b = x.shape[0]
        if run.move is not None:
            x, keep = x.index_select(1, run.move.to(x.device)), False
        items = x.reshape(b * run.items, -1, x.shape[-1])  # (n, tokens, c)
        if keep and not blocks[0].widens and items.data_ptr() == x.data_ptr():
            items = items.clone()
        rows = None  # tokens at a time; None is all of them
        if issubclass(self.kind, (Plain, Packed)) and x.device.type == "cpu":
            rows = max(FEWEST_ROWS, HIDDEN_BYTES // (blocks[-1].hidden * x.element_size()))
        parts = []
        for part in [items] if rows is None else items.split(max(1, rows // items.shape[1])):
            layout = run.layout
            for block in blocks:
                part = block(part, layout, rows)
                if block.q_stride is not None:
                    layout = layout.pooled(block.q_stride)
            parts.append(part)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(b, -1, parts[0].shape[-1])
