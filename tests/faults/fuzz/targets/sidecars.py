"""What lies beside weights: config.json, preprocessor_config.json, labels, birder's and timm's JSON, the card's YAML."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import hierax
from hierax.compat.transformers import AutoImageProcessor, HieraForImageClassification

from ....members import MEMBERS, noise, written
from ..mutate import any_bytes, json_tree, one_of
from ..target import Target, Wrong, named, split_name

_NETWORKS = {"hierax": "Hiera", "transformers": "Hiera", "timm": "timm abswin", "birder": "birder abswin"}
_README = b"""---
license: cc-by-nc-4.0
tags: [hiera, hierax]
pipeline_tag: image-feature-extraction
datasets:
- imagenet-1k
base_model: someone/else
---
# A model
"""
_bases: dict[str, Path] = {}  # a folder of weights and sidecars in each format


def _places() -> tuple[str, ...]:
    texts = (".json", ".md", ".yaml", ".txt")
    return tuple(
        f"{form}/{path.name}"
        for form, folder in _bases.items()
        for path in sorted(folder.iterdir())
        if path.suffix in texts
    )


def act(folder: Path, data: bytes) -> None:
    """Load and describe the folder, and use what came of it."""
    place, content = split_name(data, _places())
    form, name = place.split("/")
    for path in _bases[form].iterdir():
        shutil.copyfile(path, folder / path.name) if path.name != name else (folder / name).write_bytes(content)
    failures: list[Any] = [
        _attempt(lambda: _used(hierax.load(_weights(folder)))),
        _attempt(lambda: str(hierax.describe(_weights(folder)))),
    ]
    if form == "transformers":
        failures.append(_attempt(lambda: AutoImageProcessor.from_pretrained(os.fspath(folder))(noise(40, 30))))
        failures.append(_attempt(lambda: HieraForImageClassification.from_pretrained(os.fspath(folder))))
    for failure in failures:
        if failure is not None:
            raise failure


def _weights(folder: Path) -> Path:
    """The folder, or the file where its JSON is named after it."""
    return next((path for path in folder.glob("x.safetensors")), folder)


def _used(predictor: Any) -> None:
    try:
        vector = predictor.embed([noise(40, 30)])
    except hierax.InputError:
        return
    if not np.isfinite(vector).all():
        raise Wrong("an embedding that is not finite")
    if predictor.encoder.num_classes:
        predictor.classify([noise(40, 30)], top_k=2)


def _attempt(work: Any) -> hierax.HieraxError | None:
    try:
        work()
    except hierax.HieraxError as error:
        return error
    return None


def seeds(folder: Path) -> list[bytes]:
    """Each sidecar as it is written."""
    for form, member in _NETWORKS.items():
        path = written(MEMBERS[member], folder / form / ("x.safetensors" if form == "birder" else ""), form)
        _bases[form] = path if path.is_dir() else path.parent
    (_bases["hierax"] / "README.md").write_bytes(_README)
    return [named(place, (_bases[place.split("/")[0]] / place.split("/")[1]).read_bytes()) for place in _places()]


def tree(data: bytes, rng: random.Random) -> bytes:
    """JSON changed as JSON, under its name."""
    name, content = split_name(data, _places())
    return named(name, json_tree(content, rng))


def text(data: bytes, rng: random.Random) -> bytes:
    """The content alone."""
    name, content = split_name(data, _places())
    return named(name, any_bytes(content, rng))


TARGET = Target("sidecars", act, seeds, one_of(tree, tree, tree, text), weight=2)
