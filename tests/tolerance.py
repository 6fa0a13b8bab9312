"""How far two computations of the same thing may be apart; a looser number needs its reason beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FP32 = 1e-5  # absolute, on values of unit scale
FP64 = 1e-12
GRADIENT = 1e-5  # relative to the largest entry of the reference's gradient
GRADIENT_FP64 = 1e-11
MAE_FP32 = 1e-6  # relative to the largest entry: losses, predictions, targets, gradients
LOUD = 100  # a wrong network must be at least this many tolerances away


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, on the scale of the reference where that is louder than 1.

    Stage maps of random networks reach 5 to 30, and rounding grows with them.
    """
    assert ours.shape == theirs.shape, f"shapes differ: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
    assert torch.isfinite(ours).all(), "ours is not finite"
    assert torch.isfinite(theirs).all(), "theirs is not finite"
    scale = max(1.0, theirs.abs().max().item())
    return (ours.double() - theirs.double()).abs().max().item() / scale


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float = FP32) -> None:
    """Every entry of the reference is there and within tolerance."""
    assert set(ours) == set(theirs), f"ours {sorted(ours)}, theirs {sorted(theirs)}"
    apart = {key: distance(ours[key], theirs[key]) for key in theirs}
    wrong = {key: value for key, value in apart.items() if not value <= tolerance}
    assert not wrong, f"further than {tolerance:g}: {wrong}"


def assert_same_gradients(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float) -> None:
    """Every gradient is within tolerance of the reference's, relative to its largest entry.

    A gradient that nearly cancels (the queries of a pooling head over four tokens) is measured against a twentieth
    of the network's largest one: what is left of it is rounding of the terms, not of the result.
    """
    assert set(ours) == set(theirs), f"only one side has {sorted(set(ours) ^ set(theirs))}"
    largest = max(value.abs().max().item() for value in theirs.values())
    apart = {}
    for key, expected in theirs.items():
        assert ours[key].shape == expected.shape, key
        difference = (ours[key].double() - expected.double()).abs().max().item()
        apart[key] = difference / max(expected.abs().max().item(), 0.05 * largest)
    wrong = {key: value for key, value in apart.items() if not value <= tolerance}
    assert not wrong, f"further than {tolerance:g}: {wrong}"
