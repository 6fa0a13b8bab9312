"""transformers' config.json of Hiera and of SAM 2's trunk, to a `ModelConfig` and back: the only translation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ...config import (
    Cells,
    Depth,
    Epsilon,
    Head,
    ModelConfig,
    Padding,
    Scale,
    Side,
    Stages,
    block_table,
    square_windows,
)
from ...errors import InputError
from ...schema import Length, Natural, ProperShare, pick
from ..geometry import extra_parts, first, public_name, said_as

Windows = tuple[tuple[int, ...] | None, ...]
Pair = tuple[Cells, Cells]

# --- HieraConfig ----------------------------------------------------------------------------------------------------

# Their field, and ours that says the same.
_SAME = {
    "embed_dim": "embed_dim",
    "image_size": "input_size",
    "patch_size": "patch_kernel",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "mlp_ratio": "mlp_ratio",
    "depths": "depths",
    "num_query_pool": "q_pool",
    "query_stride": "q_stride",
    "masked_unit_size": "mask_unit",
    "drop_path_rate": "drop_path",
    "num_channels": "in_channels",
    "layer_norm_eps": "norm_eps",
}


@dataclass(frozen=True, kw_only=True)
class HieraFields:
    """The fields of a `HieraConfig` that say what the network is; None where nobody says."""

    embed_dim: Side | None = None
    image_size: Side | tuple[Side, Side] | None = None
    patch_size: Pair | None = None
    patch_stride: Pair | None = None
    patch_padding: tuple[Padding, Padding] | None = None
    mlp_ratio: float | None = None
    depths: Stages[Depth] | None = None
    num_heads: Annotated[tuple[Side, ...], Length(1, 64)] | None = None
    embed_dim_multiplier: float | None = None
    num_query_pool: Natural | None = None
    query_stride: Pair | None = None
    masked_unit_size: Pair | None = None
    masked_unit_attention: Annotated[tuple[bool, ...], Length(1, 64)] | None = None
    drop_path_rate: ProperShare | None = None
    num_channels: Side | None = None
    hidden_act: str | None = None
    layer_norm_eps: Epsilon | None = None
    initializer_range: Scale | None = None
    layer_norm_init: Scale | None = None
    decoder_hidden_size: Side | None = None
    decoder_depth: Depth | None = None
    decoder_num_heads: Side | None = None
    normalize_pixel_loss: bool | None = None
    mask_ratio: ProperShare | None = None


def read_hiera(data: Mapping[str, Any], *, head: Head, num_classes: int = 0, decoder: bool = False) -> ModelConfig:
    """Our architecture of a `HieraConfig`'s fields; its defaults stand for those that are absent or None.

    Raises:
        InputError: A network that ours cannot be: widths or heads that do not double, another activation, mask units
            that are no windows, a decoder without its sizes.
    """
    said = _said(HieraFields, data, hiera_defaults())
    depths, stride, unit = (said[key] for key in ("depths", "query_stride", "masked_unit_size"))
    stages = len(depths)
    # Quirk(transformers): entries beyond the last stage are never looked at.
    heads, local = list(said["num_heads"])[:stages], list(said["masked_unit_attention"])[:stages]
    first = heads[0]
    if said["embed_dim_multiplier"] != 2 or heads != [first * 2**stage for stage in range(stages)]:
        raise InputError(
            f"Width and heads of a Hiera double from stage to stage; got embed_dim_multiplier "
            f"{said['embed_dim_multiplier']} and num_heads {heads}."
        )
    if said["hidden_act"] != "gelu":
        raise InputError(f"Hiera's activation is 'gelu'; got {said['hidden_act']!r}.")
    if len(local) != stages:
        raise InputError(f"masked_unit_attention must say yes or no for each of {stages} stages; got {local}.")
    if unit != tuple(s ** (stages - 1) for s in stride) and (any(local) or decoder):
        raise InputError(f"masked_unit_size must be query_stride ** {stages - 1}; got {unit} for stride {stride}.")
    size = said["image_size"]
    windows, global_blocks = _by_stage(local, depths, stride, said["num_query_pool"])
    config = ModelConfig.from_dict(
        {
            **{ours: said[theirs] for theirs, ours in _SAME.items()},
            "input_size": (size, size) if isinstance(size, int) else size,
            "num_heads": first,
            "windows": windows,
            "global_blocks": global_blocks,
            "head": head,
            "num_classes": num_classes,
            "decoder": _decoder(said) if decoder else None,
        }
    )
    return dataclasses.replace(config, name=public_name(config))


def hiera_json(config: ModelConfig) -> dict[str, Any]:
    """The fields of a `HieraConfig` that say what a plain Hiera without an obstacle is; `read_hiera` inverts it."""
    data = said_as(config, _SAME)
    data["num_heads"] = [config.num_heads * 2**stage for stage in range(len(config.depths))]
    data["embed_dim_multiplier"], data["hidden_act"] = 2.0, "gelu"
    data["masked_unit_attention"] = list(_local_stages(config) or ())
    if config.decoder:
        data |= {f"decoder_{key}": value for key, value in vars(config.decoder).items()}
        data["decoder_hidden_size"] = data.pop("decoder_dim")
        data["normalize_pixel_loss"] = data.pop("decoder_normalize_target")
    return data


def hiera_defaults() -> dict[str, Any]:
    """What a `HieraConfig` has where nobody says otherwise: our own defaults, and what no network shows."""
    unsaid = dict.fromkeys(("decoder_hidden_size", "decoder_depth", "decoder_num_heads"))
    others = {"initializer_range": 0.02, "layer_norm_init": 1.0, "normalize_pixel_loss": True, "mask_ratio": 0.6}
    return {**hiera_json(ModelConfig()), **unsaid, **others}


def hiera_obstacle(config: ModelConfig) -> str | None:
    """What of a network a `HieraConfig` cannot say; None if it can say all of it."""
    other_head = config.decoder is None and config.head not in ("pool_norm", "pool")
    unnormed = config.head == "pool" and config.num_classes
    shape = f"its windows {config.windows} and global blocks {config.global_blocks} are not those of mask units"
    return first(
        (config.is_video, "transformers has no video Hiera"),
        (extra_parts(config), "transformers' blocks have neither layer scale nor the max-and-mean shortcut"),
        (config.position == "window", "transformers' Hiera has only plain position tables, this one's is windowed"),
        (other_head, f"transformers pools, then norms; this network's head is {config.head!r}"),
        (unnormed, "transformers norms the pooled vector before it classifies; this network does not"),
        (_local_stages(config) is None, f"{shape} that shrink by {config.q_stride} a stage"),
    )


def _decoder(said: Mapping[str, Any]) -> dict[str, Any]:
    shape = tuple(said[f"decoder_{part}"] for part in ("hidden_size", "depth", "num_heads"))
    if None in shape:
        raise InputError(
            "A decoder needs decoder_hidden_size, decoder_depth and decoder_num_heads in its config (published models "
            f"have 512, 8, 16); got {shape}."
        )
    dim, depth, heads = shape
    return {"dim": dim, "depth": depth, "num_heads": heads, "normalize_target": bool(said["normalize_pixel_loss"])}


def _by_block(local: Sequence[bool], depths: Sequence[int], stride: Sequence[int], q_pool: int) -> Windows:
    """The window of each block, as transformers computes it.

    Quirk(transformers): windows shrink from stage to stage whether queries are pooled or not, and the first block of
    a stage attends locally if its own stage or the one before does.
    """
    rows: list[tuple[int, ...] | None] = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            opens = block == 0 and stage > 0
            steps = len(depths) - 1 - stage + (opens and stage <= q_pool)
            is_local = local[stage] or (opens and local[stage - 1])
            rows.append(tuple(s**steps for s in stride) if is_local else None)
    return tuple(rows)


def _by_stage(
    local: Sequence[bool], depths: Sequence[int], stride: Sequence[int], q_pool: int
) -> tuple[Windows, tuple[int, ...]]:
    """`windows` and `global_blocks` of a `ModelConfig` whose block table has transformers' windows."""
    blocks = _by_block(local, depths, stride, q_pool)
    windows: list[tuple[int, ...] | None] = []
    global_blocks: list[int] = []
    for stage, depth in enumerate(depths):
        start = sum(depths[:stage])
        # The lag rule: a stage's window serves its blocks but the first, and the first of the next stage.
        served = range(start + (stage > 0), min(start + depth + 1, len(blocks)))
        found = sorted({window for index in served if (window := blocks[index]) is not None})
        if len(found) > 1:
            raise InputError(
                f"masked_unit_attention {list(local)} with num_query_pool {q_pool} gives the blocks {list(served)} "
                f"windows of {found} tokens; here they can have only one. Make stage {stage + 1} attend globally."
            )
        windows.append(found[0] if found else None)
        global_blocks += [index for index in served if found and blocks[index] is None]
    return tuple(windows), tuple(global_blocks)


def _local_stages(config: ModelConfig) -> tuple[bool, ...] | None:
    """The `masked_unit_attention` that gives every block its window; None if there is none."""
    blocks = tuple(spec.window for spec in block_table(config))
    windowed = config.decoder is not None or any(blocks)
    if any(isinstance(window, int) for window in config.windows):
        return None  # a fraction of the input, whatever its size
    if windowed and config.mask_unit != tuple(s ** (len(config.depths) - 1) for s in config.q_stride):
        return None
    plainly = tuple(window is not None for window in config.windows)
    for local in (plainly, *itertools.product((True, False), repeat=len(config.depths))):
        if blocks == _by_block(local, config.depths, config.q_stride, config.q_pool):
            return local
    return None


# --- Sam2HieraDetConfig ---------------------------------------------------------------------------------------------

_SAM2_SAME = {
    "hidden_size": "embed_dim",
    "num_channels": "in_channels",
    "image_size": "input_size",
    "patch_kernel_size": "patch_kernel",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "query_stride": "q_stride",
    "window_positional_embedding_background_size": "position_size",
    "num_query_pool_stages": "q_pool",
    "blocks_per_stage": "depths",
    "global_attention_blocks": "global_blocks",
    "mlp_ratio": "mlp_ratio",
    "layer_norm_eps": "norm_eps",
}
# What the class has where nobody says otherwise, but for what our defaults say too.
_SAM2_DEFAULTS: dict[str, Any] = {
    "image_size": (1024, 1024),
    "window_positional_embedding_background_size": (7, 7),
    "blocks_per_stage": (1, 2, 7, 2),
    "num_attention_heads_per_stage": (1, 2, 4, 8),
    "window_size_per_stage": (8, 4, 14, 7),
    "global_attention_blocks": (5, 7, 9),
    "hidden_act": "gelu",
    "hidden_size": 96,
}


def read_sam2(data: Mapping[str, Any]) -> ModelConfig:
    """Our architecture of a `Sam2HieraDetConfig`'s fields; its defaults stand for those that are absent or None.

    Raises:
        InputError: A network that ours cannot be: heads that do not double, or another activation.
    """
    said = {key: value for key, value in _said(Sam2Fields, data, _SAM2_DEFAULTS).items() if value is not None}
    heads, windows = said["num_attention_heads_per_stage"], said["window_size_per_stage"]
    if list(heads) != [heads[0] * 2**stage for stage in range(len(said["blocks_per_stage"]))]:
        raise InputError(f"Heads of a HieraDet double from stage to stage; got {list(heads)}.")
    wanted = [said["hidden_size"] * 2**stage for stage in range(len(said["blocks_per_stage"]))]
    if list(said.get("embed_dim_per_stage", wanted)) != wanted:
        raise InputError(
            f"Widths of a HieraDet double from stage to stage, from hidden_size on: {wanted}; got embed_dim_per_stage "
            f"{list(said['embed_dim_per_stage'])}."
        )
    if said["hidden_act"] != "gelu":
        raise InputError(f"HieraDet's activation is 'gelu'; got {said['hidden_act']!r}.")
    fields = {ours: said[theirs] for theirs, ours in _SAM2_SAME.items() if theirs in said}
    pairs = ("input_size", "patch_kernel", "patch_stride", "patch_padding", "q_stride")
    fields |= {key: (fields[key],) * 2 for key in pairs if isinstance(fields.get(key), int)}
    config = ModelConfig.from_dict(
        {
            **fields,
            "family": "hieradet",
            "num_classes": 0,
            "num_heads": heads[0],
            "windows": square_windows(windows),
            "mask_unit": (windows[0], windows[0]),
            "position": "window",
            "head": "pool",
        }
    )
    return dataclasses.replace(config, name=public_name(config))


def sam2_defaults() -> dict[str, Any]:
    """What a `Sam2HieraDetConfig` has where nobody says otherwise."""
    return {**sam2_json(read_sam2({})), "initializer_range": 0.02}


def sam2_obstacle(config: ModelConfig) -> str | None:
    """What of a HieraDet's maps a `Sam2HieraDetConfig` cannot say; None if it can say all of them."""
    whole = any(not isinstance(window, tuple) for window in config.windows)
    return first(
        (config.family != "hieradet", f"it is a {config.family!r} network, and SAM 2's trunk is a HieraDet"),
        (extra_parts(config), "transformers' blocks have neither layer scale nor the max-and-mean shortcut"),
        (whole, f"its windows {config.windows} are global in whole stages, where transformers divides by zero"),
    )


@dataclass(frozen=True, kw_only=True)
class Sam2Fields:
    """The fields of a `Sam2HieraDetConfig` that say what the network is; None where nobody says."""

    hidden_size: Side | None = None
    num_channels: Side | None = None
    image_size: Side | tuple[Side, Side] | None = None
    patch_kernel_size: Cells | Pair | None = None
    patch_stride: Cells | Pair | None = None
    patch_padding: Padding | tuple[Padding, Padding] | None = None
    query_stride: Cells | Pair | None = None
    window_positional_embedding_background_size: tuple[Side, Side] | None = None
    num_query_pool_stages: Natural | None = None
    blocks_per_stage: Stages[Depth] | None = None
    global_attention_blocks: Annotated[tuple[Natural, ...], Length(most=1024)] | None = None
    num_attention_heads_per_stage: Stages[Side] | None = None
    window_size_per_stage: Stages[Cells] | None = None
    embed_dim_per_stage: Stages[Side] | None = None
    mlp_ratio: float | None = None
    layer_norm_eps: Epsilon | None = None
    hidden_act: str | None = None


def _said(kind: type, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a file says, and what they are where it is silent."""
    found = vars(pick(kind, data, where="config.json"))
    usual = vars(pick(kind, defaults, where="the defaults"))
    return {key: usual[key] if value is None else value for key, value in found.items()}


def sam2_json(config: ModelConfig) -> dict[str, Any]:
    """The fields of a `Sam2HieraDetConfig`; `read_sam2` inverts it."""
    return {
        "model_type": "sam2_hiera_det_model",
        **said_as(config, _SAM2_SAME),
        "window_positional_embedding_background_size": list(config.table_size),
        "num_attention_heads": config.num_heads,
        "embed_dim_per_stage": list(config.channels),
        "num_attention_heads_per_stage": [config.num_heads * 2**stage for stage in range(len(config.depths))],
        "window_size_per_stage": [w[0] for w in config.windows if isinstance(w, tuple)],
        "hidden_act": "gelu",
    }
