"""The `openvino` engine: the readable numbers in every precision, threads, batches, and its absence."""

from __future__ import annotations

import copy
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hierax.errors import InputError, MissingExtraError
from hierax.model.encoder import Encoder
from hierax.model.engines import openvino, optimize
from hierax.model.engines.base import EMBEDDING
from hierax.model.engines.graph import export

from ...members import det_config, loud, pixels
from ...tolerance import FP32, distance
from .test_optimize import FAMILIES, apart

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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_openvino__what_it_cannot_answer(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 gave confident classes for an image of NaN, and OpenVINO's norms for one whose squares overflow."""
    monkeypatch.setattr(openvino, "has_openvino", lambda: True)
    monkeypatch.setattr(openvino, "Program", Standin)
    monkeypatch.setattr(Standin, "made", [], raising=False)
    exact, x = encoder(), pixels(2, 3, 64, 64)
    monkeypatch.setattr(Standin, "encoder", exact, raising=False)
    fast = optimize(exact, engine="openvino")
    x[1, 0, 3, 5] = value
    with torch.no_grad():
        assert torch.equal(fast(x).isnan(), exact(x).isnan())
        assert Standin.made == []
        exact.blocks[2].mlp.fc1.weight.view(-1)[7] = value
    with pytest.raises(InputError, match=r"blocks\.2\.mlp\.fc1\.weight.*engine='torch'"):
        optimize(exact, engine="openvino").embedding(x[:1])


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


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> openvino.Program:
    """A program whose requests answer with what they were given."""
    monkeypatch.setattr(openvino, "REQUESTS", 2)

    class Compiled:
        def create_infer_request(self) -> Compiled:
            return self

        def infer(self, inputs: list, share_inputs: bool) -> list:
            inner(inputs)
            return [inputs[0]]

    program = object.__new__(openvino.Program)
    program._compiled, program._idle = Compiled(), []
    depth = [0]

    def inner(inputs: list) -> None:
        depth[0] += 1
        if depth[0] < 5:
            program(torch.zeros(1))

    return program


def test_openvino__few_requests_are_kept(requests: openvino.Program) -> None:
    """Each holds the tokens of a call: a burst of threads would leave one for each of them."""
    requests(torch.zeros(1))
    assert len(requests._idle) == 2


def test_openvino__missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from the depths would not say what to install."""
    monkeypatch.setattr(openvino, "has_openvino", lambda: False)
    with pytest.raises(MissingExtraError, match=r"hierax\[openvino\]"):
        optimize(encoder(), engine="openvino")
