"""int8: what is quantized, how far, what stays in float, and the report."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hierax
from hierax.data.datasets.shapes import render
from hierax.data.preprocess import preprocess
from hierax.errors import InputError, MissingExtraError
from hierax.model.encoder import Encoder
from hierax.model.engines import openvino, optimize, processor, quantize
from hierax.model.engines.quantize import by_harm

from ...members import det_config, loud, pixels

ROOT = Path(__file__).resolve().parents[3]
needs_int8 = pytest.mark.skipif(
    not (openvino.has_openvino() and importlib.util.find_spec("nncf")), reason="the extra int8 is not installed"
)


def encoder() -> Encoder:
    """Cut windows in stages 3 and 4 at 128 pixels, one global block."""
    return loud(Encoder(det_config(depths=(1, 1, 3, 1), global_blocks=(3,), head="norm_pool", num_classes=4)))


def test_int8__missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise for the quantizer."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else real(name, *rest))
    with pytest.raises(MissingExtraError, match=r"hierax\[int8\]"):
        optimize(encoder(), dtype="int8")


def worst_cosine(fast: Encoder, exact: Encoder, x: torch.Tensor) -> float:
    """Worst cosine of embeddings."""
    with torch.inference_mode():
        return torch.nn.functional.cosine_similarity(fast.embedding(x), exact.embedding(x)).min().item()


@needs_int8
@pytest.mark.nightly
def test_int8__keeps_stdout_for_data() -> None:
    """NNCF writes its log and its progress to stdout, where they would stand among the rows."""
    command = [sys.executable, "-m", "hierax", "classify", "examples", "--fast", "--dtype", "int8", "--format", "jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 12


@needs_int8
@pytest.mark.nightly
def test_int8__embedded_model() -> None:
    """Each alone fails here, on images of another kind than calibration's: 8-bit weights without VNNI (worst cosine
    0.92, 98.4 % agree), SmoothQuant (0.63, 96.9 %), evenly textured stand-ins (0.980).
    """
    exact = hierax.load()
    x = torch.stack([preprocess(render(index, seed=11)[0], exact.preprocess) for index in range(640)])
    fast = optimize(exact.encoder, dtype="int8")
    with torch.inference_mode():
        ours, theirs = (torch.cat([e.embedding(part) for part in x.split(64)]) for e in (fast, exact.encoder))
        same = exact.encoder.classify(ours).argmax(-1) == exact.encoder.classify(theirs).argmax(-1)
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() >= 0.99
    assert same.float().mean() >= 0.99
    assert fast.report.held_out
    assert fast.report.int8_share >= 0.9


@needs_int8
@pytest.mark.nightly
@pytest.mark.parametrize("vnni", ["0", "1"])
def test_int8__loud(vnni: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges narrower than noise needs, or a size that calibration images are not resized to, would fall below."""
    if vnni == "1" and not processor.exact_int8():
        pytest.skip("int8 products saturate on this processor")
    monkeypatch.setenv("HIERAX_FORCE_VNNI", vnni)
    exact = encoder()
    fast = optimize(exact, dtype="int8", input_size=128)
    assert worst_cosine(fast, exact, pixels(8, 3, 128, 128)) >= 0.99
    assert worst_cosine(fast, exact, pixels(2, 3, 160, 160)) >= 0.99


def planted(product: int) -> Encoder:
    """Loud, with one hidden channel of a block so large that a common scale rounds all others away."""
    exact = encoder()
    mlp = exact.blocks[product].mlp
    with torch.no_grad():
        mlp.fc1.bias[0] = 3000.0
        mlp.fc2.weight[:, 0] = 1e-6
    return exact


def test_sensitivity__finds_the_outlier() -> None:
    """A ranking of weights alone, or in the wrong order, would not name the layer whose inputs cannot be rounded."""
    assert by_harm(planted(2), pixels(2, 3, 64, 64))[0] == "blocks.2.mlp.fc2"


@needs_int8
@pytest.mark.nightly
def test_int8__keeps_sensitive_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing kept, the planted outlier takes the cosine below the target; the rule restores it."""
    exact = planted(2)
    fast = optimize(exact, dtype="int8", input_size=128)
    assert "blocks.2.mlp.fc2" in fast.report.kept
    assert "blocks.2.mlp.fc2" in str(fast.report)
    assert fast.report.trusted
    assert 0.5 < fast.report.int8_share < 1
    assert worst_cosine(fast, exact, pixels(8, 3, 128, 128)) >= 0.99
    monkeypatch.setattr(quantize, "KEPT_SHARES", ())
    assert not optimize(exact, dtype="int8", input_size=128).report.trusted


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
