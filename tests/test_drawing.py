"""The pictures of a training run: that each is written whole, and what stands in them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.drawing import Drawing
from hierax.train.pictures import Reconstructions
from hierax.training import pretrain

from .train import tiny


def test_sheets_are_written_whole(tmp_path):
    """One panel row an image; a partial file that stays behind would be taken for a picture."""
    rng = np.random.default_rng(0)
    made = Reconstructions(
        images=rng.standard_normal((2, 3, 64, 64)).astype(np.float32),
        visible=np.array([[0, 3], [1, 2]]),
        predictions=rng.standard_normal((2, 8, 768)).astype(np.float32),
        pixels=16,
        unit=(2, 2),
        normalized=True,
        preprocess=PreprocessSpec(),
    )
    drawing = Drawing()
    drawing.triptychs(made, tmp_path / "reconstructions.png")
    drawing.confusion(np.array([[3, 1], [0, 2]]), ["a", "b"], tmp_path / "confusion.png")
    drawing.mistakes([np.zeros((20, 30, 3), np.uint8)], ["99% a\nis b"], tmp_path / "mistakes.png")
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["confusion.png", "mistakes.png", "reconstructions.png"]
    with Image.open(tmp_path / "reconstructions.png") as picture:
        assert picture.width >= 3 * 224
        assert picture.height >= 2 * 224


def test_the_door_draws(tmp_path):
    """A door that forgets to pass the drawing would train without a single picture."""
    torch.manual_seed(0)
    data, model = tiny.images(tmp_path / "data", per_class=2), tiny.save(tmp_path / "mae", decoder=True)
    pretrain(data, tmp_path / "out", model=model, steps=1, **tiny.SETTINGS)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["curves.png", "reconstructions.png"]
