"""The masked autoencoder's behaviour that needs no reference: what it keeps, hides, predicts and refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hierax.config import ARCHITECTURES, DecoderConfig, ModelConfig, square_windows
from hierax.errors import InputError
from hierax.model.mae import MaskedAutoencoder

from ..members import tiny_mae
from .test_encoder import unit_mask

SIZES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "image": ((64, 64), {}),
    "wide": ((64, 96), {}),
    "three_pools": ((64, 96), {"q_pool": 3}),
    "video": ((4, 64, 64), {}),
}


def tiny(kind: str = "image", **options: Any) -> MaskedAutoencoder:
    """A masked autoencoder of one of these sizes."""
    size, own = SIZES[kind]
    return tiny_mae(size, **{**own, **options})


def pixels(mae: MaskedAutoencoder, batch: int = 2) -> torch.Tensor:
    """Seeded input of the network's size."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 3, *mae.config.input_size, generator=generator)


@pytest.mark.parametrize("kind", SIZES)
def test_forward__shapes(kind: str) -> None:
    """Predictions and targets cover exactly the tokens of hidden units."""
    mae = tiny(kind)
    x = pixels(mae)
    out = mae(x, mask_ratio=0.6)
    units = mae.num_units(mae.config.input_size)
    per_unit = 1
    for side in mae.unit:
        per_unit *= side
    kept = int(units * 0.4)
    assert out.visible.shape == (2, kept)
    expected = (2, (units - kept) * per_unit, 3 * mae.pixels**2)
    assert out.prediction.shape == out.target.shape == expected
    assert out.loss.ndim == 0
    assert out.loss.item() == pytest.approx(((out.prediction - out.target) ** 2).mean().item())


@pytest.mark.parametrize("kind", SIZES)
def test_forward__hidden_pixels_do_not_leak(kind: str) -> None:
    """Predictions must not depend on what they predict: hidden pixels change targets only."""
    mae = tiny(kind)
    x = pixels(mae)
    units = mae.num_units(mae.config.input_size)
    visible = torch.tensor([[0, units - 1], [1, 2]])
    other = torch.where(unit_mask(mae.encoder, visible), x, torch.randn_like(x) * 9)
    with torch.no_grad():
        a, b = mae(x, visible=visible), mae(other, visible=visible)
    assert torch.equal(a.prediction, b.prediction)
    assert not torch.allclose(a.target, b.target, atol=0.1)


def test_forward__kept_pixels_matter() -> None:
    """Negative control of the leak test: a kept pixel moves predictions."""
    mae = tiny()
    x = pixels(mae)
    visible = torch.tensor([[0, 3], [1, 2]])
    other = torch.where(unit_mask(mae.encoder, visible), x + 0.5, x)
    with torch.no_grad():
        a, b = mae(x, visible=visible), mae(other, visible=visible)
    assert (a.prediction - b.prediction).abs().max() > 1e-2
    assert torch.equal(a.target, b.target)


@pytest.mark.parametrize("kind", SIZES)
def test_masked_tokens__raster_indices_of_hidden_units(kind: str) -> None:
    """Indices in unit order for raster order would pair predictions with the wrong targets."""
    mae = tiny(kind)
    size = mae.config.input_size
    units = mae.num_units(size)
    visible = torch.tensor([[0, units - 1], [1, 2]])
    pixel_mask = unit_mask(mae.encoder, visible)[:, 0]
    step = [s // g for s, g in zip(size, mae.config.decoder_grid(size), strict=True)]
    tokens = pixel_mask[(slice(None), *[slice(None, None, s) for s in step])].flatten(1)
    expected = [(~row).nonzero().flatten().tolist() for row in tokens]
    assert mae.masked_tokens(visible, size).tolist() == expected


def test_targets__image_patch() -> None:
    """Each patch is flattened channel first and standardised with the unbiased variance."""
    mae = tiny("wide")
    x = pixels(mae)
    p = mae.pixels
    patch = x[1, :, p : 2 * p, 2 * p : 3 * p].flatten()
    row = x.shape[-1] // p
    expected = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt()
    assert torch.allclose(mae.targets(x)[1, row + 2], expected, atol=1e-5)


def test_targets__clip_patch() -> None:
    """Clips are flattened channel last, and only every second frame is a target."""
    mae = tiny("video")
    x = pixels(mae)
    p = mae.pixels
    patch = x[0, :, 2, :p, p : 2 * p].permute(1, 2, 0).flatten()
    tokens = (64 // p) ** 2
    expected = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt()
    assert torch.allclose(mae.targets(x)[0, tokens + 1], expected, atol=1e-5)


def test_targets__unnormalised() -> None:
    """`normalize_target=False` must give the pixels themselves."""
    mae = tiny(decoder=DecoderConfig(dim=32, depth=1, num_heads=4, normalize_target=False))
    x = pixels(mae)
    p = mae.pixels
    assert torch.equal(mae.targets(x)[0, 0], x[0, :, :p, :p].flatten())


def test_visible__order_does_not_matter() -> None:
    """Kept units are a set: the order in which they are listed must not move a prediction."""
    mae = tiny("wide")
    x = pixels(mae)
    visible = torch.tensor([[0, 2, 5], [1, 3, 4]])
    with torch.no_grad():
        a, b = mae(x, visible=visible), mae(x, visible=visible.flip(1).int())
    assert torch.allclose(a.prediction, b.prediction, atol=1e-5)
    assert torch.equal(a.target, b.target)


@pytest.mark.parametrize(
    "visible",
    [
        torch.tensor([[0, 0], [1, 2]]),
        torch.tensor([[0, 4], [1, 2]]),
        torch.tensor([[-1, 0], [1, 2]]),
        torch.tensor([[0, 1]]),
        torch.tensor([0, 1]),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.tensor([[0.0, 1.0], [1.0, 2.0]]),
        torch.ones(2, 4, dtype=torch.bool),
    ],
    ids=["repeated", "too_large", "negative", "wrong_batch", "flat", "empty", "float", "mask"],
)
def test_visible__refused(visible: torch.Tensor) -> None:
    """A boolean mask or repeated indices would run and train on the wrong thing."""
    mae = tiny()
    with pytest.raises(InputError, match="visible"):
        mae(pixels(mae), visible=visible)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, 0.9, float("nan")])
def test_mask_ratio__refused(ratio: float) -> None:
    """Ratios outside 0..1, or that keep no unit of four, must say so."""
    mae = tiny()
    with pytest.raises(InputError, match="mask_ratio"):
        mae(pixels(mae), mask_ratio=ratio)


def test_random_visible__count_and_independence() -> None:
    """19 of 49 units at 0.6; rounding up, or one draw for the whole batch, would differ."""
    with torch.device("meta"):
        mae = MaskedAutoencoder(ARCHITECTURES["mae_hiera_tiny_224"])
    x = torch.zeros(64, 3, 224, 224)
    generator = torch.Generator().manual_seed(0)
    visible = mae.random_visible(x, 0.6, generator=generator)
    assert visible.shape == (64, 19)
    assert (visible.diff(dim=1) > 0).all()
    assert len({tuple(row) for row in visible.tolist()}) == 64
    counts = torch.bincount(visible.flatten(), minlength=49)
    assert counts.min() > 5
    assert counts.max() < 50
    again = mae.random_visible(x, 0.6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(visible, again)


def test_random_visible__clip_count() -> None:
    """392 units of a clip, 39 kept at 0.9."""
    with torch.device("meta"):
        mae = MaskedAutoencoder(ARCHITECTURES["mae_hiera_base_16x224"])
    assert mae.num_units((16, 224, 224)) == 392
    assert mae.random_visible(torch.zeros(1, 1, 16, 224, 224), 0.9).shape == (1, 39)


def test_ratio__zero_keeps_everything() -> None:
    """Nothing is hidden, so the loss is a mean over nothing; the latent is still whole."""
    mae = tiny()
    out = mae(pixels(mae), mask_ratio=0.0)
    assert out.visible.tolist() == [[0, 1, 2, 3]] * 2
    assert out.prediction.shape[1] == 0
    assert out.loss.isnan()


def test_decoder__other_size() -> None:
    """The decoder's table is for one size; adding it to another would broadcast or fail obscurely."""
    mae = tiny()
    with pytest.raises(InputError, match="input_size"):
        mae(torch.randn(2, 3, 96, 64))


def test_hieradet__refused() -> None:
    """Windows of 14 tokens cannot be masked by units; the first pass must say so."""
    config = ModelConfig(
        input_size=(64, 64),
        depths=(1, 1, 2, 1),
        embed_dim=16,
        windows=square_windows((8, 4, 14, 7)),
        position="window",
        position_size=(7, 7),
        decoder=DecoderConfig(dim=32, depth=1, num_heads=4),
    )
    mae = MaskedAutoencoder(config)
    with pytest.raises(InputError, match="window"):
        mae(torch.randn(1, 3, 64, 64), mask_ratio=0.5)


@pytest.mark.parametrize("kind", SIZES)
def test_training__reaches_every_parameter(kind: str) -> None:
    """A fusion head that is built but not used would get no gradient."""
    mae = tiny(kind).train()
    mae(pixels(mae), mask_ratio=0.5).loss.backward()
    assert not [name for name, p in mae.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert mae.encoder.head is None
