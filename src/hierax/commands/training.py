"""Commands that train: pretrain, finetune."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .. import console
from ..errors import RecipeError
from ..schema import toml_value
from .common import Device, Model, exit_code

Recipe = Annotated[str | None, arg(help="Preset name or TOML file; without it the method's preset for small data.")]
Steps = Annotated[int | None, arg(help="Optimiser steps; overrules epochs.")]
Epochs = Annotated[float | None, arg(help="Passes over the data.")]
BatchSize = Annotated[int | None, arg(help="Samples of one optimiser step.")]
Settings = Annotated[
    tuple[tuple[str, ...], ...],
    UseAppendAction,
    arg(metavar="KEY=VALUE", help="Other recipe keys, e.g. --set lr=1e-3 seed=1; may be repeated."),
]
Out = Annotated[Positional[Path], arg(help="Folder of the run; OUT/model is the result.")]
Sweep = Annotated[Literal["lr"] | None, arg(help="Try five learning rates in short runs first; take the best.")]
Probe = Annotated[
    str | None,
    arg(metavar="FOLDER", help="Labelled images to measure kNN accuracy on as it learns."),
]
Resume = Annotated[bool, arg(help="Go on from the newest whole checkpoint in OUT.")]


def pretrain(
    data: Positional[str],
    out: Out,
    model: Annotated[str, arg(aliases=["-m"])],
    method: Literal["mae", "dinov2"] = "mae",
    recipe: Recipe = None,
    steps: Steps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    set: Settings = (),
    device: Device = "auto",
    resume: Resume = False,
    probe: Probe = None,
) -> int:
    """Train an encoder on images without labels; prints the folder of the result.

    Args:
        data: Folder (searched at any depth), list, glob, table, or WebDataset shards.
        model: Architecture, e.g. mae_hiera_tiny_224, or a checkpoint to go on from.
        method: mae rebuilds hidden parts of an image, dinov2 learns to answer alike for crops of the same image.
    """
    from .. import pretrain as train

    options = {"steps": steps, "epochs": epochs, "batch_size": batch_size, "device": device, "resume": resume}
    return _run(train, data, out, set, method=method, model=model, recipe=recipe, probe=probe, **options)


def finetune(
    data: Positional[str],
    out: Out,
    model: Model = None,
    recipe: Annotated[str, arg(help="Preset name or TOML file; auto chooses for the data and says what.")] = "auto",
    steps: Steps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    set: Settings = (),
    device: Device = "auto",
    resume: Resume = False,
    sweep: Sweep = None,
) -> int:
    """Train a classifier on labelled images; prints the folder of the result.

    Args:
        data: Folder with one sub-folder a class, CSV, TSV or Parquet with path and label, or WebDataset shards.
    """
    from .. import finetune as train

    options = {"steps": steps, "epochs": epochs, "batch_size": batch_size, "device": device, "resume": resume}
    return _run(train, data, out, set, model=model, recipe=recipe, sweep=sweep, **options)


def _run(train: Callable[..., Any], data: str, out: Path, pairs: Sequence[Sequence[str]], **options: Any) -> int:
    """Train, with the options and KEY=VALUE pairs (TOML, else text), and print the folder of the result once."""
    for pair in itertools.chain.from_iterable(pairs):
        key, equals, text = pair.partition("=")
        if not equals or not key.strip() or key.strip() in ("data", "out"):
            raise RecipeError(f"--set takes KEY=VALUE of a recipe; got {pair!r}. Write it as in --set lr=1e-3.")
        options[key.strip()] = toml_value(text)
    summary = train(data, out, **options)
    if os.environ.get("RANK", "0") == "0":
        console.emit(str(summary.model))
    return exit_code(summary.samples, len(summary.unreadable))
