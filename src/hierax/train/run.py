"""From a data set and a recipe to a finished `OUT/model`: the two calls that train."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.datasets.open import find_validation, open_data
from ..data.datasets.samples import SPLITS, TrainingData, hold_out, match_classes
from ..data.inputs import Plain, plain_batches
from ..errors import InputError, RecipeError, UnknownNameError, nearest
from ..model.metrics import Accuracy, count_correct
from ..weights.files import write_json
from ..weights.load import write_weights
from ..weights.rename import flat_name
from .batches import Views
from .devices import Devices
from .folder import check_free, claim, publish
from .gallery import Gallery
from .loop import Loop
from .methods import FineTuning, MaskedPretraining, Method
from .pictures import Pictures
from .recipe import Recipe, read_recipe
from .report import advice
from .start import derived, licence_note, starting_weights

METHODS = ("mae", "dinov2")


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
    unreadable: dict[str, str]
    skipped_steps: int
    resumed_from: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data without the loss of every step, which is in the log."""
        values = dataclasses.asdict(self)
        del values["losses"]
        return {**values, "out": str(self.out), "model": str(self.model)}


def finetune(
    data: Any,
    out: str | Path,
    *,
    model: Any = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    pictures: Pictures | None = None,
    settings: Recipe | None = None,
    **overrides: Any,
) -> RunSummary:
    """Train a classifier on labelled images or clips.

    Args:
        data: Folder with one sub-folder a class, CSV/TSV/Parquet with path and label, WebDataset shards, or
            "shapes:COUNT".
        out: Folder of the run; `out/model` is the result.
        model: Catalogue name, hub id, path or architecture; None is the recipe's, or the small embedded model.
        recipe: Preset or TOML file; None is "small_finetune".
        resume: Go on from the newest whole checkpoint in `out`, if there is one.
        pictures: Draws the pictures; None draws none.
        settings: A whole recipe instead of `recipe`.
        **overrides: Any key of a recipe, e.g. steps, epochs, batch_size, lr, seed.

    Raises:
        RecipeError: An unknown key or an impossible value.
        UnknownNameError: No such recipe or model.
        InputError: No data, no labels, or a folder that another run used.
        HieraxError: The loss did not stay finite.

    Source: arXiv:2306.00989 appendix A; docs/training.md.
    """
    settings = (settings or read_recipe(recipe, "finetune")).with_options(model=model, **overrides)
    folder = Path(out)
    settings = _after_stage(data, folder, settings, resume, pictures)
    started = time.perf_counter()
    devices = Devices(settings)
    if devices.main:
        check_free(folder, resume=resume)
    train, validation = _labelled(data, settings)
    notes = _notes(train, settings)
    if validation is None and settings.validation_fraction:
        notes.append(
            f"no accuracy will be measured: every class is too small to hold out {settings.validation_fraction:.0%} "
            "of it. Set validation to other data, or raise validation_fraction."
        )
    torch.manual_seed(settings.seed)
    weights = starting_weights(settings.model, settings, notes)
    notes += licence_note(weights)
    method = FineTuning(weights, train.classes, settings)
    notes += advice(len(train), len(train.classes), "finetune", not weights.tensors)
    run = _Run(folder, settings, devices, method, train, data, Gallery(folder, pictures), notes)

    def validate(step: int) -> dict[str, float]:
        return _validate(method, validation, settings, devices).to_dict() if validation is not None else {}

    with claim(folder, settings, resume=resume, main=devices.main, fingerprint=run.fingerprint):
        run.loop.run(resume=resume, validate=validate if validation is not None else None, begin=run.begin)
        with run.loop.averaged():
            result = _validate(method, validation, settings, devices) if validation is not None else None
            path = run.publish()
        summary = run.finish(path, result, time.perf_counter() - started)
    return summary


def pretrain(
    data: Any,
    out: str | Path,
    *,
    method: str | None = None,
    model: Any = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    pictures: Pictures | None = None,
    settings: Recipe | None = None,
    **overrides: Any,
) -> RunSummary:
    """Train an encoder on images or clips without labels.

    Args:
        data: Folder (searched at any depth), list, glob, table, WebDataset shards, or "shapes:COUNT".
        out: Folder of the run; `out/model` is the result, decoder included.
        method: "mae" or "dinov2"; None is the recipe's.
        model: Architecture, or a checkpoint to go on from.
        recipe: Preset or TOML file; None is "small_pretrain".
        resume: Go on from the newest whole checkpoint in `out`, if there is one.
        pictures: Draws the pictures; None draws none.
        settings: A whole recipe instead of `recipe`.
        **overrides: Any key of a recipe, e.g. steps, epochs, batch_size, lr, mask_ratio.

    Raises:
        RecipeError: An unknown key or an impossible value.
        UnknownNameError: No such recipe, model or method.
        InputError: No data, or a folder that another run used.
        HieraxError: The loss did not stay finite.

    Source: arXiv:2306.00989 appendix A; docs/training.md.
    """
    settings = (settings or read_recipe(recipe, "pretrain")).with_options(model=model, method=method, **overrides)
    if settings.method not in METHODS:
        raise UnknownNameError(
            f"Pretraining methods are {', '.join(METHODS)}; got {settings.method!r}. "
            f"{nearest(settings.method, METHODS)}"
        )
    settings = _after_stage(data, Path(out), settings, resume, pictures)
    if settings.model is None:
        raise RecipeError("Pretraining needs a model; got none. Pass model=, e.g. 'mae_hiera_tiny_224'.")
    started = time.perf_counter()
    devices = Devices(settings)
    folder = Path(out)
    if devices.main:
        check_free(folder, resume=resume)
    train = open_data(data, split=settings.split, labelled=False)
    notes = _notes(train, settings)
    torch.manual_seed(settings.seed)
    weights = starting_weights(settings.model, settings, notes)
    notes += licence_note(weights)
    notes += advice(len(train), 0, "pretrain", not weights.tensors)
    trainer = _pretraining(weights, settings)
    gallery = Gallery(folder, pictures)
    run = _Run(folder, settings, devices, trainer, train, data, gallery, notes)

    def show() -> None:
        if isinstance(trainer, MaskedPretraining):
            gallery.reconstructions(trainer, run.views, devices)

    with claim(folder, settings, resume=resume, main=devices.main, fingerprint=run.fingerprint):
        run.loop.run(resume=resume, show=show, begin=run.begin)
        with run.loop.averaged():
            path = run.publish()
            show()
        return run.finish(path, None, time.perf_counter() - started)


def _after_stage(data: Any, folder: Path, settings: Recipe, resume: bool, pictures: Pictures | None) -> Recipe:
    """The recipe that starts from the result of the stage before it, which is run first."""
    before = settings.before
    if before is None:
        return settings
    train = pretrain if before.task == "pretrain" else finetune
    first = train(before.data or data, folder / "before", resume=resume, pictures=pictures, settings=before)
    return dataclasses.replace(settings, model=str(first.model), pretrained=True, before=None)


def _pretraining(weights: Any, settings: Recipe) -> Method:
    if settings.method == "mae":
        return MaskedPretraining(weights, settings)
    raise RecipeError("method='dinov2' is not part of this version; use method='mae'.")


def _labelled(data: Any, settings: Recipe) -> tuple[TrainingData, TrainingData | None]:
    """Training samples, and those to validate on."""
    train = open_data(data, split=settings.split)
    if (train.labels < 0).any():
        raise InputError("Every training sample must have a class; use a labelled source.")
    if len(train.classes) < 2:
        raise InputError(
            f"A classifier needs at least two classes; the data has {len(train.classes)}: {train.classes}. "
            "Add a folder, or rows, of another class."
        )
    if settings.validation is not None:
        source, split = (data, settings.validation) if settings.validation in SPLITS["validation"] else (
            settings.validation, "validation")  # fmt: skip
        validation: TrainingData | None = open_data(source, split=split)
    else:
        validation = find_validation(data, beside=settings.split)
    if validation is None:
        return hold_out(train, settings.validation_fraction, settings.seed)
    return train, match_classes(validation, train.classes)


def _notes(train: TrainingData, settings: Recipe) -> list[str]:
    base = getattr(train, "base", train)
    notes = [*base.notes]
    if settings.lr_batch:
        notes.append(
            f"learning rate {settings.peak_lr:.3g} = {settings.lr:.3g} x batch {settings.batch_size} / "
            f"{settings.lr_batch}"
        )
    return notes


def _validate(method: Method, data: TrainingData, settings: Recipe, devices: Devices) -> Accuracy:
    """Exact counts over all processes."""
    if not isinstance(method, FineTuning):
        raise TypeError(type(method).__name__)
    spec = dataclasses.replace(method.weights.preprocess, frame_stride=settings.frame_stride)
    plain = Plain(data, method.weights.config, spec)
    size = max(1, settings.batch_size // devices.world)
    batches = plain_batches(plain, batch_size=size, workers=settings.workers, rank=devices.rank, world=devices.world)
    found = count_correct(method.logits, batches, data, together=devices.world > 1)
    return Accuracy.merged(devices.gather(found))


class _Run:
    """The pieces of one run, and what is written about it."""

    def __init__(
        self,
        folder: Path,
        settings: Recipe,
        devices: Devices,
        method: Method,
        train: TrainingData,
        source: Any,
        gallery: Gallery,
        notes: list[str],
    ) -> None:
        self.folder, self.settings, self.devices, self.method = folder, settings, devices, method
        self.train, self.source, self.gallery, self.notes = train, source, gallery, notes
        bicubic = method.weights.preprocess.interpolation == "bicubic"
        self.views = Views(train, method.weights.config, settings, bicubic)
        self.fingerprint = train.fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        self.loop = Loop(method, self.views, settings, folder, devices)

    def begin(self) -> None:
        """Write down what is run, and say what a person should know."""
        if not self.devices.main:
            return
        loop, settings = self.loop, self.settings
        (self.folder / "recipe.toml").write_text(settings.to_toml(), "utf-8")
        facts = {
            "data": str(self.source),
            "fingerprint": self.fingerprint,
            "samples": len(self.train),
            "classes": self.train.classes,
            "steps": loop.stream.total,
            "peak_lr": settings.peak_lr,
            "precision": self.devices.precision,
            "processes": self.devices.world,
            "device": str(self.devices.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        write_json(self.folder / "run.json", facts)
        trained = sum(parameter.numel() for _, parameter in loop.trained())
        loop.report.say(
            f"{len(self.train)} samples, {loop.stream.total} steps of {settings.batch_size}, "
            f"{trained / 1e6:.2f} M trained parameters, peak learning rate {settings.peak_lr:.3g}, "
            f"{self.devices.precision} on {self.devices.world} x {self.devices.device}"
        )
        for note in self.notes:
            loop.report.say(note)
        _name_first(loop, self.train.problems, "left out of the data")

    def publish(self) -> Path:
        """The result as a hierax folder, with the parent's licence."""
        state = self.devices.state(self.method.module)
        target = self.folder / "model"
        if self.devices.main:
            weights = derived(self.method.weights, self.settings, _described(self.source))
            weights = dataclasses.replace(weights, tensors={flat_name(name): t for name, t in state.items()})
            publish(lambda to: write_weights(weights, to, to="hierax"), target)
        self.devices.wait()
        return target

    def finish(self, model: Path, result: Accuracy | None, seconds: float) -> RunSummary:
        """Summary, pictures and last words."""
        loop = self.loop
        losses = loop.report.losses
        finite = [loss for loss in losses if math.isfinite(loss)]
        recent = finite[-max(1, len(finite) // 10) :]
        found = self.devices.gather(loop.failures)
        unreadable = {name: reason for failures in found for name, reason in failures.items()}
        unreadable |= dict(result.unreadable) if result else {}
        summary = RunSummary(
            out=self.folder,
            model=model,
            steps=loop.stream.total,
            epochs=loop.stream.epochs(loop.stream.total),
            samples=len(self.train),
            classes=list(self.train.classes),
            loss=sum(recent) / len(recent) if recent else float("nan"),
            losses=list(losses),
            metrics=result.to_dict() if result else {},
            unreadable=unreadable,
            skipped_steps=loop.skipped,
            resumed_from=loop.resumed_from,
            seconds=round(seconds, 2),
        )
        if self.devices.main:
            left_out = self.gallery.left_out(len(self.train.classes)) if result is not None else []
            for note in left_out:
                loop.report.say(note)
            notes = {"problems": self._problems(), "notes": [*self.notes, *left_out]}
            write_json(self.folder / "summary.json", {**summary.to_dict(), **notes})
            self.gallery.losses(losses, self.method.baseline)
            if result is not None:
                self.gallery.answers(result, self.train.classes)
                loop.report.say(f"validation {result}")
            _name_first(loop, list(unreadable.items()), "could not be read")
            loop.report.say(f"model in {model}")
        return summary

    def _problems(self) -> list[list[str]]:
        base = getattr(self.train, "base", self.train)
        return [[name, reason] for name, reason in base.problems]


def _described(source: Any) -> str:
    """The data's name as the model's card gives it: never a path of this machine."""
    return Path(str(source)).name if isinstance(source, (str, Path)) else "own images"


def _name_first(loop: Loop, problems: Iterable[tuple[str, str]], what: str) -> None:
    problems = list(problems)
    if not problems:
        return
    loop.report.say(f"{len(problems)} {what}; all are in summary.json. The first:")
    for name, reason in problems[:5]:
        loop.report.say(f"  {name}: {reason}")


def read_summary(out: str | Path) -> dict[str, Any]:
    """The summary that a finished run left."""
    return json.loads((Path(out) / "summary.json").read_text("utf-8"))
