"""A fast encoder whose weights, layers or surroundings change after it was made: never an old answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from hierax.errors import InputError
from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder, optimize

from ...members import loud, pixels, plain_config
from ...tolerance import FP32, LOUD, distance


@pytest.fixture(autouse=True, params=["plain", "packed"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain products read some parameters where they lie, packed ones copy all."""
    monkeypatch.setenv("HIERAX_FORCE_PRODUCTS", request.param)


def encoder(**options: object) -> Encoder:
    """One block a stage and one more."""
    return loud(Encoder(plain_config((64, 64), (1, 1, 2, 1), 16, **{"num_classes": 3, **options})))


def apart(fast: Encoder, exact: Encoder, x: Tensor) -> float:
    """Of logits and all maps."""
    with torch.inference_mode():
        ours, theirs = ({"logits": e(x), **e.detection_features(x)} for e in (fast, exact))
    return max(distance(ours[key], theirs[key]) for key in theirs)


def by_numpy(parameter: Tensor) -> None:
    """Through the array that shares its memory."""
    array = parameter.detach().numpy()
    array *= 1.5
    array += 0.1


WRITES: dict[str, Callable[[Tensor], object]] = {
    "mul": lambda p: p.data.mul_(1.5).add_(0.1),
    "copy": lambda p: p.data.copy_(p.data.flip(0) * 1.5 + 0.1),
    "fill": lambda p: p.data.fill_(0.2),
    "half of it": lambda p: p.data.view(-1)[: p.numel() // 2].mul_(2),
    "numpy": by_numpy,
    "foreach": lambda p: torch._foreach_mul_([p.data], 1.3),
    "no_grad": lambda p: torch.no_grad()(p.mul_)(1.3),
    "detach": lambda p: p.detach().mul_(1.5).add_(0.1),
    "out": lambda p: torch.mul(p.data, 1.3, out=p.data),
    "shared": lambda p: p.share_memory_().data.mul_(1.3),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("names", ["", "blocks.2.attn.qkv.bias", "blocks.3.mlp.fc2.weight", "pos_embed"])
def test_changes__writes_behind_torch(write: str, names: str) -> None:
    """They raise no version: folded biases and packed weights would answer for the old parameters."""
    exact = encoder()
    fast, x = optimize(exact), pixels(2, 3, 64, 64)
    assert apart(fast, exact, x) <= FP32
    before = fast(x)
    for name, parameter in exact.named_parameters():
        if name.startswith(names):
            WRITES[write](parameter)  # the original's: memory is shared
    assert distance(fast(x), before) > LOUD * FP32
    assert apart(fast, exact, x) <= FP32


def test_changes__arrays_that_parameters_were_made_of() -> None:
    """`torch.from_numpy` keeps no count of the array's changes."""
    exact = encoder()
    arrays = {name: value.numpy().copy() for name, value in exact.state_dict().items()}
    fast, x = optimize(exact), pixels(1, 3, 64, 64)
    fast.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()}, assign=True)
    assert apart(fast, exact, x) <= FP32
    for value in arrays.values():
        np.multiply(value, 1.2, out=value)
    exact.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    assert apart(fast, exact, x) <= FP32


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}])
def test_changes__training_steps(options: dict[str, bool]) -> None:
    """Fused and grouped steps write by other ways than one operator a parameter."""
    exact, x = encoder(), pixels(2, 3, 64, 64)
    fast = optimize(exact)
    before = fast(x)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=0.01, **options)
    for _ in range(2):
        fast.train()
        fast(x).square().sum().backward()
        optimizer.step()
        fast.eval()
        plain = Encoder(exact.config).eval()
        plain.load_state_dict(fast.state_dict())
        assert apart(fast, plain, x) <= FP32
    assert distance(fast(x), before) > LOUD * FP32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_changes__weights_that_are_not_numbers(value: float) -> None:
    """NaN differs from itself: an engine compared by value would be made again at every call."""
    exact, x = encoder(), pixels(1, 3, 64, 64)
    fast = optimize(exact)
    exact.blocks[1].mlp.fc1.weight.data.fill_(value)
    assert torch.equal(fast(x).isfinite(), exact(x).isfinite())
    engine = fast.current()
    fast(x)
    assert fast.current() is engine


def test_changes__the_head_is_nobodys_business() -> None:
    """A probe trained on a compiled engine would compile for minutes at every step."""
    fast, x = optimize(encoder()), pixels(2, 3, 64, 64)
    engine = fast.current()
    optimizer = torch.optim.SGD(fast.head.parameters(), lr=0.1)
    fast.classify(fast.embedding(x)).sum().backward()
    optimizer.step()
    fast.set_num_classes(7)
    assert fast(x).shape == (2, 7)
    assert fast.current() is engine


class Adapter(nn.Module):
    """Somebody's low-rank addition, with the names of a linear layer."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias
        self.extra = nn.Linear(inner.in_features, inner.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Their sum."""
        return self.inner(x) + self.extra(x)


class Doubled(nn.Linear):
    """A linear layer by name, not by what it does."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice as much."""
        return 2 * super().forward(x)


def doubled(module: nn.Linear) -> Doubled:
    """With the same weights."""
    twin = Doubled(module.in_features, module.out_features)
    twin.load_state_dict(module.state_dict())
    return twin.eval()


def own_forward(e: Encoder) -> None:
    """As wrappers of devices do."""
    forward = e.blocks[2].forward
    e.blocks[2].forward = lambda x: 2 * forward(x)


SURGERY: dict[str, Callable[[Encoder], object]] = {
    "hook": lambda e: e.blocks[2].register_forward_hook(lambda module, given, out: 2 * out),
    "pre-hook": lambda e: e.blocks[2].attn.register_forward_pre_hook(lambda module, given: (2 * given[0], *given[1:])),
    "norm hook": lambda e: e.norm.register_forward_hook(lambda module, given, out: 2 * out),
    "forward": own_forward,
    "adapter": lambda e: setattr(e.blocks[1].attn, "qkv", Adapter(e.blocks[1].attn.qkv).eval()),
    "subclass": lambda e: setattr(e.blocks[1].mlp, "fc1", doubled(e.blocks[1].mlp.fc1)),
    "no norm": lambda e: setattr(e.blocks[1], "norm1", nn.Identity()),
    "a block less": lambda e: setattr(e.blocks[3], "forward", lambda x: x),
    "weight norm": lambda e: weight_norm(e.blocks[0].mlp.fc1, dim=None).weight_g.data.mul_(2),
    "parametrized": lambda e: parametrizations.weight_norm(e.blocks[0].mlp.fc1).parametrizations.weight.original0.data.mul_(2),
    "another block": lambda e: e.blocks.__setitem__(3, loud(copy.deepcopy(e.blocks[3]), seed=5)),
    "another norm": lambda e: setattr(e.blocks[3], "norm2", nn.LayerNorm(e.blocks[3].norm2.normalized_shape, eps=0.5)),
    "another patch embedding": lambda e: setattr(e, "patch_embed", loud(copy.deepcopy(e.patch_embed), seed=5)),
    "another table": lambda e: setattr(e, "pos_embed", nn.Parameter(e.pos_embed.detach() * 3)),
    "another head": lambda e: setattr(e.head, "projection", loud(nn.Linear(e.embedding_size, 4), seed=5)),
}  # fmt: skip


@pytest.mark.parametrize("name", SURGERY)
def test_changes__layers(name: str) -> None:
    """An engine that passes over what was added answers for a network that is no longer there."""
    exact = encoder()
    fast, x = optimize(copy.deepcopy(exact)), pixels(2, 3, 64, 64)
    before = fast(x)
    torch.manual_seed(0)
    SURGERY[name](exact)
    torch.manual_seed(0)
    SURGERY[name](fast)
    said = fast(x)
    assert said.shape != before.shape or distance(said, before) > LOUD * FP32
    assert apart(fast, exact, x) <= FP32


def test_changes__hooks_are_called_until_they_are_removed() -> None:
    """Features are collected by hooks, also by those of all modules; without one the engine runs again."""
    fast, x, seen = optimize(encoder()), pixels(1, 3, 64, 64), []
    for register in (fast.blocks[2].register_forward_hook, nn.modules.module.register_module_forward_hook):
        handle = register(lambda module, given, out: seen.append(module))
        fast.embedding(x)
        assert fast.blocks[2] in seen
        assert "readable" in fast.choice
        handle.remove()
        seen.clear()
        fast.embedding(x)
        assert seen == []
        assert "engine torch" in fast.choice


def test_changes__a_block_in_train_mode() -> None:
    """Its drop path is on although the encoder is in eval mode."""
    fast, x = optimize(encoder(drop_path=0.9)), pixels(2, 3, 64, 64)
    before = fast(x)
    fast.blocks[3].train()
    assert any(distance(fast(x), before) > LOUD * FP32 for _ in range(20))
    fast.eval()
    assert torch.equal(fast(x), before)


@pytest.mark.parametrize("name", ["hook", "pre-hook", "forward", "adapter", "subclass", "weight norm", "parametrized"])
def test_optimize__refuses_what_it_would_drop(name: str) -> None:
    """The fast encoder is made of the config and the weights: what else was added would be gone."""
    exact = encoder()
    SURGERY[name](exact)
    with pytest.raises(InputError, match=r"own layers.*[Mm]erge or remove"):
        optimize(exact)


TRACERS: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]] = {
    "compile": lambda m, x: torch.compile(m, backend="eager", fullgraph=True),
    "export": lambda m, x: torch.export.export(m, (x,), strict=False).module(),
    "strict export": lambda m, x: torch.export.export(m, (x,), strict=True).module(),
    "trace": lambda m, x: torch.jit.trace(m, x, check_trace=False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", TRACERS)
def test_changes__traced(how: str) -> None:
    """A tracer must see the parameters and plain operators: a packed weight or a lock cannot be written down."""
    exact, x = encoder(), pixels(2, 3, 64, 64)
    fast = optimize(exact)
    with torch.no_grad():
        fast(x)
        traced = TRACERS[how](fast, x)
        assert distance(traced(x), exact(x)) <= FP32
        assert distance(fast(x), exact(x)) <= FP32


def test_changes__function_transforms() -> None:
    """Swapped-in weights must answer, not the model's own; under vmap nothing has an address to compare."""
    exact, x = encoder(), pixels(3, 3, 64, 64)
    fast, other = optimize(exact), loud(Encoder(exact.config), seed=3)
    with torch.no_grad():
        assert distance(torch.func.functional_call(fast, other.state_dict(), x), other(x)) <= FP32
        assert distance(fast(x), exact(x)) <= FP32
        assert distance(torch.func.vmap(lambda image: fast(image[None])[0])(x), exact(x)) <= FP32
        both = {key: torch.stack([exact.state_dict()[key], value]) for key, value in other.state_dict().items()}
        found = torch.func.vmap(lambda state: torch.func.functional_call(fast, state, x))(both)
        assert distance(found, torch.stack([exact(x), other(x)])) <= FP32
    ours, theirs = (torch.func.grad(lambda image, e=e: e(image).square().sum())(x) for e in (fast, exact))
    assert distance(ours, theirs) <= FP32


def embedded(fast: FastEncoder, x: Tensor) -> Tensor:
    """In another process."""
    torch.set_num_threads(1)
    return fast.embedding(x).detach()


@pytest.mark.slow
def test_changes__another_process() -> None:
    """What is sent is how the engine is made, not the engine; sending moves the parameters to shared memory."""
    exact, x = encoder(), pixels(2, 3, 64, 64)
    fast = optimize(exact)
    assert apart(fast, exact, x) <= FP32
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(embedded, fast, x).result(timeout=1800)
    assert distance(found, exact.embedding(x)) <= FP32
    assert apart(fast, exact, x) <= FP32


def test_changes__copies_share_nothing() -> None:
    """A shallow copy shares the modules, a deep one nothing, a shared-memory one the parameters."""
    exact, x = encoder(), pixels(2, 3, 64, 64)
    fast = optimize(exact)
    assert apart(fast, exact, x) <= FP32
    shallow, deep = copy.copy(fast), copy.deepcopy(fast)
    other = loud(Encoder(exact.config), seed=3)
    fast.load_state_dict(other.state_dict())
    assert apart(shallow, other, x) <= FP32
    assert apart(deep, loud(Encoder(exact.config)), x) <= FP32
    assert apart(fast.share_memory(), other, x) <= FP32
    assert apart(deep.double().float(), loud(Encoder(exact.config)), x) <= FP32
