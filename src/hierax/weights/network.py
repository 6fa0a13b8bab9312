"""Between weights and a live network."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..model.init import build, fresh
from .card import Weights
from .rename import flat_name


def to_module(weights: Weights, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Build the network around the weights: no double allocation, no wasted initialisation.

    Args:
        weights: Complete weights; parameters they lack are initialised.
        dtype: Floating type of the parameters; None is float32 (float64 stays).
    """
    module = build(weights.config, device="meta")
    state: dict[str, Tensor] = {}
    for name, parameter in module.state_dict().items():
        tensor = weights.tensors.get(flat_name(name))
        if tensor is None:
            tensor = fresh(flat_name(name), tuple(parameter.shape), weights.config)
        wanted = dtype or (torch.float64 if tensor.dtype == torch.float64 else torch.float32)
        state[name] = tensor.to(wanted).contiguous()
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(True)


def from_module(module: nn.Module, weights: Weights) -> Weights:
    """The weights with a network's present parameters."""
    tensors = {flat_name(name): tensor.detach() for name, tensor in module.state_dict().items()}
    return dataclasses.replace(weights, tensors=tensors)
