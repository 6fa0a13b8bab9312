"""Orders of tokens: every token once, windows where the readable encoder has them."""

from __future__ import annotations

import math

import pytest
import torch

from hierax.model.encoder import split_windows
from hierax.model.engines.layout import Layout, moves, order

LAYOUTS = [((8, 8), (4, 4)), ((16, 16), (14, 14)), ((8, 8), (14, 14)), ((6, 40), (14, 14)), ((2, 8, 16), (1, 8, 8))]


@pytest.mark.parametrize(("grid", "unit"), LAYOUTS)
def test_order__every_token_once(grid: tuple[int, ...], unit: tuple[int, ...]) -> None:
    """A token lost at a cut edge or listed twice would change every later block."""
    layout = Layout(grid, unit)
    tokens = math.prod(grid)
    assert torch.equal(order(layout).sort().values, torch.arange(tokens))
    assert layout.groups[-1].stop == tokens


@pytest.mark.parametrize(("grid", "unit"), [pair for pair in LAYOUTS if Layout(*pair).divides])
def test_order__equals_split_windows(grid: tuple[int, ...], unit: tuple[int, ...]) -> None:
    """Windows in another sequence would come back in the wrong place."""
    raster = torch.arange(math.prod(grid)).reshape(1, *grid, 1)
    assert torch.equal(order(Layout(grid, unit)), split_windows(raster, unit).flatten())


@pytest.mark.parametrize(("grid", "unit"), LAYOUTS)
def test_groups__missing_is_what_padding_adds(grid: tuple[int, ...], unit: tuple[int, ...]) -> None:
    """A wrong count weighs the padded keys wrongly in the softmax."""
    groups = Layout(grid, unit).groups
    padded = math.prod(-(-g // u) * u for g, u in zip(grid, unit, strict=True))
    assert sum(group.count * group.missing for group in groups) == padded - math.prod(grid)


def test_moves__there_and_back() -> None:
    """A permutation inverted once too often still lists every token once, but at the wrong place."""
    here, there = Layout((16, 24), (4, 4)), Layout((16, 24), (14, 14))
    x = order(here)
    assert torch.equal(x[moves(here, there)], order(there))
    assert torch.equal(x[moves(here, there)][moves(there, here)], x)
    assert moves(here, here) is None
    assert moves(Layout.raster((14, 14)), Layout((14, 14), (14, 14))) is None
