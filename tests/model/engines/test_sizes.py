"""What a fast encoder keeps while sizes change: right answers at every legal one, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from hierax.errors import InputError
from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder, eager, optimize, products
from hierax.model.engines.base import Recent

from ...members import det_config, loud, pixels
from ...tolerance import FP32, distance
from .test_changes import apart, encoder


@pytest.fixture(autouse=True, params=["plain", "packed"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only plain products keep buffers; both keep tables."""
    monkeypatch.setenv("HIERAX_FORCE_PRODUCTS", request.param)


SIZES = ((32, 32), (4096, 32), (32, 2048), (64, 96), (128, 32), (96, 96), (32, 64), (160, 64))


def test_sizes__eight_threads() -> None:
    """Each with a size of its own, so that tables are made and thrown away while others read theirs."""
    exact = encoder()
    fast = optimize(exact)
    inputs = [pixels(1, 3, *size) for size in SIZES]
    with torch.inference_mode():
        expected = [exact.embedding(x) for x in inputs]

    def work(index: int) -> float:
        with torch.inference_mode():
            return max(distance(fast.embedding(inputs[index]), expected[index]) for _ in range(3))

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(work, range(8))) <= FP32


@pytest.mark.parametrize("size", [(1, 1), (0, 32), (32, 0), (31, 32), (4097, 32), (16, 16), (32, 33)])
@pytest.mark.parametrize("make", [lambda: encoder(), lambda: loud(Encoder(det_config()))])
def test_sizes__illegal_or_right(size: tuple[int, int], make: Callable[[], Encoder]) -> None:
    """Plain and fast agree on what a size may be, and on its answer."""
    exact = make()
    fast, x = optimize(exact), torch.zeros(1, 3, *size)
    try:
        exact.config.check_size(size)
    except InputError:
        for e in (fast, exact):
            with pytest.raises(InputError):
                e.embedding(x)
    else:
        assert apart(fast, exact, pixels(1, 3, *size)) <= FP32


def test_sizes__tables_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two tables of large images are gigabytes."""
    monkeypatch.setattr(eager, "TABLE_BYTES", 400_000)
    exact = loud(Encoder(det_config()))
    fast = optimize(exact)
    for width in range(32, 800, 32):
        fast.embedding(pixels(1, 3, 64, width))
    engine = fast.current()
    for cache in (engine.position, engine.schedule):
        assert 1 <= len(cache.held) < 24
        assert sum(map(cache.size, cache.held.values())) <= 400_000
    fast.embedding(x := pixels(1, 3, 512, 512))  # larger than all together
    assert list(engine.position.held) == [((128, 128),)]
    assert distance(fast.embedding(x), exact.embedding(x)) <= FP32


def test_sizes__large_buffers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One large image would otherwise hold its largest product in each thread until that ends."""
    monkeypatch.setattr(products, "KEPT_BYTES", 200_000)
    monkeypatch.setattr(products, "_scratch", type("Scratch", (), {})())
    exact = encoder()
    fast = FastEncoder(exact, partial(eager.TorchEngine, products="plain"))
    for x in (pixels(1, 3, 32, 32), pixels(2, 3, 256, 256), pixels(1, 3, 32, 32)):
        assert apart(fast, exact, x) <= FP32
        held = [value.nbytes for value in vars(products._scratch).values() if value is not None]
        assert max(held, default=0) <= 200_000


def test_recent__keeps_the_last() -> None:
    """A limit that counted the wrong end, or threw away the only answer, would make each of them again."""
    made: list[int] = []
    recent = Recent(3, lambda n: made.append(n) or n, lambda n: n, 10)
    for n in (4, 5, 4, 1, 99, 99, 4):
        assert recent(n) == n
    assert made == [4, 5, 1, 99, 4]
    assert list(recent.held.values()) == [4]
