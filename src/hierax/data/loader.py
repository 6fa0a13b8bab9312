"""Batches of prepared images or clips, decoded ahead by threads: Pillow and torch let go of the interpreter."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..schema import positive

_MAX_THREADS = 8


@dataclass(frozen=True)
class Batch:
    """Consecutive items of a run.

    Attributes:
        indices: Positions, in the run, of the items that could be prepared.
        tensor: Those items in the order of `indices`; k may be 0.
        errors: Why the others could not be prepared, by position.
    """

    indices: tuple[int, ...]
    tensor: Float[Tensor, "k ..."]
    errors: dict[int, str]


def map_batches(
    items: Iterable[Any], prepare: Callable[[Any], Tensor], *, batch_size: int, empty: tuple[int, ...] = (3, 0, 0)
) -> Iterator[Batch]:
    """Prepare items, in order, a batch at a time, on one thread per processor, up to 8.

    A bad item becomes an entry in `errors` and never stops the others. Memory is bounded: one item a thread is open
    at once, and about one batch of results is prepared ahead of the caller.

    Args:
        items: Anything; drawn from only as far ahead as is needed.
        prepare: Gives the tensor of one item, the same shape for all, or raises InputError.
        batch_size: Items a batch spans, the bad ones included.
        empty: Shape of one item, for a batch in which every item failed.

    Returns:
        Batches whose indices and errors together cover every item once.

    Raises:
        InputError: batch_size is impossible.
    """
    positive(batch_size=batch_size)
    return _batches(items, prepare, batch_size, empty)


def _batches(
    items: Iterable[Any], prepare: Callable[[Any], Tensor], batch_size: int, empty: tuple[int, ...]
) -> Iterator[Batch]:
    affinity = getattr(os, "sched_getaffinity", None)
    threads = min(len(affinity(0)) if affinity is not None else os.cpu_count() or 1, _MAX_THREADS)
    pool, source, start = ThreadPoolExecutor(threads, thread_name_prefix="hierax-decode"), iter(items), 0
    waiting: deque[Future[Tensor | str]] = deque()

    def attempt(item: Any) -> Tensor | str:
        try:
            return prepare(item)
        except (InputError, MemoryError) as error:  # others are faults of ours and surface
            return str(error) or "The image does not fit into memory."

    def draw() -> None:
        for item in itertools.islice(source, batch_size + 2 * threads - len(waiting)):
            waiting.append(pool.submit(attempt, item))

    try:
        draw()
        while waiting:
            span = [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
            draw()
            tensors = {start + i: result for i, result in enumerate(span) if isinstance(result, Tensor)}
            errors = {start + i: result for i, result in enumerate(span) if isinstance(result, str)}
            stacked = torch.stack(list(tensors.values())) if tensors else torch.zeros(0, *empty)
            yield Batch(tuple(tensors), stacked, errors)
            start += len(span)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
