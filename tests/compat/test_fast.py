"""Compat models with a fast encoder inside: the same type, names and numbers, and the fast stages really run."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import hierax
import hierax.compat.transformers as ours
from hierax.compat.birder.net import Net
from hierax.model.engines.blocks import FastBlock

from ..members import loud
from ..tolerance import FP32, distance

CONFIG = {
    "depths": [1, 2, 3, 1],
    "embed_dim": 32,
    "num_heads": [1, 2, 4, 8],
    "image_size": [64, 64],
    "num_query_pool": 2,
    "decoder_hidden_size": 32,
    "decoder_depth": 2,
    "decoder_num_heads": 4,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
MODELS: dict[str, Callable[[], nn.Module]] = {
    "model": lambda: ours.HieraModel(ours.HieraConfig(**CONFIG)),
    "model_mae": lambda: ours.HieraModel(ours.HieraConfig(**CONFIG), is_mae=True),
    "classifier": lambda: ours.HieraForImageClassification(ours.HieraConfig(**CONFIG, num_labels=3)),
    "backbone": lambda: ours.HieraBackbone(ours.HieraConfig(**CONFIG, out_features=STAGES)),
    "backbone_stem": lambda: ours.HieraBackbone(ours.HieraConfig(**CONFIG, out_features=["stem", "stage2"])),
    "backbone_theirs": lambda: ours.HieraBackbone(ours.HieraConfig(**CONFIG), match_transformers=True),
    "pretraining": lambda: ours.HieraForPreTraining(ours.HieraConfig(**CONFIG)),
    "birder_hiera": lambda: Net(hierax.create("hiera_tiny", depths=(1, 2, 3, 1), embed_dim=32, input_size=64)),
    "birder_hieradet": lambda: Net(
        hierax.create("hieradet_tiny", depths=(1, 2, 4, 1), embed_dim=32, global_blocks=(4,), input_size=64)
    ),
}
FAST = ("model", "classifier", "backbone", "birder_hiera", "birder_hieradet")  # where the engine can act on any input
MASKED = ("model_mae", "pretraining")
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
NOISE = torch.rand(2, 4, generator=torch.Generator().manual_seed(2))


def optimized(model: nn.Module) -> nn.Module:
    """The model with an engine under it."""
    return hierax.optimize(model, engine="torch")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many blocks an engine, not the readable path, computed."""
    seen: Counter[str] = Counter()
    original = FastBlock.__call__

    def counted(self: FastBlock, *args: Any, **options: Any) -> Any:
        seen["blocks"] += 1
        return original(self, *args, **options)

    monkeypatch.setattr(FastBlock, "__call__", counted)
    return seen


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of an answer, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("more", [{}, {"output_hidden_states": True, "output_attentions": True}], ids=["maps", "all"])
@pytest.mark.parametrize("case", MODELS)
def test_fast__same_answers(case: str, more: dict[str, Any], calls: Counter[str]) -> None:
    """Blocks re-run by hand never reach the engine; an engine that hides states would lose fields."""
    model = loud(MODELS[case]())
    fast = optimized(model)
    assert type(fast) is type(model)
    assert "torch" in fast.encoder.choice
    assert list(fast.state_dict()) == list(model.state_dict())
    if case.startswith("birder") and more:
        return
    options = {**more, "noise": NOISE} if case in MASKED else more
    with torch.no_grad():
        expected = tensors(model(X, **options))
        assert not calls
        said = tensors(fast(X, **options))
    assert len(said) == len(expected)
    for got, wanted in zip(said, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert distance(got.float(), wanted.float()) <= FP32
    assert bool(calls["blocks"]) == (case in FAST and not more)


@pytest.mark.parametrize("case", ["birder_hiera", "birder_hieradet"])
def test_fast__every_method_of_birders_network(case: str, calls: Counter[str]) -> None:
    """A method that goes around `stages` would stay slow."""
    model = loud(MODELS[case]())
    fast = optimized(model)
    with torch.no_grad():
        for method in ("embedding", "forward_features", "detection_features"):
            calls.clear()
            said, expected = tensors(getattr(fast, method)(X)), tensors(getattr(model, method)(X))
            assert all(distance(a, b) <= FP32 for a, b in zip(said, expected, strict=True)), method
            assert calls["blocks"] == 7 + (case == "birder_hieradet"), method


def test_fast__loads_new_weights() -> None:
    """Names that are bound to the model before the swap would load into that one, or into none once it is gone."""
    other = loud(MODELS["classifier"](), seed=5)
    fast = optimized(loud(MODELS["classifier"]()))
    shallow = copy.copy(fast)
    del fast
    shallow.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert distance(shallow(X).logits, other(X).logits) <= FP32


@pytest.mark.parametrize("family", ["hiera_abswin_tiny", "hieradet_tiny"])
def test_fast__follows_another_size(family: str) -> None:
    """An engine that kept the tables or windows of the size it was made for would differ; so would a shared one."""
    net = loud(Net(hierax.create(family, depths=(1, 2, 3, 1), embed_dim=32, global_blocks=(), input_size=64)))
    fast, slow = optimized(net), copy.deepcopy(net)
    x = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fast(X)
        for model in (fast, slow):
            model.adjust_size((96, 128))
        assert distance(fast(x), slow(x)) <= FP32
    assert net.size == (64, 64)
    assert net.encoder.input_size == (64, 64)
