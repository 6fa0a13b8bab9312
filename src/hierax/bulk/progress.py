"""Where a long run stands: how fast, how long still, what failed, and which of its parts holds it up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import console
from ..data.stream import Source
from ..errors import HieraxError
from ..store.tables import Record

_SIZES = 1000  # images whose size is kept
SOON_S = 3.0  # a run that is done by then says nothing on the way


@dataclass
class Progress:
    """Counts and times of a run.

    Attributes:
        unit: What is counted.
        total: How many there are, once that is known.
        done: How many have a row, those of earlier runs included.
        errors: Of these, the bad ones.
        workers: Processes that read and decode, side by side.
        seconds: Spent by part: waiting, reading, decoding, model, writing.
        failed: Name and reason of the first bad ones of this run.
        errors_now: How many bad ones this run met.
        sizes: (height, width) of the first images of this run.
    """

    unit: str = "images"
    total: int | None = None
    done: int = 0
    errors: int = 0
    workers: int = 1
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("waiting", "reading", "decoding", "model", "writing"), 0.0)
    )
    failed: list[tuple[str, str]] = field(default_factory=list)
    errors_now: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _before: int = 0
    _counting: bool = False

    def begin(self, done: int, errors: int) -> None:
        """Count from here: what earlier runs did is no speed of this one."""
        self._begun, self._before, self.done, self.errors = time.monotonic(), done, done, errors

    def count_row(self, record: Record) -> None:
        """Count a row."""
        self.done += 1
        if len(self.sizes) < _SIZES and record.width and record.height:
            self.sizes.append((record.height, record.width))
        if record.error is not None:
            self.errors, self.errors_now = self.errors + 1, self.errors_now + 1
            if len(self.failed) < console.NAMED:
                self.failed.append((record.path, record.error))

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count a block's time to a part of the run."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        """Seconds of this run."""
        return max(time.monotonic() - self._begun, 1e-9)

    @property
    def rate(self) -> float:
        """Rows a second in this run."""
        return (self.done - self._before) / self.elapsed

    @property
    def slowest(self) -> str:
        """The part of the run that the others wait for."""
        shared = {part: self.seconds[part] / max(self.workers, 1) for part in ("reading", "decoding")}
        times = {**shared, "model": self.seconds["model"], "writing": self.seconds["writing"]}
        return max(times, key=lambda part: times[part])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        left = None
        if self.total is not None and self.rate > 0:
            left = round(max(self.total - self.done, 0) / self.rate, 1)
        return {
            "done": self.done,
            "total": self.total,
            "errors": self.errors,
            "images_per_second": round(self.rate, 2),
            "seconds": round(self.elapsed, 1),
            "seconds_left": left,
            "data_wait": round(self.seconds["waiting"] / self.elapsed, 3),
            "slowest": self.slowest,
        }

    def show(self, *, now: bool = False) -> None:
        """A line that is rewritten where a person watches, a JSON line now and then elsewhere.

        Args:
            now: At the end of a run.
        """
        if not console.shows_progress() or (self.elapsed < SOON_S and not now):
            return
        console.show_or_record(self._line, lambda: {"event": "end" if now else "progress", **self.to_dict()}, now=now)

    def _line(self) -> str:
        found = self.to_dict()
        of = "" if self.total is None else f" of {self.total:,}"
        left = "" if found["seconds_left"] is None else f", {duration(found['seconds_left'])} left"
        waits = f"{100 * found['data_wait']:.0f} % waiting for data"
        return (
            f"{self.done:,}{of} {self.unit}, {self.rate:.1f}/s{left}, {self.errors:,} errors, {waits}, slowest: "
            f"{self.slowest}"
        )

    def count(self, inputs: Source) -> None:
        """Find out the total beside the run, where a look at folders tells."""

        def look() -> None:
            with contextlib.suppress(HieraxError, OSError):
                self.total = inputs.counted(lambda: self._counting)

        self._counting = True
        threading.Thread(target=look, daemon=True, name="hierax-count").start()

    def end(self) -> None:
        """The run is over: what is still being counted is of no use."""
        self._counting = False


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
