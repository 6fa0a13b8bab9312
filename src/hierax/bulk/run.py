"""Apply a predictor to many files, and keep count of what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.rows import Row, map_rows
from ..predictor import Predictor


class Tally:
    """Rows as they pass, counted; the failed and the first good ones are kept.

    Args:
        rows: The rows.
        keep: How many good ones.

    Attributes:
        total: How many passed.
        failed: Name and reason of each that is an error.
        first: The first good ones.
    """

    def __init__(self, rows: Iterable[Row], *, keep: int = 0) -> None:
        self._rows, self._keep = rows, keep
        self.total, self.failed, self.first = 0, list[tuple[str, str]](), list[Row]()

    def __iter__(self) -> Iterator[Row]:
        """The rows."""
        for row in self._rows:
            self.total += 1
            if row.error is not None:
                self.failed.append((row.name, row.error))
            elif len(self.first) < self._keep:
                self.first.append(row)
            yield row


def run(predictor: Predictor, paths: Sequence[Path], method: Callable[..., Any], **options: Any) -> Iterator[Row]:
    """Rows in the order of `paths`, one for each, as batches are done.

    Args:
        predictor: Decodes and preprocesses.
        paths: Image or clip files.
        method: Gives one answer per sample of a preprocessed batch, as a sequence or an array; a predictor's method.
        **options: Of `map_rows`, and of the method.

    Raises:
        InputError: batch_size is impossible.
    """
    return map_rows(paths, predictor.prepare, method, empty=(3, *predictor.encoder.config.input_size), **options)
