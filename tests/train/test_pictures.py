"""What the picture of a method shows of the data."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hierax.data.datasets.open import open_data
from hierax.train.batches import Views
from hierax.train.pictures import draw_method, spread

COLOURS = {"apples": (200, 0, 0), "pears": (0, 200, 0), "plums": (0, 0, 200)}


@pytest.fixture
def fruit(tmp_path):
    """Many of the first class, few of the others."""
    for (name, colour), count in zip(COLOURS.items(), (40, 3, 2), strict=True):
        (tmp_path / "fruit" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 64), colour).save(tmp_path / "fruit" / name / f"{number:02}.png")
    return tmp_path / "fruit"


@pytest.mark.parametrize("labelled", [False, True])
def test_spread__over_classes(fruit, labelled):
    """The first eight of sorted files are apples alone; MAE reads folders without their labels."""
    data = open_data(fruit, labelled=labelled)
    shown = [data.name(index).split("/")[0] for index in spread(data, 8)]
    assert shown == ["apples"] * 3 + ["pears"] * 3 + ["plums"] * 2
    assert [data.name(index).split("/")[0] for index in spread(data, 2)] == ["apples", "plums"]
    assert spread(data, 99) == list(range(45))


def test_spread__without_classes(tmp_path):
    """Files in one folder are taken from its beginning; one file is enough."""
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    data = open_data(tmp_path, labelled=False)
    assert spread(data, 2) == [0, 1]
    assert spread(open_data([tmp_path / "1.png"], labelled=False), 8) == [0]


def test_reconstructions__of_every_class(fruit, tmp_path):
    """A picture of one class says nothing about the others."""
    from hierax.train.devices import Devices
    from hierax.train.methods.mae import MaskedPretraining
    from hierax.train.reading import recipe_of

    from ..members import learner

    recipe = recipe_of({"method": "mae", "mask_ratio": 0.5, "device": "cpu"})
    method = MaskedPretraining(learner(decoder=True), recipe, [])
    method.shown = 3
    views = Views(open_data(fruit, labelled=False), method.views(), method.weights.config, recipe)
    draw_method(method, views, Devices(recipe), tmp_path)
    with Image.open(tmp_path / "reconstructions.png") as drawn:
        pixels = {tuple(pixel) for pixel in np.asarray(drawn.convert("RGB")).reshape(-1, 3).tolist()}
    assert set(COLOURS.values()) <= pixels
