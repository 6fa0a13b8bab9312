"""The engines that compile: the same numbers through OpenVINO, its absence, and int8's report."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from hierax.errors import InputError, MissingExtraError
from hierax.model.encoder import Encoder
from hierax.model.fast import openvino, optimize, quantize
from hierax.model.fast.graph import EMBEDDING, export

from ..peers import det_config, loud
from ..tolerance import FP32, distance
from .test_fast_door import pixels

needs_openvino = pytest.mark.skipif(not openvino.has_openvino(), reason="the extra openvino is not installed")


def encoder() -> Encoder:
    """Cut windows in stages 3 and 4 at 128 pixels, one global block."""
    return loud(Encoder(det_config(depths=(1, 1, 3, 1), global_blocks=(3,), head="norm_pool", num_classes=4)))


def test_export__any_batch() -> None:
    """A batch size traced as a constant would fail, or answer for the wrong images."""
    exact = encoder()
    program = export(optimize(exact), pixels(2, 3, 128, 128), EMBEDDING, any_batch=True).module()
    with torch.no_grad():
        for b in (1, 3):
            x = pixels(b, 3, 128, 128)
            assert distance(program(x)[0], exact.embedding(x)) <= FP32


@pytest.mark.nightly
@needs_openvino
def test_openvino__equals_readable() -> None:
    """A layer converted wrongly, or a batch filled up and not cut back, would be far off."""
    exact = encoder()
    fast = optimize(exact, engine="openvino")
    x = pixels(3, 3, 128, 128)
    with torch.no_grad():
        for part in (x, x[:1]):
            assert distance(fast(part), exact(part)) <= FP32
        ours, theirs = fast.detection_features(x, ["stage1", "stage3"]), exact.detection_features(x)
    assert all(distance(ours[key], theirs[key]) <= FP32 for key in ("stage1", "stage3"))


def test_openvino__missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from the depths would not say what to install."""
    monkeypatch.setattr(openvino, "has_openvino", lambda: False)
    with pytest.raises(MissingExtraError, match=r"hierax\[openvino\]"):
        optimize(encoder(), engine="openvino")


def test_int8__missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise for the quantizer."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else real(name, *rest))
    with pytest.raises(MissingExtraError, match=r"hierax\[int8\]"):
        optimize(encoder(), dtype="int8")


def test_textures__look_like_images() -> None:
    """White noise has no low frequencies to calibrate on: neighbours must be alike."""
    images = quantize.textures(2, (64, 96))
    assert torch.equal(images, quantize.textures(2, (64, 96)))
    along = (images[..., 1:] * images[..., :-1]).mean()
    assert along > 0.7
    with pytest.raises(InputError, match="Calibration"):
        quantize.quantized(optimize(encoder()), (64, 64), images[0]) if importlib.util.find_spec("nncf") else _refuse()


def _refuse() -> None:
    raise InputError("Calibration: no nncf here")
