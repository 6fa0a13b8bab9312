"""torch files, zip and legacy: pickles put together from opcodes, and archives whose directories lie."""

from __future__ import annotations

import io
import pickletools
import random
import struct
import zipfile
from pathlib import Path

import torch

import hierax

from ....members import MEMBERS, written
from ..judge import CANARY
from ..mutate import EDGES, any_bytes, one_of, put_number
from ..target import Target

_ATTACK = f"open('{CANARY}', 'w').close()"
_GLOBALS = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch._utils _rebuild_tensor", "torch FloatStorage",
    "torch HalfStorage", "torch ByteStorage", "torch.storage UntypedStorage", "collections OrderedDict", "collections Counter",
    "torch Size", "torch device", "torch float32", "torch Tensor", "_codecs encode", "builtins bytearray", "builtins set",
    "builtins complex", "numpy dtype", "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "numpy ndarray",
    "argparse Namespace", "omegaconf.dictconfig DictConfig", "pathlib PosixPath", "datetime datetime", "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_wrapper_subclass",
    "torch._utils _rebuild_nested_tensor", "torch._tensor _rebuild_from_type_v2", "torch.nn.parameter Buffer", "torch.jit._pickle build_intlist",
    "builtins exec", "builtins eval", "posix system", "os system", "subprocess Popen", "builtins getattr", "builtins __import__",
    "torch load", "runpy _run_code", "importlib import_module", "hierax load", "tests.faults nothing", "torch.serialization load",
)  # fmt: skip
_PIECES = (
    b"(", b"}", b"]", b")", b"\x85", b"\x86", b"\x87", b"t", b"e", b"u", b"s", b"a", b"R", b"b", b"Q", b"0", b"1", b"2", b"N", b"\x88",
    b"\x89", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"r\x00\x00\x00\x7f", b"j\xff\xff\xff\x7f", b"\x94", b"\x93", b"\x81", b"\x92", b"o",
    b"\x8f", b"\x90", b"\x91", b"d", b"l", b".", b"\x80\x05", b"\x95\xff\xff\xff\xff\x00\x00\x00\x00", b"\x97", b"\x98",
    b"\x82\x01", b"P0\n", b"g0\n", b"p0\n", b"I5\n", b"L5L\n", b"Finf\n", b"Gx\x00\x00\x00\x00\x00\x00\x00",
    b"\x8b\x04\x00\x00\x00\x00\x00\x00\x80", b"X\x05\x00\x00\x00punyc", b"\x8c\x07rot_13\n", b"\x96\x00\x00\x00\x7f\x00\x00\x00\x00",
)  # fmt: skip


def act(folder: Path, data: bytes) -> None:
    """Load it as a person would."""
    path = folder / "x.pth"
    path.write_bytes(data)
    hierax.load(path)


def seeds(folder: Path) -> list[bytes]:
    """A whole checkpoint, its legacy form, a small training state and a bare pickle."""
    whole = written(MEMBERS["Hiera"], folder / "x.pth", "meta")
    loaded = torch.load(whole, weights_only=True)
    torch.save(loaded, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    weight = torch.ones(2, 3)
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": weight}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    small = {
        "model": {"a.weight": weight, "b": weight[0], "c": weight.half()},
        "optimizer": optimizer,
        "epoch": 3,
        "args": {"x": (1, [2])},
    }
    torch.save(small, folder / "small.pth")
    torch.save(small, folder / "small-legacy.pth", _use_new_zipfile_serialization=False)
    bare = b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01}q\x02X\x01\x00\x00\x00aK\x01ss."
    names = ("x.pth", "legacy.pth", "small.pth", "small-legacy.pth")
    return [*((folder / name).read_bytes() for name in names), bare]


# --- pickles --------------------------------------------------------------------------------------------------------


def _operations(data: bytes) -> tuple[list[bytes], bytes]:
    """The operations of the first pickle, and what follows it."""
    places = [place for _, _, place in pickletools.genops(data)]
    ends = [*places[1:], (places[-1] or 0) + 1]
    return [data[start:end] for start, end in zip(places, ends, strict=True)], data[ends[-1] :]


def _piece(rng: random.Random) -> bytes:
    """An operation that the pickle did not have."""
    kind = rng.randrange(8)
    if kind < 3:
        module, name = rng.choice(_GLOBALS).split(" ")
        return f"c{module}\n{name}\n".encode()
    if kind == 3:
        return b"J" + struct.pack("<I", rng.choice(EDGES) & 0xFFFFFFFF)
    if kind == 4:
        text = rng.choice(
            (_ATTACK, f"touch {CANARY}", "storage", "cpu", "0", "punycode", "hex", "a" * 300, "model", "ema")
        ).encode()
        return b"X" + struct.pack("<I", len(text)) + text
    return rng.choice(_PIECES)


def in_pickle(data: bytes, rng: random.Random) -> bytes:
    """Operations exchanged, doubled, moved, left out and put in."""
    operations, rest = _operations(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, kind = rng.randrange(len(operations)), rng.randrange(7)
        if kind == 0:
            del operations[at]
        elif kind == 1:
            operations[at] = _piece(rng)
        elif kind == 2:
            operations.insert(at, _piece(rng))
        elif kind == 3:
            run = operations[at : at + rng.choice((1, 2, 5, 20))]
            operations[at:at] = run * rng.choice((1, 1, 2, 30))
        elif kind == 4:
            other = rng.randrange(len(operations))
            operations[at], operations[other] = operations[other], operations[at]
        elif kind == 5 and len(operations[at]) > 1:
            argument = bytearray(operations[at])
            put_number(argument, rng.randrange(1, len(argument)), rng)
            operations[at] = bytes(argument)
        else:
            operations[at:at] = _call(rng)
        operations = operations or [b"."]
    return b"".join(operations) + rest


def _call(rng: random.Random) -> list[bytes]:
    """A call of something with a few arguments, and perhaps its state, or a bomb."""
    kind = rng.randrange(6)
    if kind == 0:  # a tuple around the one before, again and again, each twice as dear to hash
        return [b"K\x01", b"\x85", *([b"2", b"\x86"] * rng.choice((5, 30, 2000))), b"0"]
    if kind == 1:
        return [b"}", b"2", b"X\x05\x00\x00\x00model", b"2" if rng.random() < 0.3 else b"}", b"s"]
    if kind == 2:  # text that doubles with every step
        step = [b"X\x06\x00\x00\x00base64", b"\x86", b"R"]
        return [b"c_codecs\nencode\n", b"X\x02\x00\x00\x00aa", *step]
    arguments = [_piece(rng) for _ in range(rng.randrange(4))]
    return [_piece(rng), b"(", *arguments, b"t", rng.choice((b"R", b"\x81", b"Q", b"b", b"R"))]


def legacy(data: bytes, rng: random.Random) -> bytes:
    """A legacy file changed in the pickle of the object, behind magic number, version and platform."""
    head = b""
    for _ in range(3):
        operations, data = _operations(data)
        head += b"".join(operations)
    return head + in_pickle(data, rng)


# --- archives -------------------------------------------------------------------------------------------------------


def in_archive(data: bytes, rng: random.Random) -> bytes:
    """The pickle of an archive changed, or its records; the archive is whole again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    way = rng.randrange(8)
    at = next(n for n, (name, _) in enumerate(records) if name.endswith("data.pkl"))
    if way < 4:
        records[at] = (records[at][0], in_pickle(records[at][1], rng))
    elif way == 4:
        records.insert(rng.randrange(len(records)), (records[at][0], in_pickle(records[at][1], rng)))
    elif way == 5:
        at = rng.randrange(len(records))
        records[at] = (records[at][0], any_bytes(records[at][1], rng))
    elif way == 6:
        at = rng.randrange(len(records))
        name = rng.choice(
            (
                "../x",
                "/x",
                "",
                "archive/data/0",
                "archive/byteorder",
                "archive/version",
                ".data/serialization_id",
                "a" * 65000,
            )
        )
        records[at] = (name, records[at][1])
    else:
        del records[rng.randrange(len(records))]
    stream = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return stream.getvalue()


def in_directory(data: bytes, rng: random.Random) -> bytes:
    """Fields of the archive's directory and end record, another directory before it, bytes before, between and behind."""
    found, end = bytearray(data), data.rindex(b"PK\5\6")
    start = data.index(b"PK\1\2")
    way = rng.randrange(7)
    if way < 2:
        put_number(found, rng.randrange(end, end + 22), rng)
    elif way == 2:
        put_number(found, rng.randrange(start, end), rng)
    elif way == 3:
        entry = rng.choice([at for at in range(start, end) if data.startswith(b"PK\1\2", at)])
        put_number(found, entry + rng.choice((8, 10, 16, 20, 24, 28, 30, 32, 42)), rng)
    elif way == 4:
        directory = bytearray(data[start:end])
        put_number(directory, rng.randrange(len(directory)), rng)
        found[rng.choice((start, end)) : end] = directory + data[start:end]
    elif way == 5:
        found += data[rng.choice((0, start, end)) :]
    else:
        found[rng.choice((0, start, end)) : 0] = rng.randbytes(rng.choice((1, 64, 4096)))
    return bytes(found)


TARGET = Target(
    "torch_files",
    act,
    seeds,
    one_of(any_bytes, in_pickle, legacy, legacy, in_archive, in_archive, in_archive, in_directory),
    weight=2,
)
