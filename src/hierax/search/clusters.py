"""Groups of similar images: k-means over directions (scikit-learn), each group with the image nearest to its centre."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..errors import InputError, MissingExtraError, brief
from ..schema import positive
from ..store import exact
from .library import Hit

if TYPE_CHECKING:
    from .library import Store

_SAMPLE = 65_536  # rows at most by which centres are found: every row then goes to the nearest


@dataclass(frozen=True)
class Clusters:
    """Rows in groups, the largest group first.

    Attributes:
        labels: The group of each good row, from 0.
        distances: Of each good row to the centre of its group: 1 minus the cosine.
        centres: Directions (k, c) of length 1.
        representatives: Of each group the row nearest to its centre.
    """

    labels: Int[ndarray, " n"]
    distances: Float[ndarray, " n"]
    centres: Float[ndarray, "k c"]
    representatives: Int[ndarray, " k"]

    @property
    def sizes(self) -> Int[ndarray, " k"]:
        """Rows of each group."""
        return np.bincount(self.labels, minlength=len(self.centres))


@dataclass(frozen=True)
class Member:
    """A row and its group.

    Attributes:
        path: The image, as the store names it.
        cluster: From 0; 0 is the largest.
        distance: To the centre: 1 minus the cosine, 0 to 2.
        representative: Whether it is the image nearest to the centre.
        row: Among the good rows.
    """

    path: str
    cluster: int
    distance: float
    representative: bool
    row: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return asdict(self)


def find_clusters(store: Store, k: int, *, column: str = "embedding", seed: int = 0) -> Clusters:
    """Split the good rows of a store into k groups.

    Groups without a row, as where fewer vectors differ than groups are wanted, are left out.

    Args:
        store: Whose.
        k: How many groups, at most one for each row.
        column: Which vectors.
        seed: Another one may give other groups; the same gives the same.

    Raises:
        InputError: More groups than rows, vectors that are not finite, or an impossible seed.
        MissingExtraError: scikit-learn is not installed.
    """
    positive(k=k)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"A seed is a whole number from 0 to {2**32 - 1}; got {brief(seed)}.")
    if k > store.rows:
        raise InputError(f"There are at most as many clusters as images with vectors, {store.rows}; got k={k}.")
    vectors, lengths = store.vectors(column), store.lengths(column)
    centres = _centres(vectors, k, seed)
    labels, cosines = np.empty(len(vectors), np.int64), np.empty(len(vectors))
    for begin, block, scale in exact.blocks(vectors, lengths):
        found = (block @ centres.T.astype(np.float32)) * scale[:, None]
        best = found.argmax(axis=1)
        labels[begin : begin + len(block)] = best
        cosines[begin : begin + len(block)] = found[np.arange(len(block)), best]
    sizes = np.bincount(labels, minlength=k)
    first = np.full(k, len(labels))
    np.minimum.at(first, labels, np.arange(len(labels)))
    order = np.lexsort((first, -sizes))[: np.count_nonzero(sizes)]
    number = np.empty(k, np.int64)
    number[order] = np.arange(len(order))
    labels = number[labels]
    nearest = np.lexsort((np.arange(len(labels)), -cosines, labels))
    heads = nearest[np.r_[0, np.flatnonzero(np.diff(labels[nearest])) + 1]]
    return Clusters(labels, np.clip(1 - cosines, 0, 2), centres[order], heads)


def members(store: Store, found: Clusters) -> list[Member]:
    """Every good row with its group, group by group, the nearest to the centre first."""
    order = np.lexsort((np.arange(len(found.labels)), found.distances, found.labels))
    names, heads = store.names(order), set(found.representatives.tolist())
    return [
        Member(name, int(found.labels[row]), round(float(found.distances[row]), 6), row in heads, row)
        for name, row in zip(names, order.tolist(), strict=True)
    ]


def representatives(store: Store, found: Clusters) -> list[Hit]:
    """The image nearest to the centre of each group, with its cosine."""
    rows = found.representatives
    return store.hits(rows, 1 - found.distances[rows])


def _centres(vectors: Float[ndarray, "n c"], k: int, seed: int) -> Float[ndarray, "k c"]:
    """Directions of the groups of a sample."""
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise MissingExtraError("eval", "scikit-learn") from error
    import warnings

    count = max(_SAMPLE, 8 * k)
    rows = np.arange(len(vectors))
    if len(rows) > count:
        rows = np.sort(np.random.default_rng(seed).choice(len(vectors), count, replace=False))
    sample = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), 4096):
        sample[start : start + 4096] = exact.units(vectors[rows[start : start + 4096]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than groups
        starts: Any = 3 if len(rows) <= 10_000 else 1  # its stub knows only the default, a text
        model = KMeans(k, n_init=starts, random_state=seed).fit(sample)
    return exact.units(model.cluster_centers_)
