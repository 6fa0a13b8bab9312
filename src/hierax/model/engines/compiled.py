"""The `compile` engine: the non-padding graph through torch.compile, weights frozen and packed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ...errors import InputError
from ..encoder import Encoder
from .base import Engine, Recent
from .graph import export

PROGRAMS = 8  # kept; each holds its own copy of the weights


class CompiledEngine(Engine):
    """Compiles on first use of each input shape (a minute or more; needs a C++ compiler), then runs that."""

    name = "compile"

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._program = Recent(PROGRAMS, partial(_compiled, encoder))

    def run(self, x: Tensor, last: int) -> list[Tensor]:
        """Stage maps or embedding from the compiled program."""
        # Programs are guarded on strides and on whether inputs are inference tensors: one kind only.
        with torch.inference_mode(False), torch.no_grad():
            x = (x.clone() if x.is_inference() else x.detach()).contiguous()
            return list(self._program(tuple(x.shape), last)(x))


def _compiled(encoder: Encoder, shape: tuple[int, ...], last: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    from torch._inductor import config, cpp_builder, exc

    x = encoder.patch_embed.proj.weight.new_zeros(shape)
    try:  # before minutes go into tracing
        if x.device.type == "cpu":
            cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise InputError(
            "engine='compile' needs a C++ compiler; none was found. Install g++ or clang, name one in CXX, or use "
            "engine='torch'."
        ) from error
    graph = export(encoder, x, last).module()
    for name, value in list(vars(graph).items()):
        if isinstance(value, Tensor):  # a folded weight; only buffers and parameters are frozen
            delattr(graph, name)
            graph.register_buffer(name, value, persistent=False)
    program = torch.compile(graph, dynamic=False)
    # torch.compile(options={"freezing": True}) freezes nothing: Dynamo, which decides whether weights are
    # constants, reads the global setting (torch 2.13), and compiles at the first call.
    with config.patch(freezing=True), _unlisted():
        program(x)
    return program


@contextlib.contextmanager
def _unlisted() -> Iterator[None]:
    """Leave what inductor generates meanwhile to the program alone.

    It lists every module that it ever generated, and a frozen one holds its weights, twice where they are packed
    (torch 2.13): a program that was thrown away would stay.
    """
    from torch._inductor.codecache import PyCodeCache

    modules = PyCodeCache.modules
    known = set(map(id, modules))
    try:
        yield
    finally:
        for module in [module for module in modules if id(module) not in known]:
            modules.remove(module)
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
