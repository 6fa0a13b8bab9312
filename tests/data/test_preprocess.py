"""preprocess: geometry, ranges and refusals; equality with the origins is in tests/parity."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.data.preprocess import center_crop, crop_offsets, preprocess, resized_size
from hierax.errors import InputError

from ..members import noise

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("size", "spec", "want"),
    [
        ((300, 400), PreprocessSpec(), (256, 341)),
        ((400, 300), PreprocessSpec(crop_ratio=0.9), (330, 248)),
        ((400, 300), PreprocessSpec(resize_to=100), (133, 100)),
        ((300, 400), PreprocessSpec(size=(256, 256), crop_ratio=0.95), (269, 358)),
        ((300, 400), PreprocessSpec(resize="squash", crop_ratio=1.0), (224, 224)),
        ((300, 400), PreprocessSpec(size=(64, 96), resize="squash", crop_ratio=0.5), (128, 192)),
        ((300, 400), PreprocessSpec(size=(64, 128), crop_ratio=1.0), (96, 128)),
        ((1, 9), PreprocessSpec(size=(32, 32), crop_ratio=1.0), (32, 288)),
    ],
)
def test_resized_size(size, spec, want):
    """Swapped axes, rounding for flooring, or the longer side for the shorter."""
    assert resized_size(size, spec) == want


def test_crop_offsets__both_roundings():
    """119 spare pixels are the case in which torchvision and transformers part."""
    assert crop_offsets((224, 343), PreprocessSpec()) == (0, 60)
    assert crop_offsets((224, 343), PreprocessSpec(crop_rounding="floor")) == (0, 59)
    assert crop_offsets((224, 341), PreprocessSpec()) == (0, 58)


def test_normalisation():
    """Statistics applied in 0..255, or mean and std exchanged."""
    spec = PreprocessSpec(size=(32, 32), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    for engine in ("pil", "uint8", "float"):
        got = preprocess(np.full((40, 50, 3), 255, np.uint8), dataclasses.replace(spec, engine=engine))
        torch.testing.assert_close(got.mean((1, 2)), torch.tensor([1.0, 3.0, 0.5]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ["pil", "uint8", "float"])
@pytest.mark.parametrize("resize", ["squash", "shortest"])
def test_same_size_is_untouched(engine, resize):
    """An image that already has the size must not be resampled."""
    source = noise(32, 48)
    spec = PreprocessSpec(size=(32, 48), resize=resize, crop_ratio=1.0, engine=engine, **PLAIN)
    want = torch.from_numpy(source).permute(2, 0, 1) / 255
    torch.testing.assert_close(preprocess(source, spec), want, atol=1e-6, rtol=0)


def test_pil_and_array_agree():
    """Two ways in, one result."""
    source = noise()
    assert torch.equal(preprocess(source, PreprocessSpec()), preprocess(Image.fromarray(source), PreprocessSpec()))


def test_source_is_not_written_to():
    """In-place arithmetic on a tensor that shares the caller's memory would destroy the picture."""
    source = noise(32, 32)
    kept = source.copy()
    for engine in ("pil", "uint8", "float"):
        preprocess(source, PreprocessSpec(size=(32, 32), crop_ratio=1.0, engine=engine))
    np.testing.assert_array_equal(source, kept)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), out=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    resize=st.sampled_from(["squash", "shortest"]), ratio=st.sampled_from([0.5, 0.875, 0.9, 1.0, 1.3]),
    engine=st.sampled_from(["pil", "uint8", "float"]), interpolation=st.sampled_from(["bicubic", "bilinear"]),
    rounding=st.sampled_from(["even", "floor"]), resize_to=st.none() | st.integers(1, 70),
)  # fmt: skip
def test_any_size_any_recipe(height, width, out, resize, ratio, engine, interpolation, rounding, resize_to):
    """Every legal recipe gives exactly its size, finite, from any image."""
    spec = PreprocessSpec(
        size=out, resize=resize, crop_ratio=ratio, engine=engine, interpolation=interpolation,
        crop_rounding=rounding, resize_to=resize_to, **PLAIN,
    )  # fmt: skip
    got = preprocess(noise(height, width), spec)
    assert got.shape == (3, *out)
    assert got.dtype == torch.float32
    assert got.isfinite().all()


@pytest.mark.parametrize("engine", ["pil", "uint8", "float"])
@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1), (2, 40000)])
def test_extreme_aspect__stays_small(engine, shape):
    """Resizing the whole strip first takes 12 GB."""
    strip = np.zeros((*shape, 3), np.uint8)
    strip[: shape[0] // 2 if shape[0] > 9 else None, : shape[1] // 2 if shape[1] > 9 else None] = 255
    got = preprocess(strip, PreprocessSpec(engine=engine, **PLAIN))
    assert got.shape == (3, 224, 224)
    assert 0.3 < got.mean() < 0.7


def test_extreme_aspect__same_picture(monkeypatch):
    """The shortcut must agree with the plain way; a crop off by one pixel moves these edges by 20 levels."""
    from hierax.data import preprocess as module

    for size, rounding in [((61, 83), "even"), ((83, 61), "floor"), ((5, 300), "even"), ((500, 333), "floor")]:
        spec = PreprocessSpec(size=(64, 64), crop_rounding=rounding, **PLAIN)
        smooth = np.array(Image.fromarray(noise(6, 6) // 2 + 64).resize(size[::-1], Image.Resampling.BICUBIC))
        monkeypatch.setattr(module, "_MAX_RESIZED_PIXELS", 10**9)
        plain = preprocess(smooth, spec)
        monkeypatch.setattr(module, "_MAX_RESIZED_PIXELS", 0)
        assert (preprocess(smooth, spec) - plain).abs().max() <= 2.01 / 255


def test_center_crop__pads_both_sides():
    """A picture smaller than the crop sits in the middle, on black."""
    got = center_crop(torch.ones(3, 4, 4), PreprocessSpec(size=(8, 6)))
    assert got.shape == (3, 8, 6)
    assert got[0].sum() == 16
    assert got[0, 2:6, 1:5].sum() == 16


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 4)}, {"size": (4, 4, 4)}, {"crop_ratio": 0.0}, {"crop_ratio": float("nan")}, {"resize_to": 0},
        {"std": (0.0, 1.0, 1.0)}, {"mean": (0.5,)}, {"engine": "cv2"}, {"resize": "fit"}, {"interpolation": "nearest"},
        {"crop_rounding": "up"},
    ],
)  # fmt: skip
def test_impossible_recipes(options):
    """A recipe read from a foreign file must be refused, not followed half-way."""
    with pytest.raises(InputError):
        preprocess(noise(), PreprocessSpec(**options))


@pytest.mark.parametrize(
    "source", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), Image.new("L", (4, 4)), None]
)
def test_wrong_images(source):
    """Broadcasting a grey image over three channels would be silent garbage."""
    with pytest.raises(InputError):
        preprocess(source, PreprocessSpec())
