"""The `compile` engine: the non-padding graph through torch.compile with frozen weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import InputError
from .encoder import FastEncoder
from .graph import EMBEDDING, export


class CompiledEncoder(FastEncoder):
    """Compiles on first use of each input shape (a minute or more; needs a C++ compiler), then runs that."""

    engine = "compile"

    def __init__(self, model: FastEncoder) -> None:
        super().__init__(model)
        self._programs: dict[tuple, Callable[[Tensor], tuple[Tensor, ...]]] = {}

    def run_stages(self, x: Tensor, last: int) -> list[Tensor]:
        """Stage maps from the compiled program."""
        return [] if last < 0 else list(self._program(x, last)(x))

    def run_embedding(self, x: Tensor) -> Tensor:
        """The embedding from the compiled program."""
        return self._program(x, EMBEDDING)(x)[0]

    def prepare(self) -> None:
        """Forget programs whose weights have changed."""
        before = self._state
        super().prepare()
        if self._state != before:
            self._programs = {}

    def _program(self, x: Tensor, last: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
        key = (tuple(x.shape), x.dtype, last)
        if key not in self._programs:
            if x.device.type == "cpu":
                _check_compiler()
            module = export(self, x, last).module()
            self._programs[key] = torch.compile(module, dynamic=False, options={"freezing": True})
        return self._programs[key]


def _check_compiler() -> None:
    """Look for what torch.compile needs before minutes go into tracing."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise InputError(
            "engine='compile' needs a C++ compiler; none was found. Install g++ or clang, name one in CXX, or use "
            "engine='torch'."
        ) from error
