"""The `torch` engine: folded weights, and windows that stay split from block to block."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..encoder import Encoder
from .base import Engine, Recent
from .blocks import FastBlock
from .products import Product, product_kind
from .schedule import Run, schedule
from .threads import spread

# The MLP's hidden layer and the qkv of as many tokens stay in the caches; fewer rows leave BLAS idle.
HIDDEN_BYTES = 6_000_000
FEWEST_ROWS = 784
SIZES = 32  # position tables and schedules kept

Ordered = tuple[Float[Tensor, "b tokens c"], Run]


class TorchEngine(Engine):
    """The numbers of the readable encoder within rounding: nothing padded, nothing copied twice.

    Attributes:
        kind: The kind of its matrix products.
        blocks: The encoder's blocks, folded and fused.
    """

    name = "torch"

    def __init__(self, encoder: Encoder, products: str | None = None) -> None:
        super().__init__(encoder)
        self.kind = product_kind(self.dtype, self.device.type, products)
        with torch.inference_mode(False), torch.no_grad():
            self.blocks = [FastBlock(block, self.kind) for block in encoder.blocks]  # type: ignore[arg-type]
        self._tables: Recent[tuple[int, ...], Tensor] = Recent(SIZES)
        self._schedules: Recent[tuple[int, ...], tuple[Run, ...]] = Recent(SIZES)

    def describe(self) -> str:
        """What runs, in a line."""
        return f"{super().describe()}, {self.kind.__name__.lower()} products"

    def stages(self, x: Float[Tensor, "b 3 *pixels"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of the stages up to that one."""
        parts = spread(lambda part: [_raster(*done) for done in self._ordered(part, last)], x)
        return parts[0] if len(parts) == 1 else [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector; pooling takes tokens in any order, so none are put back."""
        last = len(self.encoder.stage_ends) - 1
        parts = spread(lambda part: self.encoder.pool(self._ordered(part, last, maps=False)[-1][0]), x)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def position(self, grid: tuple[int, ...]) -> Float[Tensor, "1 *grid c"]:
        """Position vectors of a token grid, resized once."""

        def resized() -> Tensor:
            with torch.inference_mode(False), torch.no_grad():
                return self.encoder.position(grid).contiguous()

        return self._tables.get(grid, resized)

    def schedule(self, grid: tuple[int, ...]) -> tuple[Run, ...]:
        """The runs of blocks for a token grid, worked out once."""
        blocks, ends = list(self.encoder.blocks), self.encoder.stage_ends
        return self._schedules.get(grid, lambda: schedule(blocks, ends, grid))  # type: ignore[arg-type]

    def _ordered(self, x: Float[Tensor, "b 3 *pixels"], last: int, *, maps: bool = True) -> list[Ordered]:
        """Tokens at the end of each stage and the run that left them; without `maps`, only the last ones are kept."""
        channels_last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        tokens = self.encoder.patch_embed(x.contiguous(memory_format=channels_last))
        grid = tuple(tokens.shape[1:-1])
        tokens = (tokens + self.position(grid)).flatten(1, -2)
        found: list[Ordered] = []
        for run in self.schedule(grid):
            if len(found) > last:
                break
            shared = bool(found) and found[-1][0] is tokens and maps
            tokens = self._run(run, tokens, keep=shared)
            if run.ends_stage:
                found = [*found, (tokens, run)] if maps else [(tokens, run)] * (len(found) + 1)
        return found

    def _run(self, run: Run, x: Float[Tensor, "b tokens c"], *, keep: bool) -> Float[Tensor, "b pooled d"]:
        """A run of blocks over every item; x is overwritten unless it must be kept."""
        blocks = self.blocks[slice(*run.blocks)]
        b = x.shape[0]
        if run.move is not None:
            x, keep = x.index_select(1, run.move.to(x.device)), False
        items = x.reshape(b * run.items, -1, x.shape[-1])  # (n, tokens, c)
        if keep and not blocks[0].widens and items.data_ptr() == x.data_ptr():
            items = items.clone()
        rows = self._rows(blocks[-1], x)
        parts = []
        for part in [items] if rows is None else items.split(max(1, rows // items.shape[1])):
            layout = run.layout
            for block in blocks:
                part = block(part, layout, rows)
                if block.q_stride is not None:
                    layout = layout.pooled(block.q_stride)
            parts.append(part)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(b, -1, parts[0].shape[-1])

    def _rows(self, block: FastBlock, x: Tensor) -> int | None:
        """How many tokens to push through a block at a time; None is all of them."""
        if self.kind is Product or x.device.type != "cpu":
            return None
        return max(FEWEST_ROWS, HIDDEN_BYTES // (block.hidden * x.element_size()))


def _raster(tokens: Float[Tensor, "b tokens c"], run: Run) -> Float[Tensor, "b *grid c"]:
    """Tokens as a grid, after the run that left them."""
    if run.back is not None:
        tokens = tokens.index_select(1, run.back.to(tokens.device))
    return tokens.unflatten(1, run.whole.grid)
