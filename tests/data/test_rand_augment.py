"""RandAugment's table: that strength grows with the magnitude, and what is drawn."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from hierax.data.rand_augment import INCREASING, PLAIN, Change, applied, draw
from hierax.data.warp import Look

LOOK = Look((124, 116, 104), True)
STEADY = ("autocontrast", "equalize", "invert")


def landscape():
    """An image whose pixels differ the more the further apart they are, so that a longer way shows as a larger change."""
    y, x = np.mgrid[:96, :96]
    rings = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    pixels = (40 + np.stack([x, y, (x + y) / 2], -1) * 1.7 + rings).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (3, h, w)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", [name for name in INCREASING if name not in STEADY])
def test_a_larger_magnitude_changes_more(name, sign):
    """A table in which a step goes the other way trains with less where a recipe asks for more."""
    operation, image = INCREASING[name], landscape()
    if sign < 0 and not operation.signed:
        pytest.skip("this one has no sign")
    before = image.astype(int)
    change = [
        np.abs(operation.apply(image, operation.argument(sign * tenth / 10), LOOK) - before).mean()
        for tenth in range(11)
    ]
    assert all(later >= earlier - 0.05 for earlier, later in itertools.pairwise(change)), change
    assert change[9] > change[3] + 0.5
    if name != "posterize":  # which keeps four bits at least
        assert change[0] < 0.5


def test_the_plain_table_is_another():
    """One table for both would ignore the setting."""
    differing = {name for name in PLAIN if PLAIN[name] is not INCREASING[name]}
    assert differing == {"posterize", "solarize", "color", "contrast", "brightness", "sharpness"}
    assert PLAIN["posterize"].argument(0.9) > PLAIN["posterize"].argument(0.2)  # bits that stay


def test_draws_are_what_the_settings_say():
    """Every operation as often as any other, each way half the time, with magnitudes of the stated spread."""
    rng = np.random.default_rng(0)
    drawn = [draw(rng, 2, 5, std=0.5, probability=0.5, increasing=True) for _ in range(20_000)]
    counts = Counter(change.name for changes in drawn for change in changes)
    assert counts.keys() == INCREASING.keys()
    assert all(abs(count / (20_000 / 15) - 1) < 0.12 for count in counts.values())
    assert abs(np.mean([len(changes) == 0 for changes in drawn]) - 0.25) < 0.01
    degrees = np.array([change.argument for changes in drawn for change in changes if change.name == "rotate"])
    assert abs((degrees > 0).mean() - 0.5) < 0.05
    assert abs(np.abs(degrees).mean() - 15) < 0.2
    assert abs(np.abs(degrees).std() - 1.5) < 0.15
    assert draw(rng, 3, 9, std=0.0, probability=0.0, increasing=True) == []
    assert len(draw(rng, 3, 9, std=0.0, probability=1.0, increasing=True)) == 3
    strong = [draw(rng, 1, 10, std=5.0, probability=1.0, increasing=True)[0] for _ in range(2000)]
    assert max(abs(change.argument) for change in strong if change.name == "rotate") == 30  # no further than the table


def test_the_changed_image_is_a_new_one():
    """An operation in place would change what another view of the same sample starts from."""
    image = landscape()
    before = image.copy()
    for name, operation in INCREASING.items():
        made = applied(image, [Change(name, operation.argument(0.9))], LOOK)
        assert made.dtype == np.uint8
        assert made.shape == image.shape
        assert made.flags.c_contiguous
        assert made.flags.writeable
        assert not np.shares_memory(made, image)
        assert np.array_equal(image, before)


@pytest.mark.parametrize("values", [(7, 7), (0, 255), (0, 1), (254, 255)])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_channels_of_one_value_or_two(name, values):
    """A stretch of a channel that holds one value divides by zero; few values make steps that exceed a byte."""
    image = landscape()
    image[1] = np.where(image[1] > image[1].mean(), *values)
    pillow = getattr(ImageOps, name)(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))))
    assert np.array_equal(INCREASING[name].apply(image, 0, LOOK), np.asarray(pillow).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("name", INCREASING)
def test_images_of_few_pixels(name, size):
    """No middle to blur, no neighbours to mix: nothing fails and the size stays."""
    image = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    for share in (1, -1) if INCREASING[name].signed else (1,):
        assert INCREASING[name].apply(image, INCREASING[name].argument(share), LOOK).shape == image.shape
