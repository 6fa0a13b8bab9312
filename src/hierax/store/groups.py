"""Rows that are almost the same, in groups, exactly: whoever is linked by pairs at least as similar as a threshold.

All pairs are compared, in blocks, at a small part of the price: the cosine of two vectors is at most that of their
leading coordinates plus the product of the lengths of what is left (Cauchy and Schwarz), and in the directions in which
rows differ most a few coordinates rule out nearly every pair. How many is measured on the rows themselves. Pairs that
are not ruled out are computed whole, and where float32 cannot decide, in float64, as `exact` counts cosines.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from .. import console
from ..errors import InputError
from .exact import blocks, lengths_of, margin, round_cosines, units

_ROWS = 2048  # of a block: 2048 x 2048 cosines are 16 MiB
_SAMPLE = 1024  # rows by which directions are found, and as many others by which their number is chosen
_PAIRS = 16384  # that are computed one by one at a time
_DEAR = 20  # how much more one pair costs by itself than within a product of blocks, per number


def check_threshold(threshold: float) -> float:
    """A threshold of similarity.

    Raises:
        InputError: It is none.
    """
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 < threshold <= 1:
        raise InputError(f"A threshold is a cosine above 0 and up to 1, e.g. 0.95; got {threshold!r}.")
    return float(threshold)


def duplicate_groups(
    vectors: Float[ndarray, "n c"],
    threshold: float,
    *,
    lengths: Float[ndarray, " n"] | None = None,
    progress: bool = False,
) -> list[Int[ndarray, " g"]]:
    """Groups of two or more rows, each linked to another one of its group by a cosine of `threshold` or more.

    Args:
        vectors: Of any float type, possibly mapped from a file.
        threshold: Above 0, up to 1.
        lengths: As `exact.lengths_of` gives them; computed without.
        progress: A progress bar.

    Returns:
        Rows of each group in their order; groups in the order of their first rows.

    Raises:
        InputError: Vectors that are not finite, or an impossible threshold.
    """
    threshold = check_threshold(threshold)
    lengths = lengths_of(vectors) if lengths is None else lengths
    links, search = Links(len(vectors)), _Search(vectors, lengths, threshold)
    starts = range(0, len(vectors), _ROWS)
    with console.bar("pairs", total=len(starts) * (len(starts) + 1) // 2, unit="block", wanted=progress) as bar:
        for number, first in enumerate(starts):
            for second in starts[number:]:
                search.link(first, second, links)
                bar.update(1)
    return links.groups()


class Links:
    """Which of n things are linked, directly or by others."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def roots(self, rows: Int[ndarray, " p"]) -> Int[ndarray, " p"]:
        """One of the things that each is linked to, the same for all of a group."""
        found = self._parent[rows]
        while not np.array_equal(above := self._parent[found], found):
            found = above
        self._parent[rows] = found
        return found

    def join(self, first: Int[ndarray, " p"], second: Int[ndarray, " p"]) -> None:
        """Link pairs."""
        while len(first):
            one, other = self.roots(first), self.roots(second)
            low, high = np.minimum(one, other), np.maximum(one, other)
            apart = low < high
            first, second, low, high = first[apart], second[apart], low[apart], high[apart]
            np.minimum.at(self._parent, high, low)

    def groups(self) -> list[Int[ndarray, " g"]]:
        """Groups of two or more."""
        roots = self.roots(np.arange(len(self._parent)))
        order = np.argsort(roots, kind="stable")
        cuts = np.flatnonzero(np.diff(roots[order])) + 1
        return [group for group in np.split(order, cuts) if len(group) > 1]


class _Search:
    """Pairs that are similar enough, block by block."""

    def __init__(self, vectors: Float[ndarray, "n c"], lengths: Float[ndarray, " n"], threshold: float) -> None:
        self.vectors, self.lengths, self.threshold = vectors, lengths, threshold
        self._margin = margin(vectors.shape[1])
        directions = self._directions()
        # Each row as its leading coordinates and the length of what they leave out, a little too long.
        self._sketch = None if directions is None else np.empty((len(vectors), directions.shape[1] + 1), np.float32)
        if directions is not None and self._sketch is not None:
            for begin, block, scale in blocks(vectors, lengths):
                self._sketch[begin : begin + len(block)] = self._sketched(block * scale[:, None], directions)

    def link(self, first: int, second: int, links: Links) -> None:
        """Link similar pairs of a row of one block with a later row of the other."""
        ends = [np.arange(start, min(start + _ROWS, len(self.vectors))) for start in (first, second)]
        roots = links.roots(np.concatenate(ends))
        if (roots == roots[0]).all():
            return
        rows, columns = self._possible(first, second)
        for start in range(0, len(rows), _PAIRS):
            one, other = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
            apart = links.roots(one) != links.roots(other)  # where many are alike, most are linked by a few
            one, other = one[apart], other[apart]
            similar = self._similar(one, other)
            links.join(one[similar], other[similar])

    def _possible(self, first: int, second: int) -> tuple[Int[ndarray, " p"], Int[ndarray, " p"]]:
        """Pairs that nothing rules out."""
        none = np.empty(0, np.int64)
        least, found = np.float32(self.threshold - self._margin), None
        if self._sketch is not None:
            found = self._sketch[first : first + _ROWS] @ self._sketch[second : second + _ROWS].T
            if found.max() < least:
                return none, none
        near = None if found is None else found >= least
        if near is None or np.count_nonzero(near) * _DEAR > near.size:
            near = self._block(first) @ self._block(second).T >= least
        rows, columns = np.divmod(np.flatnonzero(near), near.shape[1])  # faster than nonzero of two axes
        rows, columns = rows + first, columns + second
        return (rows, columns) if first != second else (rows[rows < columns], columns[rows < columns])

    def _block(self, first: int) -> Float[ndarray, "b c"]:
        """Rows of length 1 in float32."""
        some = slice(first, first + _ROWS)
        return np.concatenate(
            [block * scale[:, None] for _, block, scale in blocks(self.vectors[some], self.lengths[some])]
        )

    def _similar(self, rows: Int[ndarray, " p"], columns: Int[ndarray, " p"]) -> ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # lengths that float32 cannot square are told below
            one, other = (self.vectors[some].astype(np.float32, copy=False) for some in (rows, columns))
            found = np.einsum("pc,pc->p", one, other) / (self.lengths[rows] * self.lengths[columns])
        similar = found >= self.threshold
        unsure = np.flatnonzero(~(np.abs(found - self.threshold) > 2 * self._margin))
        one, other = units(self.vectors[rows[unsure]]), units(self.vectors[columns[unsure]])
        similar[unsure] = round_cosines((one * other).sum(axis=1)) >= self.threshold
        return similar

    def _directions(self) -> Float[ndarray, "c d"] | None:
        """So many of the directions in which rows differ most that comparing costs least; None is without them."""
        count, width = self.vectors.shape
        if count <= 2 * _ROWS:
            return None
        places = np.unique(np.linspace(0, count - 1, 2 * _SAMPLE).astype(np.int64))
        found, sample = (units(self.vectors[places[part::2]]) for part in (0, 1))  # to find by, and to judge by
        directions = np.linalg.svd(found, full_matrices=False)[2].T.astype(np.float32)  # (c, at most c)
        best, cost = None, float(width)
        for size in (16, 32, 64, 128, 256, 512):
            if size >= min(directions.shape[1], width // 2):
                break
            sketch = self._sketched(sample.astype(np.float32), directions[:, :size])
            share = float((sketch @ sketch.T >= self.threshold - self._margin).mean())
            # Beyond a share, whole blocks are computed.
            price = size + min(share * _DEAR, 1.0) * width
            if price < cost:
                best, cost = directions[:, :size], price
        return best

    def _sketched(self, rows: Float[ndarray, "b c"], directions: Float[ndarray, "c d"]) -> Float[ndarray, "b d1"]:
        leading = rows @ directions
        rest = np.einsum("bc,bc->b", rows, rows) - np.einsum("bd,bd->b", leading, leading)
        return np.column_stack([leading, np.sqrt(np.maximum(rest, 0) + 2 * self._margin)])
