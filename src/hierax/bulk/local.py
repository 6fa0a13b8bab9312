"""Rows of a source on this machine: processes prepare, the model answers batch by batch, rows come in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.items import Item
from ..errors import HieraxError
from ..store.tables import Record
from .pool import prepared
from .progress import Progress
from .worker import InputMaker, Made, record_of

_AHEAD_BYTES = 256 << 20  # of inputs that are prepared before they are asked for
_SIZES = {"cpu": (8, 16, 32), "cuda": (32, 64, 128, 256)}
_GAIN = 1.1  # how much faster a larger batch must be to be worth its memory
_TOGETHER = 64  # items, or one batch if that is more
_TRIES = 3  # batches of a size, the first of which is not counted
_log = logging.getLogger(__name__)


class BatchSize:
    """How many images the model gets at a time; with "auto" what is fastest here, found out on the way.

    Args:
        wanted: A number, or "auto".
        device: Type of the model's device.
    """

    def __init__(self, wanted: int | str, device: str) -> None:
        self._sizes = list(_SIZES.get(device, _SIZES["cpu"])) if wanted == "auto" else [int(wanted)]
        self.now = self._sizes.pop(0)
        self.most = max([self.now, *self._sizes])
        self._best, self._tried = (0.0, self.now), list[float]()

    @property
    def together(self) -> int:
        """After how many items the model is asked at the latest: a cluster's chunks, and so its batches, are these.

        A vector's last digits depend on how many images its batch has.
        """
        return self.most * max(1, _TOGETHER // self.most)

    def took(self, count: int, seconds: float) -> None:
        """Learn from a whole batch."""
        if not self._sizes or count < self.now:
            return
        self._tried.append(count / max(seconds, 1e-9))
        if len(self._tried) < _TRIES:
            return
        rate, self._tried = max(self._tried[1:]), []
        if rate > self._best[0] * _GAIN:
            self._best, self.now = (rate, self.now), self._sizes.pop(0)
        else:
            self.now, self._sizes = self._best[1], []

    def lower(self) -> bool:
        """Take half as many from now on, for want of memory; whether that is any."""
        self._sizes, self.now = [], self.now // 2
        return self.now > 0


def local_rows(
    items: Iterable[Item],
    make: InputMaker,
    columns: Callable[[Any], list[Any]],
    *,
    batch_size: BatchSize,
    workers: int,
    progress: Progress,
    ends: Callable[[Item], bool] | None = None,
) -> Iterator[tuple[Record, Item]]:
    """A row for each item, in order, with the item.

    Args:
        items: Of a source.
        make: Gives the model's input of an item.
        columns: Gives the columns of a batch of inputs.
        batch_size: Of the model.
        workers: Processes that prepare; 0 for threads.
        progress: Told how long each part takes.
        ends: Whether the model is asked at an item, however few there are; by their number without it.
    """
    bytes_each = 4 * int(np.prod(make.shape))
    ahead = max(2, min(batch_size.most + 4 * workers, _AHEAD_BYTES // bytes_each, 1024))
    ready = iter(prepared(items, make, make.shape, workers=workers, ahead=ahead))
    drawn, together = 0, batch_size.together
    span: list[tuple[Item, Made]] = []
    inputs = _Inputs(make.shape)
    while True:
        with progress.timed("waiting"):
            found = next(ready, None)
        if found is not None:
            drawn += 1
            span.append((found.item, found.made))
            progress.seconds["reading"] += found.made.reading_s
            progress.seconds["decoding"] += found.made.decoding_s
            if found.input is not None:
                inputs.add(found.input)
        last = found is None or (ends(found.item) if ends is not None else drawn % together == 0)
        if not last and inputs.count < batch_size.now and len(span) < 4 * batch_size.now:
            continue
        with progress.timed("model"):
            answers = iter(_answers(inputs.taken(), columns, batch_size))
        for item, made in span:
            yield record_of(item, made, None if made.error is not None else next(answers)), item
        span = []
        if found is None:
            return


class _Inputs:
    """What waits for the model, in one place for all batches: fresh memory costs more than the copy into it.

    Attributes:
        count: How many wait.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._place, self.count = torch.empty(8, *shape, dtype=torch.float32), 0

    def add(self, made: np.ndarray) -> None:
        """Copy one in."""
        if self.count == len(self._place):
            self._place = torch.cat([self._place, torch.empty_like(self._place)])
        self._place[self.count] = torch.from_numpy(made)
        self.count += 1

    def taken(self) -> Tensor:
        """Those that waited, until the next one is added."""
        count, self.count = self.count, 0
        return self._place[:count]


def _answers(inputs: Tensor, columns: Callable[[Any], list[Any]], size: BatchSize) -> list[Any]:
    """The model's answers, in smaller batches where memory is short."""
    answers: list[Any] = []
    while len(answers) < len(inputs):
        batch = inputs[len(answers) : len(answers) + size.now]
        start = time.perf_counter()
        try:
            answers += columns(batch)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if not size.lower():
                raise HieraxError(
                    f"An image must fit into the device's memory with the model; {str(error).splitlines()[0][:200]}. "
                    "Use a smaller --input-size, another --device, or --dtype bfloat16."
                ) from error
            _log.warning("memory is short: batches of %d from now on", size.now)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        size.took(len(batch), time.perf_counter() - start)
    return answers


def _out_of_memory(error: RuntimeError) -> bool:
    words = ("out of memory", "not enough memory", "can't allocate memory", "DefaultCPUAllocator")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
