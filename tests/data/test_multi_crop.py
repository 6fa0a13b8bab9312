"""Crops of one image: their sizes, how often each change happens, and that a key decides everything."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.data import crop_changes
from hierax.data.augment import Augment
from hierax.data.crop_changes import POLICIES, blurred, jitter, shifted_hue
from hierax.data.multi_crop import MultiCrop

from ..members import noise, photograph


def crops(policy="none", count=3, **options):
    large, small = Augment(size=(64, 64), crop_scale=(0.32, 1.0)), Augment(size=(32, 32), crop_scale=(0.05, 0.32))
    return MultiCrop(large, small, count, policy, **options)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_decides(policy):
    """The same in any process and after any other sample; crops of one image differ from each other."""
    make, frames = crops(policy), noise(90, 70)[None]
    views = make(frames, 11)
    assert views["large"].shape == (2, 3, 64, 64)
    assert views["small"].shape == (3, 3, 32, 32)
    assert {view.dtype for view in views.values()} == {torch.uint8}
    make(frames, 12)
    again = pickle.loads(pickle.dumps(make))(frames, 11)
    assert all(torch.equal(views[name], again[name]) for name in views)
    flat = [*views["large"][:, :, :32, :32], *views["small"]]
    assert not any(torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i])
    assert "small" not in crops(policy, 0)(frames, 11)


def test_small_crops_are_smaller_parts():
    """Taken at the scale of large ones, a small crop shows as much and teaches nothing of parts and wholes."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy()
    spans = {"large": [], "small": []}
    for key in range(60):
        for name, view in crops()(ramp[None], key).items():
            spans[name] += (view[:, 0].flatten(1).amax(1).int() - view[:, 0].flatten(1).amin(1).int()).tolist()
    assert np.mean(spans["large"]) / 200 == pytest.approx(0.8, abs=0.06)
    assert np.mean(spans["small"]) / 200 == pytest.approx(0.42, abs=0.06)


def test_dinov2_blurs_as_its_code_does(monkeypatch):
    """Its argument is called a probability and is that of no blur: 0, 0.9 and 0.5, not 1, 0.1 and 0.5."""
    seen = []
    monkeypatch.setattr(crop_changes, "blurred", lambda image, *_: seen.append(1) or image)
    pixels = torch.from_numpy(noise(8, 8)).permute(2, 0, 1)
    for policy, share in zip(POLICIES["dinov2"], (0.0, 0.9, 0.5), strict=True):
        seen.clear()
        for key in range(400):
            policy(pixels, np.random.default_rng(key))
        assert len(seen) / 400 == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(
    ("policy", "expected"), [("dinov2", (0.84, 0.985, 0.92)), ("birder", (1, 1, 0.9)), ("none", (0, 0, 0))]
)
def test_how_often_anything_happens(policy, expected):
    """A policy of which half is lost still trains, and worse."""
    pixels = torch.from_numpy(np.array(photograph(24, 24))).permute(2, 0, 1)
    for own, share in zip(POLICIES[policy], expected, strict=True):
        changed = [not torch.equal(own(pixels, np.random.default_rng(key)), pixels) for key in range(200)]
        assert np.mean(changed) == pytest.approx(share, abs=0.07)


def test_jitter_stays_within_its_strength():
    """Brightness up to 0.4 away from 1, and nothing else where nothing else is on."""
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    found = [np.asarray(jitter(brightness=0.4)(grey, np.random.default_rng(key)))[0, 0, 0] for key in range(200)]
    assert 60 <= min(found) < 66
    assert 134 < max(found) <= 140


def test_large_photographs_are_decoded_smaller():
    """Ten crops of 12 megapixels need not cost ten times its decoding; one crop alone decides how far that goes."""
    make = crops()
    assert {make.shrink((3000, 4000), key) for key in range(30)} <= {2, 4, 8}
    assert make.shrink((60, 60), 1) == 1
    image = np.asarray(photograph(512, 384))
    whole = make(image[None], 5)
    half = np.asarray(Image.fromarray(image).resize((256, 192), Image.Resampling.BOX))
    near = make(half[None], 5, (384, 512))
    for name in whole:
        assert (whole[name].float() - near[name].float()).abs().mean() < 6


@pytest.mark.parity
def test_hue_and_blur_are_those_of_torchvision():
    """Both are what published recipes mean by their numbers."""
    from ..peers import peer

    functional = peer("torchvision.transforms.v2.functional")
    image = photograph(40, 32)
    for share in (-0.1, 0.03, 0.1):
        theirs = np.asarray(functional.adjust_hue(image, share)).astype(int)
        assert np.abs(np.asarray(shifted_hue(image, share)).astype(int) - theirs).max() <= 6
        assert np.abs(np.asarray(shifted_hue(image, share)).astype(int) - theirs).mean() < 1
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for taps, sigma in ((9, 0.3), (9, 2.0), (3, 1.0)):
        theirs = functional.gaussian_blur(tensor, [taps, taps], [sigma, sigma])
        ours = torch.from_numpy(np.array(blurred(image, taps, sigma))).permute(2, 0, 1)
        assert (ours.int() - theirs.int()).abs().max() <= 1
