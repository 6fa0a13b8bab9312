"""The doors to training: the trainer, given something to draw its pictures with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .drawing import Drawing
from .train import RunSummary
from .train import finetune as _finetune
from .train import pretrain as _pretrain


def pretrain(
    data: Any,
    out: str | Path,
    *,
    method: Literal["mae", "dinov2"] = "mae",
    model: Any,
    recipe: str | Path | None = None,
    resume: bool = False,
    **overrides: Any,
) -> RunSummary:
    """Train an encoder on images or clips without labels.

    Args:
        data: Folder (searched at any depth), list, glob, table, or WebDataset shards.
        out: Folder of the run; `out/model` is the result, a hierax folder with the decoder.
        method: "mae"; "dinov2" is refused in this version.
        model: Architecture, e.g. "mae_hiera_tiny_224", or a checkpoint to go on from.
        recipe: Preset name or TOML file; None is the preset for small data.
        resume: Go on from the newest whole checkpoint in `out`, if there is one.
        **overrides: Any key of a recipe, e.g. steps, epochs, batch_size, lr, mask_ratio.

    Raises:
        RecipeError: An unknown key or an impossible value.
        UnknownNameError: No such recipe, model or method.
        InputError: No data, or a folder that another run used.
    """
    return _pretrain(
        data, out, method=method, model=model, recipe=recipe, resume=resume, pictures=Drawing(), **overrides
    )


def finetune(
    data: Any,
    out: str | Path,
    *,
    model: Any = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    **overrides: Any,
) -> RunSummary:
    """Train a classifier on labelled images or clips.

    Args:
        data: Folder with one sub-folder a class, CSV, TSV or Parquet with path and label, or WebDataset shards.
        out: Folder of the run; `out/model` is the result, a hierax folder.
        model: Catalogue name, hub id, path or architecture; None is the recipe's, or the small embedded model.
        recipe: Preset name or TOML file; None is the preset for small data.
        resume: Go on from the newest whole checkpoint in `out`, if there is one.
        **overrides: Any key of a recipe, e.g. steps, epochs, batch_size, lr, seed.

    Raises:
        RecipeError: An unknown key or an impossible value.
        UnknownNameError: No such recipe or model.
        InputError: No data, no labels, or a folder that another run used.
    """
    return _finetune(data, out, model=model, recipe=recipe, resume=resume, pictures=Drawing(), **overrides)
