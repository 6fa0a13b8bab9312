"""Reads weights files into plain tensors. Nothing is ever unpickled.

safetensors files are memory-mapped; torch files go through `weights_only=True` with no fallback. What a hostile or
broken file could do (bombs, huge headers, NaN) is bounded here, before any other module sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, HieraxError

MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 20_000_000
MAX_JSON_BYTES = 20_000_000
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class RawCheckpoint:
    """What a file or folder holds, before anybody knows whose it is.

    Attributes:
        path: The weights file.
        tensors: Flat tensors by the file's own names.
        container: Other top-level entries of a torch file.
        metadata: The safetensors header's `__metadata__`.
        config: A `config.json` (or `<name>.json`) beside the weights.
        preprocessor: A `preprocessor_config.json` beside the weights.
    """

    path: Path
    tensors: dict[str, Tensor]
    container: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)


def read(path: str | Path) -> RawCheckpoint:
    """Read a weights file, or the folder that holds one.

    Raises:
        CheckpointError: The path is missing, not a checkpoint, damaged, unsafe or too large.
    """
    path = Path(path)
    try:
        weights = _find_weights(path) if path.is_dir() else path
        if weights.name.endswith(".index.json"):
            tensors, container, metadata = _read_shards(weights), {}, {}
        else:
            tensors, container, metadata = read_file(weights)
        return RawCheckpoint(
            path=weights,
            tensors=tensors,
            container=container,
            metadata=metadata,
            config=_sidecar(weights, ("config.json", f"{weights.stem}.json")),
            preprocessor=_sidecar(weights, ("preprocessor_config.json",)),
        )
    except HieraxError:
        raise
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Tensors, other top-level entries and metadata of one weights file, recognised by its first bytes.

    Raises:
        CheckpointError: Not a regular file, or not a readable safetensors or torch file.
    """
    if not path.exists():
        raise CheckpointError(f"No such file or folder: {path}. Name a weights file, a folder or a catalogue name.")
    if not path.is_file():
        raise CheckpointError(f"A checkpoint must be a regular file; {path} is not.")
    with path.open("rb") as stream:
        head = stream.read(9)
    if not head:
        raise CheckpointError(f"{path} is empty. Download it again.")
    if head[:4] == b"PK\x03\x04":
        return _read_torch_zip(path)
    if len(head) == 9 and head[8:9] == b"{":
        return _read_safetensors(path)
    if head[:1] == b"\x80":
        return _read_torch_legacy(path)
    raise CheckpointError(
        f"{path} is neither a safetensors nor a torch file (it starts with {head[:8]!r}). "
        "If it came from a download, check that it is not an error page."
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise CheckpointError(f"{path} is truncated or has an oversized header ({length} bytes).")
        header = stream.read(length)
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise CheckpointError(f"{path} lists more than {MAX_TENSORS} tensors; no Hiera checkpoint does.")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            return {key: opened.get_tensor(key) for key in opened.keys()}, {}, dict(metadata)  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}. Download it again.") from error


def _read_torch_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is not a whole torch file: {error}. Download it again.") from error
    if len(records) > 4 * MAX_TENSORS:
        raise CheckpointError(f"{path} holds {len(records)} records; no Hiera checkpoint does.")
    # torch stores records uncompressed; a deflated one can only be there to explode.
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f"{path} has compressed records, which torch.save never writes. It was not loaded.")
    pickle = max((r.file_size for r in records if r.filename.endswith("/data.pkl")), default=0)
    if pickle > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} has a pickle of {pickle} bytes; it was not loaded.")
    return _flatten(path, _torch_load(path, mmap=True))


def _read_torch_legacy(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    return _flatten(path, _torch_load(path, mmap=False))


def _torch_load(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises a dozen types on damaged or hostile pickles
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be loaded as plain tensors, and hierax never unpickles code ({reason}). "
            "Convert it to safetensors where it came from, or download it again."
        ) from error


def _flatten(path: Path, loaded: Any) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """The state dict inside a torch file, and everything beside it."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors.")
    for key in ("model_state", "state", "model", "state_dict", "model_state_dict", "module"):
        inner = loaded.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            rest = {str(k): v for k, v in loaded.items() if k != key}
            return _tensors_of(path, inner), {"__state_key__": key, **rest}, {}
    return _tensors_of(path, loaded), {}, {}


def _tensors_of(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(repr(str(key)) for key in list(state)[:5])
        raise CheckpointError(f"{path} holds no tensors (its entries are {names or 'none'}).")
    if len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"{path} lists more than {MAX_TENSORS} tensors; no Hiera checkpoint does.")
    return tensors


def _read_shards(index: Path) -> dict[str, Tensor]:
    listing = read_json(index).get("weight_map")
    if not isinstance(listing, dict) or not all(isinstance(name, str) for name in listing.values()):
        raise CheckpointError(f"{index} has no weight_map.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(listing.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} points outside its folder ({name!r}); it was not followed.")
        tensors.update(read_file(index.parent / name)[0])
    missing = [key for key in listing if key not in tensors]
    if missing:
        raise CheckpointError(f"{index} lists {len(missing)} tensors that no shard holds, e.g. {missing[0]!r}.")
    return tensors


def _find_weights(folder: Path) -> Path:
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file())
    for suffix in WEIGHT_SUFFIXES:
        same = [p for p in found if p.suffix == suffix]
        if len(same) == 1:
            return same[0]
        if same:
            names = ", ".join(p.name for p in same[:5])
            raise CheckpointError(f"{folder} holds several weights files ({names}). Name one of them.")
    raise CheckpointError(
        f"{folder} holds no weights file (looked for model.safetensors, pytorch_model.bin, "
        f"{', '.join('*' + s for s in WEIGHT_SUFFIXES)})."
    )


def _sidecar(weights: Path, names: tuple[str, ...]) -> dict[str, Any]:
    for name in names:
        candidate = weights.parent / name
        if candidate.is_file():
            return read_json(candidate)
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object.

    Raises:
        CheckpointError: Too large, not JSON, or not an object.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES} bytes; it was not read.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object; got a {type(data).__name__}.")
    return data


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        CheckpointError: Names the first such tensor.
    """
    for key, tensor in tensors.items():
        # The sum is NaN or inf if any element is; only then is the slower exact test needed.
        suspicious = tensor.is_floating_point() and not tensor.sum(dtype=torch.float32).isfinite()
        if suspicious and not tensor.isfinite().all():
            raise CheckpointError(f"{path} holds NaN or infinite values in {key!r}; it was not loaded.")


def write_atomic(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors, whole or not at all."""
    from safetensors.torch import save_file

    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return write_atomic(path, lambda to: save_file(contiguous, to, metadata=dict(metadata or {"format": "pt"})))


def write_torch(path: Path, data: Any) -> Path:
    """Write a dictionary of tensors and plain values as torch.save does, whole or not at all."""
    return write_atomic(path, lambda to: torch.save(data, to))


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write indented JSON, whole or not at all."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return write_atomic(path, lambda to: to.write_text(text, encoding="utf-8") and None)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
