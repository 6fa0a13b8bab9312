"""How well frozen features tell classes apart: nearest neighbours, a linear probe, retrieval.

Nothing is trained but the probe. Histograms of colours and edges stand beside each network: features that do not beat
them have learned nothing that matters for these classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from .. import console
from ..dense.linear import need_scikit_learn
from ..errors import InputError
from ..model.neighbours import knn as neighbour_votes
from ..model.ranking import KS, rank
from ..schema import positive
from .features import EMBEDDING, Described, Describer, balanced
from .linear import STRENGTHS, probes
from .result import FeatureScores
from .rows import Baselines, Rows
from .sides import AUTO, Sides


def knn(  # noqa: PLR0913 - a signature is a command's options
    data: Any,
    models: Any = None,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
    features: str = EMBEDDING,
    split: str = AUTO,
    baselines: Baselines = "histograms",
    batch_size: int = 32,
    cache: bool = True,
    progress: bool = False,
) -> FeatureScores:
    """Name the class of each image by its nearest neighbours among the others, by cosine; exact.

    Args:
        data: Labelled images, as for `finetune`. With training and validation splits each validation image is judged
            by the training images, else each image by all others.
        models: A source as for `hierax.load`, a Predictor, several of these, or a dict of them by name; None is the
            embedded model.
        k: Neighbours that vote.
        temperature: A vote weighs exp(cosine / temperature); None gives each neighbour one vote.
        features: "embedding", "stages" (the average of each stage's map, each of length 1), or stages by name.
        split: "auto" as above; another split is taken alone.
        baselines: "histograms" of colours and edges; "all": each network with random weights too; "none".
        batch_size: Images at a time.
        cache: Use and keep features on disk, by the images' bytes and the network.
        progress: Progress bars.

    Returns:
        For each row the share of right first classes (`top1`), and of right ones among the first five (`top5`).

    Raises:
        InputError: Data without two classes, or without an image that can be read; k or temperature is impossible.
    """
    positive(k=k)
    if temperature is not None and not temperature > 0:
        raise InputError(f"A temperature is above 0, or None for votes that all weigh 1; got {temperature}.")

    def measure(describer: Describer, train: Described, test: Described | None) -> dict[str, Any]:
        searched, queries, truth = _asked(describer, train, test)
        options: dict[str, Any] = {"k": k, "temperature": temperature, "top": 5, "progress": progress}
        answers = neighbour_votes(searched, train.labels, queries, **options)
        right = answers[:, 0] == truth
        found: dict[str, Any] = {"top1": float(right.mean()), "correct": int(right.sum())}
        if len(sides.classes) > 5:
            found["top5"] = float((answers == truth[:, None]).any(1).mean())
        return {**found, **_by_class(right, truth, sides)}

    rows = Rows(data, models, features, split, baselines, batch_size, cache, progress)
    sides = rows.sides
    least = int(np.unique(sides.train.labels, return_counts=True)[1].min()) - (sides.test is None)
    if least < k:
        console.say(f"the smallest class has {least} images to find, fewer than k={k}: a smaller k may judge better")
    settings = {"k": k, "temperature": temperature, "metric": "cosine", "features": features}
    return rows.scores("knn", settings, measure)


def linear(  # noqa: PLR0913
    data: Any,
    models: Any = None,
    *,
    seeds: int = 5,
    features: str = EMBEDDING,
    split: str = AUTO,
    baselines: Baselines = "histograms",
    batch_size: int = 32,
    cache: bool = True,
    progress: bool = False,
) -> FeatureScores:
    """Name the class of each image by logistic regression on standardised features (scikit-learn, extra "eval").

    The regularisation is chosen by cross-validation within the training images: 5 folds, of 2000 images on the first
    alone.

    Args:
        data: As for `knn`; without a validation split a fifth of each class is judged, another for each seed.
        models: As for `knn`.
        seeds: How many fits, with seeds 0, 1, ...: they decide folds, and without a validation split which are judged.
        features: As for `knn`.
        split: As for `knn`.
        baselines: As for `knn`.
        batch_size: Images at a time.
        cache: As for `knn`.
        progress: Progress bars.

    Returns:
        For each row the mean share of right answers (`accuracy`), its standard deviation over seeds (`spread`, with
        n - 1), and `seeds`, each with its accuracy and C.

    Raises:
        InputError: As for `knn`.
        MissingExtraError: scikit-learn is not installed.
    """
    need_scikit_learn()
    positive(seeds=seeds)

    def measure(describer: Describer, train: Described, test: Described | None) -> dict[str, Any]:
        judged = None if test is None else (test.vectors, test.labels)
        fits = probes(train.vectors, train.labels, judged, seeds=seeds, progress=progress)
        if not all(fit.converged for fit in fits):
            console.say(f"{describer.name}: the probe's solver stopped before it converged; take its numbers with care")
        right = np.concatenate([fit.answers == fit.truth for fit in fits])
        shares = [fit.accuracy for fit in fits]
        single = [
            {"seed": f.seed, "accuracy": f.accuracy, "C": f.strength, "trained": f.trained, "images": len(f.truth),
             "converged": f.converged}
            for f in fits
        ]  # fmt: skip
        found = {"accuracy": float(np.mean(shares)), "spread": float(np.std(shares, ddof=1)) if seeds > 1 else 0.0}
        by_class = _by_class(right, np.concatenate([fit.truth for fit in fits]), sides)
        return {**found, "seeds": single, **by_class, "images": len(fits[0].truth)}

    rows = Rows(data, models, features, split, baselines, batch_size, cache, progress)
    sides = rows.sides
    settings = {"seeds": seeds, "C": list(STRENGTHS), "features": features}
    settings["judged"] = (
        "validation split" if sides.test is not None else "a fifth of each class, another for each seed"
    )
    return rows.scores("linear", settings, measure)


def retrieval(
    data: Any,
    models: Any = None,
    *,
    features: str = EMBEDDING,
    split: str = AUTO,
    baselines: Baselines = "histograms",
    batch_size: int = 32,
    cache: bool = True,
    progress: bool = False,
) -> FeatureScores:
    """Find the other images of each image's class, by cosine.

    A query of whose class there is nothing to find is left out and counted; it is found by others all the same.

    Args:
        data: As for `knn`; also folders or split names `gallery` and `query`. Without splits each image is a query
            and all others are searched.
        models: As for `knn`.
        features: As for `knn`.
        split: As for `knn`.
        baselines: As for `knn`.
        batch_size: Images at a time.
        cache: As for `knn`.
        progress: Progress bars.

    Returns:
        For each row the means over queries of average precision over all that is searched (`map`), average precision
        over the first R, where R are to be found (`map_at_r`), and whether one of the first k is of the class
        (`recall@1`, ...); each is the mean over all orders of images that tie. `map_thresholds` takes tied images
        together, as scikit-learn does.

    Raises:
        InputError: As for `knn`, or every query is left out.
    """

    def measure(describer: Describer, train: Described, test: Described | None) -> dict[str, Any]:
        searched, queries, truth = _asked(describer, train, test)
        ranking = rank(searched, train.labels, queries, None if test is None else truth, progress=progress)
        good = ranking.counted
        if not good.any():
            raise InputError(
                f"Retrieval needs classes of two images or more that can be read; {describer.name!r} has nothing to "
                f"find for any of {len(good)} queries."
            )
        found: dict[str, Any] = {
            "map": float(ranking.average_precision[good].mean()),
            "map_at_r": float(ranking.precision_at_r[good].mean()),
            "map_thresholds": float(ranking.thresholded[good].mean()),
            **{f"recall@{k}": float(values[good].mean()) for k, values in ranking.recall.items()},
        }
        by_class = _by_class(ranking.average_precision[good], truth[good], sides)
        return {
            **found,
            "queries": int(good.sum()),
            "left_out": int((~good).sum()),
            **by_class,
            "images": int(good.sum()),
        }

    rows = Rows(data, models, features, split, baselines, batch_size, cache, progress, gallery=True)
    sides = rows.sides
    settings = {"metric": "cosine", "recall": list(KS), "features": features}
    return rows.scores("retrieval", settings, measure)


def _asked(describer: Describer, train: Described, test: Described | None) -> tuple[ndarray, ndarray | None, ndarray]:
    """The vectors that are searched, the queries if they are others, and the classes of the queries."""
    searched = balanced(train.vectors, describer.widths)
    if test is None:
        return searched, None, train.labels
    return searched, balanced(test.vectors, describer.widths), test.labels


def _by_class(values: ndarray, truth: Int[ndarray, " m"], sides: Sides) -> dict[str, Any]:
    """How many were judged, and the mean of each class that has values, by name."""
    means = {sides.classes[label]: float(values[truth == label].mean()) for label in np.unique(truth)}
    return {"images": len(truth), "per_class": means}
