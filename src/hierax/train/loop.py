"""The loop: the same for every method, device and number of processes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import HieraxError
from . import checkpoint as checkpoints
from .batches import Part, Stream, Views, mixed, steps_of_parts
from .devices import Devices
from .methods import Method, StepContext
from .optim import AveragedWeights, build_optimizer, learning_rate, parameter_groups
from .recipe import Recipe
from .report import Report

Named = list[tuple[str, nn.Parameter]]


class Loop:
    """One run from its first, or its last saved, step to the end.

    Attributes:
        failures: Samples that could not be read, by name, with the reason.
        skipped: Steps that were skipped for NaN or infinity.
        resumed_from: The step that the run went on from, 0 for a fresh one.
    """

    def __init__(self, method: Method, views: Views, recipe: Recipe, out: Path, devices: Devices) -> None:
        self.method, self.views, self.recipe, self.out, self.devices = method, views, recipe, out, devices
        self.stream = Stream(len(views.data), recipe)
        groups = parameter_groups(method.module, views.config, recipe)
        self.names = [name for group in groups for name in group["names"]]  # type: ignore[attr-defined]
        self.scales = [float(group["lr_scale"]) for group in groups]  # type: ignore[arg-type]
        optimizer = build_optimizer(groups, recipe)
        self.model, self.optimizer = devices.prepare(method.module, optimizer)
        self.average = AveragedWeights(self.trained(), recipe.ema_decay) if recipe.ema_decay else None
        self.report = Report(out, devices.main, self.stream.total, recipe.log_every, baseline=method.baseline)
        self.failures: dict[str, str] = {}
        self.skipped = self.resumed_from = self._bad_in_a_row = 0

    def trained(self) -> Named:
        """The parameters that the run changes."""
        return [(name, p) for name, p in self.method.module.named_parameters() if p.requires_grad]

    @property
    def warmup(self) -> int:
        """Warm-up in steps."""
        if self.recipe.warmup_steps is not None:
            return self.recipe.warmup_steps
        passes = self.recipe.warmup_epochs / self.recipe.repeats
        return min(math.ceil(passes * self.stream.samples / self.stream.step_size), self.stream.total)

    def run(
        self,
        *,
        resume: bool,
        validate: Callable[[int], dict[str, float]] | None = None,
        show: Callable[[], None] | None = None,
        begin: Callable[[], None] | None = None,
    ) -> None:
        """Train to the end.

        Args:
            resume: Go on from the newest whole checkpoint.
            validate: Gives metrics after a number of steps.
            show: Called between steps after each checkpoint but the last, and every `validate_every` steps.
            begin: Called once the run is known to go ahead.

        Raises:
            HieraxError: Too many steps in a row were not finite; the batch is saved.
            KeyboardInterrupt: The person or the machine asked to stop; the run is saved first.
        """
        start = self._restore() if resume else 0
        self.resumed_from = start
        self.report.open(start)
        if begin is not None:
            begin()
        if resume:
            done = f"going on after step {start} of {self.stream.total}"
            self.report.say(done if start else f"no checkpoint in {self.out}: this run starts from the beginning")
        steps = steps_of_parts(
            self.views, self.stream, self.recipe, start=start, rank=self.devices.rank, world=self.devices.world
        )
        try:
            with _stop_signals() as stop:
                for step in range(start, self.stream.total):
                    before = time.perf_counter()
                    parts = next(steps)
                    self._step(step, parts, time.perf_counter() - before)
                    self._after(step + 1, validate, show)
                    if self.devices.any(stop.is_set()):
                        self.save(step + 1)
                        raise KeyboardInterrupt
        finally:
            self.report.close()

    def save(self, step: int) -> None:
        """Commit a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.devices.state(self.method.module).items()}
        if self.average is not None:
            tensors |= {f"ema.{name}": _whole(tensor) for name, tensor in self.average.values.items()}
        optimizer = checkpoints.optimizer_tensors(self._bare_optimizer(), self.names)
        tensors |= {name: _whole(tensor) for name, tensor in optimizer.items()}
        failures = {name: reason for found in self.devices.gather(self.failures) for name, reason in found.items()}
        if self.devices.main:
            state = {"failures": failures, "skipped": self.skipped, "bad_in_a_row": self._bad_in_a_row}
            checkpoints.commit(self.out / "checkpoints", checkpoints.Checkpoint(step, tensors, state))
        self.devices.wait()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the present ones, where there are any."""
        if self.average is not None:
            self.average.swap(self.trained())
        try:
            yield
        finally:
            if self.average is not None:
                self.average.swap(self.trained())

    def _step(self, step: int, parts: list[Part], wait_s: float) -> None:
        """One optimiser step over all parts of all processes."""
        for part in parts:
            self.failures.update(part.failures)
        total = self.devices.sum(float(sum(len(part.pixels) for part in parts)))[0]
        lr = learning_rate(
            step,
            total=self.stream.total,
            warmup=self.warmup,
            peak=self.recipe.peak_lr,
            end=self.recipe.min_lr,
            schedule=self.recipe.schedule,
        )
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = lr * scale
        self.model.train()
        loss, shown = (math.nan, {}) if total == 0 else self._backward(step, parts, total)
        norm = math.nan
        if total:
            norm = self.devices.norm([p for _, p in self.trained()], self.recipe.clip_norm, self.optimizer)
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
            self._bad_in_a_row = 0
            if self.average is not None and (step + 1) % self.recipe.ema_every == 0:
                self.average.update(self.trained())
            self.method.after_step(StepContext(step + 1, self.stream.total, self.recipe.seed))
        else:
            self._skip(step, parts, loss, norm, total)
        self.optimizer.zero_grad(set_to_none=True)
        if not total:
            return
        self.report.step(
            step + 1,
            loss,
            samples=int(total),
            wait_s=wait_s,
            epoch=round(self.stream.epochs(step + 1), 4),
            lr=lr,
            gradient_norm=norm,
            **shown,
        )

    def _backward(self, step: int, parts: list[Part], total: float) -> tuple[float, dict[str, float]]:
        """Gradients of the mean loss over all samples of the step; the loss, and its parts."""
        devices = self.devices
        sums: dict[str, float] = {"loss": 0.0}
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            count = len(part.pixels)
            if count == 0:
                if devices.world == 1:
                    continue
                part = _placeholder(part)  # other processes wait for this one's gradients
            seed = mixed(self.recipe.seed, 4, step, index, devices.rank)
            torch.manual_seed(seed)  # drop path and dropout; resuming needs no saved generator
            context = StepContext(step, self.stream.total, seed)
            waits = contextlib.nullcontext() if last else devices.accelerator.no_sync(self.model)
            with waits:
                with devices.accelerator.autocast():
                    loss, shown = self.method.loss(self.model, part, context)
                # Processes average their gradients, so each part weighs its share of all samples.
                devices.accelerator.backward(loss * (count * devices.world / total))
            for key, value in {"loss": loss, **shown}.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach()) * (count / total if count else 0.0)
        reduced = dict(zip(sums, devices.sum(*sums.values()), strict=True))
        return reduced.pop("loss"), reduced

    def _skip(self, step: int, parts: list[Part], loss: float, norm: float, total: float) -> None:
        """Leave a step out, and stop the run when too many follow each other."""
        self.skipped += 1
        self._bad_in_a_row += 1
        reason = "nothing could be read" if total == 0 else f"loss {loss}, gradient norm {norm}"
        if self.devices.precision == "fp16" and total:
            self.optimizer.step()  # lets the gradient scaler lower its scale; it skips the step itself
        self.report.say(f"step {step + 1} skipped: {reason}")
        if self._bad_in_a_row < self.recipe.max_bad_steps:
            return
        path = self.out / f"bad_batch_rank{self.devices.rank}.safetensors"
        _save_parts(path, parts)
        if total == 0:
            raise HieraxError(
                f"Training data must be readable; nothing was for {self._bad_in_a_row} steps. "
                f"First reason: {next(iter(self.failures.values()), 'unknown')}"
            )
        raise HieraxError(
            f"Training must stay finite; {self._bad_in_a_row} steps in a row were not ({reason}). The last batch "
            f"is in {path}. Lower lr, lengthen the warm-up or set clip_norm; the newest checkpoint is unharmed."
        )

    def _after(
        self, done: int, validate: Callable[[int], dict[str, float]] | None, show: Callable[[], None] | None
    ) -> None:
        """Checkpoints, validation and pictures between steps."""
        recipe, last = self.recipe, done == self.stream.total
        saves = last or (recipe.checkpoint_every and done % recipe.checkpoint_every == 0)
        validates = not last and recipe.validate_every and done % recipe.validate_every == 0
        if saves:
            self.save(done)
        if validate is not None and validates:
            with self.averaged():
                metrics = validate(done)
            self.report.write({"step": done, **{f"validation_{key}": value for key, value in metrics.items()}})
            self.report.say(f"step {done}: " + "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
        if show is not None and not last and (saves or validates):
            with self.averaged():
                show()

    def _restore(self) -> int:
        """Go back to the newest whole checkpoint; the step that it was made after."""
        found = checkpoints.newest(self.out / "checkpoints")
        if found is None:
            return 0
        tensors = found.tensors
        model = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        _load_parameters(self.method.module, model)
        if self.average is not None:
            for name, value in self.average.values.items():
                _copy(value, tensors[f"ema.{name}"])
        checkpoints.load_optimizer(self._bare_optimizer(), self.names, self._sharded_like(tensors))
        self.failures = dict(found.state["failures"])
        self.skipped, self._bad_in_a_row = found.state["skipped"], found.state["bad_in_a_row"]
        return found.step

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _sharded_like(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Optimiser tensors spread as their parameters are."""
        if not self.devices.sharded:
            return tensors
        spread = dict(tensors)
        for name, parameter in self.trained():
            for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                whole = tensors.get(f"optimizer.{name}.{key}")
                if whole is not None:
                    like = torch.zeros_like(parameter)
                    _copy(like, whole)
                    spread[f"optimizer.{name}.{key}"] = like
        return spread


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be spread over processes, in one piece."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


@torch.no_grad()
def _copy(to: torch.Tensor, whole: torch.Tensor) -> None:
    """Fill a tensor, spread or not, from one in one piece."""
    if hasattr(to, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole.to(to.device), to.device_mesh, to.placements)  # type: ignore[attr-defined]
    to.copy_(whole)


def _load_parameters(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        _copy(tensor, state[name])


def _placeholder(part: Part) -> Part:
    """One black sample, for a process that has none; it gets no weight."""
    pixels = torch.zeros(1, *part.pixels.shape[1:], dtype=torch.uint8)
    zero = torch.zeros(1, dtype=torch.int64)
    return dataclasses.replace(part, pixels=pixels, labels=zero, keys=zero)


def _save_parts(path: Path, parts: list[Part]) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for index, part in enumerate(parts):
        tensors |= {f"{index}.pixels": part.pixels, f"{index}.labels": part.labels, f"{index}.keys": part.keys}
        tensors[f"{index}.samples"] = torch.from_numpy(np.array(part.samples, dtype=np.int64))
    save_file(tensors, path)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask the loop to stop after the step; a second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
