"""What the tests of every face share: a loud checkpoint, and the maps that must be inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import hierax
from hierax.weights.write import write_weights

from ..members import FAMILIES, SMALL, weights_of

SIZES = [(64, 64), (96, 128), (160, 64)]  # (height, width)
STAGES = ("stage1", "stage2", "stage3", "stage4")
WIDTHS = [8, 16, 32, 64]


def checkpoint(folder: Path, family: str = "hieradet") -> Path:
    """A loud checkpoint as a folder; HieraDet is what other libraries lack."""
    config = hierax.ModelConfig(**{**SMALL, **FAMILIES[family]})
    return write_weights(weights_of(config), folder / "loud", to="hierax")


def same_maps(found: Sequence[Tensor], path: Path, x: Tensor, stages: Sequence[str] = STAGES) -> bool:
    """Whether maps are those of the encoder to 1e-5, contiguous, each and in this order."""
    with torch.no_grad():
        wanted = hierax.load(path).encoder.detection_features(x, stages)
    pairs = list(zip(found, wanted.values(), strict=True))
    assert max(expected.abs().max().item() for _, expected in pairs) > 1  # or 1e-5 would mean nothing
    return all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) and pair[0].is_contiguous() for pair in pairs)
