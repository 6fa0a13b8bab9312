"""Apply a predictor to many files; a file that cannot be read becomes a row with an error and stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..config import STAGE_NAMES
from ..data.loader import map_batches
from ..predictor import Prediction, Predictor


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


def run(
    predictor: Predictor,
    paths: Sequence[Path],
    function: Callable[[Tensor], Any],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Iterator[Row]:
    """Rows in the order of `paths`, one for each, a batch at a time.

    Args:
        predictor: Decodes and preprocesses.
        paths: Image or clip files.
        function: Gives one answer per sample of a preprocessed batch, as a sequence or an array.
        batch_size: Files at a time.
        progress: A progress bar on stderr.
    """
    bar = _bar(len(paths), progress)
    done, failed = 0, 0
    try:
        shape = (3, *predictor.encoder.config.input_size)
        for batch in map_batches(list(paths), predictor.prepare, batch_size=batch_size, empty=shape):
            values = function(batch.tensor) if batch.indices else ()
            answers = dict(zip(batch.indices, values, strict=True))
            count = len(batch.indices) + len(batch.errors)
            for index in range(done, done + count):
                yield Row(paths[index], answers.get(index), batch.errors.get(index))
            done, failed = done + count, failed + len(batch.errors)
            bar.set_postfix(errors=failed, refresh=False)
            bar.update(count)
    finally:
        bar.close()


def _bar(total: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="img", disable=not progress, leave=False)


def embed_rows(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    normalize: bool = False,
    batch_size: int = 32,
    progress: bool = False,
) -> Iterator[Row]:
    """Rows of float32 vectors (c,)."""

    def embed(batch: Tensor) -> np.ndarray:
        return predictor.embed(batch, normalize=normalize, batch_size=batch_size)

    return run(predictor, paths, embed, batch_size=batch_size, progress=progress)


def classify_rows(
    predictor: Predictor, paths: Sequence[Path], *, top_k: int = 5, batch_size: int = 32, progress: bool = False
) -> Iterator[Row]:
    """Rows of the `top_k` most probable classes."""

    def classify(batch: Tensor) -> list[list[Prediction]]:
        return predictor.classify(batch, top_k=top_k, batch_size=batch_size)

    predictor.classify([], top_k=top_k)  # a model without classes is refused before any file is opened
    return run(predictor, paths, classify, batch_size=batch_size, progress=progress)


def feature_rows(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    stages: Sequence[str] = STAGE_NAMES,
    batch_size: int = 8,
    progress: bool = False,
) -> Iterator[Row]:
    """Rows of {stage: float32 (c, h, w)}."""

    def features(batch: Tensor) -> list[dict[str, np.ndarray]]:
        maps = predictor.features(batch, stages=stages, batch_size=batch_size)
        return [{stage: maps[stage][i] for stage in maps} for i in range(len(batch))]

    return run(predictor, paths, features, batch_size=batch_size, progress=progress)
