"""What a person sees of a run: one progress line, a log in JSON lines, TensorBoard, and warnings."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .. import console
from ..errors import writing
from ..model.metrics import Accuracy
from ..weights.files import write_text
from .best import merit
from .bounds import Levels

PROBE = "probe_top1"  # what the log calls the share of right answers of a probe


class Report:
    """Writes the log and talks, in the main process only.

    Attributes:
        path: The JSON lines.
        losses: Mean loss of every step since the start of the run, resumed parts included.
        accuracies: Validations, as (step, share of right answers, loss), resumed parts included.
        probes: Probes likewise.
    """

    def __init__(
        self,
        out: Path,
        main: bool,
        total: int,
        log_every: int,
        *,
        baseline: float | None,
        levels: Levels | None = None,
    ) -> None:
        self.path = out / "log.jsonl"
        self.main, self.total, self.log_every, self.baseline = main, total, log_every, baseline
        self.levels = levels or {}
        self.losses: list[float] = []
        self.accuracies: list[tuple[int, float, float]] = []
        self.probes: list[tuple[int, float]] = []
        self._log: TextIO | None = None
        self._board: Any = None
        self._since: list[tuple[int, float]] = []  # samples, and seconds of waiting, of steps without a line yet
        self._begun = 0
        self._start = self._mark = 0.0  # when this session began, and when the last line was written

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
                if isinstance(record, dict) and record.get("step", 0) <= step:
                    lines.append(line + "\n")
                    self.losses += [math.nan if loss is None else loss for loss in record.get("losses", [])]
                    if record.get("validation_top1") is not None:
                        loss = record.get("validation_loss")
                        found = record["step"], record["validation_top1"], math.nan if loss is None else loss
                        self.accuracies.append(found)
                    if record.get(PROBE) is not None:
                        self.probes.append((record["step"], record[PROBE]))
        write_text(self.path, "".join(lines))
        self._log = self.path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter

            with self._only_shown():
                self._board = SummaryWriter(str(self.path.with_name("tensorboard")), purge_step=step)
        except ImportError:
            console.say("no TensorBoard log: pip install tensorboard")
        except UnicodeError:
            console.say("no TensorBoard log: TensorBoard writes only below folders whose names are UTF-8")
        self._begun = step
        self._start = self._mark = time.perf_counter()

    def step(self, step: int, loss: float, *, samples: int, wait_s: float, **values: float) -> None:
        """One optimiser step that was done; `step` counts it."""
        if not self.main:
            return
        self.losses.append(loss)
        self._since.append((samples, wait_s))
        if step % self.log_every and step != self.total:
            return
        now, count = time.perf_counter(), len(self._since)
        elapsed = max(now - self._mark, 1e-9)
        read, waited = (sum(column) for column in zip(*self._since, strict=True))
        recent = self.losses[-count:]
        mean, rate, waiting = sum(recent) / count, round(read / elapsed, 2), round(waited / elapsed, 4)
        self._since, self._mark = [], now
        speed = {"images_per_second": rate, "data_wait": waiting}
        self.write({"step": step, "loss": mean, **values, **speed, "losses": recent})
        # Only this session's steps were made in this session's time.
        left = int((now - self._start) / (step - self._begun) * (self.total - step))
        learned = "" if self.baseline is None else f" (predicting zero: {self.baseline:.4f})"
        parts = beside_chance({name: values[name] for name in self.levels if name in values}, self.levels)
        line = (
            f"step {step}/{self.total}  loss {mean:.4f}{learned}{parts}{self._validated()}  lr {values['lr']:.2e}  "
            f"{rate:.1f} images/s  data wait {waiting:.0%}  ETA {left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"
        )
        console.show(line, now=step == self.total)

    def validated(self, step: int, result: Accuracy) -> None:
        """A validation between steps: into the log, and into the lines to come."""
        self.write({"step": step, **{f"validation_{key}": value for key, value in result.to_dict().items()}})
        if self.main and result.total:
            self.accuracies.append((step, result.top1, result.loss))
            console.say(f"step {step}: validation {result}, loss {result.loss:.4f}{self._best()}")

    def probed(self, step: int, top1: float) -> None:
        """A probe of the features between steps: into the log, and into the lines to come."""
        self.write({"step": step, PROBE: top1})
        if self.main:
            self.probes.append((step, top1))
            begun = f" (at the start {self.probes[0][1]:.1%})" if len(self.probes) > 1 else ""
            console.say(f"step {step}: kNN probe {top1:.1%}{begun}")

    def _validated(self) -> str:
        """The newest accuracy, and the best so far, for a line of progress; and the newest probe."""
        probe = f"  kNN probe {self.probes[-1][1]:.1%}" if self.probes else ""
        return probe + (f"  top-1 {self.accuracies[-1][1]:.1%}{self._best()}" if self.accuracies else "")

    def _best(self) -> str:
        step, best, _ = max(self.accuracies, key=lambda point: merit(*point[1:]))
        return " (the best so far)" if step == self.accuracies[-1][0] else f" (best {best:.1%} at step {step})"

    def write(self, record: dict[str, Any]) -> None:
        """One line of the log; numbers go to TensorBoard too."""
        if self._log is None:
            return
        # JSON has neither NaN nor infinity: null.
        finite = json.loads(json.dumps(record), parse_constant=lambda constant: None)
        with writing(self.path):
            self._log.write(json.dumps(finite) + "\n")
            self._log.flush()
        if self._board is not None:
            with self._only_shown():
                for key, value in record.items():
                    if isinstance(value, (int, float)) and key != "step":
                        self._board.add_scalar(key, value, record["step"])

    @contextlib.contextmanager
    def _only_shown(self) -> Iterator[None]:
        """A run goes on without TensorBoard's files where these cannot be written: the log has every number."""
        try:
            yield
        except OSError as error:
            self._board = None
            console.say(f"no TensorBoard log from here on: {error.strerror or error}. All is in {self.path.name}")

    def close(self) -> None:
        """Flush and close."""
        console.close()
        for file in (self._log, self._board):
            if file is not None:
                with contextlib.suppress(OSError):  # every line was flushed, and told if it could not be
                    file.close()


def beside_chance(values: Mapping[str, float], levels: Levels) -> str:
    """Values for a line of progress, each with its chance level where there is one: "ibot 4.91 (chance 5.55)"."""
    parts = []
    for name, value in values.items():
        level, kind = levels.get(name, (None, ""))
        beside = f" (chance {_short(level)})" if level is not None and kind == "chance" else ""
        parts.append(f"  {name} {_short(value)}{beside}")
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
