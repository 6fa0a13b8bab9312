"""Meta's hiera: `.pth` files with a `model_state`, and the hub folders with `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ARCHITECTURES, DecoderConfig, ModelConfig, PreprocessSpec
from ..files import RawCheckpoint, write_torch
from ..geometry import Geometry, adapt, choose, public_name
from ..rename import Dialect, to_theirs
from .base import Format

if TYPE_CHECKING:
    from torch import Tensor

    from ..state import Weights

NAMES = tuple(n for n in ARCHITECTURES if n.endswith("224") and n.startswith(("hiera_", "mae_hiera_")))
VIDEO_PREPROCESS = PreprocessSpec(crop_ratio=0.875, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))


class Meta(Format):
    """Meta's own names are ours."""

    name = "meta"

    def matches(self, raw: RawCheckpoint) -> bool:
        """A `model_state`, or its names: a flat position table and a norm that is not inside a head."""
        keys = raw.tensors
        if "patch_embed.proj.weight" not in keys or "head.norm.weight" in keys or "head.fc.weight" in keys:
            return False
        plain = "pos_embed_spatial" in keys or ("pos_embed" in keys and keys["pos_embed"].ndim == 3)
        return plain and "blocks.0.mlp.fc1.weight" in keys

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """No prefix, no renames."""
        return "", Dialect()

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """A hub folder's constructor arguments; otherwise the shapes determine every public member."""
        if named is not None:
            return adapt(named, geometry)
        if "embed_dim" in raw.config and "stages" in raw.config:
            return adapt(_from_constructor(raw.config, geometry), geometry, tuple(raw.config["input_size"]))
        return adapt(choose(geometry, NAMES, str(raw.path)), geometry)

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """The notebook's recipe: shorter side to 256 of 224, bicubic, centre crop, ImageNet statistics."""
        base = VIDEO_PREPROCESS if config.is_video else PreprocessSpec()
        return base.with_size((config.input_size[-2], config.input_size[-1]))

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """Only plain position tables, the mean-then-norm head, and nothing that timm or birder added."""
        if config.position == "window":
            return "its position table is windowed, and Meta's Hiera has only plain tables"
        if config.shortcut != "linear" or config.layer_scale is not None:
            return "Meta's blocks have neither layer scale nor the max-and-mean shortcut"
        if config.decoder is None and config.head != "pool_norm":
            return f"Meta's head pools, then norms; this network's head is {config.head!r}"
        if config.norm_eps != 1e-6:
            return f"Meta's norms use epsilon 1e-6; this network's use {config.norm_eps}"
        if config.decoder is not None and not config.decoder.normalize_target:
            return "Meta's decoder always predicts normalised pixels"
        return None

    def write(self, weights: Weights, destination: Path) -> Path:
        """A `.pth` with `model_state`, as `torch.hub` would fetch it."""
        import torch

        state = {key: to_theirs(key, t, weights.config).contiguous() for key, t in weights.tensors.items()}
        if weights.config.decoder is not None:
            # Quirk(Meta): its autoencoder deletes the encoder's final norm.
            state = {key: t for key, t in state.items() if not key.startswith(("norm.", "head."))}
        elif weights.config.num_classes == 0:
            # Quirk(Meta): there is always a projection; without classes it has no rows.
            state["head.projection.weight"] = torch.zeros(0, weights.config.embedding_size)
            state["head.projection.bias"] = torch.zeros(0)
        path = destination if destination.suffix else destination / f"{weights.config.name}.pth"
        return write_torch(path, {"model_state": state})


def _from_constructor(arguments: Mapping[str, Any], geometry: Geometry) -> ModelConfig:
    """Our config from the arguments that Meta's hub mixin saves."""
    unit = tuple(arguments["mask_unit_size"])
    stride = tuple(arguments["q_stride"])
    q_pool = int(arguments["q_pool"])
    windows = []
    for stage, masked in enumerate(arguments["mask_unit_attn"]):
        shrink = tuple(s ** min(stage, q_pool) for s in stride)
        windows.append(tuple(u // s for u, s in zip(unit, shrink, strict=True)) if masked else None)
    video = len(unit) == 3
    decoder = None
    if geometry.decoder_pools >= 0:
        decoder = DecoderConfig(num_heads=int(arguments.get("decoder_num_heads", 16)))
    base = ModelConfig(
        family="hiera_video" if video else "hiera",
        input_size=tuple(arguments["input_size"]),
        in_channels=int(arguments["in_chans"]),
        embed_dim=int(arguments["embed_dim"]),
        num_heads=int(arguments["num_heads"]),
        depths=tuple(arguments["stages"]),
        windows=tuple(windows),
        q_pool=q_pool,
        q_stride=stride,
        patch_kernel=tuple(arguments["patch_kernel"]),
        patch_stride=tuple(arguments["patch_stride"]),
        patch_padding=tuple(arguments["patch_padding"]),
        mask_unit=unit,
        position="separable" if arguments.get("sep_pos_embed") else "grid",
        mlp_ratio=float(arguments.get("mlp_ratio", 4.0)),
        drop_path=float(arguments.get("drop_path_rate", 0.0)),
        head_dropout=float(arguments.get("head_dropout", 0.0)),
        head="pool" if decoder else "pool_norm",
        decoder=decoder,
    )
    return dataclasses.replace(base, name=public_name(base))
