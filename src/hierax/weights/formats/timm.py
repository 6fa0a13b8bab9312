"""timm: state dicts with `head.norm` / `head.fc`, alone or in hub folders with a `pretrained_cfg`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ARCHITECTURES, ModelConfig, PreprocessSpec, square_windows
from ..files import RawCheckpoint, write_json, write_safetensors
from ..geometry import Geometry, adapt, choose
from ..rename import Dialect, to_theirs
from .base import Format, triple

if TYPE_CHECKING:
    from torch import Tensor

    from ..state import Weights

HIERA = Dialect(
    outer=(
        ("pos_embed_window", "pos_embed_win"),
        ("norm.", "head.norm."),
        ("head.projection.", "head.fc."),
    )
)
DET = Dialect(outer=(("norm.", "head.norm."), ("head.projection.", "head.fc.")))
LEGACY = Dialect(outer=(*HIERA.outer, ("pos_embed", "pos_embed_abs")))
# timm's model names, and ours where they differ.
MODELS = {name: name for name in ARCHITECTURES if name.startswith(("hiera_", "sam2_")) and name[-1].isdigit()}
MODELS |= {name: name for name in ARCHITECTURES if name.startswith("sam2_")}
MODELS["hieradet_small"] = "timm_hieradet_small"
MODELS = {theirs: ours for theirs, ours in MODELS.items() if "16x224" not in theirs and "nano" not in theirs}


class Timm(Format):
    """Weights as `timm.create_model(...).state_dict()` spells them."""

    name = "timm"

    def matches(self, raw: RawCheckpoint) -> bool:
        """The norm and classifier live under `head.`."""
        keys = raw.tensors
        return "blocks.0.mlp.fc1.weight" in keys and ("head.norm.weight" in keys or "head.fc.weight" in keys)

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """Timm's two files spell the window table differently."""
        if "pos_embed_abs" in raw.tensors:
            return "", LEGACY
        return "", DET if "pos_embed_window" in raw.tensors else HIERA

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """`architecture` and `model_args` of config.json; otherwise shapes, which tell timm's members apart."""
        size = _input_size(raw)
        if named is None:
            stored = str(raw.config.get("architecture", "")).split(".")[0]
            if stored in MODELS:
                named = ARCHITECTURES[MODELS[stored]]
            else:
                named = choose(geometry, self._members(raw), str(raw.path))
            arguments = raw.config.get("model_args")
            named = _with_arguments(named, arguments if isinstance(arguments, Mapping) else {})
        if named.family == "hieradet" and geometry.has_norm and named.head == "pool":
            # Quirk(timm): its sam2_* models pool and norm, though SAM 2 itself has no final norm.
            named = dataclasses.replace(named, head="pool_norm")
        return adapt(named, geometry, size)

    def _members(self, raw: RawCheckpoint) -> list[str]:
        det = "pos_embed_window" in raw.tensors
        return [ours for ours in MODELS.values() if (ARCHITECTURES[ours].family == "hieradet") == det]

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """`pretrained_cfg`, or the defaults that timm registers for the member."""
        data = raw.config.get("pretrained_cfg")
        data = data if isinstance(data, Mapping) else {}
        default_crop = 0.95 if "abswin" in config.name else 1.0 if config.name.startswith("sam2_") else 0.9
        spec = PreprocessSpec(
            size=tuple(_input_size(raw) or config.input_size)[-2:],  # type: ignore[arg-type]
            crop_ratio=float(data.get("crop_pct") or default_crop),
            resize="squash" if data.get("crop_mode") == "squash" else "shortest",
            interpolation="bilinear" if data.get("interpolation") == "bilinear" else "bicubic",
            mean=triple(data.get("mean"), PreprocessSpec.mean),
            std=triple(data.get("std"), PreprocessSpec.std),
        )
        return spec.with_size((config.input_size[-2], config.input_size[-1]))

    def labels(self, raw: RawCheckpoint, num_classes: int) -> list[str] | None:
        """`label_names` with `label_descriptions` where the folder has them."""
        inner = raw.config.get("pretrained_cfg")
        inner = inner if isinstance(inner, Mapping) else {}
        names = raw.config.get("label_names") or inner.get("label_names")
        described = raw.config.get("label_descriptions") or inner.get("label_descriptions") or {}
        if isinstance(names, Mapping):
            names = [names.get(str(index), names.get(index)) for index in range(num_classes)]
        if not isinstance(names, Sequence) or len(names) != num_classes or not num_classes:
            return None
        return [str(described.get(name, name)) for name in names]

    def may_be_fresh(self, key: str) -> bool:
        """Timm's SAM 2 files may lack the head's norm, which SAM 2 does not have."""
        return key.startswith("norm.")

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """Only timm's registered members, possibly with other arguments; no video, no decoder."""
        if config.decoder is not None:
            return "timm has no masked autoencoder; convert to a classifier with num_classes= first"
        if config.is_video:
            return "timm registers no video Hiera"
        if config.norm_eps != 1e-6:
            return f"timm's norms use epsilon 1e-6; this network's use {config.norm_eps}"
        if config.head not in ("pool_norm", "pool"):
            return f"timm pools, then norms; this network's head is {config.head!r}"
        if config.head == "pool" and config.family != "hieradet":
            return "timm's Hiera always has a final norm; this network has none"
        if config.family == "hieradet" and any(not isinstance(w, tuple) for w in config.windows):
            return f"its windows {config.windows} are global in whole stages, where timm divides by zero"
        if _model_for(config) is None:
            return "no timm model has its widths and depths"
        return None

    def write(self, weights: Weights, destination: Path) -> Path:
        """A folder that `timm.create_model("local-dir:...")` loads."""
        import torch

        config = weights.config
        table = DET if config.family == "hieradet" else HIERA
        state = {
            table.spell(key, config.depths): to_theirs(key, tensor, config) for key, tensor in weights.tensors.items()
        }
        if config.head == "pool":
            # Quirk(timm): its SAM 2 models always norm the pooled vector; the identity is what it starts from.
            state["head.norm.weight"] = torch.ones(config.embedding_size)
            state["head.norm.bias"] = torch.zeros(config.embedding_size)
        spec = weights.preprocess
        theirs = _model_for(config) or ""
        settings: dict[str, Any] = {
            "num_classes": config.num_classes,
            "input_size": [config.in_channels, *config.input_size],
            "crop_pct": spec.crop_ratio if spec.resize_to is None else min(spec.size) / spec.resize_to,
            "crop_mode": "squash" if spec.resize == "squash" else "center",
            "interpolation": spec.interpolation,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "fixed_input_size": config.family != "hieradet",
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
        if weights.provenance.license:
            settings["license"] = weights.provenance.license
        data: dict[str, Any] = {
            "architecture": theirs,
            "num_classes": config.num_classes,
            "num_features": config.embedding_size,
            "pretrained_cfg": settings,
        }
        arguments = _arguments(config, ARCHITECTURES[MODELS[theirs]])
        if arguments:
            data["model_args"] = arguments
        if weights.labels:
            data["label_names"] = weights.labels
        write_safetensors(destination / "model.safetensors", state, {"format": "pt"})
        write_json(destination / "config.json", data)
        return destination


def _input_size(raw: RawCheckpoint) -> tuple[int, ...] | None:
    data = raw.config.get("pretrained_cfg")
    size = data.get("input_size") if isinstance(data, Mapping) else None
    return (int(size[1]), int(size[2])) if isinstance(size, Sequence) and len(size) == 3 else None


def _with_arguments(config: ModelConfig, arguments: Mapping[str, Any]) -> ModelConfig:
    """Constructor arguments of timm that change a registered member."""
    changes: dict[str, Any] = {}
    plain = {"embed_dim": "embed_dim", "num_heads": "num_heads", "q_pool": "q_pool", "mlp_ratio": "mlp_ratio"}
    changes |= {ours: arguments[theirs] for theirs, ours in plain.items() if theirs in arguments}
    if "stages" in arguments:
        changes["depths"] = tuple(arguments["stages"])
    if "window_spec" in arguments:
        changes["windows"] = square_windows(tuple(arguments["window_spec"]))
    if "global_att_blocks" in arguments:
        changes["global_blocks"] = tuple(arguments["global_att_blocks"])
    if "init_values" in arguments:
        changes["layer_scale"] = arguments["init_values"]
    if arguments.get("use_expand_proj") is not None:
        changes["shortcut"] = "linear" if arguments["use_expand_proj"] else "max_avg"
    if arguments.get("abs_win_pos_embed"):
        changes |= {"position": "window", "position_antialias": True, "family": "hiera_abswin"}
    if "drop_path_rate" in arguments:
        changes["drop_path"] = float(arguments["drop_path_rate"])
    changed = dataclasses.replace(config, **changes)
    return changed if changed == config else dataclasses.replace(changed, name="custom")


def _model_for(config: ModelConfig) -> str | None:
    """Timm's member of the same family, by name if it is one, else any that arguments can turn into it."""
    for theirs, ours in MODELS.items():
        if ours == config.name:
            return theirs
    for theirs, ours in MODELS.items():
        known = ARCHITECTURES[ours]
        kind = (known.family, known.position, known.shortcut, known.layer_scale is None)
        same = kind == (config.family, config.position, config.shortcut, config.layer_scale is None)
        if same and (known.embed_dim, known.depths) == (config.embed_dim, config.depths):
            return theirs
    for theirs, ours in MODELS.items():
        known = ARCHITECTURES[ours]
        if (known.family, known.position) == (config.family, config.position):
            return theirs
    return None


def _arguments(config: ModelConfig, known: ModelConfig) -> dict[str, Any]:
    """Constructor arguments that turn timm's registered member into this network."""
    arguments: dict[str, Any] = {}
    pairs = {
        "embed_dim": "embed_dim",
        "num_heads": "num_heads",
        "depths": "stages",
        "layer_scale": "init_values",
        "q_pool": "q_pool",
        "mlp_ratio": "mlp_ratio",
        "position_size": "global_pos_size",
    }
    for ours, theirs in pairs.items():
        if getattr(config, ours) != getattr(known, ours):
            arguments[theirs] = getattr(config, ours)
    if config.shortcut != known.shortcut:
        arguments["use_expand_proj"] = config.shortcut == "linear"
    if config.family == "hieradet":
        if config.windows != known.windows:
            arguments["window_spec"] = [w[0] for w in config.windows if isinstance(w, tuple)]
        if config.global_blocks != known.global_blocks:
            arguments["global_att_blocks"] = list(config.global_blocks)
    elif config.input_size != known.input_size:
        arguments["img_size"] = list(config.input_size)
    return arguments
