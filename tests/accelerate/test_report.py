"""The report is measured before anything is kept, and decides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import hierax
from hierax.accelerate import door
from hierax.accelerate.report import Report

from ..members import pixels
from ..peers import TINY, meta, sam2, timm_sam2

pytestmark = pytest.mark.parity


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the stop watch says, whatever else the machine does."""
    said = {"before": 0.2, "after": 0.1}
    monkeypatch.setattr(door, "timed", lambda *_: (said["before"], said["after"]))
    return said


def test_kept__if_equal_and_faster(clock: dict[str, float]) -> None:
    """Every output is compared; the report says how far and how fast."""
    model = timm_sam2().module
    handle = hierax.accelerate(model, engine="torch", input_size=(96, 160))
    report = handle.report
    assert isinstance(report, Report)
    assert handle.kept
    assert hierax.is_accelerated(model)
    assert report.speedup == pytest.approx(2)
    assert report.parts[0].shape == (1, 3, 96, 160)
    outputs = report.parts[0].differences
    assert {"forward_features", "forward_intermediates[0]", "forward_intermediates[1][3]"} <= outputs.keys()
    assert 0 < report.difference <= 1e-5
    assert "2.00x the speed at 1x3x96x160" in str(report)
    assert handle.choice.startswith("engine torch, float32 on cpu")


def test_slower__is_not_kept(clock: dict[str, float]) -> None:
    """A model that got slower is what people would uninstall for."""
    clock["after"] = 0.21
    model = meta().module
    handle = hierax.accelerate(model, engine="torch")
    assert not handle.kept
    assert not hierax.is_accelerated(model)
    assert "not be faster" in str(handle.report)
    assert "0.95x" in str(handle.report)
    assert handle.choice.startswith("the original")


def test_unequal__is_not_kept(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass that computes something else has the same structure and weights: only its answers tell."""
    model = meta().module

    class Other(type(model)):  # type: ignore[misc]
        def forward(self, x: Any, mask: Any = None, return_intermediates: bool = False) -> Any:
            return super().forward(x.flip(-1) * 1.001, mask, return_intermediates)

    model.__class__ = Other
    handle = hierax.accelerate(model, engine="torch")
    assert not handle.kept
    assert "would move by" in str(handle.report)
    assert handle.report.difference > 1e-3


def test_other_form__is_not_kept(clock: dict[str, float]) -> None:
    """Another container is another output."""
    model = TINY["sam2"]().module

    class Other(type(model)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return tuple(super().forward(x))

    model.__class__ = Other
    handle = hierax.accelerate(model, engine="torch", input_size=64)
    assert not handle.kept
    assert math.isinf(handle.report.difference)


def test_training__is_left_as_it_was(clock: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    """timm's create_model gives models in train mode: they are measured in eval mode, and modes come back."""
    model = meta().module.train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    handle = hierax.accelerate(model, engine="torch")
    assert handle.kept
    assert [module.training for module in model.modules()] == before
    assert any(".eval()" in record.message for record in caplog.records)
    assert next(model.parameters()).requires_grad


def test_random_numbers__are_not_taken(clock: dict[str, float]) -> None:
    """Measuring must not move the generator of a running experiment."""
    model = meta().module
    state = torch.get_rng_state()
    hierax.accelerate(model, engine="torch")
    assert torch.equal(torch.get_rng_state(), state)


def test_several__in_one_network(clock: dict[str, float]) -> None:
    """Each encoder of a network is exchanged, each is reported; what stands in two places once."""
    both = nn.ModuleDict({"image": meta().module, "other": TINY["timm_plain"]().module})
    both["again"] = both["image"]
    handle = hierax.accelerate(both, engine="torch")
    assert [part.name for part in handle.report.parts] == ["image", "other"]
    assert len(handle.choice.splitlines()) == 2
    hierax.restore(both)
    assert not hierax.is_accelerated(both)


@pytest.mark.slow
def test_auto__tries_openvino_where_torch_gains_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """At batch 1 the torch engine gains a few percent on some processors where OpenVINO gains twenty.

    Its programs take seconds to make for each size: a detector that sees many sizes must not stand still at each.
    """
    pytest.importorskip("openvino")
    times = iter([(1.0, 0.95), (1.0, 0.8)])
    monkeypatch.setattr(door, "timed", lambda *_: next(times))
    model = sam2(depths=(1, 1, 2, 1), global_blocks=(3,)).module
    handle = hierax.accelerate(model, input_size=64)
    assert "engine openvino, f32" in handle.choice
    assert handle.report.speedup == pytest.approx(1.25)
    made: list[tuple[int, ...]] = []
    monkeypatch.setattr("hierax.model.engines.openvino.Program.__init__", lambda *args: made.append(args[3:]))
    with torch.no_grad():
        for size in (96, 64):
            x = pixels(1, 3, size, size)
            for ours, theirs in zip(model(x), type(model).forward(model, x), strict=True):
                assert 0 < (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert made == []


def test_dtype__computes_in_it_and_answers_in_the_models() -> None:
    """A caller's next layer is float32."""
    model = TINY["sam2"]().module
    handle = hierax.accelerate(model, engine="torch", dtype="bfloat16", check=False)
    x = pixels(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model(x), type(model).forward(model, x)
    assert "bfloat16" in handle.choice
    assert {grid.dtype for grid in ours} == {torch.float32}
    assert 1e-4 < max((a - b).abs().max() / b.abs().max() for a, b in zip(ours, theirs, strict=True)) < 0.05
    assert {p.dtype for p in model.parameters()} == {torch.float32}
