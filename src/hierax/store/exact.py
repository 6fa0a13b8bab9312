"""The rows most similar to a vector, exactly, over vectors that need not fit into memory.

Similarity is the cosine, whatever the length of vectors; one of length 0 is similar to nothing (0). A pass in float32
finds every row that rounding could put among the best, and these are compared in float64: cosines are counted in steps
of 1e-12, what differs by less is rounding and ties, and of tied rows the earlier comes first. So an answer depends on
the vectors and their order alone, never on blocks, threads or how many queries are asked at once.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..errors import InputError
from ..schema import positive

_DECIMALS = 12
_BLOCK_BYTES = 4 << 20  # of float32, which the caches of a processor partly hold
_PASSING = 16  # blocks at once where each is read once: threads that wait for each other cost more than caches save
_COSINES = 4 << 20  # of a block at most
_QUERIES = 256  # at a time
_WIDENED = 1 << 16  # numbers that are converted at a time, in the first caches
_SMALL, _LARGE = 1e-15, 1e15  # lengths between which a dot product in float32 neither vanishes nor overflows
_HALF_BITS, _HALF_SCALE = np.int32(-0x70002000), np.float32(2.0**112)  # 0x8fffe000: the sign, and 15 bits
_KEPT_BYTES = 512 << 20  # of a file's pages that stay mapped after a pass


def nearest(
    vectors: Float[ndarray, "n c"],
    queries: Float[ndarray, "m c"],
    *,
    k: int,
    lengths: Float[ndarray, " n"] | None = None,
) -> tuple[Int[ndarray, "m k"], Float[ndarray, "m k"]]:
    """The k rows most similar to each query, the most similar first.

    Args:
        vectors: Of any float type, possibly mapped from a file; read once for every 256 queries.
        queries: Finite numbers.
        k: How many; all there are where those are fewer.
        lengths: As `lengths_of` gives them; computed without.

    Returns:
        Places among `vectors`, and cosines in float64.

    Raises:
        InputError: Vectors or queries that are not finite, queries of another width, or k below 1.
    """
    positive(k=k)
    queries = checked(queries, vectors.shape[1])
    lengths = lengths_of(vectors) if lengths is None else lengths
    k = min(k, len(vectors))
    rows, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for start in range(0, len(queries) if k else 0, _QUERIES):
        best = [_Best(query, k, vectors) for query in queries[start : start + _QUERIES]]
        asked = np.stack([each.query for each in best]).astype(np.float32).T  # (c, m)
        for begin, block, scale in blocks(vectors, lengths, most=_COSINES // len(best), passing=True):
            for each, found in zip(best, (block @ asked).T * scale, strict=True):
                each.take(begin, found)
        for number, each in enumerate(best, start):
            rows[number], cosines[number] = each.rows, each.cosines
    return rows, cosines


class _Best:
    """The best rows for one query so far."""

    def __init__(self, query: Float[ndarray, " c"], k: int, vectors: Float[ndarray, "n c"]) -> None:
        self.query, self.k, self.vectors = units(query[None])[0], k, vectors
        self.rows, self.cosines = np.empty(0, np.int64), np.empty(0)
        self._margin = margin(len(query))

    def take(self, begin: int, found: Float[ndarray, " b"]) -> None:
        """Count the rows of a block, by their cosines in float32."""
        k = self.k
        bound = self.cosines[-1] - self._margin if len(self.rows) == k else -np.inf
        near = np.flatnonzero(found >= bound)
        if len(near) > k:  # rounding may have moved the k-th and any other by a margin each
            least = np.partition(found[near], len(near) - k)[len(near) - k]
            near = near[found[near] >= least - 2 * self._margin]
        if not len(near):
            return
        near += begin
        rows = np.concatenate([self.rows, near])
        cosines = np.concatenate([self.cosines, cosines_of(self.vectors, near, self.query)])
        order = np.lexsort((rows, -cosines))[:k]
        self.rows, self.cosines = rows[order], cosines[order]


def cosines_of(
    vectors: Float[ndarray, "n c"], rows: Int[ndarray, " r"], query: Float[ndarray, " c"]
) -> Float[ndarray, " r"]:
    """Cosines of some rows with a vector of length 1, in float64 and whole steps."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), 1024):
        some = slice(start, start + 1024)
        # Row by row in one order of sums, so that equal rows have equal cosines wherever they stand.
        found[some] = (units(vectors[rows[some]]) * query).sum(axis=1)
    return round_cosines(found)


def round_cosines(found: Float[ndarray, " r"]) -> Float[ndarray, " r"]:
    """Cosines in whole steps, between -1 and 1."""
    return np.clip(np.round(found, _DECIMALS), -1, 1) + 0.0  # no negative zero


def units(vectors: Float[ndarray, "n c"]) -> Float[ndarray, "n c"]:
    """Vectors in float64, scaled to length 1; one of length 0 stays."""
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)  # whose square is a number
    wide /= np.where(largest > 0, largest, 1)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return wide / np.where(lengths > 0, lengths, 1)


def blocks(
    vectors: Float[ndarray, "n c"], lengths: Float[ndarray, " n"], *, most: int = _COSINES, passing: bool = False
) -> Iterator[tuple[int, Float[ndarray, "b c"], Float[ndarray, " b"]]]:
    """Where each block of rows begins, the block in float32, and by what its rows are to be multiplied for length 1.

    The next block may overwrite one.

    Args:
        vectors: Of any float type.
        lengths: As `lengths_of` gives them.
        most: Rows of a block.
        passing: Whether each block is read once, so that it may be larger than a cache.
    """
    count, width = vectors.shape
    step = max(1, min((_PASSING if passing else 1) * _BLOCK_BYTES // (4 * max(width, 1)), most))
    room = np.empty((min(step, count), width), np.float32) if vectors.dtype != np.float32 else None
    rows = vectors.view(ndarray)  # slices of a mapped array are slow to make
    for begin in range(0, count, step):
        block, own = rows[begin : begin + step], lengths[begin : begin + step]
        odd = np.flatnonzero((own < _SMALL) | (own > _LARGE))
        scale = 1 / np.maximum(own, _SMALL)
        if len(odd):
            wide, scale[odd] = units(block[odd]), 1
            with np.errstate(over="ignore"):
                block = block.astype(np.float32)
            block[odd] = wide
        elif room is not None:
            block = _as_float32(block, room[: len(block)])
        yield begin, block, scale
        _let_go(vectors)


def _as_float32(block: Float[ndarray, "b c"], room: Float[ndarray, "b c"]) -> Float[ndarray, "b c"]:
    """A block of another type, finite, in a room of its shape."""
    if block.dtype != np.float16:
        np.copyto(room, block, casting="same_kind")
        return room
    # The bits of float16 are those of float32 at another place, but for 112 steps of the exponent. This takes half the
    # time of NumPy's own conversion.
    at_once = max(1, _WIDENED // max(block.shape[1], 1))
    bits = np.empty((min(at_once, len(block)), block.shape[1]), np.int32)
    for begin in range(0, len(block), at_once):
        half = block[begin : begin + at_once].view(np.int16)
        some = bits[: len(half)]
        np.left_shift(half, 13, out=some, dtype=np.int32)
        np.bitwise_and(some, _HALF_BITS, out=some)
        np.multiply(some.view(np.float32), _HALF_SCALE, out=room[begin : begin + at_once])
    return room


def margin(width: int) -> float:
    """How far a cosine of two vectors of this width is from the true one at most, where it was computed in float32.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: a sum of n products errs by n units.
    """
    return (2 * width + 16) * 2.0**-24


def lengths_of(vectors: Float[ndarray, "n c"]) -> Float[ndarray, " n"]:
    """Length of each vector in float32, right to within `margin`.

    Raises:
        InputError: Vectors that are not finite.
    """
    found = np.empty(len(vectors), np.float32)
    step = max(1, _BLOCK_BYTES // (4 * max(vectors.shape[1], 1)))
    for begin in range(0, len(vectors), step):
        block = vectors[begin : begin + step]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            squares = np.einsum("nc,nc->n", *(2 * [block.astype(np.float32, copy=False)]))
            lengths = np.sqrt(squares)
        odd = ~((lengths > _SMALL) & (lengths < _LARGE))
        if odd.any():
            wide = block[odd].astype(np.float64)
            bad = ~np.isfinite(wide).all(axis=1)
            if bad.any():
                row = begin + int(np.flatnonzero(odd)[bad][0])
                raise InputError(f"Vectors must be finite; row {row} is not. Leave it out, or embed it again.")
            lengths[odd] = np.sqrt((wide * wide).sum(axis=1)).clip(0, np.finfo(np.float32).max)
        found[begin : begin + step] = lengths
        _let_go(vectors)
    return found


def checked(queries: Float[ndarray, "m c"], width: int) -> Float[ndarray, "m c"]:
    """Queries as an array of vectors of a width.

    Raises:
        InputError: They are none, or not finite.
    """
    found = np.asarray(queries)
    if found.ndim != 2 or found.shape[1] != width or found.dtype.kind not in "fiu":
        raise InputError(
            f"A query is a vector of {width} numbers, as the rows are; got {found.shape} of {found.dtype}."
        )
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise InputError(f"Queries must be finite; number {int(np.flatnonzero(~np.isfinite(found).all(1))[0])} is not.")
    return found


def _let_go(vectors: ndarray) -> None:
    """Unmap the pages of a large file that were read; the system keeps them for the next pass while it has room."""
    if vectors.nbytes <= _KEPT_BYTES or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base = vectors
    while isinstance(base, ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
