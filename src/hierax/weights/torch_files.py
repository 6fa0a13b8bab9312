"""Reads torch files as data. Nothing is ever unpickled: `weights_only=True`, with no fallback.

A pickle is looked through opcode by opcode before torch sees it, because even torch's restricted reader can be made to
allocate or to loop; and what it returns is checked against the size of the file before anybody touches a value.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import CheckpointError

MAX_TENSORS = 10_000
MAX_PICKLE_BYTES = 8_000_000
MAX_OPCODES = 250_000  # a checkpoint of the largest member with its optimizer needs a fifth
MAX_NESTING = 20  # of tuples fetched from the memo: hashing one takes 2 to that power steps
MAX_RECORDS = 4 * MAX_TENSORS
# Where training code keeps the state dict. An averaged copy goes before the plain one, as in timm's own loader.
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "model_ema_state", "ema")
PLAIN = ("model_state", "state", "model", "state_dict", "model_state_dict", "module")


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """State dict, other top-level entries, and notes on what was chosen, of a zip or legacy torch file.

    Raises:
        CheckpointError: Damaged, unsafe, too large, or not a dictionary of tensors.
    """
    try:
        with path.open("rb") as stream:
            is_zip = stream.read(4) == b"PK\x03\x04"
            stream.seek(0)
            # A legacy file is a row of pickles: magic number, version, platform, the object, its storages' names.
            for _ in range(0 if is_zip else 5):
                _check_pickle(path, stream)
        if is_zip:
            _check_zip(path)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and pickletools raise what their decoders meet, struct.error and the like
        raise CheckpointError(f"{path} is not a whole torch file: {reason(error)}. Download it again.") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch raises a dozen types on damaged or hostile pickles
        raise CheckpointError(
            f"{path} cannot be loaded as plain tensors, and hierax never unpickles code ({reason(error)}). "
            "Convert it to safetensors where it came from, or download it again."
        ) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors.")
    state, rest, notes = _find_state(loaded)
    return _tensors_of(path, state), rest, notes


def _check_zip(path: Path) -> None:
    """Refuse archives that torch.save does not write."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        pickles = [r for r in records if r.filename.endswith("data.pkl")]
        # torch stores records uncompressed; a deflated one can only be there to explode.
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise CheckpointError(f"{path} has compressed records, which torch.save never writes; not loaded.")
        if len(records) > MAX_RECORDS or sum(r.file_size for r in records) > path.stat().st_size:
            raise CheckpointError(f"{path} lists {len(records)} records of more bytes than it has; not loaded.")
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote; not loaded.")
        _check_pickle(path, io.BytesIO(archive.read(pickles[0])))


def _check_pickle(path: Path, stream: IO[bytes]) -> None:
    """Look through one pickle without running it: bounded steps and nesting, and no room to allocate."""
    strings: list[str] = []
    memo: dict[object, int] = {}  # how deep the remembered tuples are nested
    depth = deepest = 0  # of what was built last, of any tuple fetched so far
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if count > MAX_OPCODES or deepest > MAX_NESTING:
            raise CheckpointError(
                f"{path} has a pickle that no checkpoint needs: over {MAX_OPCODES} steps, or "
                f"tuples nested over {MAX_NESTING} deep. It was not loaded."
            )
        if name.startswith("TUPLE"):
            depth = deepest + 1
        elif name.endswith("PUT"):
            memo[argument] = depth
        elif name == "MEMOIZE":
            memo[len(memo)] = depth
        elif name.endswith("GET"):
            deepest = max(deepest, memo.get(argument, 0))
        else:
            depth = 0
        if name in ("GLOBAL", "STACK_GLOBAL"):
            found = str(argument) if name == "GLOBAL" else " ".join(strings[-2:])
            if found.endswith(" bytearray"):
                # torch lets it through, and bytearray(10**11) is an allocation, not data.
                raise CheckpointError(f"{path} builds a bytearray; no checkpoint needs one, it was not loaded.")
        elif isinstance(argument, str):
            strings = [*strings[-1:], argument]


def reason(error: Exception) -> str:
    """What an error of another library says, in at most a line."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _find_state(loaded: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, Any], tuple[str, ...]]:
    """The state dict inside a training checkpoint, however deep, and everything beside it."""
    rest: dict[str, Any] = {}
    notes: list[str] = []
    for _ in range(3):
        states = {key: loaded[key] for key in (*AVERAGED, *PLAIN) if _holds_state(loaded.get(key))}
        if not states:
            break
        chosen = next(iter(states))
        if len(states) > 1:
            others = ", ".join(repr(key) for key in states if key != chosen)
            notes.append(f"weights taken from {chosen!r}; the file also holds {others}")
        rest |= {str(key): value for key, value in loaded.items() if key not in states}
        loaded = states[chosen]
    return loaded, rest, tuple(notes)


def _holds_state(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    tensors = sum(isinstance(inner, Tensor) for inner in value.values())
    return tensors > 1 or any(_holds_state(value.get(key)) for key in (*AVERAGED, *PLAIN))


def _tensors_of(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(repr(str(key)[:80]) for key in list(state)[:5])
        raise CheckpointError(f"{path} holds no tensors (its entries are {names or 'none'}).")
    if len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"{path} lists more than {MAX_TENSORS} tensors; no Hiera checkpoint does.")
    total = 0
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise CheckpointError(f"{key!r} in {path} is not a plain dense tensor; it was not loaded.")
        total += tensor.numel() * tensor.element_size()
    if total > 4 * path.stat().st_size + 1_000_000:
        # Strides of zero make a tensor of any size out of four bytes.
        raise CheckpointError(f"{path} claims {total} bytes of weights, far more than it has; it was not loaded.")
    return {key: tensor.data for key, tensor in tensors.items()}
