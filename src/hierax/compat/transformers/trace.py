"""One pass over an encoder's blocks that keeps what transformers shows of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...config import ModelConfig
from ...model.encoder import Block, Encoder, max_pool, split_windows
from ..unroll import unroll, unrolled_order


class Trace(NamedTuple):
    """Token grids after the patch embedding and after each stage; attention of each stage's last block."""

    grids: list[Float[Tensor, "b *grid c"]]
    attentions: tuple[Float[Tensor, "b heads windows q k"], ...] | None


def trace(encoder: Encoder, tokens: Float[Tensor, "b *grid c"], *, attentions: bool = False) -> Trace:
    """Run the blocks over embedded tokens."""
    grids = [tokens]
    shown = []
    for index, block in enumerate(cast("Iterable[Block]", encoder.blocks)):
        if attentions and index in encoder.stage_ends:
            # The first block of a stage still sees the previous stage's grid.
            stage = encoder.stage_ends.index(index)
            before = stage - 1 if block.q_stride is not None else stage
            shown.append(attention(block, tokens, steps_left(encoder.config, before), encoder.config.q_stride))
        tokens = block(tokens)
        if index in encoder.stage_ends:
            grids.append(tokens)
    return Trace(grids, tuple(shown) if attentions else None)


def steps_left(config: ModelConfig, stage: int) -> int:
    """Digits of unrolled order that are left in the grid of a stage, counted from 0 (-1: the embedded tokens)."""
    return len(config.depths) - 1 - min(max(stage, 0), config.q_pool)


def hidden_states(config: ModelConfig, grids: list[Tensor]) -> tuple[Float[Tensor, "b n c"], ...]:
    """The grids of a trace as flat tokens in unrolled order."""
    return tuple(unroll(grid, steps_left(config, stage), config.q_stride) for stage, grid in enumerate(grids, start=-1))


def attention(
    block: Block, tokens: Float[Tensor, "b *grid c"], steps: int, stride: tuple[int, ...]
) -> Float[Tensor, "b heads windows q k"]:
    """Attention probabilities of one block; windows, queries and keys in unrolled order.

    Args:
        block: One of an encoder whose windows are powers of its stride.
        tokens: Its input.
        steps: Digits of unrolled order in the input's grid.
        stride: Query stride of the network.
    """
    normed = block.norm1(tokens)
    windows, inside, grid = normed, steps, (1,) * len(stride)
    if block.window is not None:
        windows = split_windows(normed, block.window)
        inside = next(n for n in range(steps + 1) if tuple(s**n for s in stride) == tuple(block.window))
        grid = tuple(side // w for side, w in zip(tokens.shape[1:-1], block.window, strict=True))
    q, k, _ = block.attn.qkv(windows).chunk(3, dim=-1)  # (b * windows, *window, d)
    pooled = q if block.q_stride is None else max_pool(q, block.q_stride)
    rows = unrolled_order(tuple(pooled.shape[1:-1]), inside - (block.q_stride is not None), stride)
    columns = unrolled_order(tuple(k.shape[1:-1]), inside, stride)
    q, k = (t.flatten(1, -2).unflatten(-1, (block.attn.heads, -1)).transpose(1, 2) for t in (pooled, k))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)  # (b * windows, heads, q, k)
    shown = scores[:, :, rows.to(q.device)][..., columns.to(q.device)].unflatten(0, (tokens.shape[0], -1))
    return shown[:, unrolled_order(grid, steps - inside, stride).to(q.device)].transpose(1, 2)


def mask_units(
    noise: Float[Tensor, "b units"], mask_ratio: float
) -> tuple[Tensor, Int[Tensor, "b units"], Int[Tensor, "b n"]]:
    """Which mask units a draw of noise keeps: the smallest values.

    Returns:
        Per unit whether it is kept; each unit's rank; row-major indices of the kept ones, ascending.
    """
    kept = int(noise.shape[1] * (1 - mask_ratio))
    shuffle = noise.argsort(dim=1)
    restore = shuffle.argsort(dim=1)
    keep = torch.zeros_like(restore, dtype=torch.bool).scatter_(1, shuffle[:, :kept], True)
    return keep, restore, shuffle[:, :kept].sort(dim=1).values
