"""The pictures of a training run: that each is written whole, and what stands in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import hierax.drawing
from hierax.config import PreprocessSpec
from hierax.drawing import Drawing
from hierax.errors import InputError
from hierax.train.pictures import Reconstructions
from hierax.training import pretrain

from .train import tiny


@pytest.mark.parametrize("steps", [1, 30, 130, 5001])
def test_curves__hold_every_size_of_run(tmp_path, monkeypatch, steps):
    """A smoothed value must stand at the last step of its window; the baseline must reach the chart."""
    drawn = {}
    monkeypatch.setattr(hierax.drawing, "curves", lambda history, path, **given: drawn.update(given, history=history))
    Drawing().curves([float(step) for step in range(1, steps + 1)], 0.9987, tmp_path / "curves.png")
    assert drawn["baselines"] == {"loss": 0.9987}
    width = max(1, steps // 50)
    smooth = [row for row in drawn["history"] if "loss" not in row]
    assert all(row[f"mean of {width}/loss"] == pytest.approx(row["step"] - (width - 1) / 2) for row in smooth)
    assert bool(smooth) == (width > 1)
    assert len(drawn["history"]) <= 6000


def test_curves__nan_leaves_a_gap_and_nothing_is_refused(tmp_path):
    """A skipped step must not cost the picture; a run without any finite loss has none."""
    Drawing().curves([1.0, math.nan, 0.5], None, tmp_path / "curves.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]
    with pytest.raises(InputError):
        Drawing().curves([math.nan], None, tmp_path / "none.png")


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
