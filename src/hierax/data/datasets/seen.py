"""What a training run saw and what it held out: written beside its result, and found again in what a person measures.

Names and labels alone cannot tell a data set from another of the same layout, so the contents of a few samples, spread
over all, are compared too. No path is written: data that was moved is the same data.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import HieraxError
from ..files import name_text
from .class_list import with_classes
from .open import open_data
from .samples import Subset, TrainingData, hold_out

_TRACES = 16
_READ = 1 << 20  # bytes of each


def record(train: TrainingData, held: TrainingData | None, *, split: str, fraction: float, seed: int) -> dict[str, Any]:
    """What `find_held_out` needs, as JSON-able data; a share of 0 where nothing was split off the training data."""
    split_off = isinstance(train, Subset) and isinstance(held, Subset) and train.base is held.base
    count = len(held) if split_off and held is not None else 0
    known = {"split": split, "fraction": fraction if count else 0.0, "seed": seed, "count": count}
    return {"held_out": known, "traces": traces(train)}


def traces(data: TrainingData) -> dict[str, str]:
    """A digest of the contents of a few samples, spread over all, by name."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(_TRACES, len(data))).astype(int)).tolist()
    return {name_text(data.name(index)): _digest(data, index) for index in chosen}


def find_held_out(source: Any, run: dict[str, Any]) -> TrainingData | None:
    """The samples that a run split off for validation, where the source is what it was given; else None."""
    known = run.get("held_out")
    if not isinstance(known, dict) or not known.get("fraction") or not isinstance(known.get("split"), str):
        return None
    with contextlib.suppress(
        HieraxError, TypeError, ValueError, KeyError
    ):  # other data; or a file that somebody edited
        data = open_data(source, split=known["split"])
        train, held = hold_out(data, known["fraction"], known["seed"])
        if train.classes != run.get("classes"):  # the run had its classes from a class file
            train = with_classes(train, list(run["classes"]))
        if train.fingerprint() == run.get("fingerprint") and seen_in(train, run):
            return held
    return None


def seen_in(data: TrainingData, run: dict[str, Any]) -> int:
    """How many of the samples that a run left traces of are among these, with the same contents."""
    known = run.get("traces")
    if not isinstance(known, dict) or not known:
        return 0
    places = {name: index for index in range(len(data)) if (name := name_text(data.name(index))) in known}
    return sum(bool(known[name]) and _digest(data, index) == known[name] for name, index in places.items())


def _digest(data: TrainingData, index: int) -> str:
    try:
        sample = data.read(index)
        if isinstance(sample, Path):
            with sample.open("rb") as file:
                sample = file.read(_READ)
    except (HieraxError, OSError):
        return ""
    found = sample.tobytes() if isinstance(sample, np.ndarray) else bytes(sample)
    return hashlib.sha256(found[:_READ]).hexdigest()[:16]
