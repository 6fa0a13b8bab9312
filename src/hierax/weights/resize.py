"""Changes to loaded weights: another input size, another head, an encoder out of a masked autoencoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..config import ModelConfig
from ..errors import CheckpointError, InputError
from .account import expected, revise
from .state import Weights

if TYPE_CHECKING:
    from torch import Tensor


def to_input_size(weights: Weights, size: int | tuple[int, ...]) -> Weights:
    """Fit position tables to another input size by the rule of the checkpoint's origin.

    Plain tables are resized bicubically, antialiased only if they come from birder. HieraDet and timm's abswin tables
    stay as they are, for every forward pass resizes them. Quirk(birder): its abswin table is first resized to
    input size // 16, and from there to the grid, which is not the same as one resize.

    Raises:
        InputError: The network cannot take that size.
    """
    config = weights.config
    resized = config.with_input_size(size)
    if resized.input_size == config.input_size:
        return weights
    tensors = dict(weights.tensors)
    if config.position == "window":
        if config.family == "hiera_abswin" and weights.provenance.origin == "birder":
            grid = tuple(side // 16 for side in resized.input_size)
            resized = dataclasses.replace(resized, position_size=grid)
            tensors["pos_embed"] = _resize(tensors["pos_embed"], grid, antialias=True)
    else:
        key = "pos_embed_spatial" if config.position == "separable" else "pos_embed"
        grid = resized.table_size[-2:]
        tensors[key] = _resize(tensors[key], grid, antialias=config.position_antialias)
    if resized.position == "separable" and resized.input_size[0] != config.input_size[0]:
        raise InputError(
            f"Clips of {config.name!r} have {config.input_size[0]} frames; got {resized.input_size[0]}. "
            "Give only (height, width)."
        )
    if "decoder_pos_embed" in tensors:
        grid = tuple(
            g // q**config.q_pool for g, q in zip(resized.grid(resized.input_size), config.q_stride, strict=True)
        )
        tensors["decoder_pos_embed"] = _resize_decoder(tensors["decoder_pos_embed"], grid)
    preprocess = weights.preprocess.with_size((resized.input_size[-2], resized.input_size[-1]))
    changed = [name for name, tensor in tensors.items() if tensor is not weights.tensors[name]]
    sizes = " to ".join("x".join(map(str, c.input_size)) for c in (config, resized))
    note = f"input size {sizes}" + (f", resized: {', '.join(changed)}" if changed else "")
    return dataclasses.replace(revise(weights, resized, tensors, note), preprocess=preprocess)


def _resize(table: Tensor, grid: tuple[int, ...], *, antialias: bool) -> Tensor:
    from ..model.encoder import resize_table

    wide = table.double() if table.dtype.itemsize == 8 else table.float()
    return resize_table(wide, grid, antialias).to(table.dtype).contiguous()


def _resize_decoder(table: Tensor, grid: tuple[int, ...]) -> Tensor:
    if len(grid) == 2:
        return _resize(table, grid, antialias=False)
    frames = table.flatten(0, 1)  # (t, h, w, c)
    return _resize(frames, grid[1:], antialias=False).unflatten(0, (1, -1))


def to_num_classes(weights: Weights, num_classes: int) -> Weights:
    """Give an encoder a head of that many classes: kept if it has as many, removed for 0, else fresh."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise InputError(f"num_classes must be a non-negative int; got {num_classes!r}.")
    if weights.config.num_classes == num_classes:
        return weights
    tensors = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith("head.")}
    config = dataclasses.replace(weights.config, num_classes=num_classes)
    verb = "removed" if num_classes == 0 else f"replaced by a fresh one of {num_classes} classes"
    note = f"head of {weights.config.num_classes} classes {verb}"
    if weights.config.num_classes == 0:
        note = f"fresh head of {num_classes} classes added"
    return dataclasses.replace(revise(weights, config, tensors, note), labels=None)


def to_encoder(weights: Weights, target: ModelConfig | None = None) -> Weights:
    """Take the encoder out of a masked autoencoder; decoder and fusion are dropped, the final norm is fresh.

    Source: Meta's loader, which does not reuse `encoder_norm` (it normed fused stages, not the pooled last one).
    """
    config = weights.config
    if config.decoder is None:
        return weights
    head = target.head if target is not None else "pool_norm"
    q_pool = target.q_pool if target is not None else len(config.depths) - 1
    name = target.name if target is not None else config.name.removeprefix("mae_").replace("hiera_hiera", "hiera")
    encoder = dataclasses.replace(config, name=name, decoder=None, head=head, q_pool=q_pool)
    kept = ("patch_embed.", "pos_embed", "blocks.", "norm." if head != "pool" else "blocks.")
    tensors = {key: tensor for key, tensor in weights.tensors.items() if key.startswith(kept)}
    norm = "kept" if "norm.weight" in tensors else "absent" if head == "pool" else "fresh"
    note = f"encoder taken out of a masked autoencoder: decoder and fusion dropped, final norm {norm}"
    return revise(weights, encoder, tensors, note)


def to_hieradet(weights: Weights, target: ModelConfig) -> Weights:
    """Read an abswin Hiera's weights as a HieraDet's: same blocks, other windows, background table resized.

    Source: birder's `load_hiera_weights`; plain bicubic, no head.

    Raises:
        CheckpointError: The weights have no windowed position table.
    """
    if weights.config.position != "window":
        raise CheckpointError(
            f"Only abswin Hiera weights can become a HieraDet; {weights.config.name!r} has plain position tables."
        )
    tensors = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith("head.")}
    grid = target.position_size or (7, 7)
    tensors["pos_embed"] = _resize(tensors["pos_embed"], grid, antialias=False)
    config = dataclasses.replace(target, num_classes=0, input_size=weights.config.input_size)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected(config):
        raise CheckpointError(
            f"{weights.config.name!r} cannot be read as {target.name!r}: their blocks differ in number, width or "
            "branch scales. Name the HieraDet of the same size."
        )
    note = f"abswin Hiera read as {target.name}: position table resized to {grid}, windows changed, head dropped"
    return dataclasses.replace(revise(weights, config, tensors, note), labels=None)
