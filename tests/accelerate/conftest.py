"""Small networks of the peers, as they came and faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.accelerate.report import distances

from ..members import pixels
from ..peers import TINY

Pair = Callable[..., tuple[nn.Module, nn.Module]]


@pytest.fixture
def pair() -> Pair:
    """A network as it came, and its twin made faster; by its name among the references."""

    def make(name: str = "timm_plain", **options: Any) -> tuple[nn.Module, nn.Module]:
        module = TINY[name]().module
        twin = copy.deepcopy(module)
        hierax.accelerate(twin, **{"engine": "torch", "check": False, **options})
        return module, twin

    return make


def image(*shape: int) -> Tensor:
    """An input, of 64 pixels a side unless said."""
    return pixels(*(shape or (1, 3, 64, 64)))


def apart(ours: nn.Module, theirs: nn.Module, x: Tensor | None = None) -> float:
    """How far the answers of two networks are from each other."""
    with torch.no_grad():
        said = (ours(image() if x is None else x), theirs(image() if x is None else x))
    return max(distances(*said).values())
