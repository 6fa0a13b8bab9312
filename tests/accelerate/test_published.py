"""The published geometry, whose depth lets rounding grow: still within 1e-5 of the originals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hierax
from hierax.accelerate.report import distances

from ..members import loud, pixels
from ..peers import peer

pytestmark = [pytest.mark.parity, pytest.mark.nightly]


def timm(name: str) -> Any:
    """A network of timm under its public name."""
    return peer("timm").create_model(name)


def birder(name: str, side: int) -> Any:
    """A network of birder under its public name."""
    registry = peer("birder.model_registry").registry
    peer("birder.net.hiera"), peer("birder.net.hieradet")
    return registry.net_factory(name, 10, size=(side, side))


def meta(name: str) -> Any:
    """A network of Meta's under its public name."""
    return getattr(peer("hiera"), name)(pretrained=False)


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "timm hiera_large_224": (lambda: timm("hiera_large_224"), (224, 224)),
    "timm hiera_small_abswin_256": (lambda: timm("hiera_small_abswin_256"), (256, 256)),
    "timm sam2_hiera_large": (lambda: timm("sam2_hiera_large"), (512, 384)),
    "timm hieradet_small": (lambda: timm("hieradet_small"), (256, 256)),
    "birder hiera_abswin_base": (lambda: birder("hiera_abswin_base", 224), (224, 224)),
    "birder hieradet_d_small": (lambda: birder("hieradet_d_small", 256), (256, 256)),
    "birder hieradet_base_plus": (lambda: birder("hieradet_base_plus", 224), (224, 224)),
    "Meta hiera_base_plus_224": (lambda: meta("hiera_base_plus_224"), (224, 224)),
    "Meta hiera_base_16x224": (lambda: meta("hiera_base_16x224"), (16, 224, 224)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_published__is_equal(name: str) -> None:
    """48 blocks add their rounding up."""
    make, size = NETWORKS[name]
    module = loud(make())
    twin = copy.deepcopy(module)
    handle = hierax.accelerate(twin, engine="torch", check=False)
    with torch.no_grad():
        x = pixels(1, 3, *size)
        apart = distances(twin(x), module(x))
    assert handle.kept
    assert 0 < max(apart.values()) <= 1e-5
