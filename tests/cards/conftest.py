"""What the cards' snippets find when they run: a picture, weights of the published names, and no network."""

from __future__ import annotations

import dataclasses
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hierax
from hierax.config import PreprocessSpec
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

from ..members import photograph


def write_random(to: str, name: str, folder: Path, **options: Any) -> Path:
    """Random weights of a public architecture at its real size, as a file of its origin."""
    network = hierax.create(name, **options)
    size = network.config.input_size
    squash = to == "birder"
    recipe = PreprocessSpec(size=size, resize="squash" if squash else "shortest", crop_ratio=1.0 if squash else 0.875)
    if not squash:
        recipe = dataclasses.replace(recipe, resize_to=256)
    labels = [f"class {index}" for index in range(network.num_classes)] or None
    weights = from_module(network, Weights(card=ModelCard(config=network.config, preprocess=recipe), labels=labels))
    return write_weights(weights, folder / ("net.pt" if squash else "net"), to=to)


@pytest.fixture
def run_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path, str, str], dict[str, Any]]:
    """Run a snippet as printed, its published name pointing at a local file."""
    (tmp_path / "path/to").mkdir(parents=True)
    photograph(500, 375).save(tmp_path / "path/to/image.jpeg")
    monkeypatch.chdir(tmp_path)
    requests = types.ModuleType("requests")
    stream = io.BytesIO((tmp_path / "path/to/image.jpeg").read_bytes())
    requests.get = lambda url, stream=False: types.SimpleNamespace(raw=copy)  # type: ignore[attr-defined]
    copy = stream
    monkeypatch.setitem(sys.modules, "requests", requests)

    def run(snippet: str, weights: Path, name: str, entry: str) -> dict[str, Any]:
        catalog = tmp_path / "private.toml"
        catalog.write_text(f'[[model]]\nname = "{name}"\npath = "{weights}"\n{entry}\n')
        monkeypatch.setenv("HIERAX_CATALOG", str(catalog))
        names: dict[str, Any] = {}
        exec(compile(snippet, "card", "exec"), names)
        return names

    return run
