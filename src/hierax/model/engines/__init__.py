"""Fast engines: the same model, sooner.

    fast = hierax.optimize(model)            # or hierax.load(..., fast=True)
    fast.embedding(x)                        # the numbers of model.embedding(x) within rounding

`model/encoder.py` stays the readable truth; every engine here answers to the same parity tests.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, UnknownNameError, nearest
from ..encoder import Encoder
from ..precision import as_dtype
from .base import Engine
from .compiled import CompiledEngine
from .eager import TorchEngine
from .encoder import FastEncoder
from .openvino import OpenVINOEngine, has_openvino
from .processor import native_bfloat16
from .quantize import quantized
from .ready import ready_or_torch

__all__ = ["FastEncoder", "native_bfloat16", "optimize"]

log = logging.getLogger("hierax")
ENGINES = ("auto", "torch", "compile", "openvino")


def optimize(
    model: nn.Module,
    *,
    dtype: str | torch.dtype | None = None,
    engine: str = "auto",
    input_size: int | tuple[int, ...] | None = None,
    calibration: Tensor | None = None,
) -> nn.Module:
    """The same model with a fast engine inside: same methods, same numbers within rounding, for inference.

    The model itself is left as it is; both share their parameters' memory until one is cast or moved. What was
    chosen is logged and stands in the encoder's `choice`.

    Args:
        model: An `Encoder`, or any module that holds one or more: the result is a copy with fast ones in their places.
        dtype: None keeps the model's, each part its own; "auto" takes bfloat16 where the processor has it natively; a
            floating type; or "int8" (extra `int8`), whose `report` compares it with float32. Parameters and answers
            have that type, float32 with int8.
        engine: "torch" needs nothing more; "compile" is torch.compile and needs a C++ compiler; "openvino" needs the
            extra `openvino`; "auto" takes what is best for this machine and dtype.
        input_size: Pixels of the images that int8 is measured on, an int or (height, width); any size can be run.
        calibration: Preprocessed images (n, 3, h, w) to quantize by; without, seeded textures.

    Raises:
        UnknownNameError: No such engine.
        InputError: Not a model of the family, or a dtype that the engine cannot run.
        MissingExtraError: The engine is not installed.

    Source: docs/decisions/0005, measured by benchmarks/.
    """
    if engine not in ENGINES:
        raise UnknownNameError(f"Engines are {', '.join(ENGINES)}; got {engine!r}. {nearest(str(engine), ENGINES)}")
    modules = model.modules() if isinstance(model, nn.Module) else ()
    encoders = {id(module): module for module in modules if isinstance(module, Encoder)}
    if not encoders:
        raise InputError(
            f"optimize takes an Encoder or a module that holds one; {type(model).__name__} holds none. Pass what "
            "hierax.create(...) or hierax.load(...).model gives."
        )
    twins: dict[int, Any] = {}
    for key, encoder in encoders.items():
        size = encoder.input_size if input_size is None else encoder.config.full_size(input_size)
        encoder.config.check_size(size)
        twins[key] = _fast(encoder, engine, dtype, size, calibration)
        log.info("%s", twins[key].choice)
    before, after = (next(next(iter(of.values())).parameters()).dtype for of in (encoders, twins))
    fast = _copied(model, twins)
    return fast if dtype in (None, "auto") and after == before else fast.to(after)


def _fast(
    encoder: Encoder, engine: str, dtype: str | torch.dtype | None, size: tuple[int, ...], calibration: Tensor | None
) -> FastEncoder:
    """The encoder in the engine and precision that were asked for."""
    parameter = next(encoder.parameters())
    on_cpu = parameter.device.type == "cpu"
    native = native_bfloat16()
    if str(dtype) == "int8":
        if engine not in ("auto", "openvino"):
            raise InputError(f"dtype='int8' runs in the openvino engine; got engine={engine!r}. Use engine='auto'.")
        return quantized(FastEncoder(encoder).float(), size, calibration)
    if dtype == "auto":
        dtype = torch.bfloat16 if on_cpu and native else None
    wanted = parameter.dtype if dtype is None else as_dtype(dtype, others=("int8", "auto"))
    if engine == "auto" and on_cpu and wanted == torch.bfloat16 and native and has_openvino():
        # In other types what it gains over the torch engine is less than its conversion costs, unless one is kept.
        engine = "openvino"
    if wanted == torch.bfloat16 and on_cpu and not native:
        instead = "OpenVINO computes in float32 on it" if engine == "openvino" else "expect less speed than in float32"
        log.warning("This processor has no native bfloat16: %s.", instead)
    precision = "bf16" if wanted == torch.bfloat16 and native else "f32"
    makers: dict[str, Callable[[Encoder], Engine]] = {
        "auto": partial(ready_or_torch, precision=precision),
        "torch": TorchEngine,
        "compile": CompiledEngine,
        "openvino": partial(OpenVINOEngine, precision=precision),
    }
    return FastEncoder(encoder, makers[engine]).to(wanted)


def _copied(module: nn.Module, twins: dict[int, Any]) -> nn.Module:
    """A copy of a tree of modules with twins, by id, in the places of others; its parameters share memory.

    Copies are added to the twins, so that what stands in two places still does.
    """
    if id(module) not in twins:
        twins[id(module)] = twin = copy.copy(module)
        twin._modules = {
            name: None if child is None else _copied(child, twins) for name, child in module._modules.items()
        }
        twin._buffers = dict(module._buffers)
        twin._parameters = {}
        for name, p in module._parameters.items():
            shared = p if p is None else nn.Parameter(p.detach(), p.requires_grad)
            twin._parameters[name] = twins.setdefault(id(p), shared)
    return twins[id(module)]
