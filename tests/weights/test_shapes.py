"""Shapes by arithmetic against the networks themselves."""

from __future__ import annotations

import dataclasses

import pytest

from hierax.config import ARCHITECTURES, ModelConfig
from hierax.model.init import build
from hierax.weights.rename import flat_name
from hierax.weights.shapes import count, expected

from ..members import MEMBERS

CONFIGS = {**ARCHITECTURES, **MEMBERS}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_expected__equals_the_built_network(config: ModelConfig) -> None:
    """A forgotten bias, or a kernel of the wrong stage, would refuse whole files or miscount parameters."""
    if config.decoder is None:
        config = dataclasses.replace(config, num_classes=5)
    network = build(config, device="meta")
    built = {flat_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert dict(expected(config)) == built
    assert count(config) == sum(parameter.numel() for parameter in network.parameters())
