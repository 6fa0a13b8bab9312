"""The fast door: the same model, sooner.

    fast = hierax.optimize(model)            # or hierax.load(..., fast=True)
    fast.embedding(x)                        # the numbers of model.embedding(x) within rounding

`model/encoder.py` stays the readable truth; every engine here answers to the same parity tests.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from ...errors import InputError, UnknownNameError, nearest
from ..encoder import Encoder
from ..precision import as_dtype
from .encoder import FastEncoder

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
    """The same model behind the fast door: same methods, same numbers within rounding, for inference.

    The model itself is left as it is; both share their parameters' memory until one is cast or moved. What was
    chosen is logged and stands in the result's `choice`.

    Args:
        model: An `Encoder`, or a `MaskedAutoencoder`, whose encoder becomes fast where it sees whole images.
        dtype: None keeps the model's; "auto" takes bfloat16 where the processor has it natively; a floating type; or
            "int8" (extra `int8`), whose `report` compares it with float32.
        engine: "torch" needs nothing more; "compile" is torch.compile and needs a C++ compiler; "openvino" needs the
            extra `openvino`; "auto" takes what is best for this machine and dtype.
        input_size: Pixels to get ready for, an int or (height, width); other sizes are got ready when first met.
        calibration: Preprocessed images (n, 3, h, w) to quantize by; without, seeded textures.

    Raises:
        UnknownNameError: No such engine.
        InputError: Not a model of the family, or a dtype that the engine cannot run.
        MissingExtraError: The engine is not installed.

    Source: docs/decisions/0005, measured by benchmarks/.
    """
    if engine not in ENGINES:
        raise UnknownNameError(f"Engines are {', '.join(ENGINES)}; got {engine!r}. {nearest(str(engine), ENGINES)}")
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, Encoder):
        raise InputError(f"optimize takes an Encoder or a MaskedAutoencoder; got {type(model).__name__}.")
    size = encoder.input_size if input_size is None else encoder.config.full_size(input_size)
    fast = _engine(FastEncoder(encoder), engine, dtype, size, calibration)
    fast.begin(next(fast.parameters()).new_empty(0, encoder.config.in_channels, *size))
    with torch.no_grad():
        fast.position(encoder.config.grid(size))
        fast.schedule(encoder.config.grid(size))
    log.info("fast door: %s", fast.choice)
    if encoder is model:
        return fast
    result = copy.copy(model)
    result._modules = {**model._modules, "encoder": fast}
    return result.to(next(fast.parameters()).dtype) if _differs(result, fast) else result


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX-512 BF16 or AMX); elsewhere it is slower than float32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None), getattr(torch.cpu, "_is_amx_tile_supported", None)
    return any(ask is not None and ask() for ask in known)


def _engine(
    fast: FastEncoder, engine: str, dtype: str | torch.dtype | None, size: tuple[int, ...], calibration: Tensor | None
) -> FastEncoder:
    """The encoder of the engine and precision that were asked for."""
    from .openvino import OpenVINOEncoder, has_openvino

    on_cpu = next(fast.parameters()).device.type == "cpu"
    if str(dtype) == "int8":
        from .quantize import quantized

        if engine not in ("auto", "openvino"):
            raise InputError(f"dtype='int8' runs in the openvino engine; got engine={engine!r}. Use engine='auto'.")
        return quantized(fast, size, calibration)
    if dtype == "auto":
        dtype = torch.bfloat16 if on_cpu and native_bfloat16() else None
    wanted = next(fast.parameters()).dtype if dtype is None else as_dtype(dtype, others=("int8", "auto"))
    if engine == "auto":
        # Elsewhere than in native bfloat16, OpenVINO's compile time buys little over the torch engine.
        better = on_cpu and wanted == torch.bfloat16 and native_bfloat16() and has_openvino()
        engine = "openvino" if better else "torch"
    if engine == "openvino":
        if wanted not in (torch.float32, torch.bfloat16):
            raise InputError(f"The openvino engine runs float32, bfloat16 and int8; got {wanted}. Use engine='torch'.")
        if wanted == torch.bfloat16 and not native_bfloat16():
            log.warning("This processor has no native bfloat16: OpenVINO computes in float32 on it.")
            wanted = torch.float32
        return OpenVINOEncoder(fast.float(), precision="bf16" if wanted == torch.bfloat16 else "f32")
    if wanted == torch.bfloat16 and on_cpu and not native_bfloat16():
        log.warning("This processor has no native bfloat16: expect less speed than in float32.")
    fast = fast.to(wanted)
    if engine == "compile":
        from .compiled import CompiledEncoder

        return CompiledEncoder(fast)
    return fast


def _differs(model: nn.Module, fast: FastEncoder) -> bool:
    return next(model.parameters()).dtype != next(fast.parameters()).dtype
