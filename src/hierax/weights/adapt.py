"""Changes to loaded weights: another input size, another head, an encoder out of a masked autoencoder."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig
from ..errors import CheckpointError, InputError
from .card import LoadReport, Weights
from .shapes import expected

if TYPE_CHECKING:
    from torch import Tensor

# Of an image, 1024 x 1024, what the largest member is published for; twice as many of a clip, whose patches span two
# frames. A word in a file must not cost gigabytes: windowed position tables go with any size.
MOST_STATED = 1 << 20
_OPTION = "input_size= (--input-size)"
log = logging.getLogger("hierax")


def adapted(
    weights: Weights, *, input_size: int | tuple[int, ...] | None = None, num_classes: int | None = None
) -> Weights:
    """The weights at an input size and with a head of so many classes; None leaves them as they are.

    Raises:
        CheckpointError: As `at_size`.
        InputError: The network cannot take that size, or no such number of classes.
    """
    if num_classes is not None:
        encoder = to_encoder(weights)
        weights = to_num_classes(encoder, num_classes)
        if weights is not encoder:
            log.warning("%s: %s.", weights.config.name, weights.report.notes[-1])
    return at_size(weights, input_size)


def at_size(weights: Weights, size: int | tuple[int, ...] | None, *, option: str = _OPTION) -> Weights:
    """The weights at the size that a caller wants, however large; for None at what the files say, which is bounded.

    Args:
        weights: As they were read.
        size: As for `ModelConfig.with_input_size`.
        option: By which a caller says a size; for the message.

    Raises:
        CheckpointError: None was wanted, and the files say more than `MOST_STATED` pixels.
        InputError: The network cannot take that size.
    """
    if size is not None:
        return to_input_size(weights, size)
    config = weights.config
    check_stated(config.input_size, option=option)
    check_stated((*config.input_size[:-2], *weights.preprocess.size), option=option)
    return weights


def check_stated(size: tuple[int, ...], *, option: str = _OPTION) -> None:
    """Refuse a size, (height, width) or (frames, height, width), that files say and that would take gigabytes.

    Raises:
        CheckpointError: More than `MOST_STATED` pixels.
    """
    most = MOST_STATED * (1 if len(size) == 2 else 2)
    if math.prod(size) > most:
        raise CheckpointError(
            f"Inputs of more than {most:,} pixels must be asked for; what lies beside the weights says "
            f"{'x'.join(map(str, size))}. Pass {option} with the size that you want."
        )


def to_input_size(weights: Weights, size: int | tuple[int, ...]) -> Weights:
    """Fit position tables to another input size by the rule of the checkpoint's origin.

    Plain tables are resized bicubically, antialiased only if they come from birder. HieraDet and timm's abswin tables
    stay as they are, for every forward pass resizes them. Quirk(birder): its abswin table is first resized to
    input size // 16, and from there to the grid, which is not the same as one resize.

    Raises:
        InputError: The network cannot take that size.
    """
    config = weights.config
    resized = config.with_input_size(size, birder=weights.card.origin == "birder")
    preprocess = weights.preprocess.with_size(resized.input_size)
    if resized.input_size == config.input_size:
        return weights.with_card(preprocess=preprocess)
    if resized.position == "separable" and resized.input_size[0] != config.input_size[0]:
        raise InputError(
            f"Clips of {config.name!r} have {config.input_size[0]} frames; got {resized.input_size[0]}. "
            "Give only (height, width)."
        )
    key = "pos_embed_spatial" if config.position == "separable" else "pos_embed"
    # Grid and antialiasing of each table that follows.
    rules = {key: (resized.table_size[-2:], config.position == "window" or config.position_antialias)}
    if config.decoder is not None:
        rules["decoder_pos_embed"] = (resized.decoder_table_size[-2:], False)
    tables = {key: _resized(weights.tensors[key], *rule) for key, rule in rules.items() if key in weights.tensors}
    changed = [key for key, table in tables.items() if table.shape != weights.tensors[key].shape]
    sizes = " to ".join("x".join(map(str, c.input_size)) for c in (config, resized))
    note = f"input size {sizes}" + (f", resized: {', '.join(changed)}" if changed else "")
    return _revised(weights, resized, {**weights.tensors, **tables}, note, preprocess=preprocess)


def _resized(table: Tensor, grid: tuple[int, ...], antialias: bool) -> Tensor:
    """A table (1, h, w, c), or one (1, t, h, w, c) frame by frame, on another grid."""
    from ..model.encoder import resize_table

    wide = table.double() if table.dtype.itemsize == 8 else table.float()
    frames = resize_table(wide.flatten(0, -4), grid, antialias)
    return frames.unflatten(0, table.shape[:-3]).to(table.dtype).contiguous()


def to_num_classes(weights: Weights, num_classes: int) -> Weights:
    """Give an encoder a head of that many classes: kept if it has as many, removed for 0, else fresh.

    Raises:
        InputError: No such number of classes.
    """
    config = weights.config.with_num_classes(num_classes)
    if config == weights.config:
        return weights
    before = weights.config.num_classes
    verb = "removed" if num_classes == 0 else f"replaced by a fresh one of {num_classes} classes"
    note = f"head of {before} classes {verb}" if before else f"fresh head of {num_classes} classes added"
    return dataclasses.replace(_revised(weights, config, _without_head(weights), note), labels=None)


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
    return _revised(weights, encoder, tensors, note)


def with_final_norm(weights: Weights) -> Weights:
    """The weights with a final norm, a fresh one where they are a bare trunk's."""
    if weights.config.head != "pool":
        return weights
    head = "norm_pool" if weights.config.family == "hieradet" else "pool_norm"
    return weights.with_card(config=dataclasses.replace(weights.config, head=head))


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
    grid = target.position_size or (7, 7)
    tensors = _without_head(weights)
    tensors["pos_embed"] = _resized(tensors["pos_embed"], grid, antialias=False)
    config = dataclasses.replace(target, num_classes=0, input_size=weights.config.input_size)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected(config):
        raise CheckpointError(
            f"{weights.config.name!r} cannot be read as {target.name!r}: their blocks differ in number, width or "
            "branch scales. Name the HieraDet of the same size."
        )
    note = f"abswin Hiera read as {target.name}: position table resized to {grid}, windows changed, head dropped"
    return dataclasses.replace(_revised(weights, config, tensors, note), labels=None)


def _without_head(weights: Weights) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in weights.tensors.items() if not key.startswith("head.")}


def _revised(weights: Weights, config: ModelConfig, tensors: dict[str, Tensor], note: str, **facts: Any) -> Weights:
    """The weights as another network; the note says what was done, and why tensors that are gone are not used."""
    before = weights.report
    dropped = {weights.names.get(name, name): note for name in weights.tensors if name not in tensors}
    report = LoadReport(
        used=tuple(sorted(weights.names.get(name, name) for name in tensors)),
        fresh=tuple(name for name in expected(config) if name not in tensors),
        left_over={**before.left_over, **dropped},
        notes=(*before.notes, note),
    )
    return dataclasses.replace(weights, tensors=tensors).with_card(config=config, report=report, **facts)
