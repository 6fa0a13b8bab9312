"""Weights change after the fact, as when people fine-tune and then infer: never an old answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import hierax
from hierax.accelerate.peer import tensors_in

from ..members import loud, pixels
from .conftest import Pair, apart, image

pytestmark = pytest.mark.parity

EQUAL = 1e-5


def _trained(module: nn.Module) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.002)
    for _ in range(2):
        sum(value.square().mean() for _, value in tensors_in(module(image()))).backward()
        optimizer.step()
        optimizer.zero_grad()


def _averaged(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.lerp_(parameter.data.flip(0), 0.5)


def _assigned(module: nn.Module) -> None:
    state = {key: value * 1.3 for key, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def _table(module: nn.Module) -> None:
    """A position table is laid out anew for the fast encoder, so it shares no memory."""
    next(p for name, p in module.named_parameters() if "pos" in name).data.add_(0.5)


def _half_and_back(module: nn.Module) -> None:
    module.half().float()


def _replaced(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data * 1.2


CHANGES: dict[str, Callable[[Any], Any]] = {
    "optimizer": _trained,
    "load_state_dict": lambda m: m.load_state_dict(loud(m, seed=2).state_dict()),
    "assign": _assigned,
    "data": _averaged,
    "another tensor in data": _replaced,
    "table": _table,
    "cast and back": _half_and_back,
    "no_grad": lambda m: [torch.no_grad()(p.mul_)(1.2) for p in m.parameters()],
    "foreach": lambda m: torch._foreach_mul_([p.data for p in m.parameters()], 1.2),
    "numpy": lambda m: [p.detach().numpy().__imul__(1.2) for p in m.parameters()],
}


# The folded products of each peer are the same code; tables differ.
PEERS = ("sam2", "transformers", "timm_base_abswin", "birder_plain")
PAIRS = [("optimizer", name) for name in PEERS] + [("table", name) for name in PEERS]
PAIRS += [(change, PEERS[index % 4]) for index, change in enumerate(CHANGES) if change not in ("optimizer", "table")]


@pytest.mark.parametrize(("change", "name"), PAIRS)
def test_changed__is_followed(change: str, name: str, pair: Pair) -> None:
    """Folded weights that are keyed by versions alone go stale behind `.data`; tables that were copied, always."""
    module, twin = pair(name)
    x = pixels(1, 3, 64, 64)
    assert apart(twin, module, x) <= EQUAL
    for each in (module, twin):
        CHANGES[change](each)
    assert 0 < apart(twin, module, x) <= EQUAL


def test_refresh__after_what_leaves_no_trace(pair: Pair) -> None:
    """One row written through `.data` may go unseen, as documented; `refresh` is the way."""
    module, twin = pair()
    apart(twin, module)
    for each in (module, twin):
        each.get_submodule("blocks.1.mlp.fc1").weight.data[3].mul_(50)
    handle = hierax.accelerate(twin, engine="torch", check=False)  # the one there is
    handle.refresh()
    assert 0 < apart(twin, module) <= EQUAL


def test_spoiled_later__runs_the_original(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Weights that an engine cannot take: the answer is the original's, and the reason is said."""
    module, twin = pair()
    for each in (module, twin):
        each.get_submodule("blocks.1.mlp.fc1").weight.data[3, 2] = float("inf")
        each.get_submodule("blocks.1.mlp.fc1").weight.data.mul_(1)
    hierax.accelerate(twin, engine="torch", check=False).refresh()
    with torch.no_grad():
        assert (
            torch.equal(
                twin(image()),
                module(image()),
            )
            or twin(image()).isnan().any()
        )
    assert any("infinite" in record.message for record in caplog.records)


def test_frozen_part__trains(pair: Pair) -> None:
    """A frozen encoder with a head in training: the fast answer serves, the head learns."""
    module, twin = pair()
    for each in (module, twin):
        for name, parameter in each.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        each(image()).square().sum().backward()
    theirs, ours = (each.get_submodule("head.fc").weight.grad for each in (module, twin))
    assert torch.allclose(theirs, ours, rtol=1e-4)
    assert not torch.equal(theirs, ours)  # it was the fast encoder
