"""Our RandAugment against timm's: every operation at every magnitude and sign, and what ten thousand draws amount to."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hierax.data import rand_augment
from hierax.data.erase import rectangle
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


def planes(image):
    """As our operations take an image: (3, h, w)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


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
                got = operation.apply(planes(image), argument, Look(FILL, bicubic)).transpose(1, 2, 0).astype(int)
                assert got.shape == want.shape
                assert np.abs(got - want).max() <= 1, (size, magnitude, sign)
                assert (got != want).mean() < 0.1


def test_tables_hold_timms_operations(theirs):
    """An operation too many, or one that is missing, changes what every draw may be."""
    assert {NAMES[name].replace("+", "Increasing") for name in INCREASING} == set(theirs._RAND_INCREASING_TRANSFORMS)
    assert {NAMES[name].replace("+", "") for name in PLAIN} == set(theirs._RAND_TRANSFORMS)
    assert rand_augment.MOST == theirs._LEVEL_DENOM


def changed(before, after):
    """Whether anything changed, and by how much on average."""
    difference = np.abs(np.asarray(after, dtype=int) - np.asarray(before, dtype=int))
    return bool(difference.any()), float(difference.mean())


@pytest.mark.slow
def test_draws_amount_to_the_same(theirs, monkeypatch):
    """Another chance, spread of magnitudes, share of signs or weight of an operation moves the sums of 10,000 draws.

    timm is given our generator in place of its own two: from the same numbers, the same images must come.
    """
    image, look = photograph(32, 32), Look(FILL, True)
    style = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    reference = theirs.rand_augment_transform("rand-m9-mstd0.5-inc1", style)
    rng = np.random.Generator(np.random.PCG64(1))
    monkeypatch.setattr(theirs.random, "random", rng.random)
    monkeypatch.setattr(theirs.random, "gauss", rng.normal)
    chosen = SimpleNamespace(choice=lambda of, count, **_: [of[place] for place in rng.integers(len(of), size=count)])
    monkeypatch.setattr(theirs, "np", SimpleNamespace(random=chosen))
    want = np.array([changed(image, reference(image)) for _ in range(10_000)]).mean(0)
    rng.bit_generator.state = np.random.PCG64(1).state
    settings = {"std": 0.5, "probability": 0.5, "increasing": True}
    got = np.array(
        [
            changed(planes(image), rand_augment.applied(planes(image), rand_augment.draw(rng, 2, 9, **settings), look))
            for _ in range(10_000)
        ]
    ).mean(0)
    assert 0.2 < 1 - want[0] < 0.3
    assert abs((1 - got[0]) / (1 - want[0]) - 1) < 0.002, (got, want)  # share of images that stay as they are
    assert abs(got[1] / want[1] - 1) < 0.002, (got, want)  # mean change


@pytest.mark.slow
def test_our_own_draws_amount_to_the_same(theirs):
    """As above from independent numbers, which differ by chance: by 1.2 % in the share, as one standard deviation."""
    np.random.seed(0)
    theirs.random.seed(0)
    image, look = photograph(32, 32), Look(FILL, True)
    style = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    reference = theirs.rand_augment_transform("rand-m9-mstd0.5-inc1", style)
    want = np.array([changed(image, reference(image)) for _ in range(20_000)]).mean(0)
    rng, settings = np.random.default_rng(0), {"std": 0.5, "probability": 0.5, "increasing": True}
    drawn = (rand_augment.draw(rng, 2, 9, **settings) for _ in range(20_000))
    pixels = planes(image)
    got = np.array([changed(pixels, rand_augment.applied(pixels, changes, look)) for changes in drawn]).mean(0)
    assert abs((1 - got[0]) / (1 - want[0]) - 1) < 0.04, (got, want)
    assert abs(got[1] / want[1] - 1) < 0.02, (got, want)


@pytest.mark.slow
def test_erasing_amounts_to_the_same():
    """Another range of areas or aspects, or a rectangle that may fill the image, moves the mean area and its shape."""
    module = peer("timm.data.random_erasing")
    module.random.seed(0)
    reference = module.RandomErasing(0.25, mode="pixel", device="cpu")
    areas, shapes = [], []
    for _ in range(20_000):
        pixels = torch.zeros(3, 32, 48)
        found = reference(pixels).ne(0).all(0)
        areas.append(found.sum().item())
        if found.any():
            shapes.append(found.any(1).sum().item() / found.any(0).sum().item())
    ours = torch.stack([rectangle(key, (32, 48), 0.25) for key in range(20_000)])
    sizes = ours[:, 2] * ours[:, 3]
    drawn = ours[sizes > 0].double()
    assert abs((sizes > 0).double().mean().item() / (np.array(areas) > 0).mean() - 1) < 0.05
    mine = sizes[sizes > 0].double()
    assert abs(mine.mean().item() / np.array(areas)[np.array(areas) > 0].mean() - 1) < 0.04
    assert abs(mine.max().item() / max(areas) - 1) < 0.1
    ratio = (drawn[:, 2] / drawn[:, 3]).log()
    assert abs(ratio.mean().item() - np.log(shapes).mean()) < 0.05
    assert abs(ratio.std().item() / np.log(shapes).std() - 1) < 0.05
