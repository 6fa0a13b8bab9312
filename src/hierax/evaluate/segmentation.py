"""How well frozen maps tell the classes of pixels apart: a linear probe, judged by intersection over union.

Nothing is trained but a logistic regression on standardised, joined stage maps. Colours of cells stand beside each
network: maps that do not beat them have learned nothing that matters for these classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from .. import console
from ..data.ade20k import ade20k_classes
from ..data.labelled import mask_meaning, read_pair
from ..data.mask_classes import Classes, with_unlabelled
from ..data.pairs import find_pairs, split_pairs
from ..dense.colours import NAME, Colours
from ..dense.labels import cell_labels
from ..dense.linear import Linear, fit, need_scikit_learn
from ..dense.maps import FULL, CellMaps, Dense, default_view
from ..errors import InputError
from ..model.regions import Overlap, confusion
from ..provenance import provenance
from ..schema import positive
from .features import untrained
from .result import FeatureScores
from .rows import predictors

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C: the inverse of the penalty
_SMALL = 0.5  # of an image's shorter side, below which small things are lost
_CHOOSING = 10_000  # cells by which C is chosen


def segmentation(  # noqa: PLR0913 - a signature is a command's options
    data: str | Path,
    models: Any = None,
    *,
    classes: str | Path | None = None,
    unlabelled: str | int | None = None,
    reduce_zero_label: bool | None = None,
    stages: Sequence[str] | None = None,
    size: int | str | None = None,
    tile: int | None = None,
    cells: int = 50_000,
    seed: int = 0,
    baselines: Literal["none", "colours", "all"] = "colours",
    progress: bool = False,
) -> FeatureScores:
    """Name the class of each pixel by logistic regression on frozen maps (scikit-learn, extra "eval").

    Args:
        data: A folder of images and masks as for `segment train`, with folders training and validation in both or
            without: then a fifth of the images is judged. ADE20k's layout is one of these.
        models: A source as for `hierax.load`, a Predictor, several of these, or a dict of them by name; None is the
            embedded model.
        classes: As for `segment train`.
        unlabelled: As for `segment train`.
        reduce_zero_label: Whether the number 0 means no class, as in ADE20k; None is yes in its layout alone.
        stages: Which maps; None is all.
        size: Pixels of the shorter side at which images are looked at, or "full"; None is each network's own.
        tile: As for `segment train`.
        cells: That are learned from, drawn at random and alike from all training images.
        seed: Of that, and of which images are judged where there are no splits.
        baselines: "colours" of cells; "all": each network with random weights too; "none".
        progress: Progress bars.

    Returns:
        For each row the mean intersection over union (`miou`) over classes that are in the judged masks or in the
        answers, the share of right pixels (`accuracy`), its mean over classes (`mean_accuracy`), and `per_class`.

    Raises:
        InputError: No masks, one class, or nothing to judge.
        MissingExtraError: scikit-learn is not installed.
    """
    need_scikit_learn()
    positive(cells=cells)
    sides = Sides(data, classes, unlabelled, reduce_zero_label, seed)
    problems = dict(sides.problems)
    settings = {"cells": cells, "seed": seed, "C": list(STRENGTHS), "size": size, "tile": tile, "stages": stages}
    results = []
    for name, predictor in predictors(models):
        dense = Dense(predictor, stages or None, default_view(predictor, size, tile))
        rows: list[tuple[str, str, CellMaps]] = [(name, ",".join(dense.stages), dense)]
        if baselines == "all":
            rows.append((f"{name}, random weights", rows[0][1], Dense(untrained(predictor), dense.stages, dense.view)))
        if baselines != "none":
            rows.append((f"{NAME} at the size of {name}", NAME, Colours(dense.view)))
        for title, features, maps in rows:
            found, bad = sides.judged(maps, cells, seed, f"{title}: ", progress)
            problems |= bad
            about = provenance(predictor) if maps is dense else {}
            results.append({"model": title, "features": features, "dimensions": sum(maps.channels.values()), **found,
                            "about": about})  # fmt: skip
    total = len(sides.train) + len(sides.test)
    return FeatureScores("segmentation", sides.about, settings, results, sorted(problems.items()), total)


class Sides:
    """Labelled images to learn from, and others to judge."""

    def __init__(self, data: Any, classes: Any, unlabelled: Any, reduce_zero_label: bool | None, seed: int) -> None:
        pairs = find_pairs(data)
        ade = ade20k_classes(pairs.folder) if classes is None else None
        self.classes: Classes = ade or mask_meaning(pairs, classes, unlabelled)
        if reduce_zero_label or (reduce_zero_label is None and ade is not None):
            self.classes = with_unlabelled(self.classes, 0)
        if len(self.classes) < 2:
            raise InputError(f"A probe tells classes apart; the masks in {str(data)!r} have {len(self.classes)}.")
        splits = split_pairs(pairs)
        self.train, self.test = splits.get("training", []), splits.get("validation") or splits.get("test") or []
        if not (self.train and self.test):
            if len(pairs.pairs) < 2:
                raise InputError(f"Judging needs two labelled images at least; {str(data)!r} has {len(pairs.pairs)}.")
            order = np.random.default_rng([seed, 0]).permutation(len(pairs.pairs))
            apart = max(1, round(len(order) / 5))
            self.test = [pairs.pairs[place] for place in sorted(order[:apart])]
            self.train = [pairs.pairs[place] for place in sorted(order[apart:])]
        self.problems = pairs.problems()
        self.about = {
            "name": str(data), "classes": len(self.classes), "names": self.classes.names, "layout": "ADE20k" if ade else
            "folders", "train": len(self.train), "test": len(self.test),
        }  # fmt: skip

    def judged(
        self, maps: CellMaps, cells: int, seed: int, what: str, progress: bool
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Learn from one side and judge the other; measures, and images that could not be used."""
        rows, labels, images, bad = self._learned(maps, cells, seed, what, progress)
        strength = _chosen(rows, labels, images, len(self.classes), maps.channels)
        probe = fit(rows, labels, len(self.classes), maps.channels, strength=strength, balance=False)
        counts, judged = self._counts(probe, maps, bad, what, progress)
        found = Overlap(counts)
        absent = [name for name, own in zip(self.classes.names, counts.sum(1).tolist(), strict=True) if not own]
        if absent:
            console.say(f"{what}{', '.join(absent)}: in none of the judged masks; a class that is not answered either "
                        "does not count")  # fmt: skip
        shares = zip(self.classes.names, found.iou.tolist(), strict=True)
        measures = {"miou": found.mean_iou, "accuracy": found.accuracy, "mean_accuracy": found.mean_accuracy}
        per_class = {name: None if math.isnan(share) else share for name, share in shares}
        return {**measures, "images": judged, "cells": len(rows), "C": strength, "per_class": per_class}, bad

    def _learned(
        self, maps: CellMaps, cells: int, seed: int, what: str, progress: bool
    ) -> tuple[ndarray, Int[ndarray, " n"], Int[ndarray, " n"], dict[str, str]]:
        """Features, classes and images of cells drawn at random."""
        rng, each = np.random.default_rng([seed, 1]), max(1, cells // len(self.train))
        rows, labels, images, shorter, bad = [], [], [], [], {}
        with console.bar(f"{what}learning", total=len(self.train), unit="img", wanted=progress) as bar:
            for place, pair in enumerate(self.train):
                bar.update()
                try:
                    pixels, truth = read_pair(pair, self.classes)
                    size = (pixels.shape[0], pixels.shape[1])
                    found = cell_labels(truth, maps.grid(size), len(self.classes))
                    kept = found.take(np.sort(rng.permutation(len(found.cells))[:each]))
                    own = maps.cells(pixels, kept.cells)
                except InputError as error:
                    bad[str(pair.image)] = str(error)
                    continue
                if not len(kept.cells):
                    bad[str(pair.mask)] = "a mask without a label: all of its pixels are unlabelled"
                rows.append(own)
                shorter.append(min(size))
                labels.append(kept.labels)
                images.append(np.full(len(own), place))
        if not rows or len(np.unique(np.concatenate(labels))) < 2:
            raise InputError(
                f"A probe needs cells of two classes; {len(rows)} of {len(self.train)} training images could be used. "
                f"{next(iter(bad.values()), '')}".rstrip()
            )
        seen, there = maps.view.size, float(np.median(shorter))
        if seen != FULL and _SMALL * there > int(seen):
            console.say(f"{what}images of {there:.0f} pixels are looked at with {seen}, their shorter sides: a larger "
                        "--size may tell more apart")  # fmt: skip
        return np.concatenate(rows), np.concatenate(labels), np.concatenate(images), bad

    def _counts(
        self, probe: Linear, maps: CellMaps, bad: dict[str, str], what: str, progress: bool
    ) -> tuple[Int[ndarray, "k k"], int]:
        """Pixels by true and answered class, and how many images had some."""
        counts, judged = np.zeros((len(self.classes), len(self.classes)), np.int64), 0
        with console.bar(f"{what}judging", total=len(self.test), unit="img", wanted=progress) as bar:
            for pair in self.test:
                bar.update()
                try:
                    pixels, truth = read_pair(pair, self.classes)
                    own = confusion(truth, probe.classes(maps, pixels), len(self.classes))
                except InputError as error:
                    bad[str(pair.image)] = str(error)
                    continue
                if not own.any():
                    bad[str(pair.mask)] = "a mask without a label: all of its pixels are unlabelled"
                counts, judged = counts + own, judged + bool(own.any())
        if not judged:
            raise InputError(f"None of {len(self.test)} images could be judged. {next(iter(bad.values()))}")
        return counts, judged


def _chosen(
    rows: ndarray, labels: Int[ndarray, " n"], images: Int[ndarray, " n"], count: int, channels: Mapping[str, int]
) -> float:
    """The C that is right most often on a fifth of the training images, the others learned from; else 0.01."""
    names = np.unique(images)
    if len(names) < 2:
        return 1e-2
    rng = np.random.default_rng(0)
    apart = np.isin(images, rng.permutation(names)[: max(1, len(names) // 5)])
    known, asked = (rng.permutation(np.flatnonzero(side))[:_CHOOSING] for side in (~apart, apart))
    right = [
        int((fit(rows[known], labels[known], count, channels, strength=strength, balance=False)
             .of_rows(rows[asked]).argmax(1) == labels[asked]).sum())
        for strength in STRENGTHS
    ]  # fmt: skip
    return STRENGTHS[int(np.argmax(right))]
