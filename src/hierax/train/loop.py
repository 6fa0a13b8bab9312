"""The loop: the same for every method, device and number of processes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import console
from ..data.datasets.samples import TrainingData
from ..errors import HieraxError, RecipeError
from ..model.across import whole
from ..model.encoder import Encoder
from ..model.metrics import Accuracy
from ..weights.files import write_safetensors
from . import checkpoint as checkpoints
from .batches import Part, Stream, Views, mixed, steps_of_parts
from .best import Best
from .devices import Devices
from .health import Health
from .methods import Method
from .methods.base import StepContext
from .optim import AveragedWeights, build_optimizer, warmup_steps
from .pictures import draw_method
from .recipe import Recipe
from .report import Report


class Loop:
    """One run from its first, or its last saved, step to the end.

    Attributes:
        failures: Samples that could not be read, by name, with the reason.
        skipped: Steps that were skipped for NaN or infinity.
        resumed_from: The step that the run went on from, 0 for a fresh one.
        done: Steps that are done.
        stopped: Whether patience ended the run early.
        best: The best validation so far, and its weights.
        health: What is looked at while it runs.
    """

    def __init__(
        self, method: Method, views: Views, validation: TrainingData | None, recipe: Recipe, out: Path, devices: Devices
    ) -> None:
        self.method, self.views, self.validation = method, views, validation
        self.recipe, self.out, self.devices = recipe, out, devices
        self.stream = stream = Stream(len(views.data), recipe)
        self.warmup = warmup_steps(recipe, samples=stream.samples, total=stream.total)
        groups = method.groups()
        self.names = [name for group in groups for name in group["names"]]
        method.module.to(devices.device)
        method.kept.to(devices.device)
        self.model, self.optimizer = devices.accelerator.prepare(method.module, build_optimizer(groups, recipe))
        self._bare_optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        for module in method.module.modules():
            if isinstance(module, Encoder):
                module.checkpoint_blocks = recipe.checkpoint_blocks
        warm = recipe.ema_warmup
        self.average = AveragedWeights(self.trained(), recipe.ema_decay, warmup=warm) if recipe.ema_decay else None
        known = {"baseline": method.baseline, "levels": method.levels()}
        self.report = Report(out, devices.main, self.stream.total, recipe.log_every, **known)
        self.health = Health(method, views.data, recipe, out, devices, self.report)
        self.best = Best()
        if recipe.patience and not (recipe.validate_every and validation is not None):
            raise RecipeError(
                f"patience counts validations; got {recipe.patience} and none during the run. Set validate_every, and "
                "let there be data to validate on; or patience=0."
            )
        self.failures: dict[str, str] = {}
        self.skipped = self.resumed_from = self.done = self._bad_in_a_row = 0
        self.stopped = False

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that the run changes."""
        return [(name, p) for name, p in self.method.module.named_parameters() if p.requires_grad]

    def open(self, *, resume: bool) -> None:
        """Open the log, and go back to the newest whole checkpoint if that is wanted."""
        found = checkpoints.newest(self.out / "checkpoints") if resume else None
        if found is not None:
            self._restore(found)
        start = self.resumed_from
        self.health.open(start, {} if found is None else found.state.get("watch", {}))
        self.report.open(start)
        if resume:
            done = f"going on after step {start} of {self.stream.total}"
            console.say(done if start else f"no checkpoint in {self.out}: this run starts from the beginning")

    def run(self) -> None:
        """Train to the end.

        Raises:
            HieraxError: Too many steps in a row were not finite; the batch is saved. Or a process that reads died.
            KeyboardInterrupt: The person or the machine asked to stop; the run is saved first.
        """
        start, devices = self.resumed_from, self.devices
        place = {"rank": devices.rank, "world": devices.world}
        steps = steps_of_parts(self.views, self.stream, self.recipe, start=start, **place)
        try:
            with _stop_signals() as stop:
                if start == 0:
                    self.health.look(0, self.averaged)
                for step in range(start, start if self.stopped else self.stream.total):
                    before = time.perf_counter()
                    parts = next(steps)
                    stopping = self._step(step, parts, time.perf_counter() - before, stop)
                    self.done = step + 1
                    self._after(step + 1)
                    if self.stopped:
                        break
                    if stopping or (devices.world == 1 and stop.is_set()):
                        self.save(step + 1)
                        say = f"stopped after step {step + 1} of {self.stream.total}, which is saved in {self.out}"
                        console.say(f"{say}; go on by --resume (in Python resume=True)")
                        raise KeyboardInterrupt
        finally:
            self.report.close()

    def save(self, step: int) -> None:
        """Commit a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.devices.state(self.method.module).items()}
        others = self._beside() | checkpoints.optimizer_tensors(self._bare_optimizer, self.names)
        tensors |= {name: whole(tensor) for name, tensor in others.items()}
        failures = {name: reason for found in self.devices.gather(self.failures) for name, reason in found.items()}
        if self.devices.main:
            averages = 0 if self.average is None else self.average.updates
            state = {"failures": failures, "skipped": self.skipped, "bad_in_a_row": self._bad_in_a_row,
                     "averages": averages, "best": self.best.state(), "stopped": self.stopped,
                     "watch": self.health.watch.state()}  # fmt: skip
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.tensors.items()}
            checkpoints.commit(self.out / "checkpoints", checkpoints.Checkpoint(step, tensors, state))
        self.devices.accelerator.wait_for_everyone()

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

    def _beside(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint that are neither the network's nor the optimiser's, as they are in use."""
        tensors = {f"method.{name}": tensor for name, tensor in self.method.kept.state_dict().items()}
        if self.average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.average.values.items()}
        return tensors

    def offer(self, step: int, found: Accuracy) -> None:
        """Keep the present weights, those of the result, if they validated best."""
        if found.total:
            self.best.offer(step, found, lambda: self.devices.state(self.method.result()))

    def _step(self, step: int, parts: list[Part], wait_s: float, stop: threading.Event) -> bool:
        """One optimiser step over all parts of all processes; whether any process was asked to stop."""
        recipe, devices = self.recipe, self.devices
        for part in parts:
            self.failures.update(part.failures)
        lr = self.method.learning_rate(step, total=self.stream.total, warmup=self.warmup)
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"] = lr * group["lr_scale"]
        self.model.train()
        planned = len(self.stream.positions(step)) * recipe.repeats
        sums = self._backward(step, parts, planned)
        self.method.before_step(self._context(step, recipe.seed), groups)
        scopes = [[p.grad for p in scope if p.grad is not None] for scope in self.method.clip_scopes()]
        norms = devices.norms(scopes, self.optimizer)
        # Everything that the host must know of a step, at once.
        total, stopping, *found = devices.sums([sum(map(len, parts)), stop.is_set(), *sums.values()], norms)
        shown = {name: value / total if total else math.nan for name, value in zip(sums, found, strict=False)}
        lengths = [length * planned / max(total, 1) for length in found[len(sums) :]]
        loss, length = shown.pop("loss", math.nan), math.hypot(*lengths)
        if total and math.isfinite(loss) and math.isfinite(length):
            for grads, own in zip(scopes, lengths, strict=True):
                clip = math.inf if recipe.clip_norm is None else recipe.clip_norm / (own + 1e-6)
                factor = planned / total * min(1.0, clip)
                if factor != 1 and grads:
                    torch._foreach_mul_(grads, factor)  # pyright: ignore[reportPrivateImportUsage]
            self.optimizer.step()
            self._bad_in_a_row = 0
            if self.average is not None and (step + 1) % recipe.ema_every == 0:
                self.average.update(self.trained())
            self.method.after_step(self._context(step + 1, recipe.seed))
        else:
            self._skip(step, parts, loss, length, total)
        self.optimizer.zero_grad(set_to_none=True)
        if total:
            shown = {"epoch": round(self.stream.epochs(step + 1), 4), "lr": lr, "gradient_norm": length, **shown}
            self.report.step(step + 1, loss, samples=int(total), wait_s=wait_s, **shown)
            self.health.step(step + 1, shown)
        return stopping > 0

    def _context(self, step: int, seed: int) -> StepContext:
        """Where the run is after so many steps."""
        return StepContext(step, self.stream.total, seed, self.stream.samples / self.stream.step_size)

    def _backward(self, step: int, parts: list[Part], planned: int) -> dict[str, Tensor]:
        """Gradients of the sum of this step's losses over `planned`; sums of the loss, and of its parts, on the device.

        How many samples could be read on all processes together is known only later.
        """
        devices = self.devices
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            last, count = index == len(parts) - 1, len(part)
            if count == 0:
                if devices.world == 1:
                    continue
                part = self.views.blank()  # other processes wait for this one's gradients; it gets no weight
            seed = mixed(self.recipe.seed, 4, step, index, devices.rank)
            torch.manual_seed(seed)  # drop path and dropout; resuming needs no saved generator
            places = self.stream.places(part.places, rank=devices.rank, world=devices.world, part=index, of=len(parts))
            context = dataclasses.replace(self._context(step, seed), samples=planned, places=places)
            waits = contextlib.nullcontext() if last else devices.accelerator.no_sync(self.model)
            with waits:
                with devices.accelerator.autocast():
                    loss, shown = self.method.loss(self.model, part, context)
                # Processes average their gradients, so each part weighs its share of all samples.
                devices.accelerator.backward(loss * (count * devices.world / planned))
            for name, value in {"loss": loss, **shown}.items():
                # A black sample's loss may be NaN, which no weight makes 0.
                added = value.detach() * count if count else torch.zeros_like(value)
                sums[name] = sums[name] + added if name in sums else added
        return sums

    def _skip(self, step: int, parts: list[Part], loss: float, norm: float, total: float) -> None:
        """Leave a step out, and stop the run when too many follow each other."""
        self.skipped += 1
        self._bad_in_a_row += 1
        reason = "nothing could be read" if total == 0 else f"loss {loss}, gradient norm {norm}"
        if self.devices.precision == "fp16" and total:
            self.optimizer.step()  # lets the gradient scaler lower its scale; it skips the step itself
        console.say(f"step {step + 1} skipped: {reason}")
        if self._bad_in_a_row < self.recipe.max_bad_steps:
            return
        tensors: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            samples = torch.tensor(part.samples, dtype=torch.int64)
            known = {**part.views, "labels": part.labels, "keys": part.keys, "samples": samples}
            tensors |= {f"{index}.{name}": tensor for name, tensor in known.items()}
        path = write_safetensors(self.out / f"bad_batch_rank{self.devices.rank}.safetensors", tensors)
        if total == 0:
            raise HieraxError(
                f"Training data must be readable; nothing was for {self._bad_in_a_row} steps. "
                f"First reason: {next(iter(self.failures.values()), 'unknown')}"
            )
        raise HieraxError(
            f"Training must stay finite; {self._bad_in_a_row} steps in a row were not ({reason}). The last batch "
            f"is in {path}. Lower lr, lengthen the warm-up or set clip_norm; the newest checkpoint is unharmed."
        )

    def _after(self, done: int) -> None:
        """Checkpoints, validation and pictures between steps."""
        recipe, last = self.recipe, done == self.stream.total
        self.health.look(done, self.averaged)
        saves = last or (recipe.checkpoint_every and done % recipe.checkpoint_every == 0)
        validates = not last and recipe.validate_every and done % recipe.validate_every == 0
        if not last and (saves or validates):
            with self.averaged():
                data = self.validation if validates else None
                result = None if data is None else self.method.validate(data, self.devices)
                if result is not None:
                    self.offer(done, result)
                draw_method(self.method, self.views, self.devices, self.out)
            if result is not None:
                self.report.validated(done, result)
            self.stopped = 0 < recipe.patience <= self.best.waited
        if self.stopped:
            found = f"no validation since step {self.best.step} was better than its {self.best.top1:.1%}"
            console.say(f"stopped early after step {done} of {self.stream.total}: {found}")
        if saves or self.stopped:  # after the validation, so that whoever resumes knows the best
            self.save(done)

    def _restore(self, found: checkpoints.Checkpoint) -> None:
        """Go back to a checkpoint."""
        tensors = dict(found.tensors)
        live = {f"model.{name}": tensor for name, tensor in self.method.module.state_dict().items()}
        with torch.no_grad():
            for name, tensor in (live | self._beside()).items():
                tensor.copy_(_spread(tensors[name], tensor))
        for name, parameter in self.trained():
            for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                saved = tensors.get(f"optimizer.{name}.{key}")
                if saved is not None:
                    tensors[f"optimizer.{name}.{key}"] = _spread(saved, parameter)
        checkpoints.load_optimizer(self._bare_optimizer, self.names, tensors)
        self.failures = dict(found.state["failures"])
        self.skipped, self._bad_in_a_row = found.state["skipped"], found.state["bad_in_a_row"]
        if self.average is not None:
            self.average.updates = found.state.get("averages", 0)  # runs from before the warm-up do without
        self.best.restore(found.state, found.tensors)
        self.stopped = found.state.get("stopped", False)
        self.resumed_from = self.done = found.step


def _spread(saved: Tensor, like: Tensor) -> Tensor:
    """A tensor in one piece, spread over processes as another one is."""
    if not hasattr(like, "device_mesh"):
        return saved
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(saved.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Ctrl-C, SIGTERM and SIGHUP ask the loop to stop after the step; a second one stops at once.

    What is ignored stays so: nohup does it to SIGHUP, and a shell to Ctrl-C for its background.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [number for number in known if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
