"""Whether training without labels goes well, while it runs: values beside their chance level, collapse, a kNN probe."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .. import console
from ..data.datasets.samples import TrainingData
from ..errors import RecipeError
from .bounds import Bound
from .devices import Devices
from .knn_probe import Probe
from .methods.base import Method
from .pictures import at_most_a_warning
from .recipe import Recipe
from .report import Report
from .timeline import FEATURES, Timeline

PROBES = 20  # in a run, where nothing else is asked for


class Watch:
    """Holds the means of logged values over some steps against their bounds, and warns when one lies beyond.

    A warning comes once; it comes again where the mean has been within its bound in between.

    Attributes:
        told: Every warning so far.
    """

    def __init__(self, bounds: Sequence[Bound]) -> None:
        self.bounds = bounds
        self.told: list[str] = []
        self._recent: dict[str, deque[float]] = {bound.value: deque(maxlen=bound.steps) for bound in bounds}
        self._warned: set[str] = set()

    def step(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Look at the values of a step that was done; what is to be said loudly."""
        new = []
        for bound in self.bounds:
            name, recent = bound.value, self._recent[bound.value]
            if not math.isfinite(value := values.get(name, math.nan)):
                continue
            recent.append(value)
            mean = sum(recent) / len(recent)
            if len(recent) < bound.steps or not bound.exceeded(mean):
                self._warned.discard(name)
            elif name not in self._warned:
                self._warned.add(name)
                new.append(f"WARNING: collapse at step {step}: {bound.told(mean)}")
        self.told += new
        return new

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        recent = {name: list(values) for name, values in self._recent.items()}
        return {"recent": recent, "warned": sorted(self._warned), "told": self.told}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what a checkpoint kept; those from before there was a watch have none."""
        for name, values in state.get("recent", {}).items():
            if name in self._recent:
                self._recent[name].extend(values)
        self._warned, self.told = set(state.get("warned", ())), list(state.get("told", ()))


class Health:
    """All that is looked at during a run: bounds of values, a probe of the features, a picture of them.

    Attributes:
        watch: Whether values stay within their bounds.
        notes: What a person should know of the probe.
    """

    def __init__(
        self, method: Method, data: TrainingData, recipe: Recipe, out: Path, devices: Devices, report: Report
    ) -> None:
        """Open the probe, and take the images of the picture from it, or else from the data.

        Raises:
            RecipeError: A probe where weights are spread over processes.
            InputError: Nothing that can be probed on.
        """
        self.method, self.devices, self.report, self.total = method, devices, report, report.total
        self.watch, self.notes = Watch(method.bounds()), list[str]()
        self.every = recipe.probe_every or max(1, math.ceil(self.total / PROBES))
        self.probe: Probe | None = None
        self.timeline: Timeline | None = None
        if recipe.task == "finetune" and recipe.probe is None:
            return
        encoder = method.probed()
        spec = dataclasses.replace(method.weights.preprocess, frame_stride=recipe.frame_stride)
        if recipe.probe is not None and devices.sharded:
            raise RecipeError("A probe needs whole weights on each process; got sharding='fsdp2'. Take sharding='ddp'.")
        if recipe.probe is not None:
            self.probe = Probe.open(recipe.probe, encoder.config, spec, workers=recipe.workers)
            self.notes.append(f"probe: {self.probe}, every {self.every} steps")
        if not encoder.config.is_video and not devices.sharded:
            shown, of = (data, "trained on") if self.probe is None else (self.probe.data, "of the probe")
            self.timeline = Timeline(shown, encoder, spec, out, self.total, of=of)

    def open(self, start: int, state: Mapping[str, Any]) -> None:
        """Go on with what was seen up to a step, 0 for a fresh run; `state` is what a checkpoint kept of `watch`."""
        self.watch.restore(state)
        if self.timeline is not None and start:
            with at_most_a_warning(FEATURES):
                self.timeline.restore(start)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Look at the values of a step, and warn so that nobody overlooks it."""
        for warning in self.watch.step(step, values):
            for line in ("!" * 100, warning, "!" * 100):
                console.say(line)
            self.report.write({"step": step, "warning": warning})

    def look(self, done: int, averaged: Callable[[], AbstractContextManager[None]]) -> None:
        """The probe and the picture, where they are due after so many steps; every process must call this.

        Args:
            done: Steps that are done.
            averaged: Puts the averaged weights in place of the present ones.
        """
        timeline, probe = self.timeline, self.probe
        draws = timeline is not None and done in timeline.steps and self.devices.main
        probes = probe is not None and (done == self.total or done % self.every == 0)
        if not (probes or draws):
            return
        with averaged():
            if draws and timeline is not None:
                with at_most_a_warning(FEATURES):
                    timeline.add(done, self.devices.device)
            if probes and probe is not None:
                self.report.probed(done, probe.measure(self.method.probed(), self.devices))
