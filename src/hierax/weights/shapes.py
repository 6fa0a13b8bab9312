"""The shape of every parameter of a network, from its config alone: no network is built, torch is not needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType

from ..config import DecoderConfig, ModelConfig, block_table

Shapes = dict[str, tuple[int, ...]]


@functools.lru_cache(maxsize=32)
def expected(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Shape of every parameter of a network, by flat name."""
    width, last, table = config.embed_dim, config.embedding_size, config.table_size
    found: Shapes = _layer("patch_embed.proj", width, config.in_channels, *config.patch_kernel)
    if config.position == "separable":
        found["pos_embed_spatial"] = (1, *table[1:], width)
        found["pos_embed_temporal"] = (1, table[0], width)
    else:
        found["pos_embed"] = (1, *table, width)
    if config.position == "window":
        found["pos_embed_window"] = (1, *config.mask_unit, width)
    for spec in block_table(config):
        found |= _block(f"blocks.{spec.index}", spec.dim_in, spec.dim_out, config)
    if config.head == "attention":
        found["attention_pool.latent"] = (1, 1, last)
        for name, rows in (("q", last), ("kv", 2 * last), ("proj", last)):
            found |= _layer(f"attention_pool.{name}", rows, last)
        found |= _layer("attention_pool.norm", last) | _mlp("attention_pool.mlp", last, config.mlp_ratio)
    if config.head != "pool":
        found |= _layer("norm", last)
    if config.decoder is not None:
        found |= _decoder(config, config.decoder)
    elif config.num_classes:
        found |= _layer("head.projection", config.num_classes, last)
    return MappingProxyType(found)


def count(config: ModelConfig) -> int:
    """Number of parameters of a network."""
    return sum(math.prod(shape) for shape in expected(config).values())


def _decoder(config: ModelConfig, decoder: DecoderConfig) -> Shapes:
    """Fusion and decoder of a masked autoencoder."""
    last = config.embedding_size
    found = _layer("encoder_norm", last)
    for stage in range(config.q_pool):
        # What the stages from here on pool, a strided convolution does at once.
        kernel = (q ** (config.q_pool - stage) for q in config.q_stride)
        found |= _layer(f"multi_scale_fusion_heads.{stage}", last, config.channels[stage], *kernel)
    found["mask_token"] = (1, 1, decoder.dim)
    found["decoder_pos_embed"] = (1, *config.decoder_table_size, decoder.dim)
    found |= _layer("decoder_embed", decoder.dim, last)
    for index in range(decoder.depth):
        found |= _block(f"decoder_blocks.{index}", decoder.dim, decoder.dim, config, scaled=False)
    found |= _layer("decoder_norm", decoder.dim)
    return found | _layer("decoder_pred", config.strides[-1] ** 2 * config.in_channels, decoder.dim)


def _block(name: str, dim_in: int, dim_out: int, config: ModelConfig, *, scaled: bool = True) -> Shapes:
    found = _layer(f"{name}.norm1", dim_in)
    if dim_in != dim_out and config.shortcut == "linear":
        found |= _layer(f"{name}.proj", dim_out, dim_in)
    found |= _layer(f"{name}.attn.qkv", 3 * dim_out, dim_in) | _layer(f"{name}.attn.proj", dim_out, dim_out)
    found |= _layer(f"{name}.norm2", dim_out) | _mlp(f"{name}.mlp", dim_out, config.mlp_ratio)
    if config.layer_scale is not None and scaled:
        found |= {f"{name}.ls1.gamma": (dim_out,), f"{name}.ls2.gamma": (dim_out,)}
    return found


def _mlp(name: str, dim: int, ratio: float) -> Shapes:
    hidden = int(dim * ratio)
    return _layer(f"{name}.fc1", hidden, dim) | _layer(f"{name}.fc2", dim, hidden)


def _layer(name: str, rows: int, *rest: int) -> Shapes:
    """A weight of that shape and its bias."""
    return {f"{name}.weight": (rows, *rest), f"{name}.bias": (rows,)}
