"""Every network of every peer, faster in place: each public method that reaches the encoder says what it said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.accelerate.peer import tensors_in
from hierax.accelerate.report import distances
from hierax.accelerate.seam import placed

from ..members import pixels
from ..peers import TINY, Reference

pytestmark = pytest.mark.parity

EQUAL = 1e-5
Ask = Callable[[Any, Tensor], Any]

TIMM: dict[str, Ask] = {
    "forward": lambda m, x: m(x),
    "features": lambda m, x: m.forward_features(x),
    "intermediates": lambda m, x: m.forward_intermediates(x),
    "two intermediates": lambda m, x: m.forward_intermediates(x, indices=[-3, 0]),
    "all the way": lambda m, x: m.forward_intermediates(x, indices=[1], stop_early=False),
    "maps alone": lambda m, x: m.forward_intermediates(x, indices=2, output_fmt="NHWC", intermediates_only=True),
    "every block": lambda m, x: m.forward_intermediates(x, coarse=False),
}
BIRDER: dict[str, Ask] = {
    "forward": lambda m, x: m(x),
    "features": lambda m, x: m.forward_features(x),
    "embedding": lambda m, x: m.embedding(x),
    "detection": lambda m, x: m.detection_features(x),
}
META: dict[str, Ask] = {
    "forward": lambda m, x: m(x),
    "list": lambda m, x: m([x]),
    "intermediates": lambda m, x: m(x, return_intermediates=True),
}
SAM2: dict[str, Ask] = {"forward": lambda m, x: m(x)}
HF: dict[str, Ask] = {
    "forward": lambda m, x: m(x),
    "tuple": lambda m, x: m(x, return_dict=False),
    "states": lambda m, x: m(x, output_hidden_states=True),
    "attentions": lambda m, x: m(x, output_attentions=True),
    "both after all": lambda m, x: m(x),
}
CALLS = {"timm": TIMM, "birder": BIRDER, "meta": META, "sam2": SAM2, "transformers": HF}


def calls(name: str) -> dict[str, Ask]:
    """What is asked of a network, by the start of its name."""
    if name.startswith("transformers") and name != "transformers_sam2":
        return {**HF, "model": lambda m, x: m.hiera(x), "larger": larger}
    return next(asked for start, asked in CALLS.items() if name.startswith(start))


def larger(module: Any, x: Tensor) -> Any:
    """Another size, which transformers' Hiera takes on request."""
    return module.hiera(torch.cat([x, x.flip(-1)], dim=-1), interpolate_pos_encoding=True)


def sizes(reference: Reference) -> list[tuple[int, ...]]:
    """Its own, and for HieraDet some that pad."""
    usual = reference.config.input_size
    return [(224, 224), (96, 160)] if reference.config.family == "hieradet" else [usual]


@pytest.mark.parametrize("name", TINY)
def test_answers__are_the_originals(name: str) -> None:
    """A stage in the wrong order, layout, container or type would change what a caller's next line gets."""
    reference = TINY[name]()
    fast: nn.Module = copy.deepcopy(reference.module)
    handle = hierax.accelerate(fast, engine="torch", check=False)
    assert hierax.is_accelerated(fast)
    assert type(fast) is type(reference.module)
    assert list(fast.state_dict()) == list(reference.module.state_dict())
    for size in sizes(reference):
        x = pixels(2, 3, *size)
        for label, ask in calls(name).items():
            with torch.no_grad():
                theirs, ours = ask(reference.module, x), ask(fast, x)
            apart = distances(ours, theirs)
            assert max(apart.values()) <= EQUAL, (label, size, apart)
            assert not any(tensor.requires_grad for _, tensor in tensors_in(ours)), label
            if label == "detection":
                assert all(grid.is_contiguous() for grid in ours.values())
    handle.undo()
    assert not hierax.is_accelerated(fast)


@pytest.mark.parametrize("name", TINY)
def test_answers__come_from_the_fast_encoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal answers prove nothing where the original gave them."""
    reference = TINY[name]()
    handle = hierax.accelerate(reference.module, engine="torch", check=False)
    blocks = [m for m in reference.module.modules() if type(m).__name__.endswith(("Block", "HieraLayer"))]
    assert len(blocks) > 5
    for block in blocks:
        monkeypatch.setattr(type(block), "forward", _unreachable)
    module = next(m for m in reference.module.modules() if placed(m) is not None)
    with torch.no_grad():
        fast = placed(module)
        assert fast is not None
        for method, keywords in fast.peer.probes(module).values():
            getattr(module, method)(pixels(1, 3, *sizes(reference)[0]), **keywords)
    assert handle.kept


def _unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("a block of the original ran")
