"""safetensors files whose header lies or explodes, and indexes that point elsewhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierax
from hierax.errors import CheckpointError

from .case import Case

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def headed(header: bytes | dict[str, Any] | Callable[[], bytes], data: bytes = bytes(4)) -> Callable[[Path], None]:
    """Writes m/model.safetensors; a function makes a header of megabytes only then."""

    def make(folder: Path) -> None:
        given = header() if callable(header) else header
        text = given if isinstance(given, bytes) else json.dumps(given).encode()
        (folder / "m").mkdir()
        (folder / "m/model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)

    return make


def two(begin: int, end: int, size: int = 8) -> Callable[[Path], None]:
    """Two tensors, the second of them there."""
    return headed({"a": ONE, "b": {**ONE, "data_offsets": [begin, end]}}, bytes(size))


def many(count: int, entry: bytes, begin: bytes = b"", end: bytes = b"") -> Callable[[], bytes]:
    """A header of many numbered entries."""
    return lambda: begin + b"{" + b",".join(b'"%d":%s' % (index, entry) for index in range(count)) + b"}" + end


def spelt(name: bytes, value: bytes) -> bytes:
    """A header of one good entry and one spelt out."""
    return b'{"a":' + json.dumps(ONE).encode() + b"," + name + b":" + value + b"}"


WHOLE = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
SPELT = b'{"dtype":"F32","shape":[0],"d\\u0061ta_offsets":[0,0]}'
HEADERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "200k_entries": (headed(many(200_000, WHOLE)), "more than 10000"),
    "200k_entries_spelt_otherwise": (headed(many(200_000, SPELT)), "more than 10000"),
    "200k_entries_that_are_none": (headed(many(200_000, b"{}")), "more than 10000"),
    "million_entries_without_braces": (headed(many(1_000_000, b"0")), "header"),
    "million_lists": (headed(lambda: b'{"a":[' + b"[]," * 2_500_000 + b"[]]}"), "more than 10000"),
    "million_of_metadata": (headed(many(600_000, b'""', b'{"__metadata__":', b"}")), "bytes of values"),
    "equal_keys": (headed(spelt(b'"a"', json.dumps(ONE).encode())), "two entries named 'a'"),
    "equal_keys_spelt_otherwise": (headed(spelt(b'"\\u0061"', json.dumps(ONE).encode())), "two entries"),
    "equal_keys_within": (
        headed(b'{"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}}'),
        "two entries",
    ),
    "deep": (headed(b'{"a":' + b"[" * 25_000), "no JSON"),
    "deep_metadata": (headed(b'{"__metadata__":' + b'{"a":' * 9_000), "no JSON"),
    "metadata_of_numbers": (headed({"__metadata__": {"a": 1}}, b""), "no text"),
    "metadata_of_lists": (headed({"__metadata__": []}, b""), "no text"),
    "long_number": (headed(b'{"a":' + b"9" * 5000 + b"}"), "no JSON"),
    "not_a_number": (headed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}'), "impossible"),
    "truth_as_a_size": (headed({"a": {**ONE, "shape": [True]}}), "impossible"),
    "float_as_a_size": (headed({"a": {**ONE, "shape": [1.0]}}), "impossible"),
    "size_of_2000_bits": (headed({"a": {**ONE, "shape": [2**2000]}}), "impossible"),
    "zero_of_huge": (
        headed({"a": {"dtype": "F32", "shape": [0, 2**59, 2**59], "data_offsets": [0, 0]}}, b""),
        "impossible",
    ),
    "extra_field": (headed({"a": {**ONE, "x": 1}}), "impossible"),
    "list_as_a_type": (headed({"a": {**ONE, "dtype": ["F32"]}}), "type"),
    "overlap": (two(2, 6, 6), "twice|between"),
    "same_bytes_twice": (two(0, 4, 4), "twice"),
    "gap": (two(8, 12, 12), "between"),
    "followed": (two(4, 8, 9), "bytes of values"),
    "cut": (two(4, 8, 7), "bytes of values"),
    "half_a_surrogate": (headed({"\ud800": ONE}), "Unicode"),
    "no_utf8": (headed(b'{"\xff":0}'), "no JSON"),
    "header_only": (headed(b"{", b""), "no JSON"),
}


def index(weight_map: Any, **files: bytes) -> Callable[[Path], None]:
    """Writes m/model.safetensors.index.json and what it may name."""

    def make(folder: Path) -> None:
        (folder / "m").mkdir()
        (folder / "secret.safetensors").write_bytes(b"")
        (folder / "m/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        text = json.dumps({"a": ONE}).encode()
        for name in ("a", "b"):
            (folder / f"m/{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))

    return make


INDEXES: dict[str, tuple[Any, str]] = {
    "above": ({"a": "../secret.safetensors"}, "outside its folder"),
    "above_twice": ({"a": "x/../../secret.safetensors"}, "outside its folder"),
    "dots": ({"a": ".."}, "outside its folder"),
    "dot": ({"a": "."}, "outside its folder|regular file"),
    "empty": ({"a": ""}, "regular file"),
    "absolute": ({"a": "/etc/passwd"}, "outside its folder"),
    "zero_byte": ({"a": "a\0b"}, "No such file|outside"),
    "half_a_surrogate": ({"a": "\ud800"}, "No such file|outside|surrogate"),
    "itself": ({"a": "model.safetensors.index.json"}, "neither"),
    "many": ({str(number): f"{number}.safetensors" for number in range(100_000)}, "at most 1000 files"),
    "number": ({"a": 1}, "weight_map"),
    "none": ({}, "at least one"),
    "twice": ({"a": "a.safetensors", "b": "b.safetensors"}, "both hold"),
}


def _load(folder: Path) -> object:
    return hierax.load(folder / "m")


def _sparse(folder: Path) -> None:
    """A terabyte that takes no place on the disk."""
    entry = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    headed({"a": entry}, b"")(folder)
    with (folder / "m/model.safetensors").open("r+b") as stream:
        stream.truncate(stream.seek(0, 2) + 2**40)


def _sparse_shards(folder: Path) -> None:
    """Forty shards, each small enough alone."""
    index({str(number): f"{number}.safetensors" for number in range(40)})(folder)
    entry = {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}
    for number in range(40):
        header = json.dumps({str(number): entry}).encode()
        with (folder / f"m/{number}.safetensors").open("wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            stream.truncate(8 + len(header) + 2**30)


CASES = [
    Case("sparse_shards", make=_sparse_shards, act=_load, raises=CheckpointError, match="at most"),
    Case("sparse_terabyte", make=_sparse, act=_load, raises=CheckpointError, match="at most"),
    *(
        Case(name, make=make, act=_load, raises=CheckpointError, match=match, seconds=2)
        for name, (make, match) in HEADERS.items()
    ),
    *(
        Case(f"index_{name}", make=index(listing), act=_load, raises=CheckpointError, match=match)
        for name, (listing, match) in INDEXES.items()
    ),
    Case("whole", make=two(4, 8), act=_load, raises=CheckpointError, match="none of the known formats"),
]
