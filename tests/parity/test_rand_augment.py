"""Our RandAugment against timm's: every operation at every magnitude and sign, and what ten thousand draws amount to."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from hierax.data import rand_augment
from hierax.data.rand_augment import INCREASING, PLAIN
from hierax.data.warp import Look

from ..members import photograph
from ..peers import peer

pytestmark = pytest.mark.parity

FILL = (124, 116, 104)
# timm's name of each operation, with what its "increasing" table adds to it.
NAMES = {
    "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterize": "Posterize+", "solarize": "Solarize+", "solarize_add": "SolarizeAdd", "color": "Color+",
    "contrast": "Contrast+", "brightness": "Brightness+", "sharpness": "Sharpness+", "shear_x": "ShearX",
    "shear_y": "ShearY", "translate_x": "TranslateXRel", "translate_y": "TranslateYRel",
}  # fmt: skip


def posterized(image, bits):
    """As every Pillow before 13 did: the newest refuses to keep no bits, and timm then fails at magnitude 10."""
    return image.point([value & ~(2 ** (8 - bits) - 1) for value in range(256)] * 3)


@pytest.fixture
def theirs(monkeypatch):
    module = peer("timm.data.auto_augment")
    monkeypatch.setattr(ImageOps, "posterize", posterized)
    return module


def theirs_at(module, monkeypatch, name, magnitude, sign, *, bicubic, increasing):
    """timm's operation as it comes out of its own table; what it draws for the sign is given."""
    monkeypatch.setattr(module.random, "random", lambda: 0.6 if sign < 0 else 0.4)
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    called = NAMES[name].replace("+", "Increasing" if increasing else "")
    return module.AugmentOp(called, prob=1.0, magnitude=magnitude, hparams={"img_mean": FILL, "interpolation": method})


@pytest.mark.parametrize("bicubic", [True, False])
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_operation(theirs, monkeypatch, name, increasing, bicubic):
    """Degrees of thirty at ten instead of at thirty, a sign the other way round, another fill or kernel: all show."""
    operation = (INCREASING if increasing else PLAIN)[name]
    for size in ((224, 224), (61, 97)):
        image = photograph(*size)
        for magnitude in (0, 0.3, 1, 2, 3, 4, 5, 6, 7, 8, 8.7, 9, 9.4, 10):
            for sign in (1, -1) if operation.signed else (1,):
                reference = theirs_at(
                    theirs, monkeypatch, name, magnitude, sign, bicubic=bicubic, increasing=increasing
                )
                want = np.asarray(reference(image)).astype(int)
                argument = operation.argument(sign * magnitude / 10)
                got = np.asarray(operation.apply(image, argument, Look(FILL, bicubic))).astype(int)
                assert got.shape == want.shape
                assert np.abs(got - want).max() <= 1, (size, magnitude, sign)
                assert (got != want).mean() < 0.1


def test_tables_hold_timms_operations(theirs):
    """An operation too many, or one that is missing, changes what every draw may be."""
    assert {NAMES[name].replace("+", "Increasing") for name in INCREASING} == set(theirs._RAND_INCREASING_TRANSFORMS)
    assert {NAMES[name].replace("+", "") for name in PLAIN} == set(theirs._RAND_TRANSFORMS)
    assert rand_augment.MOST == theirs._LEVEL_DENOM
