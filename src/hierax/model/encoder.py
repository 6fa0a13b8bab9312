"""The Hiera encoder, every member of the family, read top to bottom.

Tokens stay a grid `(b, *grid, c)`: `(b, h, w, c)` for images, `(b, t, h, w, c)` for video. A block cuts the grid
into windows, attends inside each, and joins them again; `window=None` attends over the whole grid.

Source: Hiera arXiv:2306.00989; windowed position tables arXiv:2311.05613; HieraDet arXiv:2408.00714.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import STAGE_NAMES, BlockSpec, ModelConfig, block_table
from ..errors import InputError

# CUDA attention kernels index the batch with 16 bits in some builds (pytorch#142228).
MAX_ATTENTION_BATCH = 65_535


def split_windows(x: Float[Tensor, "b *grid c"], window: tuple[int, ...]) -> Float[Tensor, "n *window c"]:
    """Cut a token grid that the window divides into windows, row-major within each image."""
    b, *grid, c = x.shape
    pairs = [n for g, w in zip(grid, window, strict=True) for n in (g // w, w)]
    rank = len(grid)
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    count = math.prod([g // w for g, w in zip(grid, window, strict=True)])
    return x.reshape(b, *pairs, c).permute(order).reshape(b * count, *window, c)


def join_windows(x: Float[Tensor, "n *window c"], grid: tuple[int, ...]) -> Float[Tensor, "b *grid c"]:
    """Put windows back into a grid of that shape; inverts `split_windows`."""
    window, c = x.shape[1:-1], x.shape[-1]
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    rank = len(grid)
    order = [0, *(axis for i in range(rank) for axis in (1 + i, 1 + rank + i)), 1 + 2 * rank]
    b = x.shape[0] // math.prod(counts)
    return x.reshape(b, *counts, *window, c).permute(order).reshape(b, *grid, c)


def pad_grid(x: Float[Tensor, "b *grid c"], window: tuple[int, ...]) -> Float[Tensor, "b *padded c"]:
    """Zero-pad at the far end of each axis until the window divides the grid."""
    # A whole number of windows, which a trace of open sizes can divide by the window again; without a negative
    # number, whose quotient ONNX rounds the other way.
    return add_at_end(x, [(g + w - 1) // w * w - g for g, w in zip(x.shape[1:-1], window, strict=True)])


def add_at_end(x: Float[Tensor, "b *grid c"], counts: Sequence[int]) -> Float[Tensor, "b *longer c"]:
    """Add so many zero tokens at the far end of each axis; a negative count takes as many away.

    A program of any size pads by what only its input says, 0 or not: a condition or a slice would fix its sizes.
    """
    if all(isinstance(count, int) and count <= 0 for count in counts):
        for axis, count in enumerate(counts, start=1):
            x = x.narrow(axis, 0, x.shape[axis] + count) if count else x
        return x
    return F.pad(x, [0, 0, *(n for count in reversed(counts) for n in (0, count))])


def max_pool(x: Float[Tensor, "b *grid c"], stride: tuple[int, ...]) -> Float[Tensor, "b *pooled c"]:
    """Maximum over non-overlapping cells of that stride, one axis at a time."""
    if x.requires_grad and x.device.type == "cpu":
        # The gradient of a chain of maxima takes eight times as long here as the pooling operator's own.
        pool = F.max_pool2d if len(stride) == 2 else F.max_pool3d
        return pool(x.movedim(-1, 1), stride).movedim(1, -1)
    for axis, step in enumerate(stride, start=1):
        if step > 1:
            x = x.unflatten(axis, (-1, step))
            pooled = x.select(axis + 1, 0)
            for i in range(1, step):
                pooled = torch.maximum(pooled, x.select(axis + 1, i))
            x = pooled
    return x


def mean_pool(x: Float[Tensor, "b *grid c"], stride: tuple[int, ...]) -> Float[Tensor, "b *pooled c"]:
    """Mean over non-overlapping cells of that stride."""
    for axis, step in enumerate(stride, start=1):
        x = x.unflatten(axis, (-1, step)).mean(axis + 1)
    return x


def resize_table(
    table: Float[Tensor, "1 *grid c"], grid: tuple[int, ...], antialias: bool
) -> Float[Tensor, "1 *new c"]:
    """Bicubic resize of a 2-D position table to a grid.

    Antialiasing also swaps torch's cubic coefficient (-0.5 with, -0.75 without), so it matters when growing too.
    """
    if tuple(table.shape[1:-1]) == tuple(grid):
        return table
    resized = F.interpolate(table.permute(0, 3, 1, 2), size=grid, mode="bicubic", antialias=antialias)
    return resized.permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """Drop whole residual branches per sample while training (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid c"]:
        """Zero or keep each sample's branch; what is kept is scaled to the same mean."""
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


class LayerScale(nn.Module):
    """A learned scale per channel on a residual branch (arXiv:2103.17239)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Float[Tensor, "*shape c"]) -> Float[Tensor, "*shape c"]:
        """Scale the last axis."""
        return x * self.gamma


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*shape c"]) -> Float[Tensor, "*shape c"]:
        """Mix channels, token by token."""
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Softmax attention among the tokens of each window, queries optionally pooled first."""

    def __init__(self, dim_in: int, dim_out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(
        self, x: Float[Tensor, "n *window c"], q_stride: tuple[int, ...] | None = None, *, missing: int = 0
    ) -> Float[Tensor, "n *pooled d"]:
        """Attend within each of n windows, which lack so many tokens of zeros: their keys and values are the bias."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (n, *window, d)
        if q_stride is not None:
            q = max_pool(q, q_stride)  # (n, *pooled, d)
        pooled = q.shape[:-1]
        if missing:
            zeros = self.qkv.bias.to(k.dtype).chunk(3)
            k, v = (
                torch.cat([t.flatten(1, -2), zero.expand(len(t), missing, -1)], dim=1)
                for t, zero in ((k, zeros[1]), (v, zeros[2]))
            )
        q, k, v = (t.flatten(1, -2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = attend(q, k, v)  # (n, heads, tokens, d / heads)
        return self.proj(out.transpose(1, 2).reshape(*pooled, self.proj.in_features))


def attend(
    q: Float[Tensor, "n heads q d"], k: Float[Tensor, "n heads k d"], v: Float[Tensor, "n heads k d"]
) -> Float[Tensor, "n heads q d"]:
    """Scaled dot-product attention; rank 4, because a fifth axis misses the flash kernels."""
    if q.is_cuda and q.shape[0] > MAX_ATTENTION_BATCH:
        parts = (t.split(MAX_ATTENTION_BATCH) for t in (q, k, v))
        return torch.cat([F.scaled_dot_product_attention(*part) for part in zip(*parts, strict=True)])
    return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    """Attention and MLP, each on a residual branch; the first block of a stage widens and pools."""

    def __init__(self, spec: BlockSpec, config: ModelConfig) -> None:
        super().__init__()
        self.window, self.q_stride = spec.window, spec.q_stride
        widens = spec.dim_in != spec.dim_out
        self.max_avg = widens and config.shortcut == "max_avg"
        self.norm1 = nn.LayerNorm(spec.dim_in, eps=config.norm_eps)
        if widens and not self.max_avg:
            self.proj = nn.Linear(spec.dim_in, spec.dim_out)
        self.widens = widens
        self.attn = Attention(spec.dim_in, spec.dim_out, spec.heads)
        self.norm2 = nn.LayerNorm(spec.dim_out, eps=config.norm_eps)
        self.mlp = Mlp(spec.dim_out, int(spec.dim_out * config.mlp_ratio))
        self.drop_path = DropPath(spec.drop_path)
        scale = config.layer_scale
        self.ls1 = nn.Identity() if scale is None else LayerScale(spec.dim_out, scale)
        self.ls2 = nn.Identity() if scale is None else LayerScale(spec.dim_out, scale)

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *pooled d"]:
        """One block over a token grid."""
        normed = self.norm1(x)
        x = self.shortcut(x, normed) + self.drop_path(self.ls1(self.windowed_attention(normed)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def shortcut(
        self, x: Float[Tensor, "b *grid c"], normed: Float[Tensor, "b *grid c"]
    ) -> Float[Tensor, "b *pooled d"]:
        """The skip path, widened and pooled like the attention branch."""
        if not self.widens:
            return x
        # Quirk(timm hiera_small_abswin_256): no projection and no norm; max and mean of the raw tokens side by side.
        if self.max_avg:
            stride = self.q_stride or (1,) * (x.ndim - 2)
            return torch.cat([max_pool(x, stride), mean_pool(x, stride)], dim=-1)
        wide = self.proj(normed)
        return wide if self.q_stride is None else max_pool(wide, self.q_stride)

    def windowed_attention(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *pooled d"]:
        """Attention in windows, or over the whole grid."""
        if self.window is None:
            return self.attn(x, self.q_stride)
        grid = x.shape[1:-1]
        if self.training and all(g <= w for g, w in zip(grid, self.window, strict=True)):
            # One window holds the whole grid, as of small crops: what it is padded with need not be computed.
            return self.attn(x, self.q_stride, missing=math.prod(self.window) - math.prod(grid))
        # Quirk(SAM 2): padding comes after norm1 and before qkv, so padded tokens carry k = v = the qkv bias and
        # are attended to. The weights were trained with it.
        padded = pad_grid(x, self.window)
        out = self.attn(split_windows(padded, self.window), self.q_stride)  # (n, *pooled window, d)
        stride = self.q_stride or (1,) * len(grid)
        out = join_windows(out, tuple(g // s for g, s in zip(padded.shape[1:-1], stride, strict=True)))
        return add_at_end(out, [g // s - n for g, s, n in zip(grid, stride, out.shape[1:-1], strict=True)])


class PatchEmbed(nn.Module):
    """Overlapping strided convolution from pixels to tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        conv: Any = nn.Conv3d if config.is_video else nn.Conv2d
        self.proj = conv(
            config.in_channels,
            config.embed_dim,
            config.patch_kernel,
            config.patch_stride,
            config.patch_padding,
        )

    def forward(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b *grid c"]:
        """Tokens of an image or clip."""
        return self.proj(x).movedim(1, -1)


class AttentionPool(nn.Module):
    """One learned query that attends over all tokens (birder's `_ap` heads)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        # Quirk(birder): this norm keeps torch's epsilon while every other norm of the network has 1e-6.
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "b tokens c"]) -> Float[Tensor, "b c"]:
        """Pool tokens to one vector."""
        q = self.q(self.latent).expand(x.shape[0], -1, -1)
        k, v = self.kv(x).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        pooled = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))  # (b, 1, c)
        return (pooled + self.mlp(self.norm(pooled))).squeeze(1)


class ClassHead(nn.Module):
    """Dropout and the projection to classes."""

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes)

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b classes"]:
        """Raw logits of an embedding."""
        return self.projection(self.dropout(x))


class Encoder(nn.Module):
    """A Hiera encoder: logits, embeddings and stage feature maps of images or clips.

    Attributes:
        config: The architecture.
        num_classes: Classes of the head; 0 without one.
        embedding_size: Channels of the embedding.
        input_size: Size it is configured for; `forward` takes any legal size.
        return_channels: Channels of each stage's map.
        strides: Pixels per cell of each stage's map.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.check_size(config.input_size)
        specs = block_table(config)
        self.config = config
        self.embedding_size = config.embedding_size
        self.input_size = config.input_size
        self.return_channels = list(config.channels)
        self.strides = config.strides
        self.checkpoint_blocks = False
        self.patch_embed = PatchEmbed(config)
        table = config.table_size
        if config.position == "separable":
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, *table[1:], config.embed_dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, table[0], config.embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, *table, config.embed_dim))
        if config.position == "window":
            self.pos_embed_window = nn.Parameter(torch.zeros(1, *config.mask_unit, config.embed_dim))
        self.blocks = nn.ModuleList(Block(spec, config) for spec in specs)
        self.stage_ends = [spec.index for spec in specs if spec.last_of_stage]
        if config.head == "attention":
            heads = config.attention_pool_heads or config.num_heads * 2 ** (len(config.depths) - 1)
            self.attention_pool = AttentionPool(self.embedding_size, heads, config.mlp_ratio)
        if config.head != "pool":
            self.norm = nn.LayerNorm(self.embedding_size, eps=config.norm_eps)
        self.set_num_classes(config.num_classes)

    def set_num_classes(self, num_classes: int) -> None:
        """Replace the head by a fresh one; 0 removes it."""
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        self.num_classes = num_classes
        self.head: ClassHead | None = None
        if num_classes > 0:
            head = ClassHead(self.embedding_size, num_classes, self.config.head_dropout)
            self.head = head.to(self.patch_embed.proj.weight).train(self.training)

    def forward(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b out"]:
        """Raw logits, or the embedding where there is no head."""
        return self.classify(self.embedding(x))

    def classify(self, embedding: Float[Tensor, "b c"]) -> Float[Tensor, "b out"]:
        """Raw logits of an embedding; the embedding itself where there is no head."""
        return embedding if self.head is None else self.head(embedding)

    def embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector, in the order that the checkpoint was trained with."""
        return self.pool(self.stages(x)[-1])

    def pool(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b c"]:
        """Embedding of the last stage's tokens."""
        tokens = x.flatten(1, -2)
        match self.config.head:
            case "pool_norm":
                return self.norm(tokens.mean(1))
            case "norm_pool":  # Quirk(birder HieraDet): every token is normed, then pooled.
                return self.norm(tokens).mean(1)
            case "attention":
                return self.norm(self.attention_pool(tokens))
            case _:
                return tokens.mean(1)

    def forward_features(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c *grid"]:
        """Un-normed map of the last stage, channels first."""
        return self.stages(x)[-1].movedim(-1, 1).contiguous()

    def detection_features(
        self, x: Float[Tensor, "b 3 *pixels"], stages: Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "b c *grid"]]:
        """Un-normed stage maps, contiguous and channels first.

        Args:
            x: Preprocessed images or clips.
            stages: Which of "stage1".."stage4"; all by default. Later stages are not computed in vain.

        Raises:
            UnknownNameError: A stage that does not exist.
        """
        wanted = self.config.known_stages(stages)
        last = max((STAGE_NAMES.index(name) for name in wanted), default=-1)
        maps = self.stages(x, last=last)
        return {name: maps[STAGE_NAMES.index(name)].movedim(-1, 1).contiguous() for name in wanted}

    def answers(self, x: Float[Tensor, "b 3 *pixels"], names: Sequence[str]) -> dict[str, Float[Tensor, "b c *grid"]]:
        """Several answers of one pass by name: "embedding", "logits", and un-normed stage maps, channels first."""
        wanted = [name for name in names if name in STAGE_NAMES]
        vectors = {"embedding", "logits"} & set(names)
        found: dict[str, Tensor] = {}
        maps: list[Tensor] = []
        if wanted:
            last = None if vectors else max(map(STAGE_NAMES.index, wanted))
            maps = self.stages(x, last=last)
            found = {name: maps[STAGE_NAMES.index(name)].movedim(-1, 1) for name in wanted}
        if vectors:
            found["embedding"] = self.pool(maps[-1]) if maps else self.embedding(x)
        if "logits" in vectors:
            found["logits"] = self.classify(found["embedding"])
        return {name: found[name] for name in names}

    def stages(
        self,
        x: Float[Tensor, "b 3 *pixels"],
        *,
        visible: Int[Tensor, "b n"] | None = None,
        last: int | None = None,
    ) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of each stage.

        Args:
            x: Preprocessed images or clips.
            visible: Row-major indices of the mask units to keep, the same count for every sample; the grids are
                then columns of n units. None keeps all.
            last: Stop after this stage, counted from 0.

        Raises:
            InputError: The input has the wrong rank or size, or windows that masking cannot honour.
        """
        return self.through(self.embed_tokens(x, visible), last=last)

    def through(
        self, tokens: Float[Tensor, "b *grid c"], *, last: int | None = None
    ) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of each stage, of tokens that have their positions; other arguments as `stages`."""
        last = len(self.stage_ends) - 1 if last is None else last
        maps = []
        for index, block in enumerate(self.blocks[: self.stage_ends[last] + 1 if last >= 0 else 0]):
            if self.checkpoint_blocks and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if index in self.stage_ends:
                maps.append(tokens)
        return maps

    def embed_tokens(
        self, x: Float[Tensor, "b 3 *pixels"], visible: Int[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b *grid c"]:
        """Patch embedding plus position, masked units left out."""
        self.config.check_input(tuple(x.shape))
        if visible is None:
            tokens = self.patch_embed(x)
            return tokens + self.position(tuple(tokens.shape[1:-1]))
        self.check_maskable()
        grid = self.config.grid(tuple(x.shape[2:]))
        units = tuple(g // u for g, u in zip(grid, self.config.mask_unit, strict=True))
        # The patch kernel overlaps its neighbours, so masked pixels are blanked before it and cannot leak.
        visible = visible.long()
        keep = x.new_zeros(x.shape[0], math.prod(units)).scatter_(1, visible, 1.0)
        keep = F.interpolate(keep.reshape(-1, 1, *units), size=x.shape[2:])  # (b, 1, *pixels)
        # where, not a product: a NaN among masked pixels must not survive as NaN * 0.
        tokens = self.patch_embed(torch.where(keep > 0, x, torch.zeros((), dtype=x.dtype, device=x.device)))
        return stack_visible(tokens + self.position(grid), visible, self.config.mask_unit)

    def position(
        self, grid: tuple[int, ...], resize: Callable[..., Tensor] = resize_table
    ) -> Float[Tensor, "1 *grid c"]:
        """Position vectors of a token grid, tables resized by the rule of the checkpoint's origin."""
        config = self.config
        if config.position == "separable":
            space = resize(self.pos_embed_spatial, grid[1:], config.position_antialias)
            time = self.pos_embed_temporal  # (1, t, c)
            if time.shape[1] != grid[0]:
                time = F.interpolate(time.transpose(1, 2), size=grid[0], mode="linear").transpose(1, 2)
            return space[:, None] + time[:, :, None, None]
        table = resize(self.pos_embed, grid, config.position_antialias)
        if config.position == "window":
            tiles = [g // w for g, w in zip(grid, self.pos_embed_window.shape[1:-1], strict=True)]
            table = table + self.pos_embed_window.tile(1, *tiles, 1)
        return table

    def check_maskable(self) -> None:
        """Refuse masking where a window would straddle mask units (HieraDet's windows of 14 tokens).

        Raises:
            InputError: A block's window does not tile the mask unit.
        """
        unit = self.config.mask_unit
        for spec in block_table(self.config):
            window = spec.window
            if window is not None and any(u % w for u, w in zip(unit, window, strict=True)):
                raise InputError(
                    f"Masked encoding needs windows that tile the mask unit {unit}; block {spec.index} of "
                    f"{self.config.name!r} has window {window}. Use a Hiera member, or pass visible=None."
                )
            if spec.q_stride is not None:
                unit = tuple(u // q for u, q in zip(unit, spec.q_stride, strict=True))


def stack_visible(
    x: Float[Tensor, "b *grid c"], visible: Int[Tensor, "b n"], unit: tuple[int, ...]
) -> Float[Tensor, "b *column c"]:
    """Keep each sample's visible mask units, stacked along the first grid axis.

    To every block the result is an ordinary image one mask unit wide, so windows, query pooling and global
    attention need no special case for masking.

    Returns:
        Tokens (b, n * unit[0], *unit[1:], c).

    Source: mask units arXiv:2306.00989; the column layout is ours, docs/decisions/0002.
    """
    units = split_windows(x, unit).unflatten(0, (x.shape[0], -1))  # (b, units, *unit, c)
    index = visible.reshape(*visible.shape, *[1] * (units.ndim - 2))  # (b, n, 1, .., 1)
    return units.take_along_dim(index, dim=1).flatten(1, 2)  # (b, n * unit[0], *unit[1:], c)
