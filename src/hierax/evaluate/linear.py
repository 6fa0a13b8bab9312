"""The linear probe: logistic regression on frozen features, by scikit-learn (extra "eval").

Features are standardised and the strength of the regularisation is chosen by the training samples alone; what is fitted
in the end is scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from .. import console
from ..dense.linear import need_scikit_learn

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C: the inverse of the penalty
UNCHOSEN = 1.0  # where no class has a sample to choose it by
_FOLDS, _ONE_FOLD_FROM = 5, 2000  # from as many samples on one fifth decides: five would take minutes
_STEPS = 2000
_ONE_THREAD_TO = 4_000_000  # numbers: of fewer, threads wait for each other longer than they compute


@dataclass(frozen=True)
class Probe:
    """One fit.

    Attributes:
        seed: Of the split, and of the folds that chose C.
        strength: C.
        answers: Class of each judged sample.
        truth: The right one.
        trained: How many samples it was fitted to.
        converged: Whether the solver came to its end.
    """

    seed: int
    strength: float
    answers: Int[ndarray, " m"]
    truth: Int[ndarray, " m"]
    trained: int
    converged: bool

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.answers == self.truth).mean())


def probes(
    rows: Float[ndarray, "n c"],
    labels: Int[ndarray, " n"],
    test: tuple[Float[ndarray, "m c"], Int[ndarray, " m"]] | None = None,
    *,
    seeds: int = 5,
    share: float = 0.2,
    progress: bool = False,
) -> list[Probe]:
    """One fit a seed.

    Args:
        rows: Features.
        labels: Their classes.
        test: What is judged; without it, a share of each class, another for each seed.
        seeds: How many: 0, 1, ...
        share: Of each class that is judged; at least one sample of a class that has two.
        progress: A progress bar.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    need_scikit_learn()

    @functools.lru_cache(maxsize=len(STRENGTHS))
    def whole(strength: float) -> tuple[Any, bool]:  # of a given split, the same for all seeds that chose it
        return _fitted(rows, labels, strength)

    def one(seed: int) -> Probe:
        if test is not None:
            strength = chosen_strength(rows, labels, seed)
            model, converged = whole(strength)
            return Probe(seed, strength, model.predict(test[0]), test[1], len(rows), converged)
        judged = held_apart(labels, share, seed)
        known, classes = rows[~judged], labels[~judged]
        strength = chosen_strength(known, classes, seed)
        model, converged = _fitted(known, classes, strength)
        return Probe(seed, strength, model.predict(rows[judged]), labels[judged], len(known), converged)

    from threadpoolctl import threadpool_limits

    found = []
    with (
        threadpool_limits(1 if rows.size < _ONE_THREAD_TO else None),
        console.bar("linear probes", total=seeds, unit="fit", wanted=progress) as bar,
    ):
        for seed in range(seeds):
            found.append(one(seed))
            bar.update()
    return found


def held_apart(labels: Int[ndarray, " n"], share: float, seed: int) -> Bool[ndarray, " n"]:
    """Which samples are judged: a share of each class, of two or more at least one and never all."""
    rng, judged = np.random.default_rng([seed, 0]), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, int(len(members) * share + 0.5)), len(members) - 1)
        judged[members[:count]] = True
    return judged


def chosen_strength(rows: Float[ndarray, "n c"], labels: Int[ndarray, " n"], seed: int) -> float:
    """The C with most right answers in cross-validation within these samples; of equal ones the strongest penalty."""
    right = np.zeros(len(STRENGTHS))
    for known, judged in _folds(labels, seed):
        right += list(_right(rows[known], labels[known], rows[judged], labels[judged]))
    return STRENGTHS[int(right.argmax())] if right.any() else UNCHOSEN


def _folds(labels: Int[ndarray, " n"], seed: int) -> Iterator[tuple[Bool[ndarray, " n"], Bool[ndarray, " n"]]]:
    """Which samples are learned from and which are judged; a class of one sample is never judged."""
    rng, fold = np.random.default_rng([seed, 1]), np.full(len(labels), -1)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            fold[members] = (np.arange(len(members)) + rng.integers(_FOLDS)) % _FOLDS
    for number in range(_FOLDS if len(labels) < _ONE_FOLD_FROM else 1):
        if (fold == number).any():
            yield fold != number, fold == number


def _right(
    rows: Float[ndarray, "n c"], labels: Int[ndarray, " n"], test: Float[ndarray, "m c"], truth: Int[ndarray, " m"]
) -> Iterator[int]:
    """Right answers for each strength, in order; each fit starts from the one before, in float32."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(rows.astype(np.float64))
    rows, test = (np.asarray(scale.transform(found), np.float32) for found in (rows, test))
    model = LogisticRegression(max_iter=_STEPS, warm_start=True)
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that does not converge is compared all the same
            model.set_params(C=strength).fit(rows, labels)
        yield int(np.sum(model.predict(test) == truth))


def _fitted(rows: Float[ndarray, "n c"], labels: Int[ndarray, " n"], strength: float) -> tuple[Any, bool]:
    """scikit-learn's pipeline, and whether its solver converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_STEPS))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(rows.astype(np.float64), labels)
    return model, not any(issubclass(each.category, ConvergenceWarning) for each in said)
