"""A row for each network and baseline: its features of the same labelled images, and what is measured of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from .. import console
from ..data.datasets.seen import seen_in
from ..data.datasets.some import sizes_of
from ..data.framing import remark
from ..errors import InputError, brief
from ..predictor import Predictor
from ..registry import predictor_of
from ..schema import positive
from .accuracy import run_of
from .features import Described, Describer, described, histograms, network, untrained
from .result import FeatureScores
from .sides import Sides, open_sides

Baselines: TypeAlias = Literal["none", "histograms", "all"]
Measure: TypeAlias = Callable[[Describer, Described, "Described | None"], dict[str, Any]]


@dataclass
class Rows:
    """What the evaluations of frozen features share; `hierax.evaluate.knn` says what each argument is.

    Attributes:
        sides: The samples.

    Raises:
        InputError: As `open_sides`, or an impossible option.
    """

    data: Any
    models: Any
    features: str
    split: InitVar[str]
    baselines: Baselines
    batch_size: int
    cache: bool
    progress: bool
    _: KW_ONLY
    gallery: InitVar[bool] = False
    sides: Sides = field(init=False)

    def __post_init__(self, split: str, gallery: bool) -> None:
        if self.baselines not in ("none", "histograms", "all"):
            raise InputError(f"baselines are 'none', 'histograms' or 'all'; got {brief(self.baselines)}.")
        positive(batch_size=self.batch_size)
        self.sides = open_sides(self.data, split, gallery=gallery)

    def scores(self, task: str, settings: dict[str, Any], measure: Measure) -> FeatureScores:
        """Measure every network and baseline.

        Raises:
            InputError: Too few images could be read.
        """
        sides = self.sides
        scores = FeatureScores(task, self._about(), settings, total=len(sides))
        unreadable = dict(sides.problems)
        options: dict[str, Any] = {"keep": self.cache, "batch_size": self.batch_size, "progress": self.progress}
        for number, describer in enumerate(self._describers()):
            train = described(describer, sides.train, **options)
            test = None if sides.test is None else described(describer, sides.test, **options)
            failed = dict(train.unreadable if test is None else [*train.unreadable, *test.unreadable])
            unreadable |= failed
            if len(np.unique(train.labels)) < 2 or (test is not None and not len(test.labels)):
                reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:3])
                raise InputError(
                    f"Features need images of two classes that can be read; of {len(sides)}, {len(failed)} have none "
                    f"by {describer.name!r}. {reasons}"
                )
            if number == 0:
                _tell_copies(train, test)
            row = {"model": describer.name, "features": describer.features, "dimensions": train.vectors.shape[1]}
            found = measure(describer, train, test)
            scores.results.append({**row, **found, "unreadable": len(failed), "provenance": describer.about})
        scores.unreadable = list(unreadable.items())
        return scores

    def _about(self) -> dict[str, Any]:
        """What is judged."""
        train, judged = self.sides.train, self.sides.test or self.sides.train
        counts = np.unique(judged.labels, return_counts=True)[1]
        return {
            "name": str(self.data) if isinstance(self.data, (str, Path)) else type(self.data).__name__,
            "splits": list(self.sides.names),
            "images": len(train),
            "judged": len(judged),
            "classes": len(np.union1d(train.labels, judged.labels)),
            "largest_class": float(counts.max() / len(judged)),
            "fingerprints": [side.fingerprint() for side in (train, self.sides.test) if side is not None],
        }

    def _describers(self) -> Iterator[Describer]:
        """Networks, one at a time, and baselines."""
        of_images = False
        for unique, predictor in predictors(self.models):
            of_images |= not predictor.encoder.config.is_video
            self._warn(unique, predictor)
            yield network(predictor, self.features, unique)
            if self.baselines == "all":
                yield network(untrained(predictor), self.features, f"{unique}, random weights")
        if self.baselines != "none" and of_images:
            yield histograms()

    def _warn(self, name: str, predictor: Predictor) -> None:
        """Say it where a network learned the classes of these very images, or is shown little of them."""
        cropped = predictor.preprocess.resize == "shortest"
        if far := remark(sizes_of(self.sides.train), predictor.encoder.config, cropped=cropped):
            console.say(f"{name!r}: {far}")
        run = run_of(predictor)
        if run.get("classes") and seen_in(self.sides.test or self.sides.train, run):
            console.say(
                f"{name!r} was trained on images that are judged here, with their classes: it tells them apart better "
                "than it would new ones."
            )


def _tell_copies(train: Described, test: Described | None) -> None:
    """Say how many images are judged by copies of themselves."""
    counts = Counter(train.digests)
    judged, more = (train, 1) if test is None else (test, 0)
    copies = sum(counts[digest] > more for digest in judged.digests)
    if copies:
        console.say(
            f"{copies} of {len(judged.digests)} images that are judged are byte for byte among those that they are "
            "judged by: new images would do worse. Remove the copies (`hierax duplicates` finds them)."
        )


def predictors(models: Any) -> Iterator[tuple[str, Predictor]]:
    """Each of the models with a name of its own, loaded when it is its turn.

    Raises:
        InputError: None.
    """
    names: set[str] = set()
    for name, predictor in named(models):
        unique = next(text for text in _numbered(name) if text not in names)
        names.add(unique)
        yield unique, predictor
    if not names:
        raise InputError("Name at least one model to evaluate.")


def _numbered(name: str) -> Iterator[str]:
    return itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))


def named(models: Any) -> Iterator[tuple[str, Predictor]]:
    """Each of the models with a name, loaded when it is its turn.

    Raises:
        InputError: Neither sources nor Predictors.
        HieraxError: As `load`.
    """
    if models is None or isinstance(models, (str, Path, Predictor)):
        models = [models]
    if not isinstance(models, Iterable):
        raise InputError(f"Models are sources, Predictors, or several of these; got {type(models).__name__}.")
    for model in models.items() if isinstance(models, Mapping) else models:
        named, source = model if isinstance(model, tuple) and len(model) == 2 else ("", model)
        predictor = predictor_of(source)
        told = str(source) if isinstance(source, (str, Path)) else predictor.card.name
        yield str(named or told), predictor
