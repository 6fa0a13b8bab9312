"""Augmentation: a function of the key, and of nothing that was done before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hierax.data import augment
from hierax.data.augment import Augment
from hierax.errors import RecipeError

SETTINGS = {"rand_augment": (2, 9), "color_jitter": 0.4, "erasing": 0.5}


def frames(count=1):
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


def test_operations_are_built_once(monkeypatch):
    """Building kornia's operations anew takes a third of the time of a sample."""
    pytest.importorskip("kornia")
    from kornia.augmentation import auto

    real, built = auto.RandAugment, []
    monkeypatch.setattr(auto, "RandAugment", lambda **options: built.append(1) or real(**options))
    augment._operations.cache_clear()
    change = Augment(size=(32, 32), **SETTINGS)
    for key in range(4):
        change(frames(), key)
    assert len(built) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_operations_remember_nothing(count):
    """Operations that are used again hold their last draw; a run that resumes has not made that draw."""
    pytest.importorskip("kornia")
    change = Augment(size=(32, 32), **SETTINGS)
    in_order = [change(frames(count), key) for key in range(12)]
    for key in (7, 3, 11, 3):
        augment._operations.cache_clear()
        assert torch.equal(change(frames(count), key), in_order[key])
    for key in range(11, -1, -1):
        assert torch.equal(change(frames(count), key), in_order[key])
    assert len({pixels.sum().item() for pixels in in_order}) > 6


@pytest.mark.parametrize(
    "settings",
    [{"rand_augment": (2, 30)}, {"rand_augment": (0, 9)}, {"rand_augment": (15, 9)}, {"crop_scale": (0.5, 0.2)},
     {"crop_ratio": (0.0, 1.0)}, {"flip": 1.5}, {"erasing": float("nan")}],
)  # fmt: skip
def test_impossible_settings(settings):
    """Kornia refuses some of these in words of its own, in a worker, after the data was opened."""
    with pytest.raises(RecipeError):
        Augment(size=(32, 32), **settings)


def test_the_global_generator_is_left_alone():
    """Kornia draws from it, and so does the network that is trained."""
    pytest.importorskip("kornia")
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    Augment(size=(32, 32), **SETTINGS)(frames(), 5)
    assert torch.equal(torch.rand(2), want)


def test_frames_of_a_clip_change_alike():
    """Each frame with its own colours and crop is a film that nobody has seen."""
    pytest.importorskip("kornia")
    still = np.repeat(frames(), 3, axis=0)
    got = Augment(size=(32, 32), **SETTINGS)(still, 9)
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])
