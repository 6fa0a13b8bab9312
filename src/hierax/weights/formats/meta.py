"""Meta's hiera: `.pth` files with a `model_state`, and the hub folders with `config.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ARCHITECTURES, DecoderConfig, ModelConfig, PreprocessSpec, Side, Stages
from ...schema import pick
from ..files import RawCheckpoint, write_json, write_safetensors, write_torch
from ..geometry import Geometry, adapt, choose, extra_parts, first, irregular, public_name, said_as, unit_windows
from ..labels import names_by_count
from ..rename import to_theirs
from .base import Format, stated

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights

NAMES = tuple(n for n in ARCHITECTURES if n.endswith("224") and n.startswith(("hiera_", "mae_hiera_")))
# Meta's notebook prints 0.255 for the last deviation, where SlowFast, whose clips these are, has 0.225.
VIDEO_PREPROCESS = PreprocessSpec(
    resize="squash",
    crop_ratio=1.0,
    interpolation="bilinear",
    engine="float",
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
)

# The arguments of Meta's constructor that our fields say; where its hub mixin saved none, its defaults are ours.
ARGUMENTS = {
    "input_size": "input_size",
    "in_chans": "in_channels",
    "embed_dim": "embed_dim",
    "num_heads": "num_heads",
    "stages": "depths",
    "q_pool": "q_pool",
    "q_stride": "q_stride",
    "mask_unit_size": "mask_unit",
    "patch_kernel": "patch_kernel",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "mlp_ratio": "mlp_ratio",
    "drop_path_rate": "drop_path",
}


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """Those that say something of ours in other terms."""

    mask_unit_attn: Stages[bool] = (True, True, False, False)
    decoder_num_heads: Side = 16
    sep_pos_embed: bool = False
    head_dropout: float = 0.0


class Meta(Format):
    """Meta's own names are ours."""

    name = "meta"
    suffixes = (".pth", ".pt", ".safetensors")
    tensors_only = True
    norm_when_masked = False  # Quirk(Meta): its autoencoder deletes the encoder's final norm

    def matches(self, raw: RawCheckpoint) -> bool:
        """A `model_state`, or its names: a flat position table and a norm that is not inside a head."""
        keys = raw.tensors
        if "patch_embed.proj.weight" not in keys or "head.norm.weight" in keys or "head.fc.weight" in keys:
            return False
        plain = "pos_embed_spatial" in keys or ("pos_embed" in keys and keys["pos_embed"].ndim == 3)
        return plain and "blocks.0.mlp.fc1.weight" in keys

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """A hub folder's constructor arguments; otherwise the shapes determine every public member."""
        arguments = _stated(raw)
        size = stated(arguments, {"input_size": "input_size"}).get("input_size")
        if named is not None:
            return adapt(named, geometry, size)
        if arguments:
            return adapt(_from_constructor(arguments, geometry), geometry, size)
        return adapt(choose(geometry, NAMES, str(raw.path)), geometry)

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """The notebook's recipe: shorter side to 256 of 224, bicubic, centre crop, ImageNet statistics."""
        base = VIDEO_PREPROCESS if config.is_video else PreprocessSpec()
        return base.with_size(config.input_size)

    def labels(self, raw: RawCheckpoint, num_classes: int) -> list[str] | None:
        """ImageNet's, by their number."""
        return names_by_count(num_classes)

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """Only plain position tables, the mean-then-norm head, and nothing that timm or birder added."""
        decoder, head = config.decoder, config.head
        return first(
            (config.position == "window", "its position table is windowed, and Meta's Hiera has only plain tables"),
            (extra_parts(config), "Meta's blocks have neither layer scale nor the max-and-mean shortcut"),
            (not decoder and head != "pool_norm", f"Meta's head pools, then norms; this network's head is {head!r}"),
            (config.norm_eps != 1e-6, f"Meta's norms use epsilon 1e-6; this network's use {config.norm_eps}"),
            (decoder and not decoder.normalize_target, "Meta's decoder always predicts normalised pixels"),
        ) or irregular(config)

    def write(self, weights: Weights, destination: Path) -> Path:
        """A `.pth` with `model_state`; constructor arguments stand beside it, for other than public members.

        By a name ending in `.safetensors`, the bare state and its arguments as JSON: `model.safetensors` in a folder
        of its own is what the hub mixin reads.
        """
        import torch

        config = weights.config
        state = {key: to_theirs(key, t, config).contiguous() for key, t in weights.tensors.items()}
        if config.decoder is None and config.num_classes == 0:
            # Quirk(Meta): there is always a projection; without classes it has no rows.
            state["head.projection.weight"] = torch.zeros(0, config.embedding_size)
            state["head.projection.bias"] = torch.zeros(0)
        arguments = _constructor(config)
        if destination.suffix == ".safetensors":
            beside = "config" if destination.stem == "model" else destination.stem
            write_json(destination.with_name(f"{beside}.json"), arguments)
            return write_safetensors(destination, state, {"hierax": json.dumps(weights.card.facts)})
        data = {"model_state": state, "config": arguments, "hierax": weights.card.facts}
        path = destination if destination.suffix in self.suffixes else destination / f"{config.name}.pth"
        return write_torch(path, data)


def _stated(raw: RawCheckpoint) -> Mapping[str, Any]:
    """Constructor arguments, inside the file or in the config.json of a hub folder; empty if neither has any."""
    for place in (raw.container.get("config"), raw.config):
        if isinstance(place, Mapping) and place.keys() & {"stages", "embed_dim", "input_size"}:
            return place
    return {}


def _constructor(config: ModelConfig) -> dict[str, Any]:
    """The arguments from which Meta's own class builds this network; `_from_constructor` reads them."""
    arguments = {
        **said_as(config, ARGUMENTS),
        "mask_unit_attn": [window is not None for window in config.windows],
        "sep_pos_embed": config.position == "separable",
    }
    if (decoder := config.decoder) is None:
        return {**arguments, "num_classes": config.num_classes, "head_dropout": config.head_dropout}
    names = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
    return {**arguments, **dict(zip(names, (decoder.dim, decoder.depth, decoder.num_heads), strict=True))}


def _from_constructor(arguments: Mapping[str, Any], geometry: Geometry) -> ModelConfig:
    """Our config from the arguments that Meta's hub mixin saves."""
    usual, decoder, more = ModelConfig(), None, pick(_Arguments, arguments, where="The constructor's arguments")
    said = {ours: getattr(usual, ours) for ours in ARGUMENTS.values()}
    said |= stated(arguments, {ours: theirs for theirs, ours in ARGUMENTS.items()})
    if geometry.decoder_pools >= 0:
        decoder = DecoderConfig(num_heads=more.decoder_num_heads)
    others = {
        "family": "hiera_video" if len(said["mask_unit"]) == 3 else "hiera",
        "windows": unit_windows(more.mask_unit_attn, said["mask_unit"], said["q_stride"], said["q_pool"]),
        "position": "separable" if more.sep_pos_embed else "grid",
        "head_dropout": more.head_dropout,
        "head": "pool" if decoder else "pool_norm",
        "decoder": decoder,
    }
    config = ModelConfig.from_dict({**said, **others})
    return dataclasses.replace(config, name=public_name(config))
