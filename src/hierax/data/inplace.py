"""The pixels of a Pillow image as an array without a copy: Pillow keeps RGB in four bytes a pixel.

A copy to three bytes costs as much as a sixth of decoding. Arrow's C data interface, which Pillow speaks, hands out
the memory itself; https://arrow.apache.org/docs/format/CDataInterface.html lays down its structures.
"""

from __future__ import annotations

import ctypes

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class _Array(ctypes.Structure):
    """The members of `ArrowArray` up to the last that is read here."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("children", ctypes.POINTER(ctypes.c_void_p)),
    )


_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def rgb_in_place(image: Image.Image) -> UInt8[np.ndarray, "h w 3"] | None:
    """A read-only view of a loaded image of mode RGB; None where its memory is in several pieces."""
    try:
        schema, array = image.__arrow_c_array__()
    except ValueError:
        return None
    outer = _Array.from_address(_address(array, b"arrow_array"))
    inner = _Array.from_address(outer.children[0]) if outer.n_children == 1 else outer
    shape = (image.height, image.width, 4)
    if inner.n_buffers != 2 or inner.offset or inner.length != shape[0] * shape[1] * 4:
        return None
    memory = (ctypes.c_uint8 * inner.length).from_address(inner.buffers[1])
    memory.held = schema, array  # what keeps the memory, for as long as an array refers to it
    pixels = np.frombuffer(memory, np.uint8)
    pixels.flags.writeable = False
    return pixels.reshape(shape)[..., :3]


def with_fourth(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 4"] | None:
    """What `rgb_in_place` gave, with the fourth byte, which says nothing; None of any other array."""
    memory = pixels.base
    if pixels.ndim != 3 or not isinstance(memory, np.ndarray) or not isinstance(memory.base, ctypes.Array):
        return None
    height, width, _ = pixels.shape
    same = memory.ctypes.data == pixels.ctypes.data and memory.size == height * width * 4
    return memory.reshape(height, width, 4) if same and pixels.strides == (4 * width, 4, 1) else None
