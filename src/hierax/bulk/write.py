"""Embeddings and maps on disk, with provenance, whole or not at all."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import atomic_file
from ..data.files import name_bytes
from ..errors import InputError, MissingExtraError, nearest

if TYPE_CHECKING:
    from ..predictor import Predictor
    from .run import Row

SCHEMA_VERSION = 1
_ROWS_PER_GROUP = 4096


def provenance(predictor: Predictor, **more: Any) -> dict[str, str]:
    """What a reader of the file must know to compare its vectors with others."""
    from .. import __version__

    card = predictor.card
    known = {
        "model": card.name,
        **{key: getattr(card, key) or "" for key in ("architecture", "sha256", "license")},
        "preprocess": json.dumps(predictor.preprocess.to_dict()),
        "version": __version__,
        "schema": SCHEMA_VERSION,
        **more,
    }
    return {f"hierax.{key}": str(value) for key, value in known.items()}


def check_output(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> Path:
    """Refuse an output that cannot or must not be written, before any work is done.

    Raises:
        InputError: Unknown extension, an existing file, or a folder that cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"Output must end with {' or '.join(suffixes)}; got {path.name!r}. {nearest(path.suffix, suffixes)}"
        )
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("data", "pyarrow")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists and was left as it is. Pass --overwrite or name another file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot create the folder {path.parent}: {error.strerror or error}.") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"The folder {path.parent} cannot be written.")
    return path


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well."""
    try:
        with atomic_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_vectors(rows: Iterable[Row], path: Path, *, size: int, metadata: dict[str, str]) -> list[Row]:
    """Write one row per file, of `size` float32 numbers, as .parquet or .npz; returns those that are errors.

    A failed file has no vector: null in Parquet, NaN throughout in npz.

    Raises:
        InputError: The file cannot be written.
    """
    if path.suffix.lower() == ".parquet":
        return _write_parquet(rows, path, size, metadata)
    kept = list(rows)
    vectors = [np.full(size, np.nan, np.float32) if row.value is None else row.value for row in kept]
    _write_npz(kept, path, metadata, embedding=np.stack(vectors) if kept else np.zeros((0, size), np.float32))
    return [row for row in kept if row.error is not None]


@functools.cache
def reads_null_vectors() -> bool:
    """Whether this pyarrow reads back a fixed-size list that is null; before 26 it writes files that it cannot read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"vector": pa.array([None], pa.list_(pa.float32(), 2))}), file)
    try:
        return pq.read_table(file).num_rows == 1
    except pa.ArrowInvalid:
        return False


def _write_parquet(rows: Iterable[Row], path: Path, size: int, metadata: dict[str, str]) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), size) if reads_null_vectors() else pa.list_(pa.float32())
    columns = [("id", pa.int64()), ("path", pa.string()), ("path_bytes", pa.binary()), ("embedding", vector)]
    schema = pa.schema([*columns, ("error", pa.string())], metadata=metadata)
    source, failed = enumerate(rows), []
    with _whole(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while group := list(islice(source, _ROWS_PER_GROUP)):
            indices, found = zip(*group, strict=True)
            vectors = [None if row.value is None else row.value.tolist() for row in found]
            texts = {"path": [row.name for row in found], "error": [row.error for row in found]}
            exact = [name_bytes(row.path) for row in found]
            data = {"id": indices, "path_bytes": exact, "embedding": vectors, **texts}
            writer.write_table(pa.Table.from_pydict(data, schema=schema))
            failed += [row for row in found if row.error is not None]
    return failed


def write_maps(rows: Iterable[Row], path: Path, *, stages: Iterable[str], metadata: dict[str, str]) -> list[Row]:
    """Write stage maps as npz: `path`, `error` per file, `index` of the rows that have maps, one array per stage.

    Returns:
        The rows, for whoever wants to draw them.

    Raises:
        InputError: The file cannot be written.
    """
    kept = list(rows)
    good = [index for index, row in enumerate(kept) if row.value is not None]
    columns: dict[str, np.ndarray] = {"index": np.array(good, dtype=np.int64)}
    for stage in stages:
        maps = [kept[index].value[stage] for index in good]
        columns[stage] = np.stack(maps) if maps else np.zeros((0, 0, 0, 0), np.float32)
    _write_npz(kept, path, metadata, **columns)
    return kept


def _write_npz(rows: list[Row], path: Path, metadata: dict[str, str], **columns: Any) -> None:
    names, errors = np.array([row.name for row in rows]), np.array([row.error or "" for row in rows])
    # An open file: to a name that ends otherwise, `.NPZ` too, savez would add `.npz`.
    with _whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, path=names, error=errors, metadata=np.array(json.dumps(metadata)), **columns)
