"""What this processor can do, and the variables that force otherwise, so that every branch can be run anywhere."""

from __future__ import annotations

import os
import platform

import torch

from ...errors import InputError


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX-512 BF16 or AMX); elsewhere it is slower than float32."""
    if forced := forced_to("HIERAX_FORCE_BF16", ("0", "1")):
        return forced == "1"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def exact_int8() -> bool:
    """False where int8 products add pairs in 16 bits (x86 without VNNI), so that weights must spare a bit."""
    if forced := forced_to("HIERAX_FORCE_VNNI", ("0", "1")):
        return forced == "1"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    known = getattr(torch.cpu, "get_capabilities", dict)()
    vnni = any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return vnni or getattr(torch.cpu, "_is_vnni_supported", bool)()


def packs(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN products on reordered weights of that dtype."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def forced_to(name: str, options: tuple[str, ...]) -> str | None:
    """What an environment variable forces; None where it is not set.

    Raises:
        InputError: It is none of the options.
    """
    value = os.environ.get(name) or None
    if value not in (None, *options):
        raise InputError(f"{name} must be {' or '.join(options)}; got {value!r}. Unset it to let the processor decide.")
    return value
