"""The fast encoder: an `Encoder` for inference whose stages an engine computes.

Everything else (heads, pooling, names, state dict, errors) is inherited, so it answers like the readable one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.jit._trace import is_tracing
from torch.nn.modules import module as hooked

from ...errors import InputError
from ..encoder import Encoder
from .base import EMBEDDING, Engine
from .eager import TorchEngine
from .watch import Watch

_making = threading.RLock()


@dataclass(frozen=True)
class _Made:
    """An engine and what it was made from."""

    engine: Engine
    weights: Watch


class FastEncoder(Encoder):
    """An encoder for inference: the numbers of the readable one within rounding, sooner.

    Its parameters share memory with the model that it was made from. The engine is made again when weights were
    changed, replaced, moved or cast; a change of a few elements behind torch's back (inside `parameter.data`, through
    NumPy) may go unseen and needs `refresh`. Inputs of another floating type are cast to the parameters', and every
    answer has it. Outputs carry no gradient unless the input asks for one: then, in train mode, under autocast, while
    torch traces, with hooks inside or layers of other types, and with `visible`, the readable encoder's own path runs.

    Args:
        model: The encoder.
        make: What makes an engine of an encoder, a class or a `functools.partial` of one.

    Raises:
        InputError: The model's layers are not the encoder's own, or have hooks, which an engine would pass over.
    """

    def __init__(self, model: Encoder, make: Callable[[Encoder], Engine] = TorchEngine) -> None:
        with torch.device("meta"):
            super().__init__(model.config)
            self.set_num_classes(model.num_classes)
        self._own = [type(module) for module in _inside(self)[1:]]
        foreign = [name for name, module in model.named_modules() if name and _hooked(module)]
        if foreign or [type(module) for module in _inside(model)[1:]] != self._own:
            raise InputError(
                f"A fast encoder runs the encoder's own layers; {foreign[0] if foreign else 'some'} of this model "
                "has hooks or is of another type. Merge or remove what was added (adapters, parametrizations, hooks) "
                "first; hooks may be registered on the result."
            )
        self.load_state_dict(model.state_dict(), assign=True)
        for ours, theirs in zip(self.blocks, model.blocks, strict=True):
            ours.window, ours.q_stride = theirs.window, theirs.q_stride
        self.eval()
        self.make = make
        self.refresh()

    @property
    def choice(self) -> str:
        """One line that says what runs."""
        return "the readable encoder, for hooks or other layers inside" if self._foreign() else self.current().choice

    def refresh(self) -> None:
        """Forget everything made from the weights, as is needed after a change that leaves no trace."""
        self._state: _Made | None = None

    def current(self) -> Engine:
        """The engine for the weights as they are, made again if they changed."""
        parameters = [p for module in _inside(self) for p in module._parameters.values() if p is not None]
        if (state := self._state) is None or not state.weights.fits(parameters):
            with _making:
                if (state := self._state) is None or not state.weights.fits(parameters):
                    watch = Watch(parameters)  # before the engine: a write meanwhile must not go unseen
                    self._state = state = _Made(self.make(self), watch)
        return state.engine

    def stages(
        self,
        x: Float[Tensor, "b 3 *pixels"],
        *,
        visible: Int[Tensor, "b n"] | None = None,
        last: int | None = None,
    ) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of each stage; see `Encoder.stages`."""
        x = self._checked(x)
        if visible is not None or self._readable(x):
            return super().stages(x, visible=visible, last=last)
        last = len(self.stage_ends) - 1 if last is None else last
        with torch.no_grad():
            return self.current().run(x, last) if last >= 0 else []

    def embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector; see `Encoder.embedding`."""
        x = self._checked(x)
        if self._readable(x):
            return self.pool(super().stages(x)[-1])
        with torch.no_grad():
            return self.current().run(x, EMBEDDING)[0]

    def _checked(self, x: Tensor) -> Tensor:
        """Refuse what the readable encoder refuses, before an engine sees it; cast to the parameters' type."""
        if x.ndim != len(self.input_size) + 2 or x.shape[1] != self.config.in_channels:
            self.embed_tokens(x)  # says how inputs must be shaped
        self.config.check_size(tuple(x.shape[2:]))
        if not x.is_floating_point():
            raise InputError(f"Input must be preprocessed floating-point numbers; got {x.dtype}. Preprocess it first.")
        return x if torch.is_autocast_enabled(x.device.type) else x.to(self.patch_embed.proj.weight.dtype)

    def _readable(self, x: Tensor) -> bool:
        """Whether the readable encoder's path must run: gradients, autocast, tracing, vmap, hooks, or nothing."""
        # Under vmap and its like no tensor has an address.
        transformed = peek_interpreter_stack() is not None
        if torch.compiler.is_compiling() or is_tracing() or transformed:
            return True
        differentiable = self.training or (torch.is_grad_enabled() and x.requires_grad)
        if differentiable or torch.is_autocast_enabled(x.device.type) or x.shape[0] == 0:
            return True
        return self._foreign()

    def _foreign(self) -> bool:
        """Whether something stands inside that an engine would pass over."""
        modules = _inside(self)[1:]
        if hooked._global_forward_hooks or hooked._global_forward_pre_hooks:
            return True
        return [type(m) for m in modules] != self._own or any(_hooked(m) or m.training for m in modules)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles keep how the engine is made, and make their own."""
        return {**self.__dict__, "_state": None}


def _inside(encoder: Encoder) -> list[Any]:
    """An encoder and the modules inside but for its head, which no engine replaces."""
    modules: list[Any] = [encoder]
    for module in modules:  # `modules()` also spells every name, which takes twice as long
        modules.extend(
            m for name, m in module._modules.items() if m is not None and (module is not encoder or name != "head")
        )
    return modules


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)
