"""What a fast answer cannot give, the model's own code gives, call by call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import hierax

from ..members import loud, pixels
from ..peers import TINY
from .conftest import Pair, apart, image

pytestmark = pytest.mark.parity

EQUAL = 1e-5


def test_gradients__flow(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Linear probes, saliency and fine-tuning in eval mode would silently learn nothing."""
    module, twin = pair()
    x = image().requires_grad_()
    for each in (module, twin):
        each(x).square().sum().backward()
    theirs, ours = ({name: p.grad for name, p in each.named_parameters()} for each in (module, twin))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert any("no_grad" in record.message for record in caplog.records)  # and says how to be fast
    twin.requires_grad_(False)
    frozen = twin(image())  # nothing asks for a gradient now
    assert not frozen.requires_grad
    assert twin(x).requires_grad


def test_train__is_the_originals(pair: Pair) -> None:
    """Dropout and drop path act; the random numbers are the original's own."""
    module, twin = pair()
    for each in (module, twin):
        each.train()
    with torch.no_grad():
        assert torch.equal(module(image()), twin(image()))
    twin.eval()
    twin.get_submodule("blocks.1").train()  # one block is enough
    module.eval()
    assert apart(twin, module) == 0


@pytest.mark.parametrize("name", ["timm_plain", "meta"])
def test_masks__run_the_original(name: str, pair: Pair) -> None:
    """Tokens that are left out are left out."""
    module, twin = pair(name)
    mask = torch.tensor([[True, False, True, True]])
    with torch.no_grad():
        assert torch.equal(module(image(), mask=mask), twin(image(), mask=mask))


def test_birder__masks_run_the_original(pair: Pair) -> None:
    """birder's pretraining calls the stem and body itself."""
    module, twin = pair("birder_plain")
    kept = torch.tensor([[0, 2]])
    with torch.no_grad():
        a, b = (each.masked_encoding_omission(image(), kept)["tokens"] for each in (module, twin))
        assert torch.equal(a, b)
    module, twin = pair("birder_hieradet")
    x = pixels(1, 3, 64, 64)
    mask = torch.tensor([[1, 0, 0, 1]])
    with torch.no_grad():
        a, b = (each.masked_encoding_retention(x, mask)["features"] for each in (module, twin))
        assert torch.equal(a, b)


def test_hidden_states__before_and_after(pair: Pair) -> None:
    """transformers leaves its capturing hooks on the blocks for ever after one request: they must not end the speed."""
    module, twin = pair("transformers_sam2")
    x = image(1, 3, 96, 160)
    with torch.no_grad():
        for asked in ({"output_hidden_states": True}, {"output_attentions": True}):
            theirs, ours = module(x, **asked), twin(x, **asked)
            for key in ("hidden_states", "attentions"):
                for a, b in zip(theirs.get(key) or (), ours.get(key) or (), strict=True):
                    assert torch.equal(a, b)
    assert 0 < apart(twin, module, x) <= EQUAL  # fast again
    twin.config.output_hidden_states = module.config.output_hidden_states = True
    with torch.no_grad():
        assert len(twin(x).hidden_states) == len(module(x).hidden_states) == 11


def test_autocast__acts_and_is_as_close(pair: Pair) -> None:
    """SAM 2's own snippets run under autocast: an accelerator that steps aside there does nothing for its users.

    Rounding to bfloat16 differs, so closeness is measured by the distance to float32: ours may not be further away.
    """
    module, twin = pair("sam2")
    x = image(2, 3, 96, 160)
    with torch.no_grad():
        exact = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = module(x), twin(x)
    for grid, other, true in zip(ours, theirs, exact, strict=True):
        assert grid.dtype == other.dtype
        away, usual = ((each.double() - true.double()).norm() for each in (grid, other))
        assert 0 < away <= 1.25 * usual
    assert not any(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))  # it did act


def test_autocast__first_call_inside(pair: Pair) -> None:
    """Folding multiplies weights: done under the caller's autocast, it would leave bfloat16's rounding in them."""
    module, twin = pair("sam2")
    x = image(1, 3, 96, 160)
    for each in (module, twin):
        loud(each, seed=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        twin(x)
    assert 0 < apart(twin, module, x) <= EQUAL


@pytest.mark.parametrize("name", ["timm_plain", "timm_small_abswin", "transformers", "birder_hieradet"])
def test_autocast__keeps_types(name: str, pair: Pair) -> None:
    """A stream that stays float32 in the original must not become bfloat16."""
    module, twin = pair(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs, ours = module(image()), twin(image())
    theirs, ours = (getattr(said, "logits", said) for said in (theirs, ours))
    assert ours.dtype == theirs.dtype
    assert (ours.float() - theirs.float()).abs().max() < 0.1 * theirs.float().abs().max()


def test_odd_inputs__are_the_originals(pair: Pair) -> None:
    """An error of ours in the place of the peer's, or an answer where it had none."""
    module, twin = pair("timm_plain")
    wrong: list[Callable[[nn.Module], Any]] = [
        lambda m: m(image(1, 3, 96, 96)),
        lambda m: m(image(1, 4, 64, 64)),
        lambda m: m(image().double()),
        lambda m: m(image()[0]),
        lambda m: m("image"),
        lambda m: m(),
        lambda m: m.forward_intermediates(image(), indices=7),
        lambda m: m.forward_intermediates(image(), output_fmt="NLC"),
        lambda m: m(image()[:0]),
    ]
    for call in wrong:
        said = []
        for each in (module, twin):
            with torch.no_grad(), pytest.raises(Exception) as caught:
                call(each)
            said.append((caught.type, str(caught.value)))
        assert said[0] == said[1]
    with torch.no_grad():
        assert torch.equal(torch.vmap(twin)(image()[None]), torch.vmap(module)(image()[None]))


def test_nan__comes_through(pair: Pair) -> None:
    """A broken image gives a broken answer, as before."""
    _, twin = pair()
    with torch.no_grad():
        assert twin(image() * float("nan")).isnan().all()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_inference__first_call_inside(mode: Any, pair: Pair) -> None:
    """What is made in a first call inside inference_mode must serve calls outside of it."""
    module, twin = pair()
    with mode():
        twin(image())
    module.requires_grad_(False)
    twin.requires_grad_(False)
    assert apart(twin, module) <= EQUAL
    assert max((twin(image()) - module(image())).abs().max().item(), 0) <= EQUAL


def _normed(module: Any) -> None:
    parametrizations.weight_norm(module.blocks[2].attn.proj)
    with torch.no_grad():
        module.blocks[2].attn.proj.parametrizations.weight.original0.mul_(2)


def _other(module: Any) -> None:
    for block in module.blocks:
        block.attn.use_mask_unit_attn = False


# Block 2 is as wide behind as before.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "another layer": lambda m: setattr(m.blocks[2].mlp, "fc1", _Wrapped(m.blocks[2].mlp.fc1)),
    "parametrization": _normed,
    "forward on a block": lambda m: setattr(m.blocks[2], "forward", lambda x: x * 0),
    "pre-hook": lambda m: m.blocks[2].register_forward_pre_hook(lambda _, args: (args[0] + args[0].flip(-1),)),
    "block gone": lambda m: m.blocks.pop(2),
    "blocks swapped": lambda m: m.blocks.__setitem__(4, m.blocks[5]),
    "window": _other,
}


class _Wrapped(nn.Module):
    """What adapters do to a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Something else."""
        return self.layer(x) * 1.5


@pytest.mark.parametrize("change", CHANGES)
def test_changed_structure__is_followed(change: str, pair: Pair) -> None:
    """Adapters, pruning and surgery after the fact: never the answer of the model that was."""
    module, twin = pair()
    old = twin(image()).detach()
    for each in (module, twin):
        CHANGES[change](each)
    assert apart(twin, module) <= EQUAL
    with torch.no_grad(), nullcontext():
        assert not torch.allclose(twin(image()), old, atol=100 * EQUAL)


def test_birder__adjust_size(pair: Pair) -> None:
    """It changes windows in place, exchanges the table and makes token orders anew."""
    for name, size in (
        ("birder_plain", (96, 64)),
        ("birder_abswin", (96, 96)),
        ("birder_hieradet_negative", (256, 256)),
    ):
        module, twin = pair(name)
        for each in (module, twin):
            each.adjust_size(size)
        assert 0 < apart(twin, module, pixels(1, 3, *size)) <= EQUAL


def test_heads__may_change(pair: Pair) -> None:
    """A head is no part of what is exchanged."""
    module, twin = pair()
    for each in (module, twin):
        torch.manual_seed(0)
        each.reset_classifier(7)
        each.eval()
    assert 0 < apart(twin, module) <= EQUAL
    assert twin(image()).shape == (1, 7)


def test_features_only__pruned_forms() -> None:
    """`features_only` cuts blocks off and calls `forward_intermediates`, not the model."""
    from ..peers import peer

    timm = peer("timm")
    small = {"embed_dim": 16, "stages": (1, 2, 3, 1), "pretrained": False}
    for name, size, more in (("hiera_tiny_224", 64, {"img_size": 64}), ("sam2_hiera_tiny", 96, {})):
        for indices in ((0, 1, 2, 3), (0, 2), (1,)):
            module = timm.create_model(name, features_only=True, out_indices=indices, **small, **more).eval()
            x = pixels(2, 3, size, size)
            with torch.no_grad():
                wanted = module(x)
                handle = hierax.accelerate(module, engine="torch", check=False)
                found = module(x)
            assert handle.kept
            assert len(found) == len(wanted) == len(indices)
            for a, b in zip(found, wanted, strict=True):
                assert not torch.equal(a, b)
                assert torch.allclose(a, b, atol=1e-5)


def test_names__decide_nothing() -> None:
    """A vendored copy, a subclass, an unknown package: structure and weights say what a network is."""
    module = TINY["sam2"]().module
    renamed = type("Whatever", (type(module),), {"__module__": "somebody.fork"})
    x = image(1, 3, 96, 160)
    with torch.no_grad():
        wanted = module(x)
        module.__class__ = renamed
        hierax.accelerate(module, engine="torch", check=False)
        assert torch.allclose(module(x)[-1], wanted[-1], atol=1e-5)
    assert type(module) is renamed
