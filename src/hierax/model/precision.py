"""Names of the number types that networks run in."""

from __future__ import annotations

import torch

from ..errors import InputError, nearest

DTYPES = {
    **dict.fromkeys(("float32", "fp32"), torch.float32),
    **dict.fromkeys(("float16", "fp16", "half"), torch.float16),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float64", "fp64"), torch.float64),
}


def as_dtype(dtype: str | torch.dtype, *, others: tuple[str, ...] = ()) -> torch.dtype:
    """A floating dtype from its name.

    Args:
        dtype: A torch dtype, or its name with or without "torch.".
        others: What the caller takes beside these, for the message.

    Raises:
        InputError: Not a floating type that hierax runs in.
    """
    named = DTYPES.get(str(dtype).removeprefix("torch."))
    if named is None:
        options = (*DTYPES, *others)
        raise InputError(f"dtype must be one of {', '.join(options)}; got {dtype!r}. {nearest(str(dtype), options)}")
    return named
