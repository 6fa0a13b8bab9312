"""The stages of a peer's encoder from a fast one, made from its weights as they are and made again when they change."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import HieraxError, InputError
from ..model.encoder import Encoder
from ..model.engines import optimize
from ..model.engines.base import Engine
from ..model.engines.eager import TorchEngine
from ..model.engines.watch import Watch
from ..weights.files import RawCheckpoint
from ..weights.network import to_module
from ..weights.understand import understand
from .guards import check_call, check_inside
from .peer import Original, Peer
from .structure import check_layers

log = logging.getLogger("hierax")
# What engines compute in; elsewhere the peer's own code runs.
RUNS = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True)
class Options:
    """What `accelerate` was asked for."""

    engine: str = "auto"
    dtype: str | torch.dtype | None = None
    input_size: int | tuple[int, ...] | None = None


class Stages:
    """What computes the stages of one module, as the methods that answer for it see it."""

    def __init__(self, fast: Fast, module: nn.Module) -> None:
        self._fast, self._module = fast, module

    def __call__(self, x: Tensor, last: int | None = None) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids (b, *grid, c) at the end of each stage up to one, counted from 0.

        Raises:
            Original: The module's own code must answer.
        """
        return self._fast.stages(self._module, x, last)

    def through(self, x: Tensor, embed: Callable[[Encoder], Tensor]) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of each stage, of tokens that the module embeds itself.

        Args:
            x: The pixels that it was given.
            embed: Gives the tokens (b, *grid, c), which are overwritten; not called where the module's own code must
                answer: it may draw random numbers.

        Raises:
            Original: The module's own code must answer.
        """
        return self._fast.through(self._module, x, embed)


@dataclass
class _Made:
    """A fast encoder and what it was made from, or why there is none."""

    watch: Watch
    layers: list[type]
    state: object
    encoder: Any = None
    engine: Any = None
    error: HieraxError | None = None
    others: dict[tuple[torch.dtype, str | None], TorchEngine] = field(default_factory=dict)


def understood(peer: Peer, module: nn.Module) -> Encoder:
    """Our encoder around a peer's own parameters, whose memory it shares but for position tables.

    Raises:
        HieraxError: Its layers or weights are not those of a network of the family.
    """
    with torch.inference_mode(False), torch.no_grad():
        inside = {name: each for name, each in module.named_modules() if each in set(peer.passed_over(module))}
        check_layers(inside)
        raw = RawCheckpoint(Path(type(module).__name__), peer.named_tensors(module))
        weights = understand(raw, named=peer.config(module))
        encoder = to_module(weights, dtype=next(module.parameters()).dtype)
    if not isinstance(encoder, Encoder):
        raise InputError(f"{peer.name} must be an encoder; its weights have a decoder")
    return encoder.eval().requires_grad_(False)


class Fast:
    """Stages for the module it was placed in, and for every copy of that module.

    Args:
        peer: What is known of such modules.
        options: What was asked for.
    """

    def __init__(self, peer: Peer, options: Options) -> None:
        self.peer, self.options = peer, options
        self._made: weakref.WeakKeyDictionary[nn.Module, _Made] = weakref.WeakKeyDictionary()
        self._making = threading.RLock()
        self._said: set[str] = set()
        self.handle: Any = None  # of the call that placed it

    def failure(self, module: nn.Module) -> HieraxError | None:
        """Why there is no fast encoder for the module as it is."""
        return self._current(module, self.peer.passed_over(module)).error

    def usual_size(self, module: nn.Module) -> tuple[int, ...]:
        """Pixels by which it is measured."""
        return self._size(self._current(module, self.peer.passed_over(module)))

    def choice(self, module: nn.Module) -> str:
        """One line that says what runs."""
        made = self._current(module, self.peer.passed_over(module))
        return made.engine.choice if made.engine is not None else f"the original: {made.error}"

    def refresh(self) -> None:
        """Forget everything made from weights."""
        with self._making:
            self._made.clear()

    def stages(self, module: nn.Module, x: Tensor, last: int | None) -> list[Tensor]:
        """See `Stages`."""
        made, x = self._allowed(module, x)
        last = len(made.encoder.stage_ends) - 1 if last is None else last
        engine = self._engine(made, x)
        with torch.no_grad():
            if torch.is_autocast_enabled(x.device.type):
                return engine.run(x, last)
            return [grid.to(x.dtype) for grid in engine.run(x.to(engine.dtype), last)]

    def through(self, module: nn.Module, x: Tensor, embed: Callable[[Encoder], Tensor]) -> list[Tensor]:
        """See `Stages`."""
        made, x = self._allowed(module, x)
        if torch.is_autocast_enabled(x.device.type):
            raise Original("tokens of its own under autocast")
        engine = self._other(made, x.dtype, None)
        with torch.no_grad():
            return engine.through(embed(made.encoder), len(made.encoder.stage_ends) - 1)

    def _allowed(self, module: nn.Module, x: Tensor) -> tuple[_Made, Tensor]:
        """What was made of the module, and the input as it takes it, if nothing speaks against a fast answer."""
        modules = self.peer.passed_over(module)
        check_call(x)
        check_inside(module, modules, x)
        x = self.peer.prepared(module, x)
        made = self._current(module, modules)
        if made.encoder is None:
            raise Original(str(made.error).rstrip("."))
        self._check_size(made.encoder, x)
        return made, x

    def say(self, reason: str) -> None:
        """Log once why the original runs."""
        if reason not in self._said:
            self._said.add(reason)
            log.warning("The original %s runs: %s.", self.peer.name, reason)

    def _check_size(self, encoder: Encoder, x: Tensor) -> None:
        if x.ndim != len(encoder.input_size) + 2 or x.shape[1] != encoder.config.in_channels:
            raise Original(f"input of shape {tuple(x.shape)}")
        try:
            encoder.config.check_size(tuple(x.shape[2:]))
        except InputError as error:
            raise Original(f"an input size of {tuple(x.shape[2:])}") from error

    def _engine(self, made: _Made, x: Tensor) -> Engine:
        """The engine for this input: under autocast one that casts as autocast does."""
        encoder, kind = made.encoder, x.device.type
        weight = encoder.patch_embed.proj.weight
        if not torch.is_autocast_enabled(kind):
            if x.dtype != weight.dtype:
                raise Original(f"pixels of {x.dtype} for weights of {weight.dtype}")
            sized = getattr(made.engine, "name", "") == "openvino"
            if sized and tuple(x.shape[2:]) != self._size(made):
                # Its programs take seconds to make for each size: only the usual one is worth it.
                return self._other(made, weight.dtype, None)
            return made.engine
        dtype = torch.get_autocast_dtype(kind)
        if dtype not in (torch.bfloat16, torch.float16) or x.dtype != weight.dtype or x.dtype != torch.float32:
            raise Original(f"autocast to {dtype} with pixels of {x.dtype} and weights of {weight.dtype}")
        if encoder.config.layer_scale is not None:
            raise Original("autocast with branch scales, which stay in float32")
        return self._other(made, dtype, "cast")

    def _size(self, made: _Made) -> tuple[int, ...]:
        """Pixels of the usual input."""
        encoder = made.encoder
        if self.options.input_size is None:
            return encoder.input_size
        return encoder.config.full_size(self.options.input_size)

    def _other(self, made: _Made, dtype: torch.dtype, products: str | None) -> TorchEngine:
        """A torch engine beside the chosen one, made on first use."""
        with self._making:
            if (dtype, products) not in made.others:
                wanted = None if products is None else str(dtype).removeprefix("torch.")
                with _plainly(made.encoder.patch_embed.proj.weight.device):
                    made.others[dtype, products] = TorchEngine(made.encoder, wanted)
            return made.others[dtype, products]

    def _current(self, module: nn.Module, modules: list[nn.Module]) -> _Made:
        """What was made from the module as it is, made anew if it changed."""
        parameters = [p for each in modules for p in each._parameters.values() if p is not None]
        layers, state = [type(each) for each in modules], self.peer.state(module)
        made = self._made.get(module)
        if made is None or not _fits(made, layers, state, parameters):
            with self._making:
                made = self._made.get(module)
                if made is None or not _fits(made, layers, state, parameters):
                    made = self._make(module, layers, state, parameters)
                    self._made[module] = made
        return made

    def _make(self, module: nn.Module, layers: list[type], state: object, parameters: list[nn.Parameter]) -> _Made:
        watch = Watch([p for p in parameters if not p.is_meta])
        try:
            with _plainly(parameters[0].device):
                encoder = understood(self.peer, module)
                kind = encoder.patch_embed.proj.weight
                if kind.dtype not in RUNS.get(kind.device.type, ()):
                    raise InputError(
                        f"accelerate computes in float32 or bfloat16, on a GPU also in float16; this {self.peer.name} "
                        f"cannot be accelerated in {kind.dtype} on {kind.device}. Cast it first."
                    )
                options = {"dtype": self.options.dtype, "engine": self.options.engine}
                fast: Any = optimize(encoder, input_size=self.options.input_size, **options)
                return _Made(watch, layers, state, encoder, fast.current())
        except HieraxError as error:
            return _Made(watch, layers, state, error=error)


@contextlib.contextmanager
def _plainly(device: torch.device) -> Iterator[None]:
    """Making an engine multiplies weights: the caller's autocast or inference mode must leave no mark in it."""
    with torch.inference_mode(False), torch.no_grad():
        if not torch.amp.is_autocast_available(device.type):
            yield
            return
        with torch.autocast(device.type, enabled=False):
            yield


def _fits(made: _Made, layers: list[type], state: object, parameters: list[nn.Parameter]) -> bool:
    return made.layers == layers and made.state == state and made.watch.fits(parameters)
