"""From a data set and a recipe to a finished `OUT/model`: the calls that train."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .. import console
from ..data.datasets import seen
from ..data.datasets.samples import TrainingData
from ..data.files import name_text
from ..errors import HieraxError, RecipeError
from ..model.metrics import Accuracy
from ..net.transfer import shown
from ..schema import to_toml
from ..weights.card import RANDOM
from ..weights.digest import weights_digest
from ..weights.files import read_json, write_json, write_text
from . import auto
from .batches import Stream, Views
from .devices import Devices
from .folder import begun_with, check_apart, claim, keep_recipe
from .loop import Loop
from .methods import find_method
from .page import REPORT, write_page
from .pictures import draw_method, draw_run
from .reading import AUTO, read_recipe, recipe_of, to_record, with_options
from .recipe import Recipe
from .result import told, write_result
from .start import framed, licence_note, start_line, starting_weights
from .sweep import swept

_ALL = "all are in summary.json. The first:"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did.

    Attributes:
        out: Its folder.
        model: The trained model, a hierax folder.
        steps: Optimiser steps.
        epochs: Passes over the data.
        samples: Samples trained on, before any was found unreadable.
        classes: Class names; empty after pretraining.
        loss: Mean loss of the last tenth of the run.
        losses: Loss of each step.
        metrics: Exact validation results: top1, top5, correct1, correct5, total.
        result: Which weights `model` is of: "last" or "best", after which step, and what lies beside it.
        unreadable: Samples that could not be read, with the reason.
        skipped_steps: Steps that were not finite.
        resumed_from: The step that the run went on from.
        seconds: Time spent.
    """

    out: Path
    model: Path
    steps: int
    epochs: float
    samples: int
    classes: list[str]
    loss: float
    losses: list[float]
    metrics: dict[str, float]
    result: dict[str, Any]
    unreadable: dict[str, str]
    skipped_steps: int
    resumed_from: int
    seconds: float

    def __repr__(self) -> str:
        """One line, without the loss of every step."""
        return f"RunSummary({str(self.model)!r}, {self.steps} steps, loss {self.loss:.4g}, {self.metrics})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data without the loss of every step, which is in the log."""
        values = dataclasses.asdict(self) | {"out": str(self.out), "model": str(self.model)}
        return {name: value for name, value in values.items() if name != "losses"}


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
        data: Folder (searched at any depth), list, glob, table, WebDataset shards, or "shapes:COUNT".
        out: Folder of the run; `out/model` is the result, a hierax folder with the decoder.
        method: "mae" rebuilds hidden parts; "dinov2" answers alike for crops of the same image.
        model: Architecture, e.g. "mae_hiera_tiny_224", or a checkpoint to go on from.
        recipe: Preset name or TOML file; None is the method's preset for small data.
        resume: Go on from the newest whole checkpoint in `out`, if there is one.
        **overrides: Any key of a recipe or of the method, e.g. steps, epochs, batch_size, lr, mask_ratio.

    Raises:
        UnknownNameError: No such recipe, model or method.
        HieraxError: As `finetune`.

    Source: arXiv:2306.00989 appendix A; docs/training.md.
    """
    read = with_options(read_recipe(recipe, "pretrain", method), model=model, **overrides)
    asked = {key: value for key, value in {"model": model, **overrides}.items() if value is not None}
    return run(data, out, read, resume=resume, asked=asked if recipe is None else None)


def finetune(
    data: Any,
    out: str | Path,
    *,
    model: Any = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    sweep: Literal["lr"] | None = None,
    **overrides: Any,
) -> RunSummary:
    """Train a classifier on labelled images or clips.

    Args:
        data: Folder with one sub-folder a class, CSV, TSV or Parquet with path and label, WebDataset shards, or
            "shapes:COUNT".
        out: Folder of the run; `out/model` is the result, a hierax folder.
        model: Catalogue name, hub id, path or architecture; None is the recipe's, or the small embedded model.
        recipe: Preset name or TOML file; None is "auto", which chooses for the data and the model and says what.
        resume: Go on from the newest whole checkpoint in `out`, if there is one.
        sweep: "lr" tries five learning rates in short runs first, in `out/sweep`, and takes the best.
        **overrides: Any key of a recipe or of its method, e.g. steps, epochs, batch_size, lr, seed, mixup.

    Raises:
        RecipeError: An unknown key, one of another method, or an impossible value.
        UnknownNameError: No such recipe or model.
        InputError: No data, no labels, or a folder that another run used.
        HieraxError: The loss did not stay finite.

    Source: arXiv:2306.00989 appendix A; docs/training.md.
    """
    if recipe not in (None, AUTO):
        read = with_options(read_recipe(recipe, "finetune"), model=model, **overrides)
        return run(data, out, read, resume=resume, sweep=sweep)
    asked = {key: value for key, value in {"model": model, **overrides}.items() if value is not None}
    return run(data, out, with_options(recipe_of({}), **asked), resume=resume, asked=asked, sweep=sweep)


def run(
    data: Any,
    out: str | Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    asked: Mapping[str, Any] | None = None,
    sweep: str | None = None,
    page: bool = True,
) -> RunSummary:
    """Train as a recipe says, whatever its task and method; other arguments and errors as `finetune`.

    What is `asked` for, keys of the recipe and their values, stays as it is while everything else is chosen for the
    data and the model (recipe `auto`); None takes the recipe as it is. Without a `page` nothing is drawn of the run.
    """
    if sweep not in (None, "lr"):
        raise RecipeError(f"A sweep is over 'lr'; got {sweep!r}. Leave it out, or write sweep='lr'.")
    folder = Path(out)
    check_apart(data, folder)
    if recipe.before is not None:
        first = run(recipe.before.data or data, folder / "before", recipe.before, resume=resume)
        start = {"model": str(first.model), "pretrained": True}
        recipe = dataclasses.replace(recipe, **start, before=None)
        asked = None if asked is None else {key: asked[key] for key in asked if key != "before"} | start
    if recipe.model is None and recipe.task == "pretrain":
        raise RecipeError("Pretraining needs a model; got none. Pass model=, e.g. 'mae_hiera_tiny_224'.")
    devices = Devices(recipe)
    with claim(folder, resume=resume) if devices.main else contextlib.nullcontext():
        return _train(data, folder, recipe, devices, resume=resume, asked=asked, sweep=sweep is not None, page=page)


def _train(
    data: Any,
    folder: Path,
    recipe: Recipe,
    devices: Devices,
    *,
    resume: bool,
    asked: Mapping[str, Any] | None,
    sweep: bool,
    page: bool,
) -> RunSummary:
    """Train in a folder that is this run's."""
    started, kind = time.perf_counter(), find_method(recipe.method)
    train, validation = kind.open(data, recipe)
    if sweep and validation is None:
        raise RecipeError(
            "A sweep compares accuracies; nothing is held out of this data. Set validation to other data "
            "(--set validation=FOLDER), or raise validation_fraction."
        )
    begun: list[str] = []
    weights = starting_weights(recipe, begun)
    old = begun_with(folder) if resume else None
    if asked is not None and old is not None and old.recipe.method == recipe.method:
        recipe = with_options(old.recipe, **asked)  # what was chosen then holds, whatever would be chosen now
    elif asked is not None and recipe.task == "pretrain":
        keys, lines = kind.suited(len(train), weights, recipe, asked)
        recipe = with_options(recipe, **{key: value for key, value in keys.items() if key not in asked})
        begun += lines
    elif asked is not None:
        facts = auto.facts_of(train, validation, weights, recipe, asked, devices) if devices.main else None
        # Of the main process, for all: one that rounded otherwise must not choose otherwise.
        recipe, lines = auto.chosen(recipe, asked, devices.gather(facts)[0])
        begun += lines
    weights = framed(weights, recipe)
    if sweep and old is not None:
        recipe = dataclasses.replace(recipe, lr=old.recipe.lr)  # what was taken when the run began
    elif sweep:
        again = functools.partial(_candidate, data)
        recipe = swept(recipe, Stream(len(train), recipe).total, folder / "sweep", again, devices)
        devices = Devices(recipe)  # each run sets accelerate up anew
    devices.check(recipe)
    notes = [*_notes(train, validation, recipe), *begun]
    torch.manual_seed(recipe.seed)
    method = kind(weights, recipe, train.classes)
    notes.insert(0, start_line(weights, recipe, method.weights.config))
    notes += [*licence_note(weights), *method.advice(len(train)), *method.remarks(train)]
    views = Views(train, method.views(), method.weights.config, recipe)
    fingerprint = train.fingerprint()
    loop = Loop(method, views, validation, recipe, folder, devices)
    notes += loop.health.notes
    if devices.main:
        keep_recipe(folder, recipe, fingerprint, old)
    loop.open(resume=resume)
    if devices.main:
        _begin(loop, data, notes, fingerprint)
    loop.run()
    if loop.skipped == loop.stream.total:
        raise HieraxError(
            f"A model must have learned something; all {loop.skipped} steps were skipped, because nothing could be "
            f"read or was finite. First reason: {next(iter(loop.failures.values()), 'the loss was not finite')}"
        )
    with loop.averaged():
        result = None if validation is None else method.validate(validation, devices)
        result, yielded = write_result(loop, data, result)
        draw_method(method, views, devices, folder)
    summary = _summary(loop, result, yielded, time.perf_counter() - started)
    if devices.main:
        _finish(loop, summary, result, notes, page)
    return summary


def _candidate(data: Any, recipe: Recipe, folder: Path, resume: bool) -> RunSummary:
    """A run of a sweep."""
    return run(data, folder, recipe, resume=resume, page=False)


def _notes(train: TrainingData, validation: TrainingData | None, recipe: Recipe) -> list[str]:
    """What a person should know about the data and the recipe."""
    notes = [*getattr(train, "base", train).notes]
    if recipe.lr_batch:
        notes.append(
            f"learning rate {recipe.peak_lr:.3g} = {recipe.lr:.3g} x "
            + ("" if recipe.lr_scaling == "linear" else "square root of ")
            + f"batch {recipe.batch_size} / {recipe.lr_batch}"
        )
    if validation is None and recipe.validation_fraction and recipe.task == "finetune":
        notes.append(
            f"no accuracy will be measured: every class is too small to hold out {recipe.validation_fraction:.0%} "
            "of it. Set validation to other data, or raise validation_fraction."
        )
    return notes


def _begin(loop: Loop, source: Any, notes: list[str], fingerprint: str) -> None:
    """Write down what is run, and say what a person should know."""
    recipe, devices, train, held = loop.recipe, loop.devices, loop.views.data, loop.validation
    write_text(loop.out / "recipe.toml", to_toml(to_record(recipe)))
    began = loop.method.weights.card
    facts = {
        "model": began.config.name,
        "weights": began.name if began.pretrained else RANDOM,
        "weights_sha256": weights_digest(began),
        "license": began.license,
        "data": shown(name_text(str(source))),
        "fingerprint": fingerprint,
        "samples": len(train),
        "classes": train.classes,
        **seen.record(train, held, split=recipe.split, fraction=recipe.validation_fraction, seed=recipe.seed),
        "steps": loop.stream.total,
        "peak_lr": recipe.peak_lr,
        "precision": devices.precision,
        "processes": devices.world,
        "device": str(devices.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(loop.out / "run.json", facts)
    trained = sum(parameter.numel() for _, parameter in loop.trained())
    apart = "held out" if facts["held_out"]["count"] else "to validate on"
    console.say(notes[0])
    console.say(
        f"{len(train)} samples to train on{f', {len(held)} {apart}' if held else ''}; {loop.stream.total} steps of "
        f"{recipe.batch_size}, {trained / 1e6:.2f} M trained parameters, peak learning rate {recipe.peak_lr:.3g}, "
        f"{devices.precision} on {devices.world} x {devices.device}"
    )
    for note in notes[1:]:
        console.say(note)
    console.name_problems(train.problems, f"left out of the data; {_ALL}")


def _summary(loop: Loop, result: Accuracy | None, yielded: dict[str, Any], seconds: float) -> RunSummary:
    losses = loop.report.losses
    finite = [loss for loss in losses if math.isfinite(loss)]
    recent = finite[-max(1, len(finite) // 10) :]
    unreadable = {name: reason for found in loop.devices.gather(loop.failures) for name, reason in found.items()}
    train = loop.views.data
    return RunSummary(
        out=loop.out,
        model=loop.out / "model",
        steps=loop.done,
        epochs=loop.stream.epochs(loop.done),
        samples=len(train),
        classes=list(train.classes),
        loss=sum(recent) / len(recent) if recent else math.nan,
        losses=list(losses),
        metrics=result.to_dict() if result else {},
        result=yielded,
        unreadable=unreadable | (dict(result.unreadable) if result else {}),
        skipped_steps=loop.skipped,
        resumed_from=loop.resumed_from,
        seconds=round(seconds, 2),
    )


def _finish(loop: Loop, summary: RunSummary, result: Accuracy | None, notes: list[str], page: bool) -> None:
    """Summary, pictures and last words."""
    train = loop.views.data
    problems = [[name, reason] for name, reason in getattr(train, "base", train).problems]
    notes = [*notes, *loop.health.watch.told]
    written = {**summary.to_dict(), "problems": problems, "notes": notes}
    write_json(loop.out / "run.json", {**read_json(loop.out / "run.json"), "result": summary.result})
    write_json(loop.out / "summary.json", written)
    shown = {"step": summary.result["step"], "levels": loop.method.levels()}
    missing = (
        [] if not page else draw_run(summary.losses, loop.method.baseline, result, train.classes, loop.out, **shown)
    )
    write_json(loop.out / "summary.json", {**written, "notes": [*notes, *missing]})
    for note in missing:
        console.say(note)
    reported = page and write_page(loop, summary, result, [*notes, *missing])
    if result is not None:
        console.say(f"validation {result}")
    console.name_problems(summary.unreadable.items(), f"could not be read; {_ALL}")
    for line in told(summary.result, loop.out):
        console.say(line)
    if reported:
        console.say(f"report in {loop.out / REPORT}")
    console.say(f"model in {summary.model}")
