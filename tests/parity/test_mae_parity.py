"""Masked autoencoding against Meta, transformers and birder: same weights, same visible units, same everything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from hierax.model.mae import MAEOutput

from ..peers import Reference, birder_mae, hf_mae, meta_mae, peer
from ..tolerance import FP64, GRADIENT, GRADIENT_FP64, LOUD, MAE_FP32, assert_same, assert_same_gradients, distance
from .test_encoder_parity import noise

pytestmark = pytest.mark.parity


@dataclass
class Answer:
    """What a masked pass of a reference says; predictions and targets of masked tokens only, flat over the batch."""

    loss: Tensor
    prediction: Tensor
    target: Tensor | None


def keep_mask(visible: Tensor, units: int) -> Tensor:
    """Booleans (b, units), True = keep, as Meta spells it."""
    return torch.zeros(visible.shape[0], units, dtype=torch.bool).scatter(1, visible, True)


def ask_meta(reference: Reference, x: Tensor, visible: Tensor, units: int) -> Answer:
    """Meta takes the mask as an argument."""
    loss, prediction, label, _ = reference.module(x, mask=keep_mask(visible, units))
    return Answer(loss, prediction, label)


def ask_hf(reference: Reference, x: Tensor, visible: Tensor, units: int) -> Answer:
    """transformers keeps the units of the smallest noise, as many as its mask ratio says."""
    kept = visible.shape[1]
    reference.module.config.mask_ratio = (units - kept - 0.5) / units if kept < units else 0.0
    for module in reference.module.modules():
        if hasattr(module, "mask_ratio"):
            module.mask_ratio = reference.module.config.mask_ratio
    keep = keep_mask(visible, units)
    out = reference.module(x, noise=(~keep).to(x.dtype))
    masked = ~out.bool_masked_pos
    target = None
    if masked.any():
        target = reference.module.get_pixel_label_2d(x, masked)
    return Answer(out.loss, out.logits[masked], target)


def ask_birder(reference: Reference, x: Tensor, visible: Tensor, units: int) -> Answer:
    """birder draws the mask itself; hand it ours in the place of its draw."""
    module = peer("birder.net.mim.mae_hiera")
    remove = 1 - keep_mask(visible, units).to(x.dtype)
    original = module.uniform_mask
    module.uniform_mask = lambda *_, **__: (remove, None, None)
    try:
        latent, mask = reference.module.forward_encoder(x)
        prediction, token_mask = reference.module.forward_decoder(latent, mask)
        loss = reference.module.forward_loss(x, prediction, ~token_mask)
    finally:
        module.uniform_mask = original
    target = reference.module.get_pixel_label_2d(x, ~token_mask, norm=True)
    return Answer(loss, prediction[~token_mask], target)


Ask = Callable[[Reference, Tensor, Tensor, int], Answer]
CASES: dict[str, tuple[Callable[[], Reference], Ask, int]] = {
    "meta": (meta_mae, ask_meta, 4),
    "meta_wide": (partial(meta_mae, (64, 128)), ask_meta, 8),
    "meta_q_pool_3": (partial(meta_mae, q_pool=3), ask_meta, 4),
    "meta_q_pool_1": (partial(meta_mae, q_pool=1), ask_meta, 4),
    "meta_video": (partial(meta_mae, (4, 64, 64)), ask_meta, 8),
    "transformers": (hf_mae, ask_hf, 4),
    "transformers_wide": (partial(hf_mae, (96, 64)), ask_hf, 6),
    "birder_q_pool_3": (birder_mae, ask_birder, 4),
    "birder_q_pool_2": (partial(birder_mae, 2), ask_birder, 4),
    "birder_abswin": (partial(birder_mae, 3, (64, 96), True), ask_birder, 6),
}


def some_units(units: int, kept: int, batch: int = 2, seed: int = 3) -> Tensor:
    """Kept mask units, another choice for each sample, sorted."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(units, generator=generator)[:kept].sort().values for _ in range(batch)])


def both(name: str, kept: int | None, dtype: torch.dtype) -> tuple[Reference, Answer, torch.nn.Module, MAEOutput]:
    """A reference and ours after the same masked pass; `kept` None hides about half."""
    build, ask, units = CASES[name]
    reference = build()
    reference.module.to(dtype)
    ours = reference.autoencoder()
    x = noise(2, 3, *reference.config.input_size, dtype=dtype)
    visible = some_units(units, kept or units // 2)
    return reference, ask(reference, x, visible, units), ours, ours(x, visible=visible)


def apart(theirs: Answer, said: MAEOutput) -> dict[str, float]:
    """Distances of loss, prediction and target, relative to the largest entry where that is over 1."""
    found = {
        "loss": distance(said.loss, theirs.loss),
        "prediction": distance(said.prediction.flatten(0, 1), theirs.prediction),
    }
    if theirs.target is not None:
        found["target"] = distance(said.target.flatten(0, 1), theirs.target)
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kept", [None, 1], ids=["half", "one"])
def test_mae__equals_reference(name: str, kept: int | None) -> None:
    """A token restored to the wrong place, a target in the wrong pixel order or a biased variance would be loud."""
    _, theirs, _, said = both(name, kept, torch.float32)
    assert max(apart(theirs, said).values()) <= MAE_FP32, apart(theirs, said)


@pytest.mark.parametrize("name", CASES)
def test_mae__double_precision(name: str) -> None:
    """What single precision's rounding could cover, double's cannot."""
    _, theirs, _, said = both(name, None, torch.float64)
    assert max(apart(theirs, said).values()) <= FP64, apart(theirs, said)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_mae__gradients(name: str, dtype: torch.dtype) -> None:
    """Every parameter's gradient of the loss; one that is missing on one side (a fusion head unused) fails too."""
    reference, theirs, ours, said = both(name, None, dtype)
    theirs.loss.backward()
    said.loss.backward()
    got = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    assert len(got) == len(list(ours.parameters()))
    expected = reference.gradients(ours)
    assert_same(got, expected, MAE_FP32)
    assert_same_gradients(got, expected, GRADIENT if dtype == torch.float32 else GRADIENT_FP64)


@pytest.mark.filterwarnings("ignore:var")
def test_mae__nothing_hidden() -> None:
    """With ratio 0 there is no masked token: the loss is a mean over nothing, NaN, in Meta's code and in ours."""
    _, theirs, _, said = both("meta", 4, torch.float32)
    assert math.isnan(theirs.loss.item())
    assert math.isnan(said.loss.item())
    assert said.prediction.shape[1] == theirs.prediction.shape[0] == 0


def test_mae__nothing_hidden_latent() -> None:
    """The encoder's half at ratio 0 still equals Meta's: a mask of all ones must not take another path."""
    reference, units = meta_mae(), 4
    ours = reference.autoencoder()
    x = noise(2, 3, 64, 64)
    visible = torch.arange(units).expand(2, -1)
    with torch.no_grad():
        theirs, _ = reference.module.forward_encoder(x, 0.0, mask=keep_mask(visible, units))
        assert distance(ours.encode(x, visible), theirs) <= MAE_FP32


@pytest.mark.parametrize("what", ["other units", "order of pixels", "variance"])
def test_broken__is_far_away(what: str) -> None:
    """The negative control: each mistake moves loss or target by at least a hundred tolerances."""
    reference, ask, units = meta_mae(), ask_meta, 4
    ours = reference.autoencoder()
    x = noise(2, 3, 64, 64)
    visible = some_units(units, 2)
    theirs = ask(reference, x, visible, units)
    if what == "other units":
        hidden = keep_mask(visible, units).logical_not().nonzero()[:, 1].reshape(2, -1)
        found = distance(ours(x, visible=hidden).loss, theirs.loss)
    else:
        target = ours(x, visible=visible).target.flatten(0, 1)
        p = ours.pixels
        assert theirs.target is not None
        if what == "order of pixels":
            target = target.unflatten(1, (3, p, p)).movedim(1, -1).flatten(1)
        else:
            target = target * math.sqrt((3 * p * p - 1) / (3 * p * p))
        found = distance(target, theirs.target)
    assert found > LOUD * MAE_FP32
