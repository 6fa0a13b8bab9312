"""What a person sees of a run: one progress line, a log in JSON lines, TensorBoard, and warnings."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from .. import console


class Report:
    """Writes the log and talks, in the main process only.

    Attributes:
        path: The JSON lines.
        losses: Mean loss of every step since the start of the run, resumed parts included.
    """

    def __init__(
        self,
        out: Path,
        main: bool,
        total: int,
        log_every: int,
        *,
        baseline: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path = out / "log.jsonl"
        self.main, self.total, self.log_every, self.baseline = main, total, log_every, baseline
        self.losses: list[float] = []
        self._log: TextIO | None = None
        self._board: Any = None
        self._out = out
        self._since: list[tuple[int, float]] = []  # samples, and seconds of waiting, of steps without a line yet
        self._clock = clock
        self._begun, self._start = 0, clock()  # of this session
        self._mark = self._start

    def open(self, step: int) -> None:
        """Start, or go on after `step` steps: later lines of an interrupted run are dropped."""
        if not self.main:
            return
        lines = []
        if step and self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the last line of a killed run
                    continue
                if record.get("step", 0) <= step:
                    lines.append(line + "\n")
                    self.losses += [math.nan if loss is None else loss for loss in record.get("losses", [])]
        self.path.write_text("".join(lines), "utf-8")
        self._log = self.path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._out / "tensorboard"), purge_step=step)
        except ImportError:
            self.say("no TensorBoard log: pip install tensorboard")
        self._begun, self._start = step, self._clock()
        self._mark = self._start

    def step(self, step: int, loss: float, *, samples: int, wait_s: float, **values: float) -> None:
        """One optimiser step that was done; `step` counts it."""
        if not self.main:
            return
        self.losses.append(loss)
        self._since.append((samples, wait_s))
        if step % self.log_every and step != self.total:
            return
        now, count = self._clock(), len(self._since)
        elapsed = max(now - self._mark, 1e-9)
        read, waited = (sum(column) for column in zip(*self._since, strict=True))
        record = {
            "step": step,
            "loss": sum(self.losses[-count:]) / count,
            **values,
            "images_per_second": round(read / elapsed, 2),
            "data_wait": round(waited / elapsed, 4),
            "losses": self.losses[-count:],
        }
        self._since, self._mark = [], now
        self.write(record)
        self._show(record, now)

    def write(self, record: dict[str, Any]) -> None:
        """One line of the log; numbers go to TensorBoard too."""
        if not self.main or self._log is None:
            return
        self._log.write(json.dumps(_finite(record)) + "\n")
        self._log.flush()
        if self._board is not None:
            for key, value in record.items():
                if isinstance(value, (int, float)) and key != "step":
                    self._board.add_scalar(key, value, record["step"])

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.main:
            console.say(text)

    def close(self) -> None:
        """Flush and close."""
        if self.main:
            console.close()
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()

    def _show(self, record: dict[str, Any], now: float) -> None:
        done = record["step"]
        # Only this session's steps were made in this session's time.
        seconds = int((now - self._start) / (done - self._begun) * (self.total - done))
        learned = "" if self.baseline is None else f" (nothing learned: {self.baseline:.4f})"
        parts = [
            f"step {done}/{self.total}",
            f"loss {record['loss']:.4f}{learned}",
            f"lr {record['lr']:.2e}",
            f"{record['images_per_second']:.1f} images/s",
            f"data wait {record['data_wait']:.0%}",
            f"ETA {seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}",
        ]
        console.show("  ".join(parts), now=done == self.total)


def _finite(value: Any) -> Any:
    """NaN and infinity as null, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
