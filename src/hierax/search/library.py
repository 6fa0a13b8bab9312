"""A store that answers: the images most similar to one, and those that are almost the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..errors import InputError, UnknownNameError, brief, nearest
from ..schema import positive
from ..store import exact, read

if TYPE_CHECKING:
    import pyarrow as pa

    from .ann import Index

Engine = Literal["auto", "exact", "ann"]
ENGINES = ("auto", "exact", "ann")
LARGE = 1_000_000  # rows beyond which "auto" asks an index; benchmarks/search.py has the measurements
_PARTS = 128  # whose paths are kept: some 64 MB


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        path: The image, as the store names it.
        score: Cosine with what was asked for, -1 to 1.
        row: Place among the good rows, as in `Store.vectors` and `Store.paths`.
    """

    path: str
    score: float
    row: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return asdict(self)


class Store(read.Store):
    """A data set of embeddings that can be searched, as it was when it was opened.

    Similarity is the cosine, whether vectors were normalised or not; of equal similarities the earlier row comes first.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._lengths: dict[str, ndarray] = {}
        self._names: dict[int, pa.Table] = {}
        self._indexes: dict[str, Index] = {}

    def search(
        self,
        query: Any,
        *,
        k: int = 10,
        column: str = "embedding",
        crop: Sequence[int] | None = None,
        model: Any = None,
        engine: Engine = "auto",
    ) -> list[Hit]:
        """The good rows most similar to a query, the most similar first.

        Args:
            query: A vector (c,); the number of a good row; or an image: a path, a PIL image or uint8 (h, w, 3). A path
                that the store has, and whose file is as it was, is answered by its row.
            k: How many; all there are where those are fewer.
            column: Which vectors.
            crop: (x, y, width, height) in pixels of an upright image, to ask with that part of it.
            model: What to embed an image with, a `Predictor` or what `hierax.load` takes; None is the store's own.
            engine: "exact" looks at every row; "ann" asks an index that finds nearly all (extra `ann`), which is built
                beside the store when there is none for its present rows; "auto" is exact up to a million rows.

        Raises:
            InputError: No such row, an image that cannot be read, a vector of another width or not finite, or a model
                that did not make this store.
            UnknownNameError: No such column of vectors.
            MissingExtraError: An index is wanted, and usearch is not installed.
        """
        from .queries import resolve

        positive(k=k)
        found = resolve(self, [query], column=column, crop=crop, model=model)
        if len(found) != 1:
            raise InputError(f"search answers one query; {brief(query)} holds {len(found)}. Ask for each.")
        rows, cosines = self.nearest(found[0].vector[None], k=k, column=column, engine=engine)
        return self.hits(rows[0], cosines[0])

    def nearest(
        self, queries: Float[ndarray, "m c"], *, k: int, column: str = "embedding", engine: Engine = "auto"
    ) -> tuple[Int[ndarray, "m k"], Float[ndarray, "m k"]]:
        """Rows most similar to each of several vectors, and their cosines in float64.

        Raises:
            HieraxError: As `search`.
        """
        vectors = self.vectors(column)
        if uses_index(engine, len(vectors)) and len(vectors):
            index = self.index(column, required=engine == "ann")
            if index is not None:
                return index.nearest(queries, k=k)
        return exact.nearest(vectors, queries, k=k, lengths=self.lengths(column))

    def duplicates(
        self, threshold: float = 0.95, *, column: str = "embedding", engine: Engine = "auto", progress: bool = False
    ) -> list[list[Hit]]:
        """Images that are almost the same, in groups of two or more; nothing is deleted.

        Two are in one group if their cosine is at least the threshold, or if others link them. Of each group the
        largest image comes first (pixels, then bytes of the file, then the earlier row); the score of each of the
        others, the most similar first, is the cosine with that one. Files that are no longer there do not count, and a
        file with several names counts once.

        Args:
            threshold: Above 0, up to 1. What it means depends on the model: look at some groups first.
            column: Which vectors.
            engine: As for `search`; with "ann" a pair may be missed.
            progress: A progress bar.

        Raises:
            HieraxError: An impossible threshold, and as `search`.
        """
        from .duplicates import find_duplicates

        return find_duplicates(self, threshold, column=column, engine=engine, progress=progress)

    def lengths(self, column: str = "embedding") -> Float[ndarray, " n"]:
        """Length of each vector, as `exact.lengths_of` gives them; computed once."""
        if column not in self._lengths:
            self._lengths[column] = exact.lengths_of(self.vectors(column))
        return self._lengths[column]

    def index(self, column: str = "embedding", *, required: bool = True) -> Index | None:
        """The index of a column, as `ann.open_index` gives it; looked through and opened once."""
        if column not in self._indexes:
            from .ann import open_index

            found = open_index(self, column, required=required)
            if found is None:
                return None
            self._indexes[column] = found
        return self._indexes[column]

    def hits(self, rows: Sequence[int] | ndarray, cosines: Sequence[float] | ndarray) -> list[Hit]:
        """Hits of rows and their cosines."""
        names = self.names(rows)
        return [Hit(name, float(score), int(row)) for name, score, row in zip(names, cosines, rows, strict=True)]

    def names(self, rows: Sequence[int] | ndarray) -> list[str]:
        """Paths of some good rows, byte for byte as `os.fsencode` gives them back."""
        wanted = np.asarray(rows, np.int64).reshape(-1)
        parts = np.searchsorted(self._ends, wanted, side="right")
        if len(np.unique(parts)) > _PARTS:
            return read.paths_of(self.lookup(wanted, ["path", "path_bytes"]))
        starts = np.concatenate([[0], self._ends])
        found = []
        for row, part in zip(wanted.tolist(), parts.tolist(), strict=True):
            found += read.paths_of(self._part_names(part).slice(row - int(starts[part]), 1))
        return found

    def _part_names(self, part: int) -> pa.Table:
        """Paths of the good rows of a part, kept for the next search: reading them takes longer than one."""
        if part not in self._names:
            if len(self._names) >= _PARTS:
                self._names.pop(next(iter(self._names)))
            start, end = (int(self._ends[part - 1]) if part else 0), int(self._ends[part])
            self._names[part] = self.lookup(range(start, end), ["path", "path_bytes"])
        return self._names[part]

    def place(self, path: str) -> Path:
        """Where the file of a row is: a relative path is one from here, or from where the store was made."""
        folder = self.origin.get("folder", "")
        return Path(path) if os.path.isabs(path) or os.path.lexists(path) else Path(folder, path)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open the data set of embeddings that `hierax embed SOURCE -o OUT/` or `hierax index` wrote.

    Raises:
        InputError: No store, or a damaged one.
    """
    return Store(path)


def uses_index(engine: str, rows: int) -> bool:
    """Whether an engine asks an index for so many rows.

    Raises:
        UnknownNameError: No such engine.
    """
    if engine not in ENGINES:
        raise UnknownNameError(
            f"Engines of search are {', '.join(ENGINES)}; got {brief(engine)}. {nearest(str(engine), ENGINES)}"
        )
    return engine == "ann" or (engine == "auto" and rows > LARGE)
