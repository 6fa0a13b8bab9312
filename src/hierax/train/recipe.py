"""A recipe: every setting of a training run, as plain data that a strict TOML file can hold.

Keys are flat. One table is allowed, `[before]`: a recipe that runs first and whose result the run then starts from.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import RecipeError, UnknownNameError, nearest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

Task = Literal["finetune", "pretrain"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one run; counts are in optimiser steps and samples, ratios in 0..1.

    Attributes:
        task: What the recipe is for.
        method: "supervised", "mae" or "dinov2".
        model: Architecture, catalogue name, hub id or path; the `model` argument of a run overrules it.
        pretrained: Whether a catalogue name means its published weights; False starts from random ones.
        init: Random weights of a classifier: "paper" as Hiera's, "torch" torch's defaults, which suit narrow networks.
        input_size: Pixels per side, or (height, width); None keeps the model's.
        steps: Optimiser steps; overrules `epochs`.
        epochs: Passes over the data; repeated views of a sample count.
        batch_size: Samples of one optimiser step, over all devices and accumulated parts.
        accumulate: Parts that a step's batch is cut into on each device.
        seed: Every random number follows from it.
        optimizer: "adamw" or "sgd".
        lr: Peak learning rate.
        lr_batch: The batch size that `lr` is quoted at, for linear scaling; None takes `lr` as it is.
        min_lr: Where the cosine ends.
        betas: Of AdamW.
        momentum: Of SGD.
        weight_decay: Decay of matrices and kernels; `groups` says what else decays.
        groups: "meta" spares vectors and position tables, its head shares the last block's rate; "birder"
            spares only norms, its head is one layer later.
        layer_decay: Factor on the learning rate from each layer to the one before it; 1 is off.
        schedule: "cosine" or "constant", after the warm-up.
        warmup_epochs: Linear warm-up in passes over the data.
        warmup_steps: Linear warm-up in steps; overrules `warmup_epochs`.
        clip_norm: Largest gradient norm; None does not clip.
        ema_decay: Decay of the averaged weights, which then are the result; 0 is off.
        ema_every: Steps between two averages.
        drop_path: Rate at the last block; None keeps the model's.
        head_dropout: Rate before the classifier; None keeps the model's.
        linear_probe: Train only the head, on a frozen encoder.
        label_smoothing: Share of the target spread over all classes.
        mixup: Alpha of mixup's Beta distribution; 0 is off.
        cutmix: Alpha of cutmix's; 0 is off.
        mix_choice: "always" mixes every batch, "uniform" chooses among none and the ones that are on.
        mask_ratio: Share of mask units that MAE hides.
        decoder_depth: Blocks of a fresh MAE decoder.
        decoder_dim: Its width.
        decoder_heads: Its heads.
        query_pools: Query pools of an encoder that MAE pretrains from scratch, 2 or 3.
        crop_scale: Area of the random crop over the image's, (smallest, largest).
        crop_ratio: Aspect ratio of the random crop, (smallest, largest).
        flip: Probability of a horizontal flip.
        color_jitter: Strength of brightness, contrast and saturation changes; 0 is off.
        rand_augment: RandAugment as (operations, magnitude of 30); None is off.
        erasing: Probability of erasing a rectangle.
        repeats: Augmented views of each sample that is read.
        frame_stride: Source frames from one frame of a clip to the next.
        split: Split of the data to train on, where the data names splits.
        validation: Data or split to validate on; None takes a split that the data has, or holds some out.
        validation_fraction: Share held out where the data has no validation split.
        workers: Processes that read and augment; 0 reads in the main one.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto" is bf16 where it is native, else fp32; "fp32", "bf16" or "fp16".
        sharding: "ddp", or "fsdp2" to shard weights and optimiser over processes.
        checkpoint_every: Steps from one checkpoint to the next; 0 keeps only the last.
        validate_every: Steps from one validation to the next; 0 validates at the end.
        log_every: Steps a log line stands for.
        max_bad_steps: Steps in a row that may be skipped for NaN or infinity before the run stops.
        data: What a stage trains on instead of the data that the run was given.
        before: A recipe that runs first, MAE unless it says otherwise; it may have a stage before it too.
    """

    task: Task = "finetune"
    method: str = "supervised"
    model: str | None = None
    pretrained: bool = True
    init: Literal["paper", "torch"] = "paper"
    input_size: int | tuple[int, ...] | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    seed: int = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-4
    lr_batch: int | None = None
    min_lr: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.05
    groups: Literal["meta", "birder"] = "meta"
    layer_decay: float = 1.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    clip_norm: float | None = None
    ema_decay: float = 0.0
    ema_every: int = 1
    drop_path: float | None = None
    head_dropout: float | None = None
    linear_probe: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_choice: Literal["always", "uniform"] = "always"
    mask_ratio: float = 0.6
    decoder_depth: int = 8
    decoder_dim: int = 512
    decoder_heads: int = 16
    query_pools: int = 2
    crop_scale: tuple[float, ...] = (0.08, 1.0)
    crop_ratio: tuple[float, ...] = (0.75, 4 / 3)
    flip: float = 0.5
    color_jitter: float = 0.0
    rand_augment: tuple[int, ...] | None = None
    erasing: float = 0.0
    repeats: int = 1
    frame_stride: int = 4
    split: str = "train"
    validation: str | None = None
    validation_fraction: float = 0.1
    workers: int = 2
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    checkpoint_every: int = 500
    validate_every: int = 0
    log_every: int = 1
    max_bad_steps: int = 5
    data: str | None = None
    before: Recipe | None = None

    def __post_init__(self) -> None:
        for field, kind in _types().items():
            value = getattr(self, field)
            object.__setattr__(self, field, _converted(field, value, kind))
        _check(self)

    @property
    def peak_lr(self) -> float:
        """The learning rate scaled from the batch that it is quoted at."""
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def with_options(self, **options: Any) -> Recipe:
        """A copy with other values; None leaves a value as it is.

        Raises:
            RecipeError: An unknown key or an impossible value.
        """
        given = {key: value for key, value in options.items() if value is not None}
        _check_keys(given, "An option")
        if "steps" in given and "epochs" in given:
            raise RecipeError(
                f"A run is as long as steps or epochs say, not both; got steps={given['steps']} and "
                f"epochs={given['epochs']}. Leave one out."
            )
        if "epochs" in given:
            given["steps"] = None
        return dataclasses.replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the keys that are None; `from_dict` inverts it."""
        values = {key: getattr(self, key) for key in _types() if getattr(self, key) is not None}
        if self.before is not None:
            values["before"] = self.before.to_dict()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def to_toml(self) -> str:
        """Text that `read_recipe` reads back to an equal recipe."""
        lines, table, recipe = [], "", self
        while True:
            own = {key: value for key, value in recipe.to_dict().items() if key != "before"}
            lines += [f"{key} = {_toml(value)}" for key, value in own.items()]
            if recipe.before is None:
                return "\n".join(lines) + "\n"
            recipe, table = recipe.before, f"{table}.before".removeprefix(".")
            lines += ["", f"[{table}]"]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "A recipe") -> Recipe:
        """Read plain data.

        Raises:
            RecipeError: An unknown key, a value of the wrong type or an impossible one.
        """
        values = dict(data)
        _check_keys(values, where)
        before = values.get("before")
        if isinstance(before, Mapping):
            task = before.get("task", "pretrain")
            method = {"method": "mae"} if task == "pretrain" else {}
            values["before"] = cls.from_dict({"task": task, **method, **before}, f"{where} [before]")
        return cls(**values)


def read_recipe(source: str | Path | None, task: Task) -> Recipe:
    """A recipe by preset name or from a TOML file.

    Args:
        source: Preset or file; None is the preset for small data sets.
        task: What the recipe must be for.

    Raises:
        UnknownNameError: Neither a preset nor a file; names the nearest preset.
        RecipeError: The file is not TOML, has an unknown key or an impossible value, or is for the other task.
    """
    from .presets import PRESETS

    if source is None:
        source = f"small_{task}"
    preset = PRESETS.get(str(source))
    recipe = preset or _read_file(Path(source), PRESETS)
    if recipe.task != task:
        raise RecipeError(
            f"The recipe {str(source)!r} is for {recipe.task}; got {task}. "
            f"Call {recipe.task}, or choose another recipe."
        )
    return recipe


def _read_file(path: Path, presets: Mapping[str, Recipe]) -> Recipe:
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UnknownNameError(
            f"A recipe must be a preset or a TOML file; {str(path)!r} is no preset and {what}. "
            f"{nearest(str(path), presets)}Presets: {', '.join(presets)}."
        )
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"A recipe must be valid TOML; {path}: {error}.") from error
    return Recipe.from_dict(data, str(path))


def _types() -> dict[str, Any]:
    """Declared type of each key but `before`."""
    return {key: kind for key, kind in _hints().items() if key != "before"}


_HINTS: dict[str, Any] = {}


def _hints() -> dict[str, Any]:
    if not _HINTS:
        _HINTS.update(typing.get_type_hints(Recipe))
    return _HINTS


# What other trainers call some keys, where spelling alone would suggest another one.
_ELSEWHERE = {
    "learning_rate": "lr", "base_lr": "lr", "wd": "weight_decay", "warmup": "warmup_epochs", "bs": "batch_size",
    "smoothing": "label_smoothing", "ema": "ema_decay", "grad_clip": "clip_norm", "clip_grad": "clip_norm",
    "num_workers": "workers", "img_size": "input_size", "image_size": "input_size", "drop": "head_dropout",
    "drop_path_rate": "drop_path", "randaugment": "rand_augment", "reprob": "erasing", "amp": "precision",
}  # fmt: skip


def _check_keys(values: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in _hints():
            known = _ELSEWHERE.get(key.lower())
            close = f"Did you mean {known!r}? " if known else nearest(key, _hints())
            raise RecipeError(f"{where} has the unknown key {key!r}. {close}The keys are {', '.join(_hints())}.")


def _converted(key: str, value: Any, kind: Any) -> Any:
    """The value as its declared type, lists to tuples and whole numbers to floats."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for choice in choices:
        origin = typing.get_origin(choice)
        if choice is types.NoneType and value is None:
            return None
        if origin is Literal and isinstance(value, str):
            if value in typing.get_args(choice):
                return value
            names = typing.get_args(choice)
            raise RecipeError(f"{key} must be one of {', '.join(names)}; got {value!r}. {nearest(value, names)}")
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(_converted(key, item, typing.get_args(choice)[0]) for item in value)
        if isinstance(value, bool):
            if choice is bool:
                return value
        elif choice is float and isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
        elif choice in (int, str) and isinstance(value, choice):
            return value
        elif choice is str and isinstance(value, Path):
            return str(value)
    names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise RecipeError(f"{key} must be {names.replace('NoneType', 'left out')}; got {value!r}.")


_AT_LEAST = {
    "steps": 1, "epochs": 0, "batch_size": 1, "accumulate": 1, "seed": 0, "lr": 0, "lr_batch": 1, "min_lr": 0,
    "weight_decay": 0, "momentum": 0, "warmup_epochs": 0, "warmup_steps": 0, "clip_norm": 0, "ema_every": 1,
    "mixup": 0, "cutmix": 0, "color_jitter": 0, "decoder_depth": 1, "decoder_dim": 1, "decoder_heads": 1,
    "query_pools": 2, "repeats": 1, "frame_stride": 1, "workers": 0, "checkpoint_every": 0, "validate_every": 0,
    "log_every": 1, "max_bad_steps": 1,
}  # fmt: skip
_SHARES = ("ema_decay", "drop_path", "head_dropout", "label_smoothing", "mask_ratio", "validation_fraction")
_UP_TO_ONE = ("layer_decay", "flip", "erasing")


def _check(recipe: Recipe) -> None:
    """Ranges, and keys that contradict each other."""
    for key, least in _AT_LEAST.items():
        value = getattr(recipe, key)
        if value is not None and (value < least or (key in ("epochs", "clip_norm") and value == 0)):
            raise RecipeError(f"{key} must be {'more than' if key in ('epochs', 'clip_norm') else 'at least'} "
                              f"{least}; got {value}.")  # fmt: skip
    for key in _SHARES:
        value = getattr(recipe, key)
        if value is not None and not 0 <= value < 1:
            raise RecipeError(f"{key} must be at least 0 and less than 1; got {value}.")
    for key in _UP_TO_ONE:
        if not 0 <= getattr(recipe, key) <= 1:
            raise RecipeError(f"{key} must be in 0..1; got {getattr(recipe, key)}.")
    for key in ("crop_scale", "crop_ratio"):
        pair = getattr(recipe, key)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] or (key == "crop_scale" and pair[1] > 1):
            raise RecipeError(f"{key} must be (smallest, largest), both positive; got {pair}.")
    if len(recipe.betas) != 2 or not all(0 <= beta < 1 for beta in recipe.betas):
        raise RecipeError(f"betas must be two numbers of at least 0 and less than 1; got {recipe.betas}.")
    if recipe.rand_augment is not None and (len(recipe.rand_augment) != 2 or recipe.rand_augment[0] < 1):
        raise RecipeError(f"rand_augment must be (operations, magnitude); got {recipe.rand_augment}.")
    if recipe.batch_size % (recipe.accumulate * recipe.repeats):
        raise RecipeError(
            f"batch_size must be a multiple of accumulate x repeats = {recipe.accumulate * recipe.repeats}; "
            f"got {recipe.batch_size}."
        )
    if recipe.query_pools not in (2, 3):
        raise RecipeError(f"query_pools must be 2 or 3; got {recipe.query_pools}.")


def _toml(value: Any) -> str:
    """One value; JSON's strings, numbers, booleans and arrays are TOML's too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
