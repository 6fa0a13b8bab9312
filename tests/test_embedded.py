"""The embedded model: small, honest, and good at what its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hierax
from hierax.data.datasets.shapes import CLASSES, render

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "hierax" / "assets" / "hiera_nano_96"


def test_accuracy_on_held_out_images():
    """Weights that were not trained, or a preprocess other than training's, fall far below 95 %."""
    drawn = [render(index, seed=11) for index in range(640)]
    answers = hierax.load().classify([image for image, _ in drawn], top_k=1)
    right = np.mean([row[0].index == label for row, (_, label) in zip(answers, drawn, strict=True)])
    assert right >= 0.95


def test_examples_are_named_right():
    """The first command that a newcomer types must not be wrong."""
    paths = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".jpg", ".png"))
    assert len(paths) == 12
    for path, row in zip(paths, hierax.load().classify(paths, top_k=1), strict=True):
        assert row[0].label == path.stem


def test_card():
    """It ships in the package: its size, licence and limits are promises."""
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 3_000_000
    card = hierax.load().card
    assert (card.license, card.commercial) == ("apache-2.0", True)
    assert tuple(hierax.load().labels) == CLASSES
    assert "photographs" in (FOLDER / "README.md").read_text()
