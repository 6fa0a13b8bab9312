"""Every public object can be copied, pickled, sent to a process that was spawned, and used by threads at once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierax
from hierax import errors
from hierax.compat.birder import classification_transform
from hierax.compat.birder.net import Net
from hierax.compat.transformers import (
    BackboneOutput,
    BitImageProcessor,
    HieraBackbone,
    HieraConfig,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraModel,
)
from hierax.data.datasets.open import open_data
from hierax.train.run import RunSummary
from hierax.weights.geometry import AmbiguousError

from .members import noise, picture, pixels, tiny, tiny_mae, weights_of

SMALL = HieraConfig(embed_dim=8, image_size=[64, 64], depths=[1, 1, 1, 1], num_labels=3)
MASKED = {**SMALL.to_dict(), "num_query_pool": 2, "decoder_hidden_size": 16, "decoder_depth": 1, "decoder_num_heads": 2}


_FOLDERS = contextlib.ExitStack()  # lives as long as the process


def _seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        made = make()
    return made.eval() if isinstance(made, torch.nn.Module) else made


def _fast(model: Any) -> Any:
    return hierax.optimize(model, engine="torch")


@functools.cache
def album() -> str:
    """A folder of embeddings of one picture, which goes when the process ends."""
    folder = Path(_FOLDERS.enter_context(tempfile.TemporaryDirectory(prefix="hierax-objects-")))
    picture().save(folder / "a.png")
    hierax.embed(folder / "a.png", folder / "store/", model=hierax.load(), workers=0, progress=False)
    return str(folder / "store")


def store() -> hierax.Store:
    pytest.importorskip("pyarrow")
    return hierax.open_store(album())


# What makes an object, and a question that it answers with numbers or text.
OBJECTS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "Predictor": (hierax.load, lambda p: p.embed(noise())),
    "Predictor, fast": (lambda: hierax.load(fast=True), lambda p: p.embed(noise())),
    "Encoder": (tiny, lambda m: m(pixels(2, 3, 64, 64))),
    "Encoder, fast": (lambda: _fast(tiny()), lambda m: m(pixels(2, 3, 64, 64))),
    "MaskedAutoencoder": (tiny_mae, lambda m: m(pixels(1, 3, 64, 64), visible=torch.arange(2)[None]).loss),
    "MAEOutput": (
        lambda: tiny_mae()(pixels(1, 3, 64, 64), visible=torch.arange(2)[None]),
        lambda o: o.prediction.detach(),
    ),
    "ModelConfig": (hierax.ModelConfig, lambda c: c.to_dict()),
    "PreprocessSpec": (hierax.PreprocessSpec, lambda s: s.to_dict()),
    "ModelCard": (lambda: hierax.describe("hiera_nano_96"), str),
    "Prediction": (lambda: hierax.Prediction("a", 1, 0.5), lambda p: p.to_dict()),
    "RunSummary": (
        lambda: RunSummary(**{field.name: number for number, field in enumerate(dataclasses.fields(RunSummary))}),
        repr,
    ),
    "EmbedSummary": (lambda: hierax.EmbedSummary(3, 1, 1, 0.5, Path("out")), lambda s: (s.within_limit, str(s.out))),
    "Backbone": (lambda: hierax.Backbone(weights_of(tiny().config)), lambda b: b(pixels(1, 3, 64, 64))[-1]),
    "ExportReport": (lambda: hierax.ExportReport(Path("a.onnx"), 1e-7, 1.0, ((64, 64),), 1.5), repr),
    "Hit": (lambda: hierax.Hit("a.jpg", 0.5, 3), lambda h: (h.path, h.score, h.row)),
    "Store": (store, lambda s: s.vectors()),
    "data": (lambda: open_data("shapes:8"), lambda d: [d.name(i) for i in range(len(d))]),
    "transform": (
        lambda: classification_transform((64, 64), {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        lambda t: t(picture()),
    ),
    "birder's net": (lambda: Net(tiny()), lambda n: n(pixels(1, 3, 64, 64))),
    "HieraConfig": (lambda: SMALL, lambda c: c.to_dict()),
    "BitImageProcessor": (BitImageProcessor, lambda p: p(noise(), return_tensors="np")["pixel_values"]),
    "HieraModel": (lambda: HieraModel(SMALL), lambda m: m(pixels(1, 3, 64, 64)).pooler_output),
    "HieraBackbone": (lambda: HieraBackbone(SMALL), lambda m: m(pixels(1, 3, 64, 64)).feature_maps[0]),
    "HieraForImageClassification": (
        lambda: HieraForImageClassification(SMALL),
        lambda m: m(pixels(1, 3, 64, 64)).logits,
    ),
    "HieraForPreTraining": (
        lambda: HieraForPreTraining(HieraConfig(**MASKED)),
        lambda m: m(pixels(1, 3, 64, 64), noise=torch.linspace(0, 1, 4)[None]).loss,
    ),
    "BackboneOutput": (lambda: BackboneOutput(feature_maps=(torch.ones(1),)), lambda o: o.feature_maps[0]),
    "UnknownNameError": (lambda: hierax.UnknownNameError("rule"), str),
    "IntegrityError": (lambda: hierax.IntegrityError("rule"), str),
    "MissingExtraError": (lambda: hierax.MissingExtraError("data", "pyarrow"), str),
    "AmbiguousError": (lambda: AmbiguousError("rule", ("a", "b")), lambda e: (str(e), e.candidates)),
}


def _ask(name: str, made: Any) -> Any:
    with torch.no_grad():
        answer = OBJECTS[name][1](made)
    return answer.numpy() if isinstance(answer, torch.Tensor) else answer


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return bool(np.allclose(first, second, rtol=1e-5, atol=1e-6))
    return bool(first == second)


@pytest.fixture(params=OBJECTS)
def name(request: pytest.FixtureRequest) -> str:
    """One of the objects."""
    return request.param


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_answer_alike(how: str, name: str) -> None:
    """An attribute that belongs to this process, or an error whose class takes other arguments, fails here."""
    made = _seeded(OBJECTS[name][0])
    before = _ask(name, made)
    assert _equal(_ask(name, COPIES[how](made)), before)


def test_deep_copies_are_independent() -> None:
    """A copy that shares parameters, or an engine that packed them, would follow its original."""
    for fast in (False, True):
        predictor = hierax.load(fast=fast)
        twin, before = copy.deepcopy(predictor), predictor.embed(noise())
        with torch.no_grad():
            for parameter in predictor.model.parameters():
                parameter.zero_()
        assert np.allclose(twin.embed(noise()), before, atol=1e-6)


@pytest.mark.slow
def test_threads_answer_alike(name: str) -> None:
    """Eight at once share what an engine caches and what a decoder holds."""
    made = _seeded(OBJECTS[name][0])
    before = _ask(name, made)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _ask(name, made), range(16)))
    assert all(_equal(answer, before) for answer in answers)


@pytest.mark.slow
def test_spawned_processes_answer_alike() -> None:
    """A spawned process has imported nothing: what a pickle leaves out is missing there, not here."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        made = {name: _seeded(OBJECTS[name][0]) for name in OBJECTS}
        sent = [(name, pickle.dumps(value)) for name, value in made.items()]
        answers = dict(zip(made, pool.starmap(_asked, sent), strict=True))
    wrong = [name for name, answer in answers.items() if not _equal(answer, _ask(name, made[name]))]
    assert not wrong


def _asked(name: str, sent: bytes) -> Any:
    return _ask(name, pickle.loads(sent))


def test_state_dicts_survive_a_file() -> None:
    """Names that a module spells for others must lead back into it, the fast one's too."""
    for name, (make, _) in OBJECTS.items():
        made = _seeded(make)
        if not isinstance(made, torch.nn.Module):
            continue
        stream = io.BytesIO()
        before = _ask(name, made)
        torch.save(made.state_dict(), stream)
        stream.seek(0)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(0.5)
        made.load_state_dict(torch.load(stream, weights_only=True))
        assert _equal(_ask(name, made), before), name


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["Encoder", "HieraModel", "birder's net"])
def test_compiled_modules_answer_alike(name: str) -> None:
    """torch.compile traces what a module does; what it cannot trace it must run as it is."""
    made = _seeded(OBJECTS[name][0])
    before = _ask(name, made)
    assert _equal(_ask(name, torch.compile(made, backend="aot_eager")), before)


def test_every_public_class_is_asked() -> None:
    """A public class that nobody adds to the list above would go unasked."""
    classes = {name for name in hierax.__all__ if isinstance(getattr(hierax, name), type)}
    asked = {kind.__name__ for make, _ in OBJECTS.values() for kind in type(_seeded(make)).__mro__}
    raised = {name for name in classes if issubclass(getattr(hierax, name), errors.HieraxError)}
    handles = {"Acceleration"}  # of one live model, as tests/accelerate asks it
    assert classes - raised - handles <= asked
    for name in raised - {"MissingExtraError"}:
        error = getattr(hierax, name)("rule")
        assert str(pickle.loads(pickle.dumps(error))) == "rule"
