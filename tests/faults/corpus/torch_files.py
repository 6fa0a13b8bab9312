"""Pickles in torch files that ran code, exhausted memory, crashed or hung, and tensors that are not there.

Pickles are spelt in their own instructions; see https://docs.python.org/3/library/pickletools.html.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierax
from hierax.errors import CheckpointError

from .case import Case

START = b"\x80\x02"


# --- pickles --------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    """The instruction that pushes a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def get(index: int) -> bytes:
    """The instruction that pushes what the memo holds."""
    return b"j" + struct.pack("<I", index)


def put(index: int) -> bytes:
    """The instruction that remembers the top of the stack."""
    return b"r" + struct.pack("<I", index)


def number(value: int) -> bytes:
    """The instruction that pushes an integer of up to 255 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage", module: str = "torch") -> bytes:
    """The instructions that push a storage."""
    return b"(" + text("storage") + f"c{module}\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    of: bytes | None = None,
    function: str = "torch._utils\n_rebuild_tensor_v2",
) -> bytes:
    """The instructions that push a tensor."""
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, stride)]
    called = f"c{function}\n".encode()
    return called + b"(" + (of or storage()) + number(offset) + b"".join(sizes) + b"\x89Ntb"[:-1] + b"R"


def state(value: bytes) -> bytes:
    """A state dict of two tensors, one of which is given."""
    return b"}(" + text("a.weight") + value + text("b.weight") + tensor() + b"u"


def archive(pickle: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Callable[[Path], None]:
    """Writes x.pth: an archive as torch.save writes it around a pickle."""

    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "x.pth", "w", **options) as file:
            whole = {"data.pkl": START + pickle + b".", "data/0": bytes(16), "version": b"3\n"} | (records or {})
            for name, data in whole.items():
                file.writestr(f"x/{name}", data)

    return make


def bare(data: bytes) -> Callable[[Path], None]:
    """Writes x.pth: a file from before torch 1.6, whose fourth pickle is given, with what follows it."""
    magic = START + number(0x1950A86A20F9469CFC6C) + b"." + START + number(1001) + b"." + START + b"}."
    return lambda folder: (folder / "x.pth").write_bytes(magic + START + data) and None


def levels(depth: int = 12) -> bytes:
    """Dictionaries that hold the next one under every name a state dict could have, and share it."""
    names = ("model", "ema", "state", "state_dict", "module", "model_ema", "model_state", "state_dict_ema")
    names += ("ema_state_dict", "ema_model", "model_ema_state", "model_state_dict")
    inner = b"}" + put(0)
    for level in range(depth):
        again = b"".join(text(name) + get(level) for name in names[1:])
        inner = b"}(" + text(names[0]) + inner + again + b"u" + put(level + 1)
    return inner


def encoded(value: bytes, encoding: str) -> bytes:
    """The instructions that call _codecs.encode."""
    return b"c_codecs\nencode\n(" + value + text(encoding) + b"tR"


def doubled(times: int = 26) -> bytes:
    """Bytes that are spelt in hexadecimal until they are gigabytes."""
    inner = encoded(text("\xff" * 100), "latin1")
    for _ in range(times):
        inner = encoded(inner, "hex")
    return b"}" + text("x") + inner + b"s"


def shared(depth: int) -> bytes:
    """Lists of ten times the same list."""
    inner = b"]" + put(0)
    for level in range(depth):
        inner = b"](" + inner + get(level) * 9 + b"e" + put(level + 1)
    return b"}" + text("x") + inner + b"s"


def pairs(depth: int = 60) -> bytes:
    """Tuples of twice the same tuple."""
    inner = b"N\x85" + put(0)
    for level in range(depth):
        inner += get(level) + b"\x86" + put(level + 1)
    return inner


def keyed(keys: list[bytes]) -> bytes:
    """A dictionary by these keys."""
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


COLLIDING = [number(index * (2**61 - 1)) for index in range(1, 60_000)]
NUMBERED = keyed([number(index) for index in range(60_000)])
SPACE = b"cargparse\nNamespace\n)\x81"
PICKLES: dict[str, bytes] = {
    "nested_tuples": b"N" + b"\x85" * 200_000,
    "nested_lists": b"]" * 100_000 + b"a" * 99_999,
    "nested_dicts": b"}" + (text("a") + b"}") * 60_000 + b"s" * 60_000,
    "nested_in_a_state": state(b"N" + b"\x85" * 200_000),
    "levels_of_names": levels(),
    "doubling": doubled(),
    "doubling_tuple": b"}" + text("x") + encoded(pairs(), "latin1") + b"s",
    "punycode": b"}" + text("x") + encoded(text("".join(map(chr, range(256, 50_000))) * 4), "punycode") + b"s",
    "utf7": b"}" + text("x") + encoded(text("\xff"), "utf-7") + b"s",
    "decoder": b"}" + text("x") + b"c_codecs\ndecode\n(" + text("aa") + text("hex") + b"tRs",
    "dict_in_itself": b"}" + put(0) + text("model") + get(0) + b"s",
    "dict_in_itself_far": b"}" + put(0) + text("model") + b"}" + text("ema") + get(0) + b"ss",
    "list_in_itself": b"}" + text("x") + b"]" + put(0) + get(0) + b"as",
    "namespace_in_itself": SPACE + put(0) + b"}" + text("model") + get(0) + b"sb",
    "shared_lists": shared(30),
    "shared_tuples": b"}" + text("x") + pairs() + b"s",
    "shared_text": b"}" + text("x") + b"](" + text("a" * 100_000) + put(0) + get(0) * 100_000 + b"es",
    "tuple_key": keyed([pairs()]),
    "nested_tuple_key": keyed([b"N" + b"\x85" * 200_000]),
    "nested_tuple_called": b"N" + b"\x85" * 200_000 + b")R",
    "colliding_numbers": keyed(COLLIDING),
    "namespace_updates": b"](" + NUMBERED + put(0) + SPACE + (get(0) + b"b") * 50_000 + b"e",
    "long_numbers": b"}" + text("x") + b"](" + number(2**2000) + put(0) + get(0) * 200_000 + b"es",
    "unhashable_key": keyed([b"]"]),
    "odd_items": b"}(" + text("a") + b"u",
    "bytearray": b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R",
    "newer_protocol": b"\x95\x00\x00\x00\x00\x00\x00\x00\x00}",
    "pops_beyond_mark": b"N(\x85",
    "leaves_values": b"NN",
    "empty_stack": b"",
    "lying_text": b"X\xff\xff\xff\x7fabc",
    "no_unicode": b"X\x02\x00\x00\x00\xff\xff",
    "unknown_memo": get(7),
    "endless_global": b"c" + b"a" * 1_000_000,
    "typed_in_typed": state(b"ctorch._tensor\n_rebuild_from_type_v2\n" * 1000 + b"N" + b"\x85" * 1000 + b"R" * 1000),
}
TENSORS: dict[str, bytes] = {
    "negative_offset": tensor(offset=-1),
    "offset_beyond": tensor(offset=1),
    "offset_overflows": tensor(offset=2**62, shape=(1,)),
    "negative_shape": tensor((-1,)),
    "negative_stride": tensor(stride=(-1,), offset=3),
    "shape_beyond": tensor((5,)),
    "stride_beyond": tensor((4,), (2,)),
    "shape_overflows": tensor((2**32, 2**32), (0, 0)),
    "shape_of_2000_bits": tensor((2**2000,), (0,)),
    "zero_of_huge": tensor((0, 2**62, 2**62), (0, 0, 0)),
    "terabyte_of_zero_strides": tensor((10**6, 10**6), (0, 0)),
    "sixty_dimensions": tensor((1,) * 60, (1,) * 60),
    "shape_and_stride": tensor((4,), (1, 1)),
    "missing_storage": tensor(of=storage("../../0")),
    "short_storage": tensor(of=storage(count=400)),
    "storage_of_another_type": tensor(of=storage(kind="DoubleStorage")),
    "storage_overflows": tensor((1,), of=storage(count=2**62)),
    "quantized": tensor(of=storage(kind="QInt8Storage")),
    "no_storage": b"ctorch._utils\n_rebuild_tensor_v2\n(N" + number(0) + b"))\x89NtR",
    "sparse": b"ctorch._utils\n_rebuild_sparse_tensor\n)R",
    "wrapper": b"ctorch._utils\n_rebuild_wrapper_subclass\n)R",
    "other_function": tensor(function="torch\nload"),
}
GLOBALS = ("posix system", "builtins exec", "builtins getattr", "torch load", "torch.storage _load_from_bytes", "os x")
GLOBALS += ("omegaconf.dictconfig DictConfig", "pickle loads", "torch.hub load", "numpy load", "codecs encode")


OLD: dict[str, bytes] = {
    "old_code": b"cposix\nsystem\n(" + text("touch canary") + b"tR.",
    "old_huge_storage": state(tensor((1,), of=storage(count=2**60))) + b"." + START + b"](" + text("0") + b"e.",
    "old_without_storage": state(tensor()) + b"." + START + b"].",
    "old_unnamed_storage": state(tensor()) + b"." + START + b"](" + text("7") + b"e." + bytes(24),
    "old_wrong_count": state(tensor()) + b"." + START + b"](" + text("0") + b"e." + struct.pack("<q", 5) + bytes(20),
    "old_negative_count": state(tensor())
    + b"."
    + START
    + b"]("
    + text("0")
    + b"e."
    + struct.pack("<q", -1)
    + bytes(16),
    "old_followed": state(tensor()) + b"." + START + b"](" + text("0") + b"e." + struct.pack("<q", 4) + bytes(17),
    "old_cut": state(tensor()) + b"." + START + b"](" + text("0") + b"e." + struct.pack("<q", 4) + bytes(15),
    "old_keys_no_list": state(tensor()) + b"." + START + b"N." + bytes(24),
    "old_view": state(tensor(of=storage()[:-2] + number(1) + b"tQ")) + b"." + START + b"].",
}


# These are read, and then hold no network or too large a one.
ELSEWHERE = {"terabyte_of_zero_strides": "far more than it has"}


def load(folder: Path) -> object:
    """Load x.pth."""
    return hierax.load(folder / "x.pth")


def refused(name: str, make: Callable[[Path], None], match: str = "not a whole torch file") -> Case:
    """A case of a file that must be refused for what it is, not because it holds no network."""
    return Case(name, make=make, act=load, raises=CheckpointError, match=match)


def calling(name: str) -> bytes:
    """The instructions that call a global without arguments."""
    return b"}" + text("model") + f"c{name.replace(' ', chr(10))}\n)R".encode() + b"s"


CASES = [
    *(refused(name, archive(pickle)) for name, pickle in PICKLES.items()),
    *(refused(f"old_{name}", bare(pickle + b".")) for name, pickle in PICKLES.items()),
    *(
        refused(f"tensor_{name}", archive(state(made)), ELSEWHERE.get(name, "not a whole torch file"))
        for name, made in TENSORS.items()
    ),
    *(refused(f"global_{name}", archive(calling(name)), name.replace(" ", r"\.")) for name in GLOBALS),
    *(refused(name, bare(data)) for name, data in OLD.items()),
    # What the cases are made of is read where it is whole, or they would be refused for their making.
    refused("whole", archive(state(tensor())), "none of the known formats"),
    refused("old_whole", bare(OLD["old_followed"][:-1]), "none of the known formats"),
    refused("levels_with_tensors", archive(levels(3).replace(b"}r", state(tensor()) + b"r", 1)), "none of the known"),
]
