"""`features --plot`: maps are drawn over what the network saw, which is not the whole photograph."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.cli import main
from hierax.config import PreprocessSpec
from hierax.visualize import sheets

from ..members import write_png

PANEL, GAP = 224, 12


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def wide(desk):
    """Red on the left, green in the middle, blue on the right: a centre crop sees green alone."""
    image = np.zeros((96, 384, 3), np.uint8)
    for third, color in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        image[:, third * 128 : (third + 1) * 128] = color
    Image.fromarray(image).save("wide.png")
    return "wide.png"


def test_plot__what_the_network_saw(wide, capsys):
    """Maps of the centre that are stretched over the whole photograph put edges where there are none."""
    predictor = hierax.load()
    predictor.preprocess = PreprocessSpec(size=(96, 96), resize="shortest", crop_ratio=0.875)
    predictor.save("crops")
    assert main(["features", wide, "-m", "crops", "-o", "f.npz", "--stages", "stage3", "--plot", "f.png"]) == 0
    drawn = pixels("f.png")
    whole = drawn[GAP : GAP + PANEL, GAP : GAP + PANEL].reshape(-1, 3).astype(int)
    assert {(255, 0, 0), (0, 0, 255)} <= {tuple(color) for color in whole.tolist()}
    seen = drawn[GAP : GAP + PANEL, 2 * GAP + PANEL : 2 * (GAP + PANEL)].astype(int)
    assert (seen[..., 1] > 200).mean() > 0.9
    assert (seen[..., 0] > 60).mean() < 0.1
    cells = drawn[GAP : GAP + PANEL, 3 * GAP + 2 * PANEL : 3 * (GAP + PANEL)]
    assert cells.shape == (PANEL, PANEL, 3)
    assert (cells != sheets.PAPER).any(-1).all()  # square, as what was seen
    assert "f.png: 1 images" in capsys.readouterr().err


def test_plot__names_and_reading(desk, monkeypatch):
    """Which photograph is which, and what a colour means, must stand in the picture itself."""
    written: list[str] = []
    draw = sheets.ImageDraw.ImageDraw.text

    def text(self, corner, said, *args, **options):
        written.append(said)
        return draw(self, corner, said, *args, **options)

    monkeypatch.setattr(sheets.ImageDraw.ImageDraw, "text", text)
    write_png("b.png", 2)
    assert main(["features", "a.png", "b.png", "-o", "f.npz", "--plot", "f.png"]) == 0
    assert {"a.png", "b.png", "seen by the network"} <= set(written)
    assert "equal colours mean equal features" in " ".join(written)
    assert "Drawn: 2 images." in " ".join(written)


def test_plot__how_many(desk, capsys):
    """Sixteen of twenty, said nowhere, were taken for all."""
    for seed in range(19):
        write_png(f"{seed:02}.png", seed)
    assert main(["features", ".", "-o", "f.npz", "--stages", "stage4", "--plot", "f.png"]) == 0
    assert "the first 16 of 20 images" in capsys.readouterr().err


def test_seen_pixels__undo_the_preprocess(desk):
    """A wrong mean or order of channels shows another photograph."""
    predictor = hierax.load()
    Image.new("RGB", (96, 96), (200, 100, 50)).save("plain.png")
    seen = sheets.seen_pixels(predictor.prepare("plain.png").numpy(), predictor.preprocess)
    np.testing.assert_allclose(seen[48, 48], (200, 100, 50), atol=1)
