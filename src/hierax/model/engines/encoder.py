"""The fast encoder: an `Encoder` for inference whose stages an engine computes.

Everything else (heads, pooling, names, state dict, errors) is inherited, so it answers like the readable one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import InputError
from ..encoder import Encoder
from .base import EMBEDDING, Engine
from .eager import TorchEngine

_making = threading.RLock()


class FastEncoder(Encoder):
    """An encoder for inference: the numbers of the readable one within rounding, sooner.

    Its parameters share memory with the model that it was made from. The engine is made again when weights changed,
    were replaced, moved or cast; a change inside `parameter.data` leaves no trace and needs `refresh`. Inputs of
    another floating type are cast to the parameters', and every answer has it. Outputs carry no gradient unless the
    input asks for one: then, in train mode, under autocast and with `visible`, the readable encoder's own path runs.

    Args:
        model: The encoder.
        make: What makes an engine of an encoder, a class or a `functools.partial` of one.
    """

    def __init__(self, model: Encoder, make: Callable[[Encoder], Engine] = TorchEngine) -> None:
        with torch.device("meta"):
            super().__init__(model.config)
            self.set_num_classes(model.num_classes)
        self.load_state_dict(model.state_dict(), assign=True)
        for ours, theirs in zip(self.blocks, model.blocks, strict=True):
            ours.window, ours.q_stride = theirs.window, theirs.q_stride
        self.eval()
        self.make = make
        self.refresh()

    @property
    def choice(self) -> str:
        """One line that says what runs."""
        return self.current().choice

    def refresh(self) -> None:
        """Forget everything made from the weights, as is needed after a change inside `parameter.data`."""
        self._state: tuple[list[tuple], Engine, list[Tensor]] | None = None

    def current(self) -> Engine:
        """The engine for the weights as they are, made again if they changed."""
        weights, state = _weights(self), self._state
        if state is None or state[0] != weights:
            with _making:
                state = self._state
                if state is None or state[0] != weights:
                    # Held, so that no later tensor can stand at the address of one that was replaced.
                    storages = [tensor for p in self.parameters() for tensor in (p, p.data)]
                    self._state = state = (weights, self.make(self), storages)
        return state[1]

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
        """Whether the readable encoder's path must run: gradients, autocast, or nothing to do."""
        differentiable = self.training or (torch.is_grad_enabled() and x.requires_grad)
        return differentiable or torch.is_autocast_enabled(x.device.type) or x.shape[0] == 0

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles keep how the engine is made, and make their own."""
        return {**self.__dict__, "_state": None}


def _weights(encoder: Encoder) -> list[tuple]:
    """What tells one state of the weights from another: each parameter's identity, address and version."""
    modules: list[Any] = [encoder]
    for module in modules:  # `parameters()` also spells every name, which takes twice as long
        modules.extend(child for child in module._modules.values() if child is not None)
    found = [p for module in modules for p in module._parameters.values() if p is not None]
    return [(id(p), p.data_ptr(), None if p.is_inference() else p._version) for p in found]
