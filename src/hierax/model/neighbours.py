"""Exact nearest neighbours by cosine, in bounded memory, and the classes that they vote for.

Similarities are computed in float64 and counted in steps of 2**-33 (1.2e-10): what differs by less is rounding, and
ties. Of tied rows the earlier comes first, of tied classes the smaller index; so an answer depends on the vectors and
their order alone, never on blocks or threads.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from .. import console
from ..errors import InputError
from ..schema import positive

STEPS = 1 << 33  # of similarity from 0 to 1
_PLACES = 1 << 29  # rows that a key can tell apart: steps and place share its 63 bits
_QUERIES, _ROWS = 1024, 8192  # of a block: 64 MiB of keys, whatever the number of rows


def nearest_rows(
    rows: Float[ndarray, "n c"], queries: Float[ndarray, "m c"] | None = None, *, k: int, progress: bool = False
) -> tuple[Float[ndarray, "m k"], Int[ndarray, "m k"]]:
    """The k rows most similar to each query, the most similar first.

    Args:
        rows: Vectors of any length; one of length 0 is similar to nothing (0).
        queries: Vectors; None is every row, which is then not its own neighbour.
        k: How many; all there are where those are fewer.
        progress: A progress bar.

    Returns:
        Cosines, and places among `rows`.

    Raises:
        InputError: Vectors that are not finite or not of one width, k below 1, or no row to find.
    """
    positive(k=k)
    alone = queries is None
    rows, queries = (checked(found) for found in (rows, rows if queries is None else queries))
    k = min(k, len(rows) - alone)
    if k < 1 or len(rows) >= _PLACES or rows.shape[1] != queries.shape[1]:
        raise InputError(
            f"Neighbours are found among 1 to {_PLACES - 1:,} other vectors, as wide as the queries; got "
            f"{len(rows) - alone:,} of {rows.shape[1]} numbers for queries of {queries.shape[1]}."
        )
    best = torch.empty(len(queries), k, dtype=torch.int64)
    with console.bar("neighbours", total=len(queries), unit="img", wanted=progress) as bar:
        for start in range(0, len(queries), _QUERIES):
            block = unit(queries[start : start + _QUERIES])
            best[start : start + len(block)] = _nearest(rows, block, k, own=start if alone else None)
            bar.update(len(block))
    places = _PLACES - 1 - best % _PLACES
    return ((best // _PLACES).double() / STEPS).numpy(), places.numpy()


def knn(
    rows: Float[ndarray, "n c"],
    labels: Int[ndarray, " n"],
    queries: Float[ndarray, "m c"] | None = None,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
    top: int = 1,
    progress: bool = False,
) -> Int[ndarray, "m top"]:
    """The classes that the nearest rows of each query vote for, the best first.

    Args:
        rows: Labelled vectors.
        labels: Class index of each, from 0.
        queries: As for `nearest_rows`: None answers for every row by all others.
        k: Neighbours that vote.
        temperature: A vote weighs exp(cosine / temperature); None gives every neighbour one vote.
        top: How many classes; -1 where fewer have a vote.
        progress: A progress bar.

    Raises:
        InputError: As `nearest_rows`, or labels that do not fit.

    Source: `eval_knn.py` of DINO (k 20, temperature 0.07).
    """
    positive(top=top)
    if temperature is not None and not temperature > 0:
        raise InputError(f"A temperature is above 0, or None for votes that all weigh 1; got {temperature}.")
    labels = np.asarray(labels)
    if labels.shape != (len(rows),) or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise InputError(f"Labels are class indices from 0, one of each vector; got {labels.shape} for {len(rows)}.")
    cosines, places = nearest_rows(rows, queries, k=k, progress=progress)
    weights = np.ones_like(cosines) if temperature is None else np.exp((cosines - cosines[:, :1]) / temperature)
    voted = labels[places]
    answers = np.full((len(voted), top), -1, np.int64)
    for query in range(len(voted)):  # neighbours in order, so that equal votes have equal sums
        classes, own = np.unique(voted[query], return_inverse=True)
        order = np.argsort(-np.bincount(own, weights[query]), kind="stable")[:top]
        answers[query, : len(order)] = classes[order]
    return answers


def knn_accuracy(
    rows: Float[ndarray, "n c"],
    labels: Int[ndarray, " n"],
    queries: Float[ndarray, "m c"] | None = None,
    truth: Int[ndarray, " m"] | None = None,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
) -> float:
    """Share of queries whose class `knn` gives; without queries every row is one, and all others its neighbours.

    Raises:
        InputError: As `knn`, or queries without their classes.
    """
    if (queries is None) != (truth is None) or (queries is not None and len(queries) != len(np.asarray(truth))):
        raise InputError("Queries have a class each; pass queries and truth of one length, or neither.")
    answers = knn(rows, labels, queries, k=k, temperature=temperature)[:, 0]
    return float((answers == (labels if truth is None else truth)).mean()) if len(answers) else float("nan")


def checked(vectors: Float[ndarray, "n c"]) -> Float[ndarray, "n c"]:
    """Vectors as an array.

    Raises:
        InputError: Not an array (n, c) of finite numbers.
    """
    found = np.asarray(vectors)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise InputError(f"Vectors are an array (n, c) of numbers; got {found.shape} of {found.dtype}.")
    if not np.isfinite(found).all():
        bad = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise InputError(f"Vectors must be finite; number {bad} is not. Leave it out.")
    return found


def unit(vectors: Float[ndarray, "n c"]) -> Float[Tensor, "n c"]:
    """Vectors in float64, scaled to length 1; one of length 0 stays."""
    wide = torch.from_numpy(vectors.astype(np.float64))
    largest = wide.abs().amax(1, keepdim=True).clamp_min(np.finfo(np.float64).tiny)  # whose square is a number
    wide /= largest
    return wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-300)


def steps(queries: Float[Tensor, "m c"], rows: Float[Tensor, "n c"]) -> Int[Tensor, "m n"]:
    """Cosines of vectors of length 1, in whole steps."""
    return (queries @ rows.T).mul_(STEPS).round_().long()


def _nearest(rows: Float[ndarray, "n c"], queries: Float[Tensor, "m c"], k: int, own: int | None) -> Int[Tensor, "m k"]:
    """Keys of the nearest rows, in falling order; a key is the similarity in steps, then the place counted down."""
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(rows), _ROWS):
        block = unit(rows[start : start + _ROWS])
        keys = steps(queries, block).mul_(_PLACES)
        keys += _PLACES - 1 - torch.arange(start, start + len(block))
        if own is not None and start < own + len(queries) and own < start + len(block):
            keys.diagonal(own - start).fill_(torch.iinfo(torch.int64).min)
        found = keys.topk(min(k, len(block)), dim=1).values
        best = torch.cat([best, found], 1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best
