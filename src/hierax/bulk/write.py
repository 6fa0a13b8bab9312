"""Embeddings and maps on disk, with provenance, whole or not at all, in memory that does not grow with their number."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import atomic_file
from ..data.files import name_bytes
from ..errors import InputError, MissingExtraError, nearest, writing
from .npz import Columns

if TYPE_CHECKING:
    from ..predictor import Predictor
    from .run import Row

SCHEMA_VERSION = 1
_ROWS_PER_GROUP = 4096


def provenance(predictor: Predictor, **more: Any) -> dict[str, str]:
    """What a reader of the file must know to compare its vectors with others."""
    from .. import __version__
    from ..weights.digest import weights_digest  # torch

    card = predictor.card
    known = {
        "model": card.name,
        **{key: getattr(card, key) or "" for key in ("architecture", "license", "base_model")},
        "sha256": weights_digest(card),
        "preprocess": json.dumps(predictor.preprocess.to_dict()),
        "version": __version__,
        "schema": SCHEMA_VERSION,
        **more,
    }
    return {f"hierax.{key}": str(value) for key, value in known.items()}


@dataclass(frozen=True)
class OutputFile:
    """A file that this process alone is writing.

    Attributes:
        path: Its place.
        partial: Where it is written; what is deleted there takes no place.
    """

    path: Path
    partial: Path


@contextmanager
def claimed(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> Iterator[OutputFile]:
    """Hold an output from before any work is done until it takes its place, when the block ends well.

    Args:
        path: The output.
        suffixes: Extensions that it may have.
        overwrite: Whether what is there may be replaced.

    Raises:
        InputError: Unknown extension, an existing file, one that another process is writing, or a place that cannot
            be written.
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
    if not overwrite and os.path.lexists(path):
        raise InputError(f"{path} already exists and was left as it is. Pass --overwrite or name another file.")
    with ExitStack() as held:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = held.enter_context(atomic_file(path, alone=True, replace=overwrite))
        yield OutputFile(path, partial)
        with writing(path):
            held.close()


def write_vectors(rows: Iterable[Row], output: OutputFile, *, size: int, metadata: dict[str, str]) -> None:
    """Write one row per file, of `size` float32 numbers, as .parquet or .npz.

    A failed file has no vector: null in Parquet, NaN throughout in npz.

    Raises:
        InputError: The file cannot be written.
    """
    with writing(output.path):
        if output.path.suffix.lower() == ".parquet":
            _write_parquet(rows, output.partial, size, metadata)
            return
        missing = np.full(size, np.nan, np.float32)
        with Columns(output.partial, texts=("path", "error"), arrays={"embedding": np.float32}) as columns:
            for row in rows:
                value = missing if row.value is None else row.value
                columns.add(path=row.name, error=row.error or "", embedding=value)
            columns.write(metadata=np.array(json.dumps(metadata)))


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


def _write_parquet(rows: Iterable[Row], path: Path, size: int, metadata: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), size) if reads_null_vectors() else pa.list_(pa.float32())
    columns = [("id", pa.int64()), ("path", pa.string()), ("path_bytes", pa.binary()), ("embedding", vector)]
    schema = pa.schema([*columns, ("error", pa.string())], metadata=metadata)
    source = enumerate(rows)
    # An open file: pyarrow takes no names that are not UTF-8.
    options: dict[str, Any] = {"use_dictionary": ["error"]}  # its stub knows only the default, a bool
    with path.open("wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        while group := list(islice(source, _ROWS_PER_GROUP)):
            indices, found = zip(*group, strict=True)
            texts = {"path": [row.name for row in found], "error": [row.error for row in found]}
            exact = [name_bytes(row.path) for row in found]
            data = {"id": indices, "path_bytes": exact, "embedding": [row.value for row in found], **texts}
            writer.write_table(pa.Table.from_pydict(data, schema=schema))


def write_maps(rows: Iterable[Row], output: OutputFile, *, stages: Iterable[str], metadata: dict[str, str]) -> None:
    """Write stage maps as npz: `path`, `error` per file, `index` of the rows that have maps, one array per stage.

    Raises:
        InputError: The file cannot be written.
    """
    arrays = {"index": np.int64, **dict.fromkeys(stages, np.float32)}
    with writing(output.path), Columns(output.partial, texts=("path", "error"), arrays=arrays) as columns:
        for index, row in enumerate(rows):
            columns.add(path=row.name, error=row.error or "")
            if row.value is not None:
                columns.add(index=index, **row.value)
        columns.write(metadata=np.array(json.dumps(metadata)))
