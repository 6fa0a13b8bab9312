"""Ten scribbled scenes, a head of each kind made from them, and scenes that no head has seen."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hierax
from hierax.segment import Trained, train

from .scenes import scene, write_labels


@pytest.fixture(scope="session")
def predictor() -> hierax.Predictor:
    return hierax.load()


@pytest.fixture(scope="session")
def labels() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield write_labels(Path(folder) / "ten", 10)


@pytest.fixture(scope="session")
def linear(labels: Path, predictor: hierax.Predictor) -> Trained:
    pytest.importorskip("sklearn")
    return train(labels, predictor)


@pytest.fixture(scope="session")
def knn(labels: Path, predictor: hierax.Predictor) -> Trained:
    return train(labels, predictor, kind="knn")


@pytest.fixture(scope="session")
def held_out() -> list:
    return [scene(index) for index in range(500, 520)]
