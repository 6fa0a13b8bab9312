"""Maps over images: the same place in the image and in what the network saw of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hierax.config import PreprocessSpec
from hierax.data.placing import placed
from hierax.data.preprocess import preprocess

SPECS = {
    "squash": PreprocessSpec(size=(96, 96), resize="squash", crop_ratio=1.0),
    "crop": PreprocessSpec(size=(96, 96)),
    "wide": PreprocessSpec(size=(64, 128)),
    "transformers": PreprocessSpec(size=(96, 96), crop_rounding="floor", resize_to=80),
    "torchvision": PreprocessSpec(size=(96, 96), resize_to=80),
}


def test_placed__is_bilinear():
    """What the network saw whole is placed as every library resizes: half a pixel off would be seen in no picture."""
    cells = np.random.default_rng(0).random((3, 5), np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(cells)[None, None], size=(96, 160), mode="bilinear")
    assert np.abs(placed(cells, (96, 160), None) - wanted[0, 0].numpy()).max() < 1e-4


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 2), (0, 1)])
def test_placed__largest_at_the_centre_of_a_cell(cell):
    """A plateau beyond the outermost centres has its first pixel in the corner of the image, where nothing was found."""
    cells = np.full((3, 3), 0.2, np.float32)
    cells[cell] = 1.0
    y, x = np.unravel_index(placed(cells, (96, 96), None).argmax(), (96, 96))
    assert abs(y - (32 * cell[0] + 15.5)) <= 0.5
    assert abs(x - (32 * cell[1] + 15.5)) <= 0.5


@pytest.mark.parametrize("size", [(120, 200), (211, 90), (40, 60)])
@pytest.mark.parametrize("name", SPECS)
def test_placed__follows_the_preprocess(name, size):
    """A spot of the image, found in the input, must come back to where it was, through resize, crop and padding."""
    spec = SPECS[name]
    image = np.zeros((*size, 3), np.uint8)
    middle = (size[0] // 2 + 5, size[1] // 2 - 6)
    image[middle[0] - 4 : middle[0] + 5, middle[1] - 4 : middle[1] + 5] = 255
    input_ = preprocess(image, spec)[0].numpy()
    seen = (input_ - input_.min()) / (input_.max() - input_.min())
    back = placed(seen.astype(np.float32), size, spec)
    spot = np.argwhere(back > 0.5 * back.max())
    assert np.abs(spot.mean(0) - middle).max() < 1.0


def test_placed__what_was_cut_off_is_zero():
    """What no pixel of the input shows has no value; the nearest cell's would claim that it was seen."""
    spec = PreprocessSpec(size=(96, 96), crop_ratio=0.75)
    map_ = placed(np.ones((3, 3), np.float32), (128, 128), spec)
    assert map_.shape == (128, 128)
    assert map_.dtype == np.float32
    assert (map_[:16] == 0).all()
    assert (map_[:, -16:] == 0).all()
    assert (map_[16:112, 16:112] > 0.99).all()
