"""Models that hold an encoder: a fast one takes its place wherever it stands, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hierax
from hierax.errors import InputError
from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder, optimize
from hierax.model.mae import MaskedAutoencoder
from hierax.model.precision import as_dtype

from ...members import det_config, loud, mae_config, pixels, plain_config
from ...tolerance import FP32, distance


def test_fast__masked_autoencoder() -> None:
    """Masked passes go the readable way and whole images the fast one; both must agree with the original."""
    exact = loud(MaskedAutoencoder(mae_config((64, 64), (1, 2, 3, 1), 16)))
    fast = optimize(exact)
    x, visible = pixels(2, 3, 64, 64), torch.tensor([[0, 3], [1, 2]])
    with torch.no_grad():
        assert torch.equal(fast(x, visible=visible).prediction, exact(x, visible=visible).prediction)
        assert distance(fast.encoder.embedding(x), exact.encoder.embedding(x)) <= FP32
    assert isinstance(fast.encoder, FastEncoder)
    assert type(exact.encoder) is Encoder
    assert list(fast.state_dict()) == list(exact.state_dict())


class Holder(torch.nn.Module):
    """Somebody's model: our encoder in two places, a head of their own tied to a second name."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(encoder)
        self.again = encoder
        self.head = torch.nn.Linear(encoder.embedding_size, 2)
        self.tied = self.head
        self.register_buffer("scale", torch.ones(()))
        self.unused = None

    def forward(self, x: Tensor) -> Tensor:
        """Their classes."""
        return self.head(self.backbone(x) + self.again.embedding(x)) * self.scale


def test_optimize__encoder_anywhere() -> None:
    """Only a model's own `encoder` looked at: this one would be refused, or its state dict doubled."""
    exact = Holder(loud(Encoder(det_config()))).eval()
    fast = optimize(exact)
    assert type(fast) is Holder
    assert isinstance(fast.again, FastEncoder)
    assert fast.backbone[0] is fast.again
    assert fast.tied is fast.head
    assert type(exact.again) is type(exact.backbone[0]) is Encoder
    ours, theirs = fast.state_dict(), exact.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].data_ptr() == value.data_ptr() for key, value in theirs.items())
    x = pixels(2, 3, 64, 64)
    with torch.no_grad():
        assert distance(fast(x), exact(x)) <= FP32
        low = optimize(exact, dtype="bfloat16")
        assert low(x.bfloat16()).dtype == torch.bfloat16
        assert distance(low(x.bfloat16()).float(), exact(x)) < 0.2
    assert {p.dtype for p in exact.parameters()} == {torch.float32}  # casting the copy must not cast the original


def test_optimize__keeps_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole model cast to its encoder's type is another model: float64 geometry, a bfloat16 teacher, float32 heads."""
    monkeypatch.setenv("HIERAX_FORCE_BF16", "0")
    exact = Holder(loud(Encoder(det_config()))).eval()
    exact.head.double()
    exact.scale = exact.scale.to(torch.float64)
    exact.teacher = loud(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16))).bfloat16()
    types = {key: value.dtype for key, value in exact.state_dict().items()}
    assert set(types.values()) == {torch.float32, torch.float64, torch.bfloat16}
    for dtype in (None, "auto"):
        fast, x = optimize(exact, dtype=dtype), pixels(2, 3, 64, 64)
        assert {key: value.dtype for key, value in fast.state_dict().items()} == types
        with torch.no_grad():
            assert distance(fast.again.embedding(x), exact.again.embedding(x)) <= FP32
            assert fast.head(fast.again.embedding(x).double()).dtype == torch.float64
            assert fast.teacher.embedding(x).dtype == torch.bfloat16
    for dtype in ("float32", torch.float64):
        assert {value.dtype for value in optimize(exact, dtype=dtype).state_dict().values()} == {as_dtype(dtype)}
    assert {key: value.dtype for key, value in exact.state_dict().items()} == types


def test_optimize__no_encoder() -> None:
    """A model that comes back unchanged would be timed, and shipped, as a fast one."""
    for other in (torch.nn.Sequential(torch.nn.Linear(2, 2)), hierax.load()):
        with pytest.raises(InputError, match=r"holds none.*hierax\.create"):
            optimize(other)
