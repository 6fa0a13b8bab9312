"""Fast engines: sizes without end, and weights that change behind torch's back."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import torch

import hierax
from hierax.errors import InputError
from hierax.model.encoder import Encoder

from ...members import loud, pixels, plain_config
from ...tolerance import FP32, distance
from .case import Case


def _encoder() -> Encoder:
    return loud(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16, num_classes=3)))


def _many_sizes(products: str) -> Callable[[Path], float]:
    """Distance from the readable encoder after 160 sizes."""

    def act(folder: Path) -> float:
        os.environ["HIERAX_FORCE_PRODUCTS"] = products
        exact, x = _encoder(), pixels(1, 3, 96, 160)
        fast = hierax.optimize(exact)
        with torch.inference_mode():
            for height in range(32, 32 * 11, 32):
                for width in range(32, 32 * 17, 32):
                    fast.embedding(torch.zeros(1, 3, height, width))
            return distance(fast(x), exact(x))

    return act


def _extreme_sizes(folder: Path) -> float:
    exact = _encoder()
    fast = hierax.optimize(exact)
    with torch.inference_mode():
        inputs = (pixels(1, 3, 4096, 32), pixels(1, 3, 32, 4096), pixels(1, 3, 32, 32), torch.zeros(0, 3, 64, 64))
        return max(distance(fast(x), exact(x)) if len(x) else float(fast(x).numel()) for x in inputs)


def _written_behind(folder: Path) -> float:
    exact, x = _encoder(), pixels(1, 3, 64, 64)
    fast = hierax.optimize(exact)
    with torch.inference_mode():
        fast(x)
        exact.blocks[2].attn.qkv.bias.data.fill_(3.0)
        return distance(fast(x), exact(x))


def _pickled(folder: Path) -> float:
    exact, x = _encoder(), pixels(1, 3, 64, 64)
    fast = hierax.optimize(exact)
    with torch.inference_mode():
        fast(x)
        return distance(pickle.loads(pickle.dumps(fast))(x), exact(x))


def _right(found: float) -> bool:
    return found <= FP32


CASES = [
    Case("160 sizes, plain products", act=_many_sizes("plain"), expect=_right, megabytes=450, seconds=60),
    Case("160 sizes, packed products", act=_many_sizes("packed"), expect=_right, megabytes=450, seconds=60),
    Case("extreme sizes and no images", act=_extreme_sizes, expect=_right, megabytes=500, seconds=30),
    Case("weights written behind torch", act=_written_behind, expect=_right, seconds=20),
    Case("a pickle of a used engine", act=_pickled, expect=_right, seconds=20),
    Case(
        "one pixel",
        act=lambda folder: hierax.optimize(_encoder()).embedding(torch.zeros(1, 3, 1, 1)),
        raises=InputError,
        match="multiple",
    ),
]
