"""Pixels of a decoded image without a copy: the image's, whole, for as long as somebody looks at them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.data.decode import decode_shrunk
from hierax.data.inplace import rgb_in_place, with_fourth
from hierax.data.preprocess import preprocess

from ..members import encoded, photograph


def test_pixels_in_place_outlive_their_image():
    """A view of memory that Pillow has freed shows whatever is put there next."""
    image = photograph(200, 150)
    want = np.array(image)
    data = encoded(image, "PNG")
    views = [decode_shrunk(data, lambda _: 1)[0] for _ in range(20)]
    gc.collect()
    noise = [Image.effect_noise((200, 150), 50).convert("RGB") for _ in range(20)]
    assert all(np.array_equal(view, want) for view in views)
    assert not views[0].flags.writeable
    assert len(noise) == 20
    for cut in (views[0], views[0][None][0]):
        fourth = with_fourth(cut)
        assert fourth is not None
        assert np.array_equal(fourth[..., :3], want)


@pytest.mark.parametrize(
    "change",
    [lambda x: x[1:], lambda x: x[:, :-1], lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.swapaxes(0, 1),
     lambda x: x.copy(), lambda x: x[..., ::-1], lambda x: np.zeros((4, 5, 4), np.uint8)[..., :3]],
)  # fmt: skip
def test_only_whole_images_have_a_fourth_byte(change):
    """Taken for a whole one, a part or a mirrored one would show another image, or memory behind its end."""
    view, _ = decode_shrunk(encoded(photograph(30, 20), "PNG"), lambda _: 1)
    assert with_fourth(change(view)) is None


def test_images_in_several_pieces_are_copied():
    """Pillow keeps large images in blocks; the first of them is not the image."""
    image = photograph(2500, 2000)
    pixels, _ = decode_shrunk(encoded(image, "BMP"), lambda _: 1)
    assert np.array_equal(pixels, np.asarray(image))
    assert rgb_in_place(image.copy()) is None


@pytest.mark.parametrize("engine", ["pil", "uint8", "float"])
@pytest.mark.parametrize("size", [(24, 24), (20, 28)])
def test_an_input_made_in_place_has_the_same_bits(engine, size):
    """The fourth byte mixed into a colour, or rows of three taken for rows of four, would change every vector."""
    spec = PreprocessSpec(size=size, engine=engine)
    for image in (photograph(61, 47), photograph(28, 20)):
        view, _ = decode_shrunk(encoded(image, "PNG"), lambda _: 1)
        assert with_fourth(view) is not None
        assert torch.equal(preprocess(view, spec), preprocess(np.array(view), spec))
