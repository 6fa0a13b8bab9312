"""The model cards run with only their import prefix changed, giving the shapes printed on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import snippets
from .conftest import write_random
from .snippets import ported

SAM2 = "hieradet_small_sam2_1"
DINO = "hieradet_small_dino-v2-imagenet12k"
HIERA = "facebook/hiera-base-plus-224-hf"
ENTRIES = {
    SAM2: 'architecture = "hieradet_small"\nformat = "birder"\ninput_size = [224, 224]',
    DINO: 'architecture = "hieradet_d_small"\nformat = "birder"\ninput_size = [256, 256]',
    HIERA: 'architecture = "hiera_base_plus_224"\nformat = "transformers"',
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random weights of each card's network, each written once."""
    made: dict[str, Path] = {}
    recipes: dict[str, Callable[[Path], Path]] = {
        SAM2: lambda folder: write_random("birder", "hieradet_small", folder),
        DINO: lambda folder: write_random("birder", "hieradet_d_small", folder, num_classes=11821, input_size=256),
        HIERA: lambda folder: write_random("transformers", "hiera_base_plus_224", folder, num_classes=0),
    }

    def get(name: str) -> Path:
        if name not in made:
            made[name] = recipes[name](tmp_path_factory.mktemp("weights"))
        return made[name]

    return get


def run(card: Any, files: Callable[[str], Path], name: str, snippet: str) -> dict[str, Any]:
    """One snippet under its published name."""
    return card(ported(snippet), files(name), name, ENTRIES[name])


@pytest.mark.parametrize(
    "snippet", [snippets.SAM2_EMBEDDING, snippets.SAM2_FEATURES, snippets.DINO_CLASSES, snippets.HIERA_MODEL]
)
def test_ported__changes_imports_only(snippet: str) -> None:
    """A port that touched anything but the import lines would not be the card's promise."""
    pairs = list(zip(snippet.splitlines(), ported(snippet).splitlines(), strict=True))
    assert all("import" in old and "hierax.compat" in new for old, new in pairs if old != new)
    assert any(old != new for old, new in pairs)


def test_sam2__embedding(run_card: Any, files: Callable[[str], Path]) -> None:
    """Card 000: a network without classes must give (1, 768) twice, a softmax and the embedding itself."""
    names = run(run_card, files, SAM2, snippets.SAM2_EMBEDDING)
    assert names["size"] == (224, 224)
    assert names["embedding"].shape == names["out"].shape == (1, 768)
    assert isinstance(names["embedding"], np.ndarray)
    assert np.isclose(names["out"].sum(), 1, atol=1e-5)


def test_sam2__features(run_card: Any, files: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Card 000: the printed line, character by character."""
    run(run_card, files, SAM2, snippets.SAM2_FEATURES)
    assert capsys.readouterr().out == snippets.SAM2_PRINTED


def test_dino__classes(run_card: Any, files: Callable[[str], Path]) -> None:
    """Card 001: probabilities of 11821 classes, not logits."""
    names = run(run_card, files, DINO, snippets.DINO_CLASSES)
    assert names["out"].shape == (1, 11821)
    assert names["_"] is None
    assert np.isclose(names["out"].sum(), 1, atol=1e-4)
    assert (names["out"] >= 0).all()
    assert names["net"].encoder.config.windows == ((8, 8), (4, 4), None, None)


def test_dino__embedding(run_card: Any, files: Callable[[str], Path]) -> None:
    """Card 001: the embedding beside the probabilities."""
    names = run(run_card, files, DINO, snippets.DINO_EMBEDDING)
    assert names["embedding"].shape == (1, 768)
    assert names["out"].shape == (1, 11821)


def test_dino__features(run_card: Any, files: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Card 001: the printed line, character by character."""
    run(run_card, files, DINO, snippets.DINO_FEATURES)
    assert capsys.readouterr().out == snippets.DINO_PRINTED


def test_hiera__model(run_card: Any, files: Callable[[str], Path]) -> None:
    """Card 004: base-plus gives 49 tokens of 896 channels."""
    names = run(run_card, files, HIERA, snippets.HIERA_MODEL)
    assert tuple(names["inputs"]["pixel_values"].shape) == (1, 3, 224, 224)
    assert tuple(names["outputs"].last_hidden_state.shape) == (1, 49, 896)
    assert tuple(names["outputs"].pooler_output.shape) == (1, 896)


def test_hiera__backbone(run_card: Any, files: Callable[[str], Path]) -> None:
    """Card 004: four maps, channels first."""
    names = run(run_card, files, HIERA, snippets.HIERA_BACKBONE)
    shapes = [tuple(m.shape) for m in names["feature_maps"]]
    assert shapes == [(1, 112, 56, 56), (1, 224, 28, 28), (1, 448, 14, 14), (1, 896, 7, 7)]
