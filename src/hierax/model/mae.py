"""Masked autoencoding on the one encoder: hide mask units, rebuild their pixels.

Source: arXiv:2306.00989 appendix A.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..config import BlockSpec, DecoderConfig, ModelConfig
from ..errors import InputError
from .encoder import Block, Encoder, attend, join_windows, split_windows


def visible_count(units: int, mask_ratio: float) -> int:
    """How many mask units stay visible.

    Raises:
        InputError: The ratio is not in 0..1 or would keep nothing.
    """
    # int(), not round(): the count is part of what released weights were trained with (19 of 49 at 0.6).
    kept = int(units * (1 - mask_ratio)) if 0 <= mask_ratio < 1 else 0
    if kept < 1:
        raise InputError(f"mask_ratio must be in 0..1 and keep at least one of {units} mask units; got {mask_ratio}.")
    return kept


def random_units(
    samples: int,
    units: int,
    mask_ratio: float,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "samples n"]:
    """Draw the mask units to keep, independently for each sample, sorted.

    Raises:
        InputError: The ratio is not in 0..1 or would keep nothing.
    """
    kept = visible_count(units, mask_ratio)
    noise = torch.rand(samples, units, device=device, generator=generator)
    return noise.argsort(1)[:, :kept].sort(1).values


class MAEOutput(NamedTuple):
    """What one masked forward pass gives; predictions and targets of masked tokens only, in raster order."""

    loss: Float[Tensor, ""]
    prediction: Float[Tensor, "b masked pixels"]
    target: Float[Tensor, "b masked pixels"]
    visible: Int[Tensor, "b n"]


class LastBlock(Block):
    """The decoder's last block: of tokens that nobody wants, only keys and values are computed."""

    def forward(
        self, x: Float[Tensor, "b tokens d"], wanted: Int[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """Global attention for the wanted tokens, by default for all."""
        if wanted is None:
            return super().forward(x)
        qkv, heads, d = self.attn.qkv, self.attn.heads, x.shape[-1]
        index = wanted[..., None]
        normed = self.norm1(x)
        q = F.linear(normed.take_along_dim(index, dim=1), qkv.weight[:d], qkv.bias[:d])  # (b, m, d)
        k, v = F.linear(normed, qkv.weight[d:], qkv.bias[d:]).chunk(2, dim=-1)  # each (b, tokens, d)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = attend(q, k, v).transpose(1, 2).flatten(2)  # (b, m, d)
        x = x.take_along_dim(index, dim=1) + self.attn.proj(attended)
        return x + self.mlp(self.norm2(x))


class MaskedAutoencoder(nn.Module):
    """An encoder that sees some mask units, and a decoder that rebuilds the others.

    Attributes:
        encoder: The encoder, without a classification head.
        unit: Mask unit in tokens of the last stage.
        pixels: Side in pixels of the square that one decoder token rebuilds.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        decoder = config.decoder or DecoderConfig()
        self.config = dataclasses.replace(config, decoder=decoder, num_classes=0)
        self.encoder = Encoder(dataclasses.replace(self.config, decoder=None))
        self.normalize_target = decoder.normalize_target
        self.unit = tuple(u // q**config.q_pool for u, q in zip(config.mask_unit, config.q_stride, strict=True))
        self.pixels = config.strides[-1]
        width = config.embedding_size
        self.encoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        # Stages that pool afterwards are brought to the last stage's grid, unit by unit, by a strided convolution.
        self.multi_scale_fusion_heads = nn.ModuleList()
        conv: Any = nn.Conv3d if config.is_video else nn.Conv2d
        axes = list(zip(config.mask_unit, config.q_stride, self.unit, strict=True))
        for stage in range(config.q_pool):
            kernel = tuple(side // q**stage // last for side, q, last in axes)
            self.multi_scale_fusion_heads.append(conv(config.channels[stage], width, kernel, stride=kernel))
        self.decoder_embed = nn.Linear(width, decoder.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, *config.decoder_table_size, decoder.dim))
        spec = BlockSpec(  # of a plain transformer: global attention, constant width
            index=0,
            stage=1,
            dim_in=decoder.dim,
            dim_out=decoder.dim,
            heads=decoder.num_heads,
            window=None,
            q_stride=None,
            drop_path=0.0,
            last_of_stage=False,
        )
        plain = dataclasses.replace(config, layer_scale=None)
        kinds = [Block] * (decoder.depth - 1) + [LastBlock]
        self.decoder_blocks = nn.ModuleList(kind(spec, plain) for kind in kinds)
        self.decoder_norm = nn.LayerNorm(decoder.dim, eps=config.norm_eps)
        self.decoder_pred = nn.Linear(decoder.dim, self.pixels**2 * config.in_channels)

    def forward(
        self,
        x: Float[Tensor, "b 3 *pixels"],
        *,
        mask_ratio: float = 0.6,
        visible: Int[Tensor, "b n"] | None = None,
    ) -> MAEOutput:
        """Hide mask units, predict their pixels, and compare.

        Args:
            x: Preprocessed images or clips.
            mask_ratio: Share of mask units to hide, used when `visible` is None.
            visible: Row-major indices of the mask units to keep, the same count for every sample.

        Raises:
            InputError: A ratio outside 0..1, or indices out of range, repeated or of the wrong shape.
        """
        if visible is None:
            visible = self.random_visible(x, mask_ratio)
        else:
            self._check_visible(x, visible)
        masked = self.masked_tokens(visible, tuple(x.shape[2:]))  # (b, masked)
        prediction = self.decode(self.encode(x, visible), visible, tuple(x.shape[2:]), wanted=masked)
        target = self.targets(x).take_along_dim(masked[..., None], dim=1)
        return MAEOutput(((prediction - target) ** 2).mean(), prediction, target, visible)

    def random_visible(
        self, x: Float[Tensor, "b 3 *pixels"], mask_ratio: float, generator: torch.Generator | None = None
    ) -> Int[Tensor, "b n"]:
        """Draw the mask units to keep, independently for each sample, sorted.

        Raises:
            InputError: The ratio is not in 0..1 or would keep nothing.
        """
        units = self.num_units(tuple(x.shape[2:]))
        return random_units(x.shape[0], units, mask_ratio, device=x.device, generator=generator)

    def num_units(self, input_size: tuple[int, ...]) -> int:
        """Mask units in an input of that size."""
        grid = self.config.grid(input_size)
        return math.prod(g // u for g, u in zip(grid, self.config.mask_unit, strict=True))

    def _check_visible(self, x: Tensor, visible: Tensor) -> None:
        count = self.num_units(tuple(x.shape[2:]))
        legal = visible.ndim == 2 and visible.shape[0] == x.shape[0] and 0 < visible.shape[1] <= count
        if not legal or visible.dtype not in (torch.int64, torch.int32):
            raise InputError(
                f"visible must hold integer indices (b, n) with b = {x.shape[0]} and 1 <= n <= {count}; "
                f"got {tuple(visible.shape)} of {visible.dtype}."
            )
        ordered = visible.sort(1).values
        if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= count or (ordered.diff(dim=1) == 0).any():
            raise InputError(f"visible must hold distinct indices in 0..{count - 1} for each sample.")

    def encode(self, x: Float[Tensor, "b 3 *pixels"], visible: Int[Tensor, "b n"]) -> Float[Tensor, "b n *unit c"]:
        """Latent of each visible mask unit: pooled stages fused with the last one, then normed."""
        stages = self.encoder.stages(x, visible=visible)
        b, n = visible.shape
        fused = stages[-1].reshape(b, n, *self.unit, -1)
        for stage, head in enumerate(self.multi_scale_fusion_heads):
            tokens = stages[stage]
            unit = (tokens.shape[1] // n, *tokens.shape[2:-1])
            cells = tokens.reshape(b * n, *unit, -1).movedim(-1, 1)  # (b * n, c, *unit)
            fused = fused + head(cells).movedim(1, -1).reshape(fused.shape)
        return self.encoder_norm(fused)

    def decode(
        self,
        latent: Float[Tensor, "b n *unit c"],
        visible: Int[Tensor, "b n"],
        input_size: tuple[int, ...],
        *,
        wanted: Int[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b m pixels"]:
        """Predict the pixels of the wanted tokens (raster indices); by default of all, visible ones included."""
        x = self.decoder_embed(latent)  # (b, n, *unit, d)
        b, _, *unit, d = x.shape
        everything = self.mask_token.to(x.dtype).reshape(1, 1, *[1] * len(unit), d)
        everything = everything.expand(b, self.num_units(input_size), *unit, d)
        index = visible.long().reshape(*visible.shape, *[1] * (len(unit) + 1)).expand(x.shape)
        x = everything.scatter(1, index, x)  # (b, units, *unit, d)
        grid = self.config.decoder_grid(input_size)
        if tuple(grid) != tuple(self.decoder_pos_embed.shape[1:-1]):
            raise InputError(
                f"The decoder of {self.config.name!r} has positions for {self.config.input_size} pixels; got "
                f"{tuple(input_size)}. Load it with input_size={tuple(input_size)}."
            )
        x = join_windows(x.flatten(0, 1), grid) + self.decoder_pos_embed  # (b, *grid, d)
        x = x.flatten(1, -2)  # (b, tokens, d)
        for block in self.decoder_blocks:
            x = block(x, wanted) if isinstance(block, LastBlock) else block(x)
        return self.decoder_pred(self.decoder_norm(x))

    def masked_tokens(self, visible: Int[Tensor, "b n"], input_size: tuple[int, ...]) -> Int[Tensor, "b masked"]:
        """Raster indices of the decoder tokens inside hidden mask units, ascending."""
        b, n = visible.shape
        units = self.num_units(input_size)
        hidden = torch.ones(b, units, dtype=torch.bool, device=visible.device)
        hidden.scatter_(1, visible.long(), False)
        per_unit = hidden.reshape(b * units, *[1] * len(self.unit), 1).expand(-1, *self.unit, 1)
        raster = join_windows(per_unit, self.config.decoder_grid(input_size)).flatten(1)  # (b, tokens)
        count = (units - n) * math.prod(self.unit)
        return raster.int().argsort(dim=1, descending=True, stable=True)[:, :count]

    def targets(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b tokens pixels"]:
        """What the decoder should predict for each token, in raster order."""
        p = self.pixels
        if self.config.is_video:
            # Only the first frame of each token is a target. Quirk(MAE): clips flatten a patch as (p, p, channel),
            # images as (channel, p, p); released weights expect it.
            frames = x[:, :, :: self.config.patch_stride[0]].movedim(1, -1)  # (b, t, h, w, 3)
            patches = split_windows(frames, (1, p, p)).flatten(1)
        else:
            patches = split_windows(x.movedim(1, -1), (p, p)).movedim(-1, 1).flatten(1)
        patches = patches.unflatten(0, (x.shape[0], -1))  # (b, tokens, pixels)
        if not self.normalize_target:
            return patches
        mean = patches.mean(-1, keepdim=True)
        return (patches - mean) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
