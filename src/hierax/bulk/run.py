"""Apply a network to many files; a file that cannot be read becomes a row with an error and stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import console
from ..data.files import name_text
from ..data.loader import map_batches
from ..errors import InputError
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
            answers = _answers(method, batch.tensor, options)
            found = dict(zip(batch.indices, answers, strict=True))
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
