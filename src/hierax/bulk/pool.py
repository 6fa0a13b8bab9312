"""Processes that prepare items while the model works; one that dies, or hangs, costs at most the item that it was at.

Each process has a pipe of its own and writes its results into memory that all share, so that a killed one holds no lock
and leaves nothing half-written that counts. Linux only: elsewhere, and with no workers, threads do the same.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.items import Item
from ..data.memory import keep_freed
from .worker import Made

DEADLINE_S = 120.0  # for one item; after it its process is ended
ATTEMPTS = 2  # at an item during which a process died: it may have been another's fault, for want of memory
_MOST_WORKERS = 16
_LEAST_SLOT = 16 << 20  # bytes: memory that is never touched costs nothing, and the bytes of most images fit
_LARGE = 1 << 18  # bytes of an image that lay in a slot, after which its memory is given back
_CLOSING_S = 1.0
_AHEAD_BYTES = 128 << 20  # of images that are here already, after which no more are drawn


class Ready(NamedTuple):
    """A prepared item, without its bytes; the input is gone when the next one is asked for."""

    item: Item
    made: Made
    input: np.ndarray | None


def default_workers() -> int:
    """One for each processor that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity is not None else os.cpu_count() or 1, _MOST_WORKERS)


def prepared(
    items: Iterable[Item], make: Callable[[Item], Made], shape: tuple[int, ...], *, workers: int, ahead: int
) -> Iterator[Ready]:
    """Items in order, each with its input or the reason why there is none.

    Args:
        items: Drawn from only as far ahead as is needed.
        make: Prepares one; runs in the workers.
        shape: Of every input, float32.
        workers: Processes; 0 for threads of this one.
        ahead: Items that are prepared before they are asked for, about.
    """
    if workers and sys.platform == "linux":
        pool = _Pool(make, shape, workers, max(ahead, 2 * workers))
        with contextlib.closing(pool):
            yield from pool.run(iter(items))
    else:
        yield from _in_threads(iter(items), make, ahead)


def _in_threads(items: Iterator[Item], make: Callable[[Item], Made], ahead: int) -> Iterator[Ready]:
    pool = ThreadPoolExecutor(default_workers(), thread_name_prefix="hierax-decode")
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    held = 0
    try:
        while True:
            while len(waiting) < max(ahead, 1) and held < _AHEAD_BYTES and (item := next(items, None)) is not None:
                waiting.append((item, pool.submit(make, item)))
                held += item.weight
            if not waiting:
                return
            item, future = waiting.popleft()
            made = future.result()
            held -= item.weight
            yield Ready(item.without_bytes(), made, None if made.input is None else made.input.numpy())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Task:
    """An item that a worker has, or had."""

    item: Item
    slot: int
    attempts: int = 0
    made: Made | None = None


@dataclass(eq=False)
class _Worker:
    """A process, its pipe, and what it has to do, the first of it under way since a moment."""

    process: Any
    pipe: Any
    tasks: deque[_Task] = field(default_factory=deque)
    since: float = 0.0


class _Pool:
    def __init__(self, make: Callable[[Item], Made], shape: tuple[int, ...], workers: int, slots: int) -> None:
        self._make, self._shape = make, shape
        self._bytes = max(4 * int(np.prod(shape)), _LEAST_SLOT)
        self._bytes = -(-self._bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, self._bytes * slots)  # shared with forked processes, and nobody else
        self._free = list(range(slots))
        self._order: deque[_Task] = deque()
        self._context = multiprocessing.get_context("fork")
        self._workers: list[_Worker] = []
        self._wanted, self._held = workers, 0

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.pipe.close()
        end = time.monotonic() + _CLOSING_S
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
        self._workers.clear()

    def run(self, items: Iterator[Item]) -> Iterator[Ready]:
        while True:
            self._fill(items)
            if not self._order:
                return
            task = self._order[0]
            self._collect(0.0)
            while task.made is None:
                self._collect(self._patience())
            self._order.popleft()
            view = self._view(task.slot) if task.made.error is None else None
            yield Ready(task.item.without_bytes(), task.made, view)
            self._held -= task.item.weight
            if task.item.weight > _LARGE and hasattr(mmap, "MADV_REMOVE"):
                self._memory.madvise(mmap.MADV_REMOVE, task.slot * self._bytes, self._bytes)
            self._free.append(task.slot)

    def _view(self, slot: int) -> np.ndarray:
        count = int(np.prod(self._shape))
        return np.frombuffer(self._memory, np.float32, count, slot * self._bytes).reshape(self._shape)

    def _fill(self, items: Iterator[Item]) -> None:
        """Give the workers what there is room for."""
        while self._free and self._held < _AHEAD_BYTES:
            item = next(items, None)
            if item is None:
                return
            self._held += item.weight
            task = _Task(item, self._free.pop())
            self._order.append(task)
            if item.error is not None or item.weight > self._bytes:
                task.made = self._here(task)
                continue
            if len(self._workers) < min(self._wanted, len(self._order)):
                self._workers.append(self._started())
            self._give(min(self._workers, key=lambda each: len(each.tasks)), task)

    def _here(self, task: _Task) -> Made:
        """Make what is no work, or too large to be handed over, in this process."""
        made = self._make(task.item)
        if made.input is not None:
            self._view(task.slot)[...] = made.input.numpy()
        return replace(made, input=None)

    def _give(self, worker: _Worker, task: _Task) -> None:
        """Hand an item over: its bytes, if they are here, in its slot, for a pipe holds no more than 64 KiB."""
        if not worker.tasks:
            worker.since = time.monotonic()
        worker.tasks.append(task)
        item, start = task.item, task.slot * self._bytes
        if item.data is not None:
            self._memory[start : start + len(item.data)] = item.data
        with contextlib.suppress(OSError):  # it is dead, which `_collect` finds
            worker.pipe.send((item.without_bytes(), task.slot, -1 if item.data is None else len(item.data)))

    def _patience(self) -> float:
        """Seconds until a worker is overdue."""
        now = time.monotonic()
        return max(0.05, min((w.since + DEADLINE_S - now for w in self._workers if w.tasks), default=1.0))

    def _collect(self, timeout: float) -> None:
        """Take in what is done; replace a worker that died or hangs."""
        pipes = {worker.pipe: worker for worker in self._workers}
        ready: list[Any] = connection.wait(list(pipes), timeout)
        for pipe in ready:
            worker = pipes[pipe]
            try:
                while pipe.poll():
                    error, size, reading, decoding = pipe.recv()
                    task = worker.tasks.popleft()
                    task.made = Made(None, size, error, reading, decoding)
                    worker.since = time.monotonic()
            except (EOFError, OSError):
                worker.process.join(_CLOSING_S)
                self._lost(worker, f"was ended{_how(worker.process.exitcode)}; memory is probably short")
        for worker in list(self._workers):
            overdue = worker.tasks and time.monotonic() - worker.since > DEADLINE_S
            if overdue and not worker.pipe.poll():
                self._lost(worker, f"was still at it after {DEADLINE_S:.0f} seconds, and was ended", final=True)

    def _lost(self, worker: _Worker, how: str, *, final: bool = False) -> None:
        """Put another worker in the place of one; what that was at is tried again, or given up."""
        with contextlib.suppress(OSError):
            worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        worker.process.close()
        self._workers.remove(worker)
        left = worker.tasks
        if left:
            left[0].attempts += 1
            if final or left[0].attempts >= ATTEMPTS:
                first = left.popleft()
                rule = "An image must decode in the memory and time that there are"
                first.made = Made(error=f"{rule}; the process that decoded {first.item.name!r} {how}.")
        new = self._started()
        self._workers.append(new)
        for task in left:
            self._give(new, task)

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        others = [worker.pipe for worker in self._workers]
        process = self._context.Process(target=self._work, args=(theirs, [*others, ours]), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _work(self, pipe: Any, others: list[Any]) -> None:
        """What a worker does until the other end of its pipe is closed, as it is by the death of its parent."""
        for other in others:  # else they would stay open when the parent dies
            other.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run heeds these, and closes the pipe
            signal.signal(number, signal.SIG_IGN)
        torch.set_num_threads(1)
        keep_freed()
        with contextlib.suppress(EOFError, OSError):
            while True:
                item, slot, length = pipe.recv()
                if length >= 0:
                    start = slot * self._bytes
                    item = replace(item, data=self._memory[start : start + length])
                made = self._make(item)
                if made.input is not None:
                    self._view(slot)[...] = made.input.numpy()
                pipe.send((made.error, made.size, made.reading_s, made.decoding_s))
        os._exit(0)


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return ""
    with contextlib.suppress(ValueError):
        return f" by {signal.Signals(-code).name}"
    return f" by signal {-code}"
