"""Weights files and what lies beside them. Nothing is ever unpickled, and nothing stays mapped.

The bytes are read by `torch_files` and `safetensors_files`; here a file is told from a folder, an index and a card.
Writing is whole or not at all.
"""

from __future__ import annotations

import dataclasses
import filecmp
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import schema
from ..atomic import atomic_file, folder_beside, put
from ..errors import CheckpointError, brief, cannot_write, writing
from .private import MAX_FILE_BYTES, regular
from .program_files import kind_of
from .safetensors_files import read_metadata, read_safetensors, save_safetensors
from .torch_files import entry_names, read_torch

MAX_FRONT_MATTER_BYTES = 64_000
MAX_SHARDS = 1000
README_TAGS = "[hiera, hierax]"  # in the front matter of every README.md that hierax writes
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class RawCheckpoint:
    """What a file or folder holds, before anybody knows whose it is.

    Attributes:
        path: The weights file.
        tensors: Flat tensors by the file's own names.
        container: Other top-level entries of a torch file.
        metadata: The safetensors header's `__metadata__`.
        config: A `<name>.json` or `config.json` beside the weights.
        preprocessor: A `preprocessor_config.json` beside the weights.
        card: Plain entries of the front matter of a `README.md` beside the weights.
        notes: What had to be chosen or taken off to get at the tensors.
    """

    path: Path
    tensors: dict[str, Tensor]
    container: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(path: str | Path) -> RawCheckpoint:
    """Read a weights file, or the folder that holds one.

    Raises:
        CheckpointError: The path is missing, not a checkpoint, damaged, unsafe or too large.
    """
    path = Path(path)
    try:
        weights = _find_weights(path) if path.is_dir() else path
        content = _read_shards(weights) if weights.name.endswith(".index.json") else read_file(weights)
        return dataclasses.replace(
            content,
            config=_sidecar(weights, f"{weights.stem}.json", "config.json"),
            preprocessor=_sidecar(weights, "preprocessor_config.json"),
            card=_front_matter(weights.parent / "README.md"),
        )
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


def read_file(path: Path) -> RawCheckpoint:
    """One weights file without what lies beside it, recognised by its first bytes.

    Raises:
        CheckpointError: Not a regular file, or not a readable safetensors or torch file.
    """
    if not path.exists():
        raise CheckpointError(f"No such file or folder: {path}. Name a weights file, a folder or a catalogue name.")
    if kind := kind_of(path):
        raise CheckpointError(
            f"{path} is an exported program ({kind}): it can be run, but holds no weights to train, convert or change. "
            "Name the weights that it was made from."
        )
    if _is_torch(path):
        tensors, container, notes = read_torch(path)
        return RawCheckpoint(path, tensors, container=container, notes=notes)
    tensors, metadata = read_safetensors(path)
    return RawCheckpoint(path, tensors, metadata=metadata)


def _is_torch(path: Path) -> bool:
    """Whether a file is torch's; if not, it is safetensors'."""
    with regular(path) as stream:
        head = stream.read(9)
    if not head:
        raise CheckpointError(f"{path} is empty. Download it again.")
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:9] != b"{"):
        return True
    if head[8:9] == b"{":
        return False
    raise CheckpointError(
        f"{path} is neither a safetensors nor a torch file (it starts with {head[:8]!r}). "
        "If it came from a download, check that it is not an error page."
    )


def weight_map(index: Path) -> dict[str, str]:
    """The file, beside an index of sharded weights, of each tensor.

    Raises:
        CheckpointError: It is no index, or names files elsewhere or too many of them.
    """
    listing = read_json(index).get("weight_map")
    if not isinstance(listing, dict) or not all(isinstance(name, str) for name in listing.values()):
        raise CheckpointError(f"{index} has no weight_map.")
    shards = set(listing.values())
    for name in shards:
        if Path(name).name != name or name == "..":
            raise CheckpointError(f"{index} points outside its folder ({name!r}); it was not followed.")
    if not 0 < len(shards) <= MAX_SHARDS:
        raise CheckpointError(f"{index} must name at least one and at most {MAX_SHARDS} files; got {len(shards)}.")
    return listing


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint without reading tensors: one, or an index and its shards.

    Raises:
        CheckpointError: A folder without weights, or a damaged index.
    """
    found = _find_weights(path) if path.is_dir() else path
    parts = sorted(set(weight_map(found).values())) if found.name.endswith(".index.json") else []
    return [found, *(found.parent / part for part in parts)]


def _read_shards(index: Path) -> RawCheckpoint:
    listing = weight_map(index)
    tensors: dict[str, Tensor] = {}
    names = sorted(set(listing.values()))
    size = sum(path.stat().st_size for name in names if (path := index.parent / name).is_file())
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"A checkpoint has at most {MAX_FILE_BYTES} bytes; the files of {index} have {size}.")
    for name in names:
        shard = read_file(index.parent / name).tensors
        if twice := tensors.keys() & shard.keys():
            raise CheckpointError(f"{name!r} and another file that {index} names both hold {min(twice)!r}.")
        tensors |= shard
    missing = [key for key in listing if key not in tensors]
    if missing:
        raise CheckpointError(f"{index} lists {len(missing)} tensors that no shard holds, e.g. {missing[0]!r}.")
    return RawCheckpoint(index, tensors)


def _find_weights(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        for candidate in (folder / name, folder / f"{name}.index.json"):
            if candidate.is_file():
                return candidate
    for suffix in WEIGHT_SUFFIXES:
        same = sorted(p for p in folder.iterdir() if p.suffix == suffix and p.is_file())
        if len(same) == 1:
            return same[0]
        if same:
            names = ", ".join(p.name for p in same[:5])
            raise CheckpointError(f"{folder} holds several weights files ({names}). Name one of them.")
    raise CheckpointError(
        f"{folder} holds no weights file (looked for model.safetensors, pytorch_model.bin, "
        f"{', '.join('*' + s for s in WEIGHT_SUFFIXES)})."
    )


def _sidecar(weights: Path, *names: str) -> dict[str, Any]:
    beside = (weights.parent / name for name in names)
    return next((read_json(path) for path in beside if os.path.lexists(path) and path != weights), {})


def _front_matter(readme: Path) -> dict[str, str]:
    """`key: value` lines between the dashes at the top of a hub card; lists and nesting are passed over."""
    if not readme.is_file():
        return {}
    with readme.open("rb") as stream:
        content = stream.read(MAX_FRONT_MATTER_BYTES).decode("utf-8", errors="replace")
    top, *lines = content.splitlines()[:200] or [""]
    if top.strip() != "---":
        return {}
    head = itertools.takewhile(lambda line: line.strip() != "---", lines)
    pairs = (line.partition(":") for line in head if not line[:1].isspace())
    return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs if value.strip()}


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object.

    Raises:
        CheckpointError: As `schema.read_json`, or not an object.
    """
    data = schema.read_json(path, what="A file beside weights", error=CheckpointError)
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object; got {brief(data)}.")
    return data


def is_ours(path: Path) -> bool:
    """Whether hierax wrote a file: a README.md by its tags, any other by the mark in it or in what lies beside it."""
    if path.name == "README.md":
        return _front_matter(path).get("tags") == README_TAGS
    names = (path.name, f"{path.stem}.json", "config.json", f"{path.stem}.safetensors", "model.safetensors")
    for beside in {path.with_name(name) for name in names}:
        marks: set[str] = set()
        with suppress(CheckpointError):
            if beside.suffix == ".json" and beside.is_file():
                marks = set(read_json(beside))
            elif beside.suffix in WEIGHT_SUFFIXES and beside.is_file():
                marks = entry_names(beside) if _is_torch(beside) else set(read_metadata(beside))
        if marks & {"hierax", "hierax_version"}:
            return True
    return False


@contextmanager
def staged(destination: Path, *, replace: bool = False, new: bool = False) -> Iterator[Path]:
    """A temporary folder beside `destination`, whose content takes its place only if nothing fails meanwhile.

    What is written there under the destination's own name becomes that file, its companions its neighbours; anything
    else makes `destination` a folder. Into a folder that exists, files move one by one, config.json last. There they
    replace what an earlier save left, and with `replace` anything; somebody's README.md stays. With `new` nothing is
    replaced at all.

    Raises:
        CheckpointError: The place cannot be written, another process is writing it, or other files of those names are
            in it.
    """
    try:
        with folder_beside(destination) as stage:
            yield stage
            one_file = (stage / destination.name).is_file()
            if one_file or destination.is_dir():
                _move_files(stage, destination.parent if one_file else destination, replace, new)
            else:
                stage.rename(destination)
    except (OSError, CheckpointError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(cannot_write(destination, cause)) from cause


def _move_files(source: Path, target: Path, replace: bool, new: bool) -> None:
    staged = sorted(source.iterdir(), key=lambda path: path.name == "config.json")
    there = {path.name for path in staged if os.path.lexists(target / path.name)}
    # The same bytes are what an earlier try left that was killed between two files.
    others = [name for name in there if not _same(source / name, target / name)]
    if others and new:
        raise CheckpointError(
            f"{target} holds {', '.join(sorted(others))} meanwhile; nothing was overwritten. Name another destination."
        )
    foreign = [name for name in there if not is_ours(target / name)]
    in_the_way = [name for name in foreign if name != "README.md"]
    if in_the_way and not replace:
        raise CheckpointError(
            f"Only what hierax wrote is replaced; {target} has other files named {', '.join(in_the_way)}. Nothing was "
            "written. Name another folder."
        )
    for path in staged:
        if replace or path.name not in foreign:
            put(path, target / path.name, replace=path.name in there)


def _same(path: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(path, other, shallow=False)


def write_atomic(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    with writing(path, CheckpointError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            write(temporary)
    return path


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors, whole or not at all; the same ones give the same bytes."""
    said = dict(metadata or {"format": "pt"})
    return write_atomic(path, lambda to: save_safetensors(to, tensors, said))


def write_torch(path: Path, data: Any) -> Path:
    """Write a dictionary of tensors and plain values as torch.save does, whole or not at all."""

    def save(to: Path) -> None:
        with to.open("wb") as stream:  # given a name, torch says nothing of why the disk refused
            torch.save(data, stream)

    return write_atomic(path, save)


def write_text(path: Path, text: str) -> Path:
    """Write text, whole or not at all."""
    # Names of files that are no UTF-8 have lone surrogates; the escapes are those of JSON and TOML.
    return write_atomic(path, lambda to: to.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write indented JSON, whole or not at all."""
    return write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
