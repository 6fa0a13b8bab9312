"""Reads torch files, zip archives and the older rows of pickles, by a reader of our own: torch never opens them.

The pickle is read as data (`pickles`), the archive by its directory (`zips`); then the state dict is chosen among what
was found, and its tensors, and only those, are copied into memory of their own. Every byte of an archive is under a
checksum; the older format has none.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError
from .described import Characters, Storage, StoredTensor
from .pickles import read_pickle
from .private import Damaged, check, copied, regular
from .zips import Record, records

MAX_TENSORS = 10_000
MAX_PICKLE_BYTES = 8_000_000
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of files from before torch 1.6
# Where training code keeps the state dict. An averaged copy goes before the plain one, as in timm's own loader.
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "model_ema_state", "ema")
PLAIN = ("model_state", "state", "model", "state_dict", "model_state_dict", "module")


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """State dict, other plain top-level entries, and notes on what was chosen, of a torch file.

    Raises:
        CheckpointError: Damaged, unsafe, too large, or not a dictionary of tensors.
    """
    with _opened(path) as (source, size):
        state, rest, notes = _find_state(source.content)
        return _tensors_of(path, source, state, size), rest, notes


def entry_names(path: Path) -> set[str]:
    """Names of the top-level entries of a torch file, whose tensors are not read.

    Raises:
        CheckpointError: As `read_torch`.
    """
    with _opened(path) as (source, _):
        return {str(key) for key in source.content}


# --- two containers -------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """The dictionary that a file describes, and where its values are."""

    content: Any

    def read(self, wanted: set[str]) -> dict[str, Tensor]:
        """The bytes of these storages by key, after all that has a checksum was checked."""
        ...


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Source, int]]:
    with regular(path) as stream:
        try:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            source = _Zip(stream) if stream.read(4) == b"PK\x03\x04" else _Legacy(stream, size)
            if not isinstance(source.content, Mapping):
                raise Damaged(f"a {type(source.content).__name__}, not a dictionary of tensors")
            yield source, size
        except Damaged as error:
            raise CheckpointError(
                f"{path} is not a whole torch file of plain tensors: it has {error}. It was not loaded, and hierax "
                "never unpickles code. Download it again, or convert it to safetensors where it came from."
            ) from error


class _Zip:
    """What torch.save has written since 1.6: records NAME/data.pkl, NAME/data/KEY and a few words about them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.records = stream, records(stream)
        folders = {name.partition("/")[0] for name in self.records}
        self.folder = min(folders, default="")
        pickle = self.records.get(f"{self.folder}/data.pkl")
        if len(folders) != 1 or pickle is None or pickle.size > MAX_PICKLE_BYTES:
            raise Damaged("an archive in it that torch.save does not write")
        if f"{self.folder}/constants.pkl" in self.records:
            raise Damaged("a TorchScript program in it instead")
        self.storages: dict[str, Storage] = {}
        self.content, end = read_pickle(self._bytes(pickle), 0, self.storages)
        if end != pickle.size:
            raise Damaged("other bytes behind its pickle")
        for key, storage in self.storages.items():
            if self._record(key).size != storage.count * storage.dtype.itemsize:
                raise Damaged(f"a storage {key[:80]!r} of another size than its pickle says")

    def read(self, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        order = self.records.get(f"{self.folder}/byteorder")
        said = b"little" if order is None else self._bytes(order, 6)
        if said not in (b"little", b"big"):
            raise Damaged("a byte order that is neither little nor big")
        swapped = said.decode() != sys.byteorder
        kept = {self._record(key).name: key for key in wanted}
        for record in self.records.values():
            if record.name in kept:
                storage = self.storages[kept[record.name]]
                buffer = copied(self.stream, record.start, record.size, record.crc)
                found[storage.key] = _reversed(buffer, storage.dtype) if swapped else buffer
            else:
                check(self.stream, record.start, record.size, record.crc)
        return found

    def _record(self, key: str) -> Record:
        record = self.records.get(f"{self.folder}/data/{key}")
        if record is None:
            raise Damaged(f"no storage {key[:80]!r}, which its pickle names")
        return record

    def _bytes(self, record: Record, limit: int = MAX_PICKLE_BYTES) -> bytes:
        if record.size > limit:
            raise Damaged(f"a record {record.name[:80]!r} of {record.size} bytes")
        return copied(self.stream, record.start, record.size, record.crc).numpy().tobytes()


def _reversed(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of a machine of the other byte order."""
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    return buffer.view(-1, width).flip(1).flatten()


class _Legacy:
    """What torch.save wrote before 1.6: five pickles, then each storage as a count of values and the values."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        stream.seek(0)
        head = stream.read(MAX_PICKLE_BYTES)
        self.storages: dict[str, Storage] = {}
        said, position = [], 0
        for _ in range(5):
            value, position = read_pickle(head, position, self.storages)
            said.append(value)
            if said[0] != MAGIC:
                raise Damaged("a pickle in it that torch.save does not write")
        _, version, _, self.content, keys = said
        if version != VERSION or not isinstance(keys, list) or keys != [k for k in keys if type(k) is str]:
            raise Damaged("a version that torch.save does not write")
        self.places: dict[str, int] = {}
        for key in keys:
            storage = self.storages.get(key)
            stream.seek(min(position, size))
            if storage is None or stream.read(8) != struct.pack("<q", storage.count):
                raise Damaged(f"no storage {key[:80]!r} of the size that its pickle says")
            self.places[key] = position + 8
            position += 8 + storage.count * storage.dtype.itemsize
        if position != size or self.places.keys() != self.storages.keys():
            raise Damaged("fewer or more bytes than its pickle says")

    def read(self, wanted: set[str]) -> dict[str, Tensor]:
        storages = (self.storages[key] for key in sorted(wanted, key=self.places.__getitem__))
        sizes = {storage.key: storage.count * storage.dtype.itemsize for storage in storages}
        # Quirk(torch): the values are little-endian whatever wrote them.
        found = {key: copied(self.stream, self.places[key], size) for key, size in sizes.items()}
        swapped = sys.byteorder != "little"
        return {key: _reversed(b, self.storages[key].dtype) if swapped else b for key, b in found.items()}


# --- the state dict -------------------------------------------------------------------------------------------------


def _find_state(loaded: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, Any], tuple[str, ...]]:
    """The state dict inside a training checkpoint, however deep, the plain data beside it, and notes."""
    rest: dict[str, Any] = {}
    notes: list[str] = []
    known: dict[int, bool] = {}
    for _ in range(3):
        states = {key: loaded[key] for key in (*AVERAGED, *PLAIN) if _holds_state(loaded.get(key), known)}
        if not states:
            break
        chosen = next(iter(states))
        if len(states) > 1:
            others = ", ".join(repr(key) for key in states if key != chosen)
            notes.append(f"weights taken from {chosen!r}; the file also holds {others}")
        rest |= {str(key): value for key, value in loaded.items() if key not in states}
        loaded = states[chosen]
    plain: dict[str, Any] = {}
    copies: dict[int, Any] = {}
    for key, value in rest.items():
        with suppress(_NotPlainError):
            plain[key] = _plain(value, copies)
    if unread := [repr(key[:80]) for key in rest if key not in plain]:
        notes.append(f"not read: {', '.join(unread[:10])}, which hold tensors that are no weights")
    return loaded, plain, tuple(notes)


def _holds_state(value: object, known: dict[int, bool]) -> bool:
    """Whether it is a state dict, or holds one where training code would put it; one visit to each dictionary."""
    if not isinstance(value, Mapping):
        return False
    if id(value) not in known:
        tensors = sum(isinstance(inner, StoredTensor) for inner in value.values())
        known[id(value)] = tensors > 1 or any(_holds_state(value.get(key), known) for key in (*AVERAGED, *PLAIN))
    return known[id(value)]


class _NotPlainError(Exception):
    """There are tensors in it."""


def _plain(value: Any, copies: dict[int, Any]) -> Any:
    """Built-in types all through; one visit to each container."""
    if isinstance(value, Characters):
        try:
            return value.text.encode("latin1")
        except UnicodeEncodeError:
            raise Damaged("bytes beyond 255") from None
    if not isinstance(value, (Mapping, list, tuple)):
        if type(value) in (str, int, float, bool, type(None), torch.dtype):
            return value
        raise _NotPlainError
    if id(value) not in copies:
        if isinstance(value, Mapping):
            copies[id(value)] = {key: _plain(inner, copies) for key, inner in value.items()}
        else:
            copies[id(value)] = type(value)(_plain(inner, copies) for inner in value)
    return copies[id(value)]


def _tensors_of(path: Path, source: _Source, state: Mapping[Any, Any], size: int) -> dict[str, Tensor]:
    stored = {str(key): value for key, value in state.items() if isinstance(value, StoredTensor)}
    if not stored:
        names = ", ".join(repr(str(key)[:80]) for key in list(state)[:5])
        raise CheckpointError(f"{path} holds no tensors (its entries are {names or 'none'}).")
    if len(stored) != sum(isinstance(value, StoredTensor) for value in state.values()):
        raise CheckpointError(f"{path} holds two tensors of one name (as 1 and '1'). Save it again where it came from.")
    if len(stored) > MAX_TENSORS:
        raise CheckpointError(f"{path} lists more than {MAX_TENSORS} tensors; no Hiera checkpoint does.")
    total = sum(tensor.nbytes for tensor in stored.values())
    if total > 4 * size + 1_000_000:
        # Strides of zero make a tensor of any size out of four bytes.
        raise CheckpointError(f"{path} claims {total} bytes of weights, far more than it has; it was not loaded.")
    buffers = source.read({tensor.storage.key for tensor in stored.values()})
    return {key: _view(buffers[tensor.storage.key], tensor) for key, tensor in stored.items()}


def _view(buffer: Tensor, tensor: StoredTensor) -> Tensor:
    if 0 in tensor.shape:
        return torch.empty_strided(tensor.shape, tensor.stride, dtype=tensor.dtype)
    values = buffer[: len(buffer) // tensor.dtype.itemsize * tensor.dtype.itemsize].view(tensor.dtype)
    return values.as_strided(tensor.shape, tensor.stride, tensor.offset)
