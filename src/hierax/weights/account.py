"""Keeps the books: which parameters of a network came from a file, which are fresh, and what was left behind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..config import ModelConfig
from ..model.init import build
from .rename import flat_name
from .state import LoadReport, Weights

if TYPE_CHECKING:
    from torch import Tensor


@functools.lru_cache(maxsize=32)
def expected(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Shape of every parameter of a network, by flat name."""
    state = build(config, device="meta").state_dict()
    return MappingProxyType({flat_name(name): tuple(tensor.shape) for name, tensor in state.items()})


def revise(weights: Weights, config: ModelConfig, tensors: dict[str, Tensor], note: str) -> Weights:
    """The weights as another network, with a report that says what became of each tensor.

    Args:
        weights: Before the change.
        config: The network afterwards.
        tensors: What is left of the tensors, by flat name.
        note: What was done, in a few words; also the reason for every tensor that is no longer used.
    """
    before = weights.report
    dropped = {weights.names.get(name, name): note for name in weights.tensors if name not in tensors}
    report = LoadReport(
        used=tuple(sorted(weights.names.get(name, name) for name in tensors)),
        fresh=tuple(name for name in expected(config) if name not in tensors),
        left_over={**before.left_over, **dropped},
        notes=(*before.notes, note),
    )
    return dataclasses.replace(weights, config=config, tensors=tensors, report=report)
