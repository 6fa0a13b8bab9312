"""What the tensors themselves say about the network, and what they cannot say.

Windows, global blocks, the order of pooling and norm, and head counts leave no trace in a state dict; a name, a
sidecar config or file metadata must supply them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import ARCHITECTURES, DecoderConfig, ModelConfig
from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Facts read off tensor shapes, under our names.

    Attributes:
        table: Shape of the background position table in the file: (tokens,) or (h, w).
        frames: Tokens along time of a separable table, 0 for images.
        decoder_pools: Query pools of a masked autoencoder (its fusion convolutions), -1 without a decoder.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_classes: int
    position: str
    table: tuple[int, ...]
    frames: int
    layer_scale: bool
    shortcut: str
    has_norm: bool
    attention_pool: bool
    decoder_pools: int
    decoder_dim: int
    decoder_depth: int


class AmbiguousError(CheckpointError):
    """Tensors that fit several architectures which compute different numbers.

    Attributes:
        candidates: The names, any of which `name=` may say.
    """

    def __init__(self, message: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message)
        self.candidates = candidates


def measure(tensors: Mapping[str, Tensor]) -> Geometry:
    """Read the geometry of canonically named tensors.

    Raises:
        CheckpointError: Block or position parameters are missing or of other ranks, so this is no Hiera checkpoint.
    """
    try:
        return _measured(tensors)
    except IndexError:
        raise CheckpointError(
            "A Hiera checkpoint must hold tables, matrices and vectors where it should; a tensor of its blocks, "
            "position tables or heads has fewer axes. The file is damaged: save it again with the package it came from."
        ) from None


def _measured(tensors: Mapping[str, Tensor]) -> Geometry:
    widths: list[int] = []
    while (key := f"blocks.{len(widths)}.norm2.weight") in tensors:
        widths.append(tensors[key].shape[0])
    if not widths or "patch_embed.proj.weight" not in tensors:
        raise CheckpointError(
            "This is no Hiera checkpoint in any known format: blocks and patch embedding were not found. "
            f"Its first tensors are: {', '.join(list(tensors)[:10])}."
        )
    table, frames, position = _table(tensors)
    head = tensors.get("head.projection.weight")
    opens = [n for n in range(1, len(widths)) if widths[n] != widths[n - 1]]
    fusion = [key for key in tensors if key.startswith("multi_scale_fusion_heads.") and key.endswith(".weight")]
    decoder = tensors.get("decoder_embed.weight")
    return Geometry(
        embed_dim=widths[0],
        depths=tuple(widths.count(width) for width in sorted(set(widths))),
        num_classes=0 if head is None else head.shape[0],
        position=position,
        table=table,
        frames=frames,
        layer_scale="blocks.0.ls1.gamma" in tensors,
        shortcut="linear" if not opens or f"blocks.{opens[0]}.proj.weight" in tensors else "max_avg",
        has_norm="norm.weight" in tensors,
        attention_pool="attention_pool.latent" in tensors,
        decoder_pools=-1 if decoder is None else len(fusion),
        decoder_dim=0 if decoder is None else decoder.shape[0],
        decoder_depth=sum(key.startswith("decoder_blocks.") and key.endswith("norm1.weight") for key in tensors),
    )


def _table(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int, str]:
    if "pos_embed_spatial" in tensors and "pos_embed_temporal" in tensors:
        return (tensors["pos_embed_spatial"].shape[1],), tensors["pos_embed_temporal"].shape[1], "separable"
    if "pos_embed" not in tensors:
        raise CheckpointError("This is no Hiera checkpoint: it has no position table.")
    table = tensors["pos_embed"]
    if table.ndim == 4 and "pos_embed_window" in tensors:
        return tuple(table.shape[2:]), 0, "window"
    return (math.prod(table.shape[1:-1]),), 0, "grid"


def fits(config: ModelConfig, geometry: Geometry) -> bool:
    """Whether a named architecture could have these shapes (class count and input size aside)."""
    pools = -1 if config.decoder is None else config.q_pool
    return (
        all(getattr(config, key) == getattr(geometry, key) for key in ("embed_dim", "depths", "position", "shortcut"))
        and (config.layer_scale is not None) == geometry.layer_scale
        and (config.head == "attention") == geometry.attention_pool
        and pools == geometry.decoder_pools
    )


def choose(geometry: Geometry, names: Iterable[str], what: str) -> ModelConfig:
    """The one architecture among `names` that has these shapes.

    Raises:
        CheckpointError: None fits, or several that would compute different numbers; lists them.
    """
    fitting = [ARCHITECTURES[name] for name in names if fits(ARCHITECTURES[name], geometry)]
    if not fitting:
        raise CheckpointError(
            f"{what} has width {geometry.embed_dim}, depths {geometry.depths} and {geometry.position!r} positions, "
            "which no public architecture of its format has. Put the config.json it was saved with beside it."
        )
    if len({_identity(config) for config in fitting}) > 1:
        names = tuple(config.name for config in fitting)
        raise AmbiguousError(
            f"The tensors of {what} fit several architectures that compute different numbers: {', '.join(names)}. "
            "Say which with name=.",
            names,
        )
    return fitting[0]


def adapt(config: ModelConfig, geometry: Geometry, input_size: tuple[int, ...] | None = None) -> ModelConfig:
    """Fit a named architecture to what the file holds: classes, table size, decoder.

    Args:
        config: The architecture.
        geometry: What was measured.
        input_size: The size that the file says it was saved at, if it does.

    Raises:
        CheckpointError: The shapes are another architecture's.
    """
    if not fits(config, geometry):
        raise CheckpointError(
            f"The file is not a {config.name!r}: that has width {config.embed_dim}, depths {config.depths}, "
            f"{config.position!r} positions; the file has width {geometry.embed_dim}, depths {geometry.depths}, "
            f"{geometry.position!r} positions"
            f"{' and a decoder' if geometry.decoder_pools >= 0 else ''}. Pass the right name=."
        )
    size = input_size or _size_of_table(config, geometry) or config.input_size
    changes: dict[str, Any] = {"num_classes": geometry.num_classes, "input_size": tuple(size)}
    if geometry.position == "window":
        changes["position_size"] = geometry.table
    if geometry.decoder_pools >= 0:
        shape = {"dim": geometry.decoder_dim, "depth": geometry.decoder_depth}
        changes["decoder"] = dataclasses.replace(config.decoder or DecoderConfig(), **shape)
    return dataclasses.replace(config, **changes)


def _size_of_table(config: ModelConfig, geometry: Geometry) -> tuple[int, ...] | None:
    """Input size that a plain table was made for, taking it as square unless the config says otherwise."""
    if geometry.position == "window":
        return None
    grid = config.grid(config.input_size)
    if math.prod(grid[-2:]) == geometry.table[0] and geometry.frames in (0, grid[0]):
        return config.input_size
    side = math.isqrt(geometry.table[0])
    if side * side != geometry.table[0]:
        raise CheckpointError(
            f"The position table has {geometry.table[0]} tokens, which is no square. "
            "Put the config.json it was saved with beside it, so that height and width are known."
        )
    cells = (geometry.frames, side, side) if geometry.frames else (side, side)
    return tuple(cell * stride for cell, stride in zip(cells, config.patch_stride, strict=True))


def unit_windows(
    flags: Sequence[bool], unit: tuple[int, ...], stride: tuple[int, ...], q_pool: int
) -> tuple[tuple[int, ...] | None, ...]:
    """Windows of a plain Hiera from the stages that attend within mask units, which shrink with every pool."""
    return tuple(
        tuple(max(u // s ** min(stage, q_pool), 1) for u, s in zip(unit, stride, strict=True)) if masked else None
        for stage, masked in enumerate(flags)
    )


def first(*rules: tuple[object, str]) -> str | None:
    """What is said of the first rule that is broken; None if none is."""
    return next((said for broken, said in rules if broken), None)


def extra_parts(config: ModelConfig) -> bool:
    """Whether blocks have what only timm gave some members: branch scales, or a shortcut without parameters."""
    return config.layer_scale is not None or config.shortcut != "linear"


def said_as(config: ModelConfig, table: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a table pairs with another package's names for them, as JSON has them."""
    values = {theirs: getattr(config, ours) for theirs, ours in table.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def irregular(config: ModelConfig) -> str | None:
    """What code that knows only mask-unit flags cannot express about a plain Hiera's windows."""
    flags = [window is not None for window in config.windows]
    if config.global_blocks or config.windows != unit_windows(flags, config.mask_unit, config.q_stride, config.q_pool):
        return f"its windows {config.windows} and global blocks {config.global_blocks} are not those of mask units"
    return None


def unusual(config: ModelConfig, *fields: str) -> str | None:
    """An obstacle if any of these fields differs from what every public image member has."""
    values = [(field, getattr(ModelConfig(), field), getattr(config, field)) for field in fields]
    return first(
        *((here != usual, f"its code fixes {name} at {usual}; this network has {here}") for name, usual, here in values)
    )


def public_name(config: ModelConfig) -> str:
    """Name of the public architecture that computes the same but for classes, size and dropout; or "custom"."""
    same = (name for name, known in ARCHITECTURES.items() if _identity(known) == _identity(config))
    return next(same, "custom")


def _identity(config: ModelConfig) -> tuple[object, ...]:
    """What tells networks apart beside what the file itself decides."""
    free = ("name", "num_classes", "input_size", "position_size", "drop_path", "head_dropout")
    return tuple(value for key, value in vars(config).items() if key not in free)
