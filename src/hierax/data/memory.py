"""Memory for pixels: one bound over all threads of a process that decode, because files of bytes declare gigabytes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator

_LARGE = 64 << 20
# glibc keeps what threads free, in an arena of each: what one gave back would not be there for the next.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

_allocator = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names of the settings


def keep_freed() -> None:
    """Let this process keep up to 64 MiB that it freed, for what it asks for next.

    A process that only reads images asks for the same few megabytes again and again. Given back to the system each
    time, they come back as thousands of page faults, which cost a tenth of an image's time.
    """
    if _allocator is not None:
        _allocator(_MMAP_THRESHOLD, 16 << 20)
        _allocator(_TRIM_THRESHOLD, 64 << 20)


class Budget:
    """Bytes that threads hold while they work; who comes first is served first.

    Attributes:
        total: Bytes that may be held together.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked process must: the threads that held or waited are not in it."""
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._held: dict[object, int] = {}

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and hold them while the block runs.

        More than the total is held alone. Nobody overtakes, so that large requests come to their turn. A thread that
        holds must not ask again: it would wait for itself.
        """
        ticket, size = object(), min(size, self.total)
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or sum(self._held.values()) + size > self.total:
                    self._changed.wait()
                self._held[ticket] = size
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            if _trim is not None and size >= _LARGE:
                _trim(0)
            with self._changed:
                self._held.pop(ticket, None)  # gone in a forked process
                self._changed.notify_all()


PIXELS = Budget(3 << 29)  # ten photographs of 12 megapixels at once; an image that needs more is decoded alone
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PIXELS.forget)
