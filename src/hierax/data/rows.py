"""A row for each of many files, whatever becomes of it: one that cannot be read becomes an error and stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import console
from ..errors import InputError, MissingExtraError
from ..net.address import is_address, shown
from .files import name_text
from .loader import map_batches


@dataclass(frozen=True)
class Row:
    """What became of one file.

    Attributes:
        path: The file.
        value: The answer, None where there is an error.
        error: Why there is no answer, None where there is one.
    """

    path: Path
    value: Any = None
    error: str | None = None

    @property
    def name(self) -> str:
        r"""The path as text; bytes that are no UTF-8 become `\xNN`. An address has both slashes that a path drops."""
        name = name_text(self.path)
        return shown(name) if self.error is not None and is_address(name) else name


class Rows(Iterator[Row]):
    """Rows as they are done, to be gone through once; or the rest of them as a table.

    Tables have the columns `path` (text), `embedding` (float32, null for a failed file) and `error` (null for a good
    one).
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)

    def __next__(self) -> Row:
        """The next file's."""
        return next(self._rows)

    def to_arrow(self) -> Any:
        """The rows that are left as a `pyarrow.Table` (extra `data`).

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ImportError as error:
            raise MissingExtraError("data", "pyarrow") from error
        # Lists of any length: before pyarrow 26 a null one of fixed length makes a Parquet file unreadable.
        schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32())), ("error", pa.string())])
        return pa.table(self._columns(), schema=schema)

    def to_pandas(self) -> Any:
        """The rows that are left as a `pandas.DataFrame`; pandas comes with no extra of ours.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError("A data frame needs pandas, which is not installed: pip install pandas.") from error
        return pd.DataFrame(self._columns())

    def _columns(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"path": [], "embedding": [], "error": []}
        for row in self:
            for column, value in zip(columns.values(), (row.name, row.value, row.error), strict=True):
                column.append(value)
        return columns


def map_rows(
    paths: Sequence[Path],
    prepare: Callable[[Any], Tensor],
    method: Callable[..., Any],
    *,
    empty: tuple[int, ...],
    batch_size: int = 32,
    progress: bool = True,
    **options: Any,
) -> Iterator[Row]:
    """Rows in the order of `paths`, one for each, as batches are done.

    Args:
        paths: Image or clip files.
        prepare: Gives the network's input of one file, or raises InputError.
        method: Gives one answer per sample of a prepared batch, as a sequence or an array; a predictor's method.
        empty: Shape of one input, for a batch in which every file failed.
        batch_size: Files at a time.
        progress: A progress bar where a person watches.
        **options: Of the method.

    Raises:
        InputError: batch_size is impossible.
    """
    batches = map_batches(paths, prepare, batch_size=min(batch_size, max(1, len(paths))), empty=empty)
    return _rows(paths, batches, lambda batch: _answers(method, batch, options), progress)


def _rows(
    paths: Sequence[Path], batches: Iterable[Any], answer: Callable[[Tensor], list[Any]], progress: bool
) -> Iterator[Row]:
    done = failed = 0
    with console.bar(total=len(paths), unit="img", wanted=progress) as bar:
        for batch in batches:
            found = dict(zip(batch.indices, answer(batch.tensor), strict=True))
            count = len(batch.indices) + len(batch.errors)
            for index in range(done, done + count):
                value, error = found.get(index) or (None, batch.errors[index])
                failed += error is not None
                yield Row(paths[index], value, error)
            done += count
            bar.set_postfix(errors=failed, refresh=False)
            bar.update(count)


def _answers(method: Callable[..., Any], batch: Tensor, options: dict[str, Any]) -> list[tuple[Any, str | None]]:
    """Answer or error of each sample; one whose answer is no number stops none of the others."""
    if not len(batch):
        return []
    try:
        return [(value, None) for value in method(batch, batch_size=len(batch), **options)]
    except InputError as error:
        if len(batch) == 1:
            return [(None, str(error))]
    return [answer for sample in batch.split(1) for answer in _answers(method, sample, options)]
