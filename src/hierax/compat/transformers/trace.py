"""One pass over an encoder's blocks that keeps what transformers shows of it on request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from ...config import ModelConfig
from ...model.encoder import Block, max_pool, split_windows
from ..unroll import unroll, unrolled_order

if TYPE_CHECKING:
    from .hiera_base import HieraPreTrainedModel

Grids = list[Float[Tensor, "b *grid c"]]


def trace(
    model: HieraPreTrainedModel,
    x: Float[Tensor, "b 3 h w"],
    visible: Int[Tensor, "b n"] | None,
    attentions: bool | None,
    states: bool | None,
    *,
    rolled: bool = False,
    stem: bool = False,
) -> tuple[Grids, dict[str, Any]]:
    """Run the blocks over images one by one, a fast encoder's readable ones too, if something asks for it.

    That is `attentions` and `states`, as in `HieraModel.forward`; `rolled`, which feeds tokens in the wrong order as
    transformers' backbone does; or `stem`, for which the tokens of the patch embedding are wanted.

    Returns:
        Token grids after the patch embedding and after each stage, none where `Encoder.stages`, which may be a fast
        one's, says as much; the optional fields of an output.
    """
    attentions = model.config.output_attentions if attentions is None else attentions
    states = model.config.output_hidden_states if states is None else states
    if not (attentions or states or rolled or stem):
        return [], {}
    encoder, config = model.encoder, model.encoder.config
    tokens = encoder.embed_tokens(x, visible)
    if rolled:
        order = unrolled_order(tuple(tokens.shape[1:-1]), steps_left(config, -1), config.q_stride).to(x.device)
        tokens = tokens.flatten(1, -2)[:, order.argsort()].view(tokens.shape)
    grids, shown = [tokens], []
    for index, block in enumerate(cast("Iterable[Block]", encoder.blocks)):
        if attentions and index in encoder.stage_ends:
            # The first block of a stage still sees the previous stage's grid.
            stage = encoder.stage_ends.index(index) - (block.q_stride is not None)
            shown.append(attention(block, tokens, steps_left(config, stage), config.q_stride))
        tokens = block(tokens)
        if index in encoder.stage_ends:
            grids.append(tokens)
    fields: dict[str, Any] = {"attentions": tuple(shown)} if attentions else {}
    if states:
        numbered = enumerate(grids, start=-1)
        fields["hidden_states"] = tuple(unroll(grid, steps_left(config, n), config.q_stride) for n, grid in numbered)
        # Of a masked image transformers shows each kept unit by itself, (b, n, h, w, c).
        maps = (grid if visible is None else grid.unflatten(1, (visible.shape[1], -1)) for grid in grids)
        fields["reshaped_hidden_states"] = tuple(maps)
    return grids, fields


def steps_left(config: ModelConfig, stage: int) -> int:
    """Digits of unrolled order that are left in the grid of a stage, counted from 0 (-1: the embedded tokens)."""
    return len(config.depths) - 1 - min(max(stage, 0), config.q_pool)


def attention(
    block: Block, tokens: Float[Tensor, "b *grid c"], steps: int, stride: tuple[int, ...]
) -> Float[Tensor, "b heads windows q k"]:
    """Attention probabilities of one block whose windows are powers of the network's query stride.

    Windows, queries and keys are in unrolled order, of which `steps` digits are left in the input's grid.
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
