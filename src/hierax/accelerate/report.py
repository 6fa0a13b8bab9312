"""What an acceleration changes: how far every output moved, and how long it takes, before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .fast import Fast
from .peer import tensors_in
from .seam import answer, original

# How far outputs may be apart, relative to the largest number of each.
EQUAL = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}
ROUNDS, SECONDS = 7, 2.0  # that speed is measured for, at most
QUICK = 2  # rounds at least


@dataclass(frozen=True)
class Part:
    """One encoder, before and after.

    Attributes:
        name: Where it stands in the object, empty for the object itself.
        kind: Package and kind.
        choice: What runs now.
        shape: Input by which it was measured.
        tolerance: What differences had to stay below.
        differences: Of every output, relative to its largest number.
        before: Seconds of the original.
        after: Seconds of what replaces it.
        kept: Whether it does.
        reason: Why not, else empty.
    """

    name: str
    kind: str
    choice: str
    shape: tuple[int, ...] = ()
    tolerance: float = math.nan
    differences: dict[str, float] = field(default_factory=dict)
    before: float = math.nan
    after: float = math.nan
    kept: bool = True
    reason: str = ""

    @property
    def difference(self) -> float:
        """The largest; NaN where none was measured."""
        return max(self.differences.values(), default=math.nan)

    @property
    def speedup(self) -> float:
        """Seconds before over seconds after; NaN where none were measured."""
        return self.before / self.after

    def __str__(self) -> str:
        where = f"{self.name}: " if self.name else ""
        measured = "not measured"
        if self.differences:
            shape = "x".join(map(str, self.shape))
            measured = f"{self.speedup:.2f}x the speed at {shape}, largest difference {self.difference:.1e}"
        if not self.kept:
            return f"{where}{self.kind} stays as it was: {self.reason} ({measured})"
        return f"{where}{self.kind}, {self.choice}: {measured}"


@dataclass(frozen=True)
class Report:
    """What an acceleration changed, encoder by encoder."""

    parts: tuple[Part, ...]

    @property
    def difference(self) -> float:
        """Largest difference of any output, relative to that output's largest number."""
        return max((part.difference for part in self.parts), default=math.nan)

    @property
    def speedup(self) -> float:
        """Of the encoder that gains least."""
        return min((part.speedup for part in self.parts), default=math.nan)

    @property
    def kept(self) -> bool:
        """Whether every encoder was replaced."""
        return all(part.kept for part in self.parts)

    def __str__(self) -> str:
        return "\n".join(map(str, self.parts))


def distances(ours: Any, theirs: Any) -> dict[str, float]:
    """How far every tensor of an answer is from the original's, infinite where they do not even have one form."""
    found, wanted = dict(tensors_in(ours)), dict(tensors_in(theirs))
    if type(ours) is not type(theirs) or found.keys() != wanted.keys():
        return {"": math.inf}
    return {name: _distance(found[name], wanted[name]) for name in wanted}


def _distance(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    a, b = ours.double(), theirs.double()
    scale = b.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    apart = ((a - b).abs().max() / scale).item()
    return apart if math.isfinite(apart) else math.inf


def example(module: nn.Module, fast: Fast, size: tuple[int, ...]) -> Tensor:
    """A seeded image of noise, of the module's type, where it lies."""
    like = next(module.parameters())
    channels = fast.peer.config(module).in_channels
    image = torch.randn((1, channels, *size), generator=torch.Generator().manual_seed(0))
    return image.to(like.device, like.dtype)


def compared(module: nn.Module, fast: Fast, x: Tensor) -> dict[str, float]:
    """Distance of every output of every method that is answered.

    Raises:
        Original: The fast stages cannot answer.
    """
    found = {}
    for label, (name, keywords) in fast.peer.probes(module).items():
        theirs = original(module, name)(x, **keywords)
        ours = answer(module, fast, name, x, **keywords)
        found |= {f"{label}{where}": apart for where, apart in distances(ours, theirs).items()}
    return found


def timed(module: nn.Module, fast: Fast, x: Tensor) -> tuple[float, float]:
    """Seconds of the first probe, before and after: the fastest of a few rounds in turn, when both have run once."""
    name, keywords = next(iter(fast.peer.probes(module).values()))
    runners: list[Callable[[], Any]] = [
        lambda: original(module, name)(x, **keywords),
        lambda: answer(module, fast, name, x, **keywords),
    ]
    best = [math.inf, math.inf]
    start = time.perf_counter()
    for turn in range(ROUNDS):
        if turn >= QUICK and time.perf_counter() - start > SECONDS:
            break
        for which in (0, 1) if turn % 2 else (1, 0):
            best[which] = min(best[which], _seconds(runners[which], x))
    return best[0], best[1]


def _seconds(run: Callable[[], Any], x: Tensor) -> float:
    wait = torch.cuda.synchronize if x.is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start
