"""Attention rollout through windows, query pooling and padding: how much each token of the image counts for an answer.

A row of the product of all attention matrices is pulled back block by block, from the answer to the pixels. The
matrices themselves are never built: a block needs those of its windows alone, some queries at a time.

Source: rollout arXiv:2005.00928; what it means for windows, pooling and padding is ours, docs/decisions/0022.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..encoder import Block, Encoder, add_at_end, join_windows, max_pool, pad_grid, split_windows

_MOST = 1 << 24  # attention weights at a time: 64 MB


@torch.no_grad()
def rollout(
    encoder: Encoder, x: Float[Tensor, "b 3 h w"], start: Float[Tensor, "b rows columns"] | None = None, stage: int = -1
) -> Float[Tensor, "b token_rows token_columns"]:
    """How much of the answer comes from each token of the first grid, by attention and residuals.

    Args:
        encoder: An image network in eval mode.
        x: Preprocessed images.
        start: Weights of the stage's cells in the answer, scaled to a sum of 1 unless all are 0; None is how the head
            pools them, or the plain mean in a stage before the last.
        stage: Whose cells are traced back, counted from 0.

    Returns:
        Shares. Their sum is 1 less what attention spends on the padding of windows, which no pixel is behind.
    """
    last = encoder.stage_ends[stage]
    blocks = cast("list[Block]", list(encoder.blocks[: last + 1]))
    tokens, inputs = encoder.embed_tokens(x), []
    for block in blocks:
        inputs.append(tokens)
        tokens = block(tokens)
    if start is None:
        whole = last == encoder.stage_ends[-1]
        start = pool_weights(encoder, tokens) if whole else torch.ones_like(tokens[..., 0])
    shares = start.float()
    shares = shares / shares.sum((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    while blocks:
        shares = pulled(blocks.pop(), inputs.pop(), shares)
    return shares


def pulled(
    block: Block, x: Float[Tensor, "b *grid c"], shares: Float[Tensor, " b *pooled"]
) -> Float[Tensor, " b *grid"]:
    """Shares of a block's inputs, of those of its outputs: one half by the skip path, one half by attention.

    A token that was pooled from several counts as their mean on the skip path; on the attention path its own, pooled
    query says what it looks at.
    """
    stride = block.q_stride or (1,) * (x.ndim - 2)
    skipped = shares / math.prod(stride)
    for axis, step in enumerate(stride, start=1):
        skipped = skipped.repeat_interleave(step, axis)
    return (skipped + _through_attention(block, x, shares, stride)) / 2


def _through_attention(
    block: Block, x: Float[Tensor, "b *grid c"], shares: Float[Tensor, " b *pooled"], stride: tuple[int, ...]
) -> Float[Tensor, " b *grid"]:
    """Shares times the attention matrix, mean of the heads; what falls on padding is dropped."""
    grid = tuple(x.shape[1:-1])
    window = block.window or grid
    padded = pad_grid(block.norm1(x), window)
    pooled = tuple(w // s for w, s in zip(window, stride, strict=True))
    weights = split_windows(pad_grid(shares[..., None], pooled), pooled).flatten(1)  # (n, queries)
    found = attention_of_windows(block, split_windows(padded, window), weights)  # (n, keys)
    joined = join_windows(found.reshape(-1, *window, 1), tuple(padded.shape[1:-1]))
    return add_at_end(joined, [g - p for g, p in zip(grid, padded.shape[1:-1], strict=True)])[..., 0]


def attention_of_windows(
    block: Block, windows: Float[Tensor, "n *window c"], weights: Float[Tensor, "n queries"]
) -> Float[Tensor, "n keys"]:
    """For each window its row of weights times its attention matrix, mean of the heads."""
    attention = block.attn
    q, k, _ = attention.qkv(windows).chunk(3, dim=-1)
    if block.q_stride is not None:
        q = max_pool(q, block.q_stride)
    q, k = (t.flatten(1, -2).unflatten(-1, (attention.heads, -1)).transpose(1, 2).float() for t in (q, k))
    n, heads, queries, keys = *q.shape[:3], k.shape[2]
    some = max(1, min(queries, _MOST // (heads * keys)))
    at_once = max(1, _MOST // (heads * keys * some))
    found = torch.zeros(n, keys, device=q.device)
    for first in range(0, n, at_once):
        here = slice(first, first + at_once)
        for query in range(0, queries, some):
            these = slice(query, query + some)
            scores = q[here, :, these] @ k[here].transpose(2, 3) / q.shape[-1] ** 0.5  # (n, heads, queries, keys)
            found[here] += torch.einsum("nq,nhqk->nk", weights[here, these], scores.softmax(-1)) / heads
    return found


def pool_weights(encoder: Encoder, tokens: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w"]:
    """How much each token of the last grid counts in the embedding; sums to 1."""
    if encoder.config.head != "attention":
        return torch.full_like(tokens[..., 0], 1 / math.prod(tokens.shape[1:-1]))
    pool = encoder.attention_pool
    q = pool.q(pool.latent).unflatten(-1, (pool.heads, -1)).transpose(1, 2)  # (1, heads, 1, c / heads)
    k = pool.kv(tokens.flatten(1, -2)).chunk(2, dim=-1)[0].unflatten(-1, (pool.heads, -1)).transpose(1, 2)
    scores = q.float() @ k.float().transpose(2, 3) / q.shape[-1] ** 0.5  # (b, heads, 1, tokens)
    return scores.softmax(-1).mean((1, 2)).reshape(tokens.shape[:-1])
