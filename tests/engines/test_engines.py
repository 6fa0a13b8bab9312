"""The engines that compile: the same numbers through OpenVINO, its absence, and int8's report."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import hierax
from hierax.data.datasets.shapes import render
from hierax.data.preprocess import preprocess
from hierax.errors import InputError, MissingExtraError
from hierax.model.encoder import Encoder
from hierax.model.engines import openvino, optimize, processor, quantize
from hierax.model.engines.base import EMBEDDING
from hierax.model.engines.graph import export
from hierax.model.engines.quantize import by_harm

from ..members import det_config, loud, pixels
from ..tolerance import FP32, distance
from .test_optimize import FAMILIES, answers, apart

ROOT = Path(__file__).resolve().parents[2]
needs_int8 = pytest.mark.skipif(
    not (openvino.has_openvino() and importlib.util.find_spec("nncf")), reason="the extra int8 is not installed"
)
needs_openvino = pytest.mark.skipif(not openvino.has_openvino(), reason="the extra openvino is not installed")


def encoder() -> Encoder:
    """Cut windows in stages 3 and 4 at 128 pixels, one global block."""
    return loud(Encoder(det_config(depths=(1, 1, 3, 1), global_blocks=(3,), head="norm_pool", num_classes=4)))


def test_export__any_batch() -> None:
    """A batch size traced as a constant would fail, or answer for the wrong images."""
    exact = encoder()
    program = export(exact, pixels(2, 3, 128, 128), EMBEDDING, any_batch=True).module()
    with torch.no_grad():
        for b in (1, 3):
            x = pixels(b, 3, 128, 128)
            assert distance(program(x)[0], exact.embedding(x)) <= FP32


@pytest.mark.nightly
@needs_openvino
@pytest.mark.parametrize(("name", "size"), [(name, sizes[-1]) for name, (_, sizes) in FAMILIES.items()])
def test_openvino__equals_readable(name: str, size: tuple[int, ...]) -> None:
    """A layer converted wrongly, or a batch filled up and not cut back, would be far off."""
    exact = loud(Encoder(FAMILIES[name][0]))
    fast = optimize(exact, engine="openvino")
    assert fast.choice == "engine openvino, f32 on cpu"
    x = pixels(3, 3, *size)
    assert apart(fast, exact, x) <= FP32
    with torch.no_grad():
        assert distance(fast(x[:2]), exact(x[:2])) <= FP32
        ours, theirs = fast.detection_features(x, ["stage1", "stage3"]), exact.detection_features(x)
    assert all(distance(ours[key], theirs[key]) <= FP32 for key in ("stage1", "stage3"))


@pytest.mark.nightly
@needs_openvino
@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_openvino__bfloat16(native: str, given: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head left in float32 could not take the engine's bfloat16; a processor must not decide who meets that."""
    monkeypatch.setenv("HIERAX_FORCE_BF16", native)
    exact = encoder()
    fast = optimize(exact, dtype="bfloat16", engine="auto" if native == "1" else "openvino")
    assert fast.choice == f"engine openvino, {'bf16' if native == '1' else 'f32'} on cpu"
    x = pixels(2, 3, 128, 128)
    with torch.inference_mode():
        said, wanted = answers(fast, x.to(given)), answers(exact, x)
    assert {answer.dtype for answer in said.values()} == {torch.bfloat16}
    for key, answer in said.items():
        assert torch.nn.functional.cosine_similarity(answer.float().flatten(), wanted[key].flatten(), dim=0) > 0.995


@pytest.mark.nightly
@needs_openvino
def test_openvino__threads_and_copies() -> None:
    """One request for all threads raises "Infer Request is busy"; programs have no copy, so each twin makes its own."""
    exact = encoder()
    fast = optimize(exact, engine="openvino")
    inputs = [pixels(1 + i % 2, 3, 64, 64, seed=i) for i in range(8)]
    with torch.inference_mode():
        expected = [exact.embedding(x) for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(fast.embedding, inputs * 25))
        assert max(distance(a, b) for a, b in zip(found, expected * 25, strict=True)) <= FP32
        assert distance(copy.deepcopy(fast).embedding(inputs[0]), expected[0]) <= FP32
        other = loud(Encoder(exact.config), seed=3)
        fast.load_state_dict(other.state_dict(), assign=True)
        assert distance(fast.embedding(inputs[0]), other.embedding(inputs[0])) <= FP32


class Standin:
    """A program that answers like the readable encoder and remembers which batches it was made for."""

    made: list[int]
    encoder: Encoder

    def __init__(self, model: object, precision: str, size: tuple[int, ...], last: int, batch: int) -> None:
        self.made.append(batch)
        self.batch = batch

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The embedding."""
        assert x.shape[0] == self.batch
        return [self.encoder.embedding(x)]


def test_openvino__a_program_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image in a program for eight pays for seven blank ones; 7 of 8 is not worth a program."""
    monkeypatch.setattr(openvino, "has_openvino", lambda: True)
    monkeypatch.setattr(openvino, "Program", Standin)
    monkeypatch.setattr(Standin, "made", [], raising=False)
    exact = encoder()
    monkeypatch.setattr(Standin, "encoder", exact, raising=False)
    fast, x = optimize(exact, engine="openvino"), pixels(8, 3, 64, 64)
    with torch.no_grad():
        for batch in (8, 1, 7, 6, 4, 1, 5, 3, 2, 8):
            assert distance(fast.embedding(x[:batch]), exact.embedding(x[:batch])) <= FP32
        assert Standin.made == [8, 1, 4, 5, 2]
        fast.embedding(pixels(1, 3, 64, 96))
        assert Standin.made == [8, 1, 4, 5, 2, 1]
        monkeypatch.setattr(openvino, "PROGRAMS", 2)
        fast.refresh()
        for batch in (1, 2, 4, 8):
            fast.embedding(x[:batch])
    assert [batch for *_, batch in fast.current()._program.held] == [4, 8]


def test_openvino__a_request_for_each_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that two threads used at once would mix their images, or refuse the second."""
    together = threading.Barrier(3, timeout=30)

    class Request:
        busy = False

        def infer(self, inputs: list, share_inputs: bool) -> list:
            assert not self.busy
            self.busy = True
            together.wait()
            self.busy = False
            return [inputs[0] + 1]

    made: list[Request] = []
    program = object.__new__(openvino.Program)
    program._idle = []
    program._compiled = types.SimpleNamespace(create_infer_request=lambda: made.append(Request()) or made[-1])
    inputs = [torch.full((1, 2), float(i)) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = [done[0] for done in pool.map(program, inputs)]
    assert all(torch.equal(a, b + 1) for a, b in zip(found, inputs, strict=True))
    assert len(made) == 3


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
