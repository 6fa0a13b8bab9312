"""Stores that tests search: of given vectors, without a model; and of rendered images, with the embedded one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hierax.store.layout import Spec
from hierax.store.tables import Record
from hierax.store.write import open_writer


def write_store(place: Path, vectors, paths=None, *, errors=(), dtype="float32", part=1000, provenance=None, **cells):
    """A store of vectors; `errors` are positions of rows that have none."""
    vectors = np.asarray(vectors)
    spec = Spec(provenance or {"model": "none", "sha256": "0" * 64}, {"embedding": vectors.shape[1]}, dtype)
    with open_writer(place, spec, rows_per_part=part) as writer:
        for row, vector in enumerate(vectors):
            path = f"{row}.jpg" if paths is None else str(paths[row])
            bad = row in errors
            own = {name: values[row] for name, values in cells.items()}
            writer.add(
                Record(row, path, error="broken" if bad else None, values=None if bad else {"embedding": vector}, **own)
            )
            if writer.due():
                writer.commit(row + 1)
        writer.commit(len(vectors))
        writer.complete(len(vectors), "")
    return place
