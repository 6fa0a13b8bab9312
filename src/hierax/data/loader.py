"""Batches of prepared images or clips, decoded ahead of the network by a few threads.

Threads suffice: Pillow and torch let go of the interpreter while they decode and resize.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError

_MAX_DEFAULT_WORKERS = 8


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
    errors: dict[int, str] = field(default_factory=dict)


def map_batches(
    items: Iterable[Any],
    prepare: Callable[[Any], Tensor],
    *,
    batch_size: int,
    workers: int | None = None,
    empty: tuple[int, ...] = (3, 0, 0),
) -> Iterator[Batch]:
    """Prepare items, in order, a batch at a time.

    A bad item becomes an entry in `errors` and never stops the others. Memory is bounded: at most `workers` items
    are open at once, and about one batch of results is prepared ahead of the caller.

    Args:
        items: Anything; drawn from only as far ahead as is needed.
        prepare: Gives the tensor of one item, the same shape for all, or raises InputError.
        batch_size: Items a batch spans, the bad ones included.
        workers: Threads; 0 prepares in the caller's thread, None takes one per processor, up to 8.
        empty: Shape of one item, for a batch in which every item failed.

    Yields:
        Batches whose indices and errors together cover every item once.

    Raises:
        InputError: batch_size or workers is impossible.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a positive whole number; got {batch_size!r}.")
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise InputError(f"workers must be 0 or more, or None; got {workers!r}.")
    threads = default_workers() if workers is None else workers
    if threads == 0:
        results = (_attempt(prepare, item) for item in items)
    else:
        results = _ahead(items, prepare, threads, batch_size + 2 * threads)
    return _batches(results, batch_size, empty)


def default_workers() -> int:
    """One thread per processor that this process may use, up to 8."""
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(processors, _MAX_DEFAULT_WORKERS)


def _attempt(prepare: Callable[[Any], Tensor], item: Any) -> Tensor | str:
    """The tensor of an item, or why there is none. Errors other than these are faults of ours and surface."""
    try:
        return prepare(item)
    except (InputError, MemoryError) as error:
        return str(error) or "The image does not fit into memory."


def _ahead(items: Iterable[Any], prepare: Callable[[Any], Tensor], threads: int, window: int) -> Iterator[Tensor | str]:
    """Results in the order of the items, with at most `window` items in flight."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hierax-decode")
    source = iter(items)
    waiting: deque[Future[Tensor | str]] = deque()
    try:
        while True:
            for item in itertools.islice(source, window - len(waiting)):
                waiting.append(pool.submit(_attempt, prepare, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(results: Iterator[Tensor | str], batch_size: int, empty: tuple[int, ...]) -> Iterator[Batch]:
    start = 0
    while span := list(itertools.islice(results, batch_size)):
        tensors = {start + i: result for i, result in enumerate(span) if isinstance(result, Tensor)}
        errors = {start + i: result for i, result in enumerate(span) if isinstance(result, str)}
        stacked = torch.stack(list(tensors.values())) if tensors else torch.zeros(0, *empty)
        yield Batch(tuple(tensors), stacked, errors)
        start += len(span)
