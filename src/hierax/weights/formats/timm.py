"""timm: state dicts with `head.norm` / `head.fc`, alone or in hub folders with a `pretrained_cfg`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...config import ARCHITECTURES, Cells, ModelConfig, PreprocessSpec, Side, Stages, square_windows
from ...errors import CheckpointError, brief
from ...schema import pick
from ..files import RawCheckpoint, write_json, write_safetensors, write_torch
from ..geometry import Geometry, adapt, choose, first, irregular, public_name, unit_windows, unusual
from ..labels import names_by_count
from ..rename import Dialect, to_theirs
from .base import Format, ordered_labels, stated

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights

HIERA = Dialect(
    outer=(("pos_embed_window", "pos_embed_win"), ("norm.", "head.norm."), ("head.projection.", "head.fc."))
)
DET = Dialect(outer=(("norm.", "head.norm."), ("head.projection.", "head.fc.")))
LEGACY = Dialect(outer=(*HIERA.outer, ("pos_embed", "pos_embed_abs")))
# timm's model names, and ours where they differ.
MODELS = {name: name for name in ARCHITECTURES if name.startswith(("hiera_", "sam2_")) and name[-1].isdigit()}
MODELS |= {name: name for name in ARCHITECTURES if name.startswith("sam2_")}
MODELS["hieradet_small"] = "timm_hieradet_small"
MODELS = {theirs: ours for theirs, ours in MODELS.items() if "16x224" not in theirs and "nano" not in theirs}
# Fields of ours that are constructor arguments of timm's under another name.
ARGUMENTS = {
    "in_channels": "in_chans",
    "embed_dim": "embed_dim",
    "num_heads": "num_heads",
    "depths": "stages",
    "q_pool": "q_pool",
    "q_stride": "q_stride",
    "mask_unit": "mask_unit_size",
    "global_blocks": "global_att_blocks",
    "layer_scale": "init_values",
    "mlp_ratio": "mlp_ratio",
    "position_size": "global_pos_size",
    "patch_kernel": "patch_kernel",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
}


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """Constructor arguments of timm's that say something of ours in other terms."""

    img_size: Side | tuple[Side, Side] | None = None
    use_expand_proj: bool | None = None
    window_spec: Stages[Cells] | None = None
    abs_win_pos_embed: bool = False
    mask_unit_attn: Stages[bool] | None = None


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """A `pretrained_cfg`: how timm evaluates the model."""

    input_size: tuple[Side, Side, Side] | None = None
    crop_pct: float | None = None
    crop_mode: str = ""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = PreprocessSpec.mean
    std: tuple[float, float, float] = PreprocessSpec.std


@dataclass(frozen=True, kw_only=True)
class _Classes:
    label_names: tuple[str, ...] | dict[str, str] = ()
    label_descriptions: dict[str, str] = field(default_factory=dict)


class Timm(Format):
    """Weights as `timm.create_model(...).state_dict()` spells them."""

    name = "timm"
    suffixes = (".safetensors", ".pth", ".pt", ".bin")
    may_be_fresh = ("norm.",)  # which SAM 2 does not have

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
                det = "pos_embed_window" in raw.tensors
                members = [ours for ours in MODELS.values() if (ARCHITECTURES[ours].family == "hieradet") == det]
                named = choose(geometry, members, str(raw.path))
            named = _with_arguments(named, _section(raw, "model_args"))
        if named.family == "hieradet" and geometry.has_norm and named.head == "pool":
            # Quirk(timm): its sam2_* models pool and norm, though SAM 2 itself has no final norm.
            named = dataclasses.replace(named, head="pool_norm")
        return adapt(named, geometry, size)

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """`pretrained_cfg`, or the defaults that timm registers for the member."""
        data = pick(_Evaluated, _section(raw, "pretrained_cfg"), where="pretrained_cfg")
        default_crop = 0.95 if "abswin" in config.name else 1.0 if config.name.startswith("sam2_") else 0.9
        spec = PreprocessSpec(
            size=tuple(_input_size(raw) or config.input_size)[-2:],  # type: ignore[arg-type]
            crop_ratio=data.crop_pct or default_crop,
            resize="squash" if data.crop_mode == "squash" else "shortest",
            interpolation=data.interpolation,
            mean=data.mean,
            std=data.std,
        )
        return spec.with_size(config.input_size)

    def labels(self, raw: RawCheckpoint, num_classes: int) -> list[str] | None:
        """`label_names` with `label_descriptions` where the folder has them, else ImageNet's by their number."""
        outer = pick(_Classes, raw.config, where="config.json")
        inner = pick(_Classes, _section(raw, "pretrained_cfg"), where="pretrained_cfg")
        names = outer.label_names or inner.label_names
        described = outer.label_descriptions or inner.label_descriptions
        if isinstance(names, dict):
            names = tuple(ordered_labels(names, num_classes) or ())
        if len(names) != num_classes or not num_classes:
            return names_by_count(num_classes)
        return [described.get(name, name) for name in names]

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """Only what arguments can make of timm's registered members; no decoder."""
        det, head, eps = config.family == "hieradet", config.head, config.norm_eps
        whole = det and any(not isinstance(window, tuple) for window in config.windows)
        return first(
            (config.decoder, "timm has no masked autoencoder; load with num_classes=0 to keep the encoder alone"),
            (config.is_video, "timm's create_model takes images only: its input sizes are (channels, height, width)"),
            (eps != 1e-6, f"timm's norms use epsilon 1e-6; this network's use {eps}"),
            (head not in ("pool_norm", "pool"), f"timm pools, then norms; this network's head is {head!r}"),
            (head == "pool" and not det, "timm's Hiera always has a final norm; this network has none"),
            (whole, f"its windows {config.windows} are global in whole stages, where timm divides by zero"),
            (_model_for(config) is None, "no timm model has its kind of position table, shortcut and branch scales"),
        ) or (unusual(config, "mlp_ratio") if det else irregular(config))

    def write(self, weights: Weights, destination: Path) -> Path:
        """A folder that `timm.create_model("local-dir:...")` loads."""
        import torch

        config = weights.config
        table = DET if config.family == "hieradet" else HIERA
        state = {table.spell(key, config.depths): to_theirs(key, t, config) for key, t in weights.tensors.items()}
        if config.head == "pool":
            # Quirk(timm): its SAM 2 models always norm the pooled vector; the identity is what it starts from.
            state["head.norm.weight"] = torch.ones(config.embedding_size)
            state["head.norm.bias"] = torch.zeros(config.embedding_size)
        spec = weights.preprocess
        theirs = _model_for(config) or ""
        settings: dict[str, Any] = {
            "num_classes": config.num_classes,
            **evaluated_at(spec, config),
            "fixed_input_size": config.family != "hieradet",
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
        if weights.card.license:
            settings["license"] = weights.card.license
        data = {"architecture": theirs, "num_classes": config.num_classes, "num_features": config.embedding_size}
        data |= {"pretrained_cfg": settings, "hierax": weights.card.facts}
        optional = {"model_args": _arguments(config, ARCHITECTURES[MODELS[theirs]]), "label_names": weights.labels}
        data |= {key: value for key, value in optional.items() if value}
        if destination.suffix in self.suffixes:
            # timm.models.load_checkpoint reads a bare state dict; the settings stand beside it.
            write_json(destination.with_suffix(".json"), data)
            bare = destination.suffix == ".safetensors"
            return write_safetensors(destination, state) if bare else write_torch(destination, state)
        write_safetensors(destination / "model.safetensors", state)
        write_json(destination / "config.json", data)
        return destination


def evaluated_at(spec: PreprocessSpec, config: ModelConfig) -> dict[str, Any]:
    """How timm makes an image this network's input, as its `pretrained_cfg` says it."""
    return {
        "input_size": [config.in_channels, *config.input_size],
        "crop_pct": spec.crop_ratio if spec.resize_to is None else min(spec.size) / spec.resize_to,
        "crop_mode": "squash" if spec.resize == "squash" else "center",
        "interpolation": spec.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def _input_size(raw: RawCheckpoint) -> tuple[int, ...] | None:
    """Pixels that the folder states: as a constructor argument, or else as what it was evaluated at."""
    size = pick(_Arguments, _section(raw, "model_args"), where="model_args").img_size
    if isinstance(size, int):
        return (size, size)
    evaluated = pick(_Evaluated, _section(raw, "pretrained_cfg"), where="pretrained_cfg").input_size
    return size or (evaluated and evaluated[1:])


def _section(raw: RawCheckpoint, key: str) -> Mapping[str, Any]:
    found = raw.config.get(key) or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{key} beside {raw.path} must be a table of keys and values; got {brief(found)}.")
    return found


def _with_arguments(config: ModelConfig, arguments: Mapping[str, Any]) -> ModelConfig:
    """A registered member changed by timm's constructor arguments; inverts `_arguments`."""
    changes, said = stated(arguments, ARGUMENTS), pick(_Arguments, arguments, where="model_args")
    if said.use_expand_proj is not None:
        changes["shortcut"] = "linear" if said.use_expand_proj else "max_avg"
    if config.family == "hieradet":
        if said.window_spec is not None:
            windows = square_windows(said.window_spec)
            changes |= {"windows": windows, "mask_unit": windows[0]}
    else:
        if said.abs_win_pos_embed:
            changes |= {"position": "window", "position_antialias": True, "family": "hiera_abswin"}
        flags = said.mask_unit_attn or tuple(window is not None for window in config.windows)
        lengths = ("mask_unit", "q_stride", "q_pool")
        unit, stride, q_pool = (changes.get(field, getattr(config, field)) for field in lengths)
        changes["windows"] = unit_windows(flags, unit, stride, q_pool)
    changed = dataclasses.replace(config, **changes)
    return changed if changed == config else dataclasses.replace(changed, name=public_name(changed))


def _model_for(config: ModelConfig) -> str | None:
    """Timm's member of that name, else the one that needs the fewest arguments to become this network."""
    members = {theirs: ARCHITECTURES[ours] for theirs, ours in MODELS.items()}
    named = [theirs for theirs, known in members.items() if known.name == config.name]
    related = named or [theirs for theirs, known in members.items() if known.family == config.family]
    return min(related, key=lambda theirs: len(_arguments(config, members[theirs])), default=None)


def _arguments(config: ModelConfig, known: ModelConfig) -> dict[str, Any]:
    """Constructor arguments that turn timm's registered member into this network."""
    values = {ours: getattr(config, ours) for ours in ARGUMENTS}
    arguments = {ARGUMENTS[ours]: value for ours, value in values.items() if value != getattr(known, ours)}
    if config.shortcut != known.shortcut:
        arguments["use_expand_proj"] = config.shortcut == "linear"
    if config.family == "hieradet":
        arguments.pop("mask_unit_size", None)
        if config.windows != known.windows:
            arguments["window_spec"] = [w[0] for w in config.windows if isinstance(w, tuple)]
        return arguments
    if config.input_size != known.input_size:
        arguments["img_size"] = config.input_size
    flags = [[window is not None for window in c.windows] for c in (config, known)]
    if flags[0] != flags[1]:
        arguments["mask_unit_attn"] = flags[0]
    return arguments
