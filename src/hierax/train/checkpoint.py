"""Checkpoints of a run that survive being killed at any moment.

A checkpoint is a folder with the tensors, a JSON of the rest, and a marker that is written last and holds the digests
of both. It is filled under another name and renamed; the one before it goes only after the new one has been read
back. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import folder_beside
from ..atomic import sync as _sync
from ..errors import CheckpointError, writing
from ..net.cache import sha256_of

log = logging.getLogger("hierax")
_NAME = re.compile(r"step-[0-9]{8,}")
TENSORS, STATE, MARKER = "tensors.safetensors", "state.json", "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on.

    Attributes:
        step: Optimiser steps that are done.
        tensors: `model.*`, `ema.*` and `optimizer.*`, by name.
        state: Plain data.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def commit(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint whole or not at all, and then drop the oldest.

    Raises:
        CheckpointError: It cannot be written or does not read back; older ones are untouched.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    # One name for the partial ones of all steps: what a killed run left goes with the next checkpoint.
    with writing(folder, CheckpointError), folder_beside(folder / "step") as partial:
        _write(partial, checkpoint)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync(folder)
    if not is_valid(final):
        raise CheckpointError(f"The checkpoint {final} does not read back as written; the disk may be failing.")
    for old in _folders(folder)[keep:]:
        # The marker goes first: a half-removed checkpoint must not look complete.
        (old / MARKER).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, None without one; damaged ones are named and passed over."""
    for path in _folders(folder):
        if is_valid(path):
            return _read(path)
        log.warning("checkpoint %s is damaged or unfinished; the one before it is used.", path)
    return None


def is_valid(path: Path) -> bool:
    """Whether the marker is there and both files are the ones it was written for."""
    try:
        digests = json.loads((path / MARKER).read_text("utf-8"))
        return all(sha256_of(path / name) == digests[name] for name in (TENSORS, STATE))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _folders(folder: Path) -> list[Path]:
    """Checkpoints, newest first; a folder of any other name is somebody's copy, and stays."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), reverse=True)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, folder / TENSORS)
    (folder / STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}), "utf-8")
    digests = {}
    for name in (TENSORS, STATE):
        _sync(folder / name)
        digests[name] = sha256_of(folder / name)
    (folder / MARKER).write_text(json.dumps(digests), "utf-8")
    _sync(folder / MARKER)
    _sync(folder)


def _read(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    state = json.loads((path / STATE).read_text("utf-8"))
    return Checkpoint(state.pop("step"), load_file(path / TENSORS), state)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """An optimiser's state by parameter name; `names` are in the order of its groups."""
    tensors = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                tensors[f"optimizer.{names[index]}.{key}"] = torch.as_tensor(value)
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    index = {name: number for number, name in enumerate(names)}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            name, _, kind = key.removeprefix("optimizer.").rpartition(".")
            state.setdefault(index[name], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
