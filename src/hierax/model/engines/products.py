"""Matrix products of the torch engine: plain (BLAS into reused buffers) or packed (oneDNN), whichever is faster here.

Source: which wins depends on the processor, docs/decisions/0005.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from . import processor

_scratch = threading.local()  # by name: large temporaries cost more in page faults than in arithmetic
_whole: set[int] = set()  # counts of rows that packed products take at once
COUNTS, PIECES = 32, tuple(4**power for power in range(6, -1, -1))  # how many counts; then 4096, 1024, ... 1 rows
KEPT_BYTES = 32_000_000  # of a buffer; each thread that runs products keeps two


class Product:
    """One linear layer, ready to run; this one without side effects, for what compilers and exporters see."""

    def __init__(self, weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"]) -> None:
        self.weight, self.bias = weight, bias

    def linear(self, x: Float[Tensor, "n c"], buffer: str = "") -> Float[Tensor, "n d"]:
        """Affine: x W + b, perhaps in a buffer that the next call of that name reuses."""
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Float[Tensor, "n c"], buffer: str = "") -> Float[Tensor, "n d"]:
        """Exact (erf) GELU of x W + b, likewise."""
        return F.gelu(self.linear(x, buffer))

    def add_to(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        """Sum x + y W + b, in place where the kind can."""
        return x + self.linear(y)


class Plain(Product):
    """BLAS products that write into reused buffers and accumulate straight into the residual stream."""

    def __init__(self, weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"]) -> None:
        super().__init__(weight.t(), bias)

    def linear(self, x: Tensor, buffer: str = "") -> Tensor:
        """Affine: x W + b, valid until this thread takes that buffer again."""
        shape = (x.shape[0], self.bias.shape[0])
        held = getattr(_scratch, buffer, None)
        if held is None or len(held) < math.prod(shape) or (held.dtype, held.device) != (x.dtype, x.device):
            # A tensor born in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                held = torch.empty(math.prod(shape), dtype=x.dtype, device=x.device)
            setattr(_scratch, buffer, held if held.nbytes <= KEPT_BYTES else None)
        return torch.addmm(self.bias, x, self.weight, out=held[: math.prod(shape)].view(shape))

    def gelu(self, x: Tensor, buffer: str = "") -> Tensor:
        """Exact GELU of x W + b."""
        return torch.ops.aten.gelu_(self.linear(x, buffer))

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum x += y W + b."""
        return x.add_(self.bias).addmm_(y, self.weight)


class Packed(Product):
    """oneDNN products on weights reordered once, with GELU and the residual sum fused into them."""

    def __init__(self, weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"]) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None), bias.contiguous())

    def linear(self, x: Tensor, buffer: str = "") -> Tensor:
        """Affine: x W + b."""
        return _by_rows(lambda x: torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""), x)

    def gelu(self, x: Tensor, buffer: str = "") -> Tensor:
        """Exact GELU of x W + b."""
        return _by_rows(lambda x: torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none"), x)

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum x += y W + b."""
        fused = torch.ops.mkldnn._linear_pointwise.binary
        return x.copy_(_by_rows(lambda x, y: fused(y, x, self.weight, self.bias, "add"), x, y))


class Cast(Product):
    """Plain products under autocast: weights are cast once; sums keep the type that autocast would give them."""

    dtype: ClassVar[torch.dtype]

    def __init__(self, weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"]) -> None:
        super().__init__(weight.to(self.dtype), bias.to(self.dtype))


class CastBfloat16(Cast):
    """To bfloat16."""

    dtype = torch.bfloat16


class CastFloat16(Cast):
    """To float16."""

    dtype = torch.float16


def _by_rows(run: Callable[..., Tensor], *tensors: Float[Tensor, "n _"]) -> Float[Tensor, "n d"]:
    """Apply a packed product to rows: all at once for the first few counts of rows, in pieces of few sizes for others.

    oneDNN makes and keeps a program for every count of rows, up to 1024 of 0.7 MB each (torch 2.13, AVX-512).
    """
    n = len(tensors[0])
    if n not in _whole:
        if len(_whole) >= COUNTS:
            pieces = [
                size for size in PIECES for _ in range(n // size if size == PIECES[0] else n % (4 * size) // size)
            ]
            return torch.cat([run(*parts) for parts in zip(*(t.split(pieces) for t in tensors), strict=True)])
        _whole.add(n)
    return run(*tensors)


def product_kind(dtype: torch.dtype, device: str, wanted: str | None = None) -> type[Product]:
    """The kind of product for parameters of that type: the one wanted or forced, else the faster one here.

    Packed products exist for the types that oneDNN reorders weights of; every other type runs plain ones.

    Args:
        dtype: Of the parameters.
        device: Kind of device, e.g. "cpu".
        wanted: "plain", "packed" or "traced"; "bfloat16" or "float16" under autocast to that; None asks
            HIERAX_FORCE_PRODUCTS, then the clock.
    """
    if wanted in _CASTS:
        return _CASTS[wanted]
    wanted = wanted or processor.forced_to("HIERAX_FORCE_PRODUCTS", ("plain", "packed"))
    if wanted != "traced" and (device != "cpu" or not processor.packs(dtype)):
        return Plain
    return _faster(dtype) if wanted is None else {"plain": Plain, "packed": Packed, "traced": Product}[wanted]


_CASTS: dict[str | None, type[Product]] = {"bfloat16": CastBfloat16, "float16": CastFloat16}


@functools.lru_cache(maxsize=8)
def _faster(dtype: torch.dtype) -> type[Product]:
    """The faster of plain and packed, from the family's narrowest and commonest blocks (a tenth of a second, once).

    Published figures do not carry over: packing wins on some processors with AVX-512, and loses to BLAS on others.
    """
    # This thread's own time: on a busy machine, elapsed time chose the slower one as often as not.
    fine = time.get_clock_info("thread_time").resolution <= 1e-6  # Windows counts in sixtieths of a second
    clock = time.thread_time if fine else time.perf_counter
    seconds = dict.fromkeys((Plain, Packed), 0.0)
    with torch.inference_mode():
        for rows, width in ((1568, 96), (392, 384)):
            shapes = ((4 * width, width), (width, 4 * width), (3 * width, width))
            weights = [torch.full(shape, 0.01, dtype=dtype) for shape in shapes]
            layers = {kind: [kind(weight, weight[:, 0].contiguous()) for weight in weights] for kind in seconds}
            x = torch.ones(rows, width, dtype=dtype)
            best = dict.fromkeys(seconds, math.inf)
            for _ in range(5):
                for kind, (up, down, qkv) in layers.items():
                    residual = x.clone()
                    start = clock()
                    qkv.linear(down.add_to(residual, up.gelu(x, "hidden")), "wide")
                    best[kind] = min(best[kind], clock() - start)
            seconds = {kind: seconds[kind] + best[kind] for kind in seconds}
    return Packed if seconds[Packed] < 0.98 * seconds[Plain] else Plain
