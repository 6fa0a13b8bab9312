"""The encoder against every package that trained or ported a member of the family, weight for weight.

Weights are loud (`tests/peers.py`), so that `test_broken__is_far_away` can show what each mistake costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hierax.config import ModelConfig
from hierax.model.encoder import Encoder

from ..peers import (
    TINY,
    Reference,
    birder_abswin,
    birder_ap,
    meta,
    ours,
    timm_base_abswin,
    timm_plain,
    timm_small_abswin,
)
from ..tolerance import FP32, FP64, GRADIENT, GRADIENT_FP64, LOUD, assert_same, assert_same_gradients, distance

pytestmark = pytest.mark.parity

# Built anew for each size: these references have no other way.
BUILT: dict[str, Callable[[tuple[int, ...]], Reference]] = {
    "meta": meta,
    "meta_video": meta,
    "timm_plain": timm_plain,
    "timm_small_abswin": timm_small_abswin,
    "timm_base_abswin": timm_base_abswin,
    "birder_abswin": birder_abswin,
    "birder_ap": birder_ap,
}
FREE = ("sam2", "sam2_large_windows", "sam2_base_plus", "transformers_sam2", "timm_sam2", "timm_hieradet")
ADJUSTED = ("birder_plain", "birder_hieradet", "birder_hieradet_d", "birder_hieradet_negative")
# HieraDet pads at 256 (grids of 16 and 8 under windows of 14 and 7) and on both axes differently at 96x160.
OTHER_SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "meta_video": ((2, 96, 96), (8, 64, 96)),
    **{name: ((256, 256), (96, 160)) for name in (*FREE, *ADJUSTED) if "plain" not in name},
}
PLAIN_SIZES: tuple[tuple[int, ...], ...] = ((96, 96), (64, 160))
CASES = [(name, size) for name in TINY for size in OTHER_SIZES.get(name, PLAIN_SIZES)]


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Seeded N(0, 1) pixels."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", TINY)
def test_encoder__equals_reference(name: str) -> None:
    """A wrong window, lag, pooling order, epsilon or token order would miss by far more than rounding."""
    reference = TINY[name]()
    x = noise(2, 3, *reference.config.input_size)
    with torch.no_grad():
        theirs = reference.answers(x)
        assert_same(ours(reference.encoder(), x, list(theirs)), theirs, FP32)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_encoder__other_sizes(name: str, size: tuple[int, ...]) -> None:
    """A table resized with the wrong kernel or transposed, or padding left out, would show here only."""
    x = noise(2, 3, *size)
    if name in BUILT:
        reference = BUILT[name](size)
        encoder = reference.encoder()
    else:
        reference = TINY[name]()
        encoder = reference.encoder(reference.config.with_input_size(size)) if "negative" in name else None
        encoder = encoder or reference.encoder()
        if name in ADJUSTED:
            reference.module.adjust_size(size)
    with torch.no_grad():
        theirs = reference.answers(x)
        said = {key: value for key, value in ours(encoder, x, list(theirs)).items() if key in theirs}
    assert_same(said, theirs, FP32)


@pytest.mark.parametrize("name", TINY)
def test_encoder__double_precision(name: str) -> None:
    """An error smaller than single rounding (an epsilon of 1e-5 for 1e-6) cannot hide in double."""
    reference = TINY[name]()
    size = (256, 256) if reference.config.family == "hieradet" else reference.config.input_size
    if name in ADJUSTED and size != reference.config.input_size:
        reference.module.adjust_size(size)
    encoder = reference.encoder(dataclasses.replace(reference.config, input_size=size)).double()
    reference.module.double()
    x = noise(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        theirs = reference.answers(x)
        assert_same(ours(encoder, x, list(theirs)), theirs, FP64)


def weighted_sum(answers: dict[str, Tensor]) -> Tensor:
    """A scalar that every output moves, each by its own random weights."""
    parts = [(noise(*value.shape, seed=7) * value).mean() for _, value in sorted(answers.items())]
    return torch.stack(parts).sum()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_encoder__gradients(name: str, dtype: torch.dtype) -> None:
    """A detached table, a max-pool that splits ties differently or a scale applied twice would change a gradient."""
    reference = TINY[name]()
    reference.module.to(dtype)
    encoder = reference.encoder()
    x = noise(2, 3, *reference.config.input_size, dtype=dtype)
    theirs = reference.answers(x)
    weighted_sum(theirs).backward()
    weighted_sum(ours(encoder, x, list(theirs))).backward()
    expected = reference.gradients(encoder)
    got = {key: p.grad for key, p in encoder.named_parameters() if p.grad is not None}
    assert set(got) == set(expected)
    assert len(got) > 50
    assert_same_gradients(got, expected, GRADIENT if dtype == torch.float32 else GRADIENT_FP64)


def without_lag(config: ModelConfig) -> ModelConfig:
    """The windows one stage early: what a block table without the lag rule amounts to."""
    return dataclasses.replace(config, windows=(*config.windows[1:], config.windows[-1]))


BREAKS: dict[str, tuple[str, Callable[[ModelConfig], ModelConfig]]] = {
    "windows one stage early": ("meta", without_lag),
    "window of half the size": (
        "meta",
        lambda c: dataclasses.replace(c, windows=((4, 4), (4, 4), None, None)),
    ),
    "clip window reaching over time": (
        "meta_video",
        lambda c: dataclasses.replace(c, windows=((2, 8, 8), (1, 4, 4), None, None)),
    ),
    "no global blocks": ("sam2", lambda c: dataclasses.replace(c, global_blocks=())),
    "global block one late": ("sam2", lambda c: dataclasses.replace(c, global_blocks=(5, 7))),
    "large trunk with the small one's windows": (
        "sam2_large_windows",
        lambda c: dataclasses.replace(c, windows=((8, 8), (4, 4), (14, 14), (7, 7))),
    ),
    "pool, then norm": ("birder_hieradet", lambda c: dataclasses.replace(c, head="pool_norm")),
    "norm, then pool": ("meta", lambda c: dataclasses.replace(c, head="norm_pool")),
    "table resized with antialiasing": (
        "sam2",
        lambda c: dataclasses.replace(c, position_antialias=True),
    ),
    "table resized without antialiasing": (
        "timm_base_abswin",
        lambda c: dataclasses.replace(c, position_antialias=False),
    ),
    "wrong number of heads": ("meta", lambda c: dataclasses.replace(c, num_heads=2)),
}


@pytest.mark.parametrize("mistake", BREAKS)
def test_broken__is_far_away(mistake: str) -> None:
    """The negative control of this file: each mistake must cost at least a hundred tolerances."""
    name, broken = BREAKS[mistake]
    reference = TINY[name]()
    size = (256, 256) if reference.config.family == "hieradet" else reference.config.input_size
    x = noise(1, 3, *size)
    with torch.no_grad():
        right = reference.encoder()
        wrong = Encoder(broken(reference.config)).eval()
        wrong.load_state_dict(right.state_dict())
        keys = ["embedding", *(["logits"] if right.num_classes else [])]
        a, b = ours(right, x, keys), ours(wrong, x, keys)
    assert max(distance(b[key], a[key]) for key in a) > LOUD * FP32


@pytest.mark.parametrize("what", ["lag", "pooling"])
def test_broken__block_on_purpose(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The opener of one stage with its own stage's window, or mean for max: at least a hundred tolerances."""
    reference = TINY["sam2"]()
    x = noise(1, 3, 256, 256)
    right, wrong = reference.encoder(), reference.encoder()
    if what == "lag":
        opener = wrong.blocks[3]
        assert (opener.window, opener.q_stride) == ((4, 4), (2, 2))
        opener.window = (14, 14)
    with torch.no_grad():
        expected = right.detection_features(x)
        if what == "pooling":
            from hierax.model import encoder as module

            monkeypatch.setattr(module, "max_pool", module.mean_pool)
        got = wrong.detection_features(x)
    assert max(distance(got[key], expected[key]) for key in expected) > LOUD * FP32


def test_broken__epsilon() -> None:
    """An epsilon of 1e-5 for 1e-6 hides under single precision's tolerance; double's sees it."""
    reference = TINY["meta"]()
    x = noise(1, 3, 64, 64, dtype=torch.float64)
    right = reference.encoder().double()
    wrong = Encoder(dataclasses.replace(reference.config, norm_eps=1e-5)).double().eval()
    wrong.load_state_dict(right.state_dict())
    with torch.no_grad():
        assert distance(wrong(x), right(x)) > LOUD * FP64


def test_batch__samples_do_not_mix() -> None:
    """Windows joined across images would let one image change another's answer."""
    encoder = TINY["sam2"]().encoder()
    x = noise(3, 3, 96, 160)
    with torch.no_grad():
        together = encoder.detection_features(x)
        alone = encoder.detection_features(x[1:2])
    assert_same(alone, {key: value[1:2] for key, value in together.items()}, FP32)
