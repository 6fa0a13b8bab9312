"""What the globals in a torch file's pickle stand for: descriptions, where pickle would call something.

A tensor is described by the place where its values lie, a namespace by a dictionary, a size or a path by a tuple. The
table below is all that a pickle may name. Nothing is copied here, so that what is described stays as small as the file.

Source: docs/decisions/0009-own-torch-reader.md.
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from .private import Damaged

MAX_DIMENSIONS = 16
MAX_ELEMENTS = 1 << 60


def refuse(why: str) -> NoReturn:
    """Raise `Damaged`: an expression where a value is due."""
    raise Damaged(why)


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A row of values that the file keeps under a key."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor:
    """A view of a storage, in its elements; it lies within, which is checked when it is described."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that a copy of the view would take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False, slots=True)
class Characters:
    """Bytes, kept as the Latin-1 text that old pickles write them as."""

    text: str


class Namespace(dict[str, Any]):
    """The attributes of an argparse.Namespace."""


@dataclass(frozen=True, eq=False, slots=True)
class StorageType:
    """A class of storages, for the type of its values."""

    dtype: torch.dtype


@dataclass(frozen=True, eq=False, slots=True)
class Function:
    """A global that pickle would call; `describe` says what the call would have made."""

    name: str
    describe: Callable[[tuple[Any, ...]], Any]


@dataclass(eq=False, slots=True)
class NumberType:
    """A numpy dtype: how struct spells it, and its byte order."""

    code: str
    order: str = "<"


def natural(value: object) -> bool:
    """Whether it is a count that memory could have."""
    return type(value) is int and 0 <= value <= MAX_ELEMENTS


def _tensor(storage: object, offset: Any, shape: Any, stride: Any, dtype: torch.dtype | None = None) -> StoredTensor:
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(stride) is not tuple:
        refuse("a tensor without a storage, a shape or strides")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS or not all(map(natural, (offset, *shape, *stride))):
        refuse("a tensor whose shape, strides or offset are impossible")
    kind = dtype or storage.dtype
    room = storage.count * storage.dtype.itemsize // kind.itemsize
    end = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS or (0 not in shape and end > room):
        refuse(f"a tensor that reaches beyond the {room} values of its storage")
    return StoredTensor(storage, kind, offset, shape, stride)


def _tensor_v2(args: tuple[Any, ...]) -> StoredTensor:
    # Gradients and hooks are of no use here; what comes seventh marks a conjugated or negated view.
    if len(args) not in (4, 6, 7) or any(args[6:]):
        refuse("a tensor of a kind that no state dict needs")
    return _tensor(*args[:4])


def _tensor_v3(args: tuple[Any, ...]) -> StoredTensor:
    if len(args) not in (7, 8) or not isinstance(args[6], torch.dtype) or any(args[7:]):
        refuse("a tensor of a kind that no state dict needs")
    return _tensor(*args[:4], dtype=args[6])


def _parameter(args: tuple[Any, ...]) -> StoredTensor:
    if not args or not isinstance(args[0], StoredTensor):
        refuse("a parameter that is no tensor")
    return args[0]


def _typed_tensor(args: tuple[Any, ...]) -> StoredTensor:
    """A tensor with attributes: function, class, its arguments, attributes."""
    if len(args) != 4 or args[0] not in _TENSORS or args[1] not in _CLASSES or type(args[2]) is not tuple:
        refuse("a tensor of a class that no state dict needs")
    return args[0].describe(args[2])


def _only(kind: type) -> Callable[[tuple[Any, ...]], Any]:
    """The single argument itself, or an empty one: what a set, a counter or a size is made of."""

    def describe(args: tuple[Any, ...]) -> Any:
        match args:
            case ():
                return kind()
            case (value,) if type(value) is kind:
                return value
        refuse(f"something other than a {kind.__name__} where one is due")

    return describe


def _ordered(args: tuple[Any, ...]) -> Any:
    return OrderedDict() if not args else refuse("an ordered dictionary in an old spelling")


def _encoded(args: tuple[Any, ...]) -> Characters:
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        refuse("text in an encoding that no checkpoint needs")
    return Characters(args[0])


_NUMBERS = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}


def _number_type(args: tuple[Any, ...]) -> NumberType:
    if not args or type(args[0]) is not str or args[0] not in _NUMBERS:
        refuse("a numpy type other than a plain number's")
    return NumberType(_NUMBERS[args[0]])


def _number(args: tuple[Any, ...]) -> int | float | bool:
    if len(args) != 2 or not isinstance(args[0], NumberType) or not isinstance(args[1], Characters):
        refuse("a numpy value other than a plain number")
    spelling, text = args[0].order + args[0].code, args[1].text
    if len(text) != struct.calcsize(spelling) or not all(character <= "\xff" for character in text):
        refuse("a number of the wrong length")
    return struct.unpack(spelling, text.encode("latin1"))[0]


_TYPES = {
    **{"Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Byte": "uint8"},
    **{"Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64", "Bool": "bool"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}
_DTYPES = (*_TYPES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.Tensor": lambda _: refuse("a tensor of a class that no state dict needs"),
    "torch.nn.parameter.Parameter": lambda _: refuse("a tensor of a class that no state dict needs"),
    "torch.Size": _only(tuple),
    "torch.device": tuple,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _only(dict),
    "builtins.set": _only(list),
    "builtins.complex": tuple,
    "_codecs.encode": _encoded,
    "argparse.Namespace": lambda args: Namespace() if not args else refuse("a namespace with arguments"),
    "pathlib.PosixPath": tuple,
    "pathlib._local.PosixPath": tuple,
    "numpy.dtype": _number_type,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}
GLOBALS: dict[str, Any] = {
    **{name: Function(name, describe) for name, describe in _CALLS.items()},
    **{f"torch.{kind}Storage": StorageType(getattr(torch, name)) for kind, name in _TYPES.items()},
    **dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), StorageType(torch.uint8)),
    **{f"torch.{name}": getattr(torch, name) for name in _DTYPES},
}
_TENSORS = tuple(GLOBALS[name] for name in _CALLS if name.startswith("torch._utils."))
_CLASSES = (GLOBALS["torch.Tensor"], GLOBALS["torch.nn.parameter.Parameter"])
