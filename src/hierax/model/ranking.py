"""Measures of a ranking by cosine: what retrieval and metric learning report, exact where similarities tie.

A measure of tied rows is its mean over all orders of these; no order of files can change it. Similarities tie as in
`hierax.model.neighbours`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from .. import console
from ..errors import InputError
from ..schema import positive
from .neighbours import checked, steps, unit

_PAIRS = 1 << 23  # of a block: 64 MiB of similarities
KS = (1, 5, 10)


@dataclass(frozen=True)
class Ranking:
    """How well each query finds the rows of its class; NaN throughout for a query that has none to find.

    Attributes:
        recall: For each k, the probability that one of the k first rows is of the query's class (R@k of metric
            learning: 1 or 0 where nothing ties).
        average_precision: The mean, over all rows of the class, of the share of the class among the rows up to it.
        thresholded: The same with all tied rows counted up to the last of them, as scikit-learn's
            `average_precision_score` does.
        precision_at_r: As `average_precision` over the first r rows alone, where r is how many the class has (its
            mean is mAP@R).
    """

    recall: dict[int, Float[ndarray, " m"]]
    average_precision: Float[ndarray, " m"]
    thresholded: Float[ndarray, " m"]
    precision_at_r: Float[ndarray, " m"]

    @property
    def counted(self) -> ndarray:
        """Which queries have something to find."""
        return ~np.isnan(self.average_precision)


def rank(
    rows: Float[ndarray, "n c"],
    labels: Int[ndarray, " n"],
    queries: Float[ndarray, "m c"] | None = None,
    truth: Int[ndarray, " m"] | None = None,
    *,
    ks: Sequence[int] = KS,
    progress: bool = False,
) -> Ranking:
    """Rank all rows by cosine for each query.

    Memory: the vectors in float64, and 64 MiB.

    Args:
        rows: What is searched.
        labels: Class of each.
        queries: Vectors; None is every row, which then does not find itself.
        truth: Their classes; None where queries is.
        ks: Which R@k.
        progress: A progress bar.

    Raises:
        InputError: Vectors that are not finite or not of one width, labels that do not fit, or nothing to search.

    Source: expectation over tied orders as McSherry and Najork, "Computing information retrieval performance measures
    efficiently in the presence of tied scores" (2008); mAP@R as Musgrave et al., "A metric learning reality check".
    """
    for k in ks:
        positive(k=k)
    if (queries is None) != (truth is None):
        raise InputError("Queries have a class each; pass queries and truth, or neither.")
    alone = queries is None
    rows, queries = (checked(found) for found in (rows, rows if queries is None else queries))
    labels, truth = (np.asarray(found) for found in (labels, labels if truth is None else truth))
    if labels.shape != (len(rows),) or truth.shape != (len(queries),) or rows.shape[1] != queries.shape[1]:
        raise InputError(
            f"A ranking takes a label for each vector, and vectors of one width; got {labels.shape} and {truth.shape} "
            f"for {rows.shape} and {queries.shape}."
        )
    if len(rows) <= alone:
        raise InputError(f"A ranking needs something to search; got {len(rows)} vectors.")
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, len(rows) + 1))])
    found = np.full((len(queries), 3 + len(ks)), np.nan)
    wide, count = unit(rows), max(1, _PAIRS // len(rows))
    with console.bar("ranking", total=len(queries), unit="img", wanted=progress) as bar:
        for start in range(0, len(queries), count):
            block = unit(queries[start : start + count])
            similar = steps(block, wide)
            if alone:
                similar.diagonal(start).fill_(torch.iinfo(torch.int64).min)  # behind everything
            ordered = similar.sort(dim=1).values.numpy()[:, int(alone) :]
            for query, found_row in enumerate(found[start : start + len(block)], start):
                own = members.get(truth[query], np.empty(0, np.int64))
                own = own[own != query] if alone else own
                if len(own):
                    relevant = similar.numpy()[query - start, own]
                    found_row[:] = _measures(ordered[query - start], relevant, ks, harmonic)
            bar.update(len(block))
    columns = dict(zip(ks, found.T[3:], strict=True))
    return Ranking(columns, found[:, 0], found[:, 1], found[:, 2])


def _measures(
    ordered: Int[ndarray, " n"], relevant: Int[ndarray, " r"], ks: Sequence[int], harmonic: Float[ndarray, " n1"]
) -> list[float]:
    """The measures of one query, from rising similarities of all rows and those of its class.

    Of a group of g tied rows, r of them relevant, behind n0 rows with r0 relevant, the row at place j is relevant with
    probability r/g, and then r0 + 1 + (j - 1)(r - 1)/(g - 1) of the first n0 + j are.
    """
    values, r = np.unique(relevant, return_counts=True)
    values, r = values[::-1], r[::-1]
    total = len(relevant)
    r0 = np.cumsum(r) - r
    above = np.searchsorted(ordered, values, "right")
    n0 = len(ordered) - above
    g = above - np.searchsorted(ordered, values, "left")

    def precisions(upto: Int[ndarray, " groups"]) -> float:
        """The sum of the expected precisions at the relevant rows among the first `upto` of each group."""
        slope = (r - 1) / np.maximum(g - 1, 1)
        rest = r0 + 1 - slope * (n0 + 1)
        return float((r / g * (slope * upto + rest * (harmonic[n0 + upto] - harmonic[n0]))).sum())

    first = [_chance_of_one(int(n0[0]), int(g[0]), int(r[0]), k) for k in ks]
    return [
        precisions(g) / total,
        float((r * (r0 + r) / (n0 + g)).sum()) / total,
        precisions(np.clip(total - n0, 0, g)) / total,
        *first,
    ]


def _chance_of_one(n0: int, g: int, r: int, k: int) -> float:
    """The probability that the first k rows hold one of r relevant ones of g that tie behind n0 others."""
    none = 1.0
    for place in range(max(0, min(k - n0, g))):
        none *= max(g - r - place, 0) / (g - place)
    return 1 - none
