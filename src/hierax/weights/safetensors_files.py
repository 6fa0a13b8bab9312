"""safetensors files: read into memory of their own, written the same every time.

The package of that name maps files, lets the last of two equal keys win, and orders metadata by chance; on a full disk
it raises an error of its own. The format is a JSON header and the tensors' bytes in a row; reading it strictly, and
writing it in one order, takes less than guarding against the rest. It has no checksum: flipped bits cannot be seen.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from .described import MAX_DIMENSIONS, MAX_ELEMENTS, natural
from .private import Damaged, copied, regular
from .torch_files import MAX_TENSORS

MAX_HEADER_BYTES = 20_000_000  # to be read
MAX_PARSED_BYTES = 8_000_000
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        CheckpointError: Damaged, or too large.
    """
    try:
        with regular(path) as stream:
            entries, metadata, start = _header(stream)
            return {name: _tensor(stream, start, entry) for name, entry in entries.items()}, metadata
    except Damaged as error:
        raise _not_whole(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone.

    Raises:
        CheckpointError: Damaged, or too large.
    """
    try:
        with regular(path) as stream:
            return _header(stream)[1]
    except Damaged as error:
        raise _not_whole(path, error) from error


def save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors; the same ones with the same metadata give the same bytes.

    Raises:
        CheckpointError: A tensor of a type that the format does not have.
        OSError: The file cannot be written.
    """
    if "__metadata__" in tensors:
        raise CheckpointError("safetensors files keep metadata under '__metadata__'; name that tensor otherwise.")
    if unknown := sorted(name for name, tensor in tensors.items() if tensor.dtype not in _NAMES):
        raise CheckpointError(
            f"safetensors files hold plain numbers; {unknown[0]!r} is {tensors[unknown[0]].dtype}. Convert it first."
        )
    # Large elements first, so that every tensor begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name, tensor in ordered:
        end = position + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            # Not `reshape(-1)`: one element keeps any stride, and no other type can be seen through it.
            values = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
            stream.write(values.view(torch.uint8).numpy().data)


def _not_whole(path: Path, error: Damaged) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file: it has {error}. Download it again.")


def _header(stream: BinaryIO) -> tuple[dict[str, dict[str, Any]], dict[str, str], int]:
    """Entries that follow each other and fill the file, metadata, and where the values start."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    (length,) = struct.unpack("<Q", stream.read(8)) if size >= 8 else (size,)
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise Damaged(f"a header that is cut short or oversized ({length} bytes)")
    header = _parsed(stream.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Damaged("metadata that are no text")
    _few(len(header))
    try:
        "".join((*header, *metadata, *metadata.values())).encode()
    except UnicodeEncodeError as error:
        raise Damaged("names that are no Unicode text") from error
    for name, entry in header.items():
        _checked(name, entry)
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != position:
            raise Damaged(f"bytes between its tensors, or twice in them, at {name[:80]!r}")
        position = end
    if 8 + length + position != size:
        raise Damaged(f"{size - 8 - length} bytes of values where its header says {position}")
    return header, metadata, 8 + length


def _parsed(header: bytes) -> dict[str, Any]:
    # Before it is parsed: an entry has a brace and two brackets, and the text of metadata may have some, too.
    _few(max(header.count(b"{"), header.count(b"[")) - 2 * MAX_TENSORS)
    if len(header) > MAX_PARSED_BYTES:
        raise Damaged(f"an oversized header ({len(header)} bytes)")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        return found if len(found) == len(pairs) else _twice(pairs)

    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise Damaged(f"a header that is no JSON ({str(error)[:100]})") from error
    if not isinstance(parsed, dict):
        raise Damaged("a header that is no JSON object")
    return parsed


def _twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: set[str] = set()
    name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    raise Damaged(f"two entries named {name[:80]!r}")


def _few(count: int) -> None:
    if count > MAX_TENSORS:
        raise Damaged(f"more than {MAX_TENSORS} tensors, which no Hiera checkpoint has")


def _checked(name: str, entry: Any) -> None:
    """Refuse an entry whose type, shape and place do not agree."""
    wrong = f"an impossible entry {name[:80]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Damaged(wrong)
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise Damaged(f"an entry {name[:80]!r} of the unknown type {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(natural, shape)):
        raise Damaged(wrong)
    if not isinstance(place, list) or len(place) != 2 or not all(map(natural, place)):
        raise Damaged(wrong)
    elements = math.prod(shape)
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise Damaged(wrong)
    if place[1] - place[0] != elements * _DTYPES[dtype].itemsize:
        raise Damaged(f"an entry {name[:80]!r} whose shape and place do not agree")


def _tensor(stream: BinaryIO, start: int, entry: Mapping[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    return copied(stream, start + begin, end - begin).view(dtype).view(entry["shape"])
