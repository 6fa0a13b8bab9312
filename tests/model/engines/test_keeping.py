"""Kept programs: the same network finds its own, any other does not, and `auto` takes what answers at once.

What converts runs in a process of its own, as OpenVINO starts threads, and a process that holds them must not fork.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hierax import kept
from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder, keeping, optimize
from hierax.model.engines.base import EMBEDDING
from hierax.model.engines.quantize import Calibration
from hierax.model.engines.ready import ReadyEngine

from ...members import loud, pixels, plain_config
from ...tolerance import FP32, LOUD, distance

needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="the extra openvino is missing")
needs_int8 = pytest.mark.skipif(not importlib.util.find_spec("nncf"), reason="the extra int8 is missing")
SIZE = (3, 64, 64)


def encoder(**options: object) -> Encoder:
    """One block a stage."""
    return loud(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16, **{"num_classes": 3, **options})))


def name_of(model: Encoder, size: tuple[int, ...] = SIZE, last: int = EMBEDDING, **more: Any) -> str:
    """What its program is kept under."""
    return keeping.wanted(model, size, last, **more).name


# --- the key: a wrong hit would be a wrong answer -----------------------------------------------------------------


def test_wanted__the_same_network() -> None:
    """Another object, a copy, the fast one of it, other classes: nothing that a program has in it differs."""
    model = encoder()
    again = [encoder(), copy.deepcopy(model), FastEncoder(model), encoder(num_classes=0), encoder(num_classes=7)]
    again[3].load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
    again[4].load_state_dict(model.state_dict() | again[4].head.state_dict(prefix="head."))
    assert {name_of(each) for each in (model, *again)} == {name_of(model)}


def _data(path: str, change: Callable[[torch.Tensor], object]) -> Callable[[Encoder], object]:
    return lambda e: change(e.get_parameter(path).data)


CHANGES: dict[str, Callable[[Encoder], object]] = {
    "one element": _data("blocks.2.mlp.fc1.weight", lambda p: p.view(-1)[77].mul_(1.0001)),
    "one bit": _data("pos_embed", lambda p: p.view(torch.int32).view(-1)[5].bitwise_xor_(1)),
    "a sign": _data("blocks.1.norm1.bias", lambda p: p[3].neg_()),
    "two swapped": _data("blocks.0.attn.qkv.bias", lambda p: p[:2].copy_(p[:2].flip(0).clone())),
    "numpy": lambda e: e.patch_embed.proj.weight.detach().numpy().__setitem__((0, 0, 0, 0), 9.0),
    "another parameter": lambda e: setattr(e, "pos_embed", nn.Parameter(e.pos_embed.detach() * 2)),
    "reversed": lambda e: e.blocks[0].attn.load_state_dict({k: v.flip(0) for k, v in e.blocks[0].attn.state_dict().items()}),
    "eps": lambda e: setattr(e.blocks[1].norm2, "eps", 0.5),
    "window": lambda e: setattr(e.blocks[0], "window", (4, 4)),
    "global": lambda e: setattr(e.blocks[0], "window", None),
    "heads": lambda e: setattr(e.blocks[2].attn, "heads", e.blocks[2].attn.heads * 2),
    "padding": lambda e: setattr(e.patch_embed.proj, "padding_mode", "reflect"),
    "bfloat16": lambda e: e.bfloat16(),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_wanted__another_network(change: str) -> None:
    """Nothing that decides an answer may be missing in the key; torch counts few of these changes."""
    model = encoder()
    before = name_of(model)
    CHANGES[change](model)
    assert name_of(model) != before


def test_wanted__another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, outputs, int8 and versions share weights; each config its own."""
    model = encoder()
    names = [
        name_of(model),
        name_of(model, size=(3, 64, 96)),
        name_of(model, size=(3, 96, 64)),
        name_of(model, last=3),
        name_of(model, lower={"kept": []}),
        name_of(model, lower={"kept": ["blocks.1.mlp.fc1"]}),
        name_of(encoder(head="norm_pool")),
        name_of(encoder(norm_eps=1e-5)),
        name_of(encoder(position_antialias=True)),
    ]
    found = keeping._versions()
    for version in found:
        monkeypatch.setattr(keeping, "_versions", lambda version=version: {**found, version: "other"})
        names.append(name_of(model))
    assert len({*names}) == len(names)


# --- whole starts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Calls a function of this module in the other process, with a cache of this module."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (cache,)) as pool:
        yield lambda function, *args: pool.submit(function, *args).result(timeout=1800)


def _begin(cache: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(HIERAX_CACHE=cache, HIERAX_CACHE_LIMIT="5GB", HIERAX_FORCE_BF16="0")
    optimize(encoder(), engine="openvino")  # imports


def started(model: Encoder, x: torch.Tensor, **options: Any) -> tuple[torch.Tensor, float, Encoder]:
    """An answer of a new fast encoder, the processor's seconds until it came, and the encoder."""
    begun = time.process_time()
    fast = optimize(model, **options)
    with torch.inference_mode():
        found = fast.embedding(x)
    return found, time.process_time() - begun, fast


def second_start() -> None:
    """At most a quarter of the first, with the same bits; weights written behind torch's back get none of it."""
    x = pixels(1, *SIZE)
    first, seconds, _ = started(encoder(), x, engine="openvino")
    second, again, _ = started(encoder(), x, engine="openvino")
    assert distance(first, encoder().embedding(x)) <= FP32
    assert torch.equal(first, second)
    assert again <= 0.25 * seconds, (again, seconds)
    assert [(e.about["output"], e.about["input_size"], e.about["precision"]) for e in kept.entries()] == [
        ("embedding", [64, 64], "float32")
    ]


def auto_is_ready() -> None:
    """Openvino where a program is kept, torch elsewhere and for other weights; nothing is converted."""
    x, wide = pixels(1, *SIZE), pixels(1, 3, 64, 96)
    model, names = encoder(), kept.names("")
    found, _, fast = started(model, x)
    assert fast.choice.startswith("engine openvino, f32 on cpu")
    assert distance(found, model.embedding(x)) <= FP32
    with torch.inference_mode():
        assert distance(fast.embedding(wide), model.embedding(wide)) <= FP32
        assert distance(fast.detection_features(x)["stage2"], model.detection_features(x)["stage2"]) <= FP32
        x[0, 0, 0, 0] = float("nan")
        assert fast.embedding(x).isnan().any()
        x[0, 0, 0, 0] = 0
        model.blocks[1].mlp.fc1.weight.data.mul_(1.5)  # the memory is shared; torch counts no change
        assert distance(fast.embedding(x), found) > LOUD * FP32
        assert distance(fast.embedding(x), model.embedding(x)) <= FP32
        assert fast.choice.startswith("engine torch")
        assert optimize(model).choice.startswith("engine torch")
        assert optimize(encoder(), dtype="float16").choice.startswith("engine torch")
        assert optimize(encoder(), engine="torch").choice.startswith("engine torch")
    assert kept.names("") == names


def damaged_since() -> None:
    """A program that was damaged or cleared after it was seen: the torch engine answers, and it is told once."""
    model, x, said = encoder(), pixels(1, *SIZE), []
    fast = optimize(model)
    assert isinstance(fast.current(), ReadyEngine)
    (program,) = kept.entries()
    binary = program.path / keeping.FILE.replace("xml", "bin")
    os.truncate(binary, 1000)
    log = logging.getLogger("hierax")
    log.addFilter(lambda record: said.append(record.getMessage()) or True)
    with torch.inference_mode():
        for _ in range(2):
            assert distance(fast.embedding(x), model.embedding(x)) <= FP32
    assert ["damaged" in line for line in said] == [True]
    assert kept.entries() == []


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize("part", [second_start, auto_is_ready, damaged_since], ids=lambda f: f.__name__)
def test_kept(part: Callable[[], None], alone: Callable[..., Any]) -> None:
    """In this order: each goes on with what the one before left in the cache."""
    alone(partial(part))


def test_keep__changed_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights that another thread writes while they are converted: that program is nobody's."""
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path))
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", "5GB")
    model = encoder()
    monkeypatch.setattr(keeping, "_version", lambda package: "1")
    monkeypatch.setattr(keeping, "_save", lambda program, path: path.write_bytes(program))
    program = keeping.wanted(model, SIZE, EMBEDDING)
    assert keeping.keep(program, b"sound", model)
    kept.clear()

    def save(program: bytes, path: Path) -> None:
        path.write_bytes(program)
        model.blocks[0].mlp.fc1.weight.data[0, 0] += 1

    monkeypatch.setattr(keeping, "_save", save)
    assert not keeping.keep(program, b"of neither", model)
    assert kept.names("") == []


@needs_int8
def test_calibration__key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without the images, or without what a processor decides, would answer with another one's ranges."""
    images = pixels(4, *SIZE)
    monkeypatch.setenv("HIERAX_FORCE_BF16", "0")
    monkeypatch.setenv("HIERAX_FORCE_VNNI", "0")
    given: list[tuple[Any, ...]] = [((64, 64), images), ((64, 64), images[:3]), ((64, 64), images * 1.01)]
    given += [((64, 64),), ((64, 96),)]
    keys = [Calibration(*each).key for each in given]
    assert Calibration((64, 64), images.clone()).key == keys[0]
    for name in ("HIERAX_FORCE_BF16", "HIERAX_FORCE_VNNI"):
        monkeypatch.setenv(name, "1")
        keys.append(Calibration((64, 64), images).key)
    assert all(keys.count(key) == 1 for key in keys)
