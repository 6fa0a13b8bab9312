"""Outputs of transformers and ours, compared field by field."""

from __future__ import annotations

from typing import Any

import torch

from ..tolerance import FP32, distance


def images(*size: int, batch: int = 2) -> torch.Tensor:
    """Seeded input."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same_output(mine: Any, reference: Any, tolerance: float = FP32) -> None:
    """Same keys in the same order, same values, by name and by position."""
    assert list(mine.keys()) == list(reference.keys())
    assert len(mine) == len(reference.to_tuple())
    for place, (name, value) in enumerate(reference.items()):
        got = mine[name]
        assert got is getattr(mine, name)
        assert got is mine[place]
        if not isinstance(value, tuple):
            got, value = (got,), (value,)
        assert type(got) is tuple, name
        assert len(got) == len(value), name
        for a, b in zip(got, value, strict=True):
            assert a.dtype == b.dtype, name
            if a.dtype == torch.bool or not a.is_floating_point():
                assert torch.equal(a, b), name
            else:
                assert distance(a, b) <= tolerance, name
