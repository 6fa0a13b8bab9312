"""Apply a network to many files; a file that cannot be read becomes a row with an error and stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import console
from ..data.files import name_text
from ..data.loader import map_batches
from ..predictor import Predictor


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
        r"""The path as text; bytes that are no UTF-8 become `\xNN`."""
        return name_text(self.path)


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


def run(
    predictor: Predictor,
    paths: Sequence[Path],
    method: Callable[..., Any],
    *,
    batch_size: int = 32,
    progress: bool = True,
    **options: Any,
) -> Iterator[Row]:
    """Rows in the order of `paths`, one for each, as batches are done.

    Args:
        predictor: Decodes and preprocesses.
        paths: Image or clip files.
        method: Gives one answer per sample of a preprocessed batch, as a sequence or an array; a predictor's method.
        batch_size: Files at a time.
        progress: A progress bar where a person watches.
        **options: Of the method.

    Raises:
        InputError: batch_size is impossible.
    """
    shape = (3, *predictor.encoder.config.input_size)
    batches = map_batches(paths, predictor.prepare, batch_size=min(batch_size, max(1, len(paths))), empty=shape)
    done = failed = 0
    with console.bar(total=len(paths), unit="img", wanted=progress) as bar:
        for batch in batches:
            values = method(batch.tensor, batch_size=len(batch.indices), **options) if batch.indices else ()
            answers = dict(zip(batch.indices, values, strict=True))
            count = len(batch.indices) + len(batch.errors)
            for index in range(done, done + count):
                yield Row(paths[index], answers.get(index), batch.errors.get(index))
            done, failed = done + count, failed + len(batch.errors)
            bar.set_postfix(errors=failed, refresh=False)
            bar.update(count)
