"""Images to threads: each thread takes whole images through the network alone, so no operator waits for another.

Operators that each split over all cores meet at a barrier hundreds of times an image, and the slowest core sets the
pace; images share nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from .base import Recent

T = TypeVar("T")
# Enough rows for the products of the last stage, few enough for the caches.
IMAGES_AT_ONCE = 4


def spread(function: Callable[[Tensor], T], x: Tensor) -> list[T]:
    """Apply a function to parts of a batch, each part in one thread of the CPU; results in order."""
    threads = torch.get_num_threads()
    if x.device.type != "cpu" or threads == 1 or x.shape[0] < threads or torch.compiler.is_compiling():
        return [function(x)]
    parts = x.split(min(IMAGES_AT_ONCE, -(-x.shape[0] // threads)))
    # Grad mode belongs to a thread.
    return list(_pool(threads).map(torch.no_grad()(function), parts))


def _started(threads: int) -> ThreadPoolExecutor:
    """That many threads in which operators run single-threaded."""
    everyone = threading.Barrier(threads + 1)

    def start() -> None:
        # A thread's first parallel operator, or this call, copies the process's number: never after ours.
        torch.get_num_threads()
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="hierax-fast", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    everyone.wait()
    # torch keeps the number per thread, and also as the default of threads to come.
    torch.set_num_threads(threads)
    return pool


_pool = Recent(8, _started)


def _forget() -> None:
    """Threads do not survive a fork."""
    global _pool
    _pool = Recent(8, _started)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
