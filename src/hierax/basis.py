"""The file of a basis: colours of feature maps that are fitted once, and are the same in every later picture.

It is a safetensors file. For each stage it holds `STAGE.mean` (c,), `STAGE.components` (3, c) and `STAGE.explained`,
`STAGE.low` and `STAGE.high` (3,), all float64; its metadata say whose weights it is for and by which rule signs go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from .atomic import atomic_file
from .config import STAGE_NAMES
from .errors import CheckpointError, InputError, brief, writing
from .provenance import provenance
from .visualize.maps import SIGN_RULE, Basis, fit_basis
from .weights.safetensors_files import read_metadata, read_safetensors, save_safetensors

if TYPE_CHECKING:
    from .predictor import Predictor

T = TypeVar("T")
SUFFIX = ".safetensors"
_FORMAT, _VERSION = "hierax basis", "1"
_MOST_BYTES = 64 << 20  # four stages of a network of any width have a thousandth of that
_PARTS = ("mean", "components", "explained", "low", "high")


class BasisFile:
    """A basis that is read from a file if it is there, and otherwise fitted and written to it.

    Args:
        path: The file; None fits to what comes and writes nothing.
        predictor: Whose maps will be coloured.
        stages: Which of its stages.

    Attributes:
        path: The file.
        is_new: Whether there is no file yet.

    Raises:
        InputError: Another name than *.safetensors, no basis, or one of other weights or stages.
    """

    def __init__(self, path: str | os.PathLike[str] | None, predictor: Predictor, stages: Iterable[str]) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self._predictor, self._stages = predictor, list(stages)
        self._read: dict[str, Basis] = {}
        if self.path is not None and self.path.suffix != SUFFIX:
            raise InputError(f"A basis is a file that ends with {SUFFIX}; got {self.path.name!r}. Name it so.")
        self.is_new = self.path is None or not os.path.lexists(self.path)
        if self.path is not None and not self.is_new:
            self._read = _read(self.path, predictor, self._stages)

    def of(self, maps: Mapping[str, Float[ndarray, "n c h w"]]) -> dict[str, Basis]:
        """The basis of each stage of these maps: as the file has it, or fitted to them and written.

        Raises:
            InputError: The maps have no colours, or the file cannot be written; one that appeared meanwhile stays.
        """
        if self._read:
            return {stage: self._read[stage] for stage in maps}
        found = {stage: fit_basis(stage, each) for stage, each in maps.items()}
        if self.path is not None:
            _write(self.path, self._predictor, found)
        return found

    def said(self, images: int) -> str:
        """Where the colours come from, for a caption."""
        fitted = next(iter(self._read.values())).images if self._read else images
        to = f"fitted to {'one image' if fitted == 1 else f'{fitted} images'}"
        return f"{to}, from {self.path.name}" if self._read and self.path else f"{to}, those drawn here"


def _write(path: Path, predictor: Predictor, bases: Mapping[str, Basis]) -> None:
    tensors = {
        f"{stage}.{part}": torch.tensor(getattr(basis, part), dtype=torch.float64)
        for stage, basis in bases.items()
        for part in _PARTS
    }
    known = provenance(predictor)
    first = next(iter(bases.values()))
    metadata = {
        "format": _FORMAT,
        "format_version": _VERSION,
        **{key: str(known[key]) for key in ("model", "architecture", "sha256", "license", "version")},
        "stages": ",".join(bases),
        "images": str(first.images),
        "sign_rule": SIGN_RULE,
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, replace=False) as partial:
            save_safetensors(partial, tensors, metadata)


def _read(path: Path, predictor: Predictor, stages: Iterable[str]) -> dict[str, Basis]:
    about = _whole(path, read_metadata)  # alone: the file may be a checkpoint of gigabytes
    if about.get("format") != _FORMAT or about.get("format_version") != _VERSION or path.stat().st_size > _MOST_BYTES:
        raise InputError(
            f"A basis is a file that `--basis` has written; {path} is none, and was left as it is. Name a file that "
            "is not there yet, to fit one."
        )
    own, of = provenance(predictor), about.get("sha256", "")
    if of != own["sha256"]:
        raise InputError(
            f"A basis belongs to the weights that it was fitted with; {path} is of {brief(about.get('model', ''))} "
            f"(sha256 {of[:8]}), the model is {own['model']!r} (sha256 {own['sha256'][:8]}). Load that model, or name "
            "a file that is not there yet, to fit one."
        )
    tensors, _ = _whole(path, read_safetensors)
    kept = sorted({name.partition(".")[0] for name in tensors})
    channels = dict(zip(STAGE_NAMES, predictor.encoder.return_channels, strict=False))
    count = about.get("images", "")
    images = int(count) if re.fullmatch("[0-9]{1,9}", count, re.ASCII) else 0
    found = {}
    for stage in stages:
        if stage not in kept:
            raise InputError(
                f"{path} is a basis of {', '.join(kept)}; {stage} was asked for. Pass --stages {','.join(kept)}, or "
                "name a file that is not there yet, to fit one."
            )
        shapes = dict.fromkeys(_PARTS, (3,)) | {"mean": (channels[stage],), "components": (3, channels[stage])}
        parts = {part: _part(path, tensors.get(f"{stage}.{part}"), stage, part, shapes[part]) for part in _PARTS}
        found[stage] = Basis(**parts, images=images)
    return found


def _part(path: Path, tensor: torch.Tensor | None, stage: str, part: str, shape: tuple[int, ...]) -> ndarray:
    value = np.empty(0) if tensor is None or tensor.dtype != torch.float64 else tensor.numpy()
    if value.shape != shape or not np.isfinite(value).all():
        raise InputError(f"A basis has finite float64 {stage}.{part} of shape {shape}; {path} has not. Fit it again.")
    return value


def _whole(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except CheckpointError as error:
        raise InputError(f"A basis is a safetensors file that `--basis` has written, whole. {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Name another basis.") from error
