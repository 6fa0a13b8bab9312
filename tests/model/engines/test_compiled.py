"""The `compile` engine: the readable numbers at every size, and what it says without a C++ compiler."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hierax.errors import HieraxError
from hierax.model.encoder import Encoder
from hierax.model.engines import compiled, optimize

from ...members import det_config, loud, pixels
from ...tolerance import FP32, distance

ROOT = Path(__file__).parents[3]
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


def encoder() -> Encoder:
    """One block a stage but for stage 3's global one; cut windows at 128 pixels."""
    return loud(Encoder(det_config(depths=(1, 1, 2, 1), global_blocks=(3,), head="norm_pool", num_classes=4)))


@pytest.mark.nightly
@needs_compiler
def test_compile__equals_readable() -> None:
    """A program kept from another size, weights frozen before a change, or stages in another order would be far off."""
    exact = encoder()
    fast = optimize(exact, engine="compile", input_size=128)
    assert "compile" in fast.choice
    with torch.inference_mode():
        for x in (pixels(2, 3, 128, 128), pixels(1, 3, 64, 96)):
            assert distance(fast.embedding(x), exact.embedding(x)) <= FP32
        x = pixels(2, 3, 128, 128)
        ours, theirs = fast.detection_features(x), exact.detection_features(x)
    assert list(ours) == list(theirs)
    assert max(distance(ours[key], theirs[key]) for key in theirs) <= FP32


@pytest.mark.nightly
@needs_compiler
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch packs float32 weights with MKL only")
def test_compile__old_programs_are_freed() -> None:
    """Inductor lists every module it generated: each size would keep the weights twice for the process's life.

    In a process of its own: pytest holds programs too.
    """
    code = f"from {__name__} import packed_by_five_sizes; print(*packed_by_five_sizes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    one, all_ = map(int, done.stdout.split()[-2:])
    assert 0 < 2 * one <= all_ <= 3 * one  # Dynamo holds the last


def packed_by_five_sizes() -> tuple[int, int]:
    """Packed weights that are held after one program, and after five of which two are kept."""
    compiled.PROGRAMS = 2
    fast, held = optimize(encoder(), engine="compile"), []
    for width in range(32, 32 * 6, 32):
        fast.detection_features(pixels(1, 3, 32, width), ["stage1"])
        gc.collect()  # what one program leaves keeps the next from being freed in one go
        held.append(sum(type(thing) is torch.Tensor and thing.is_mkldnn for thing in gc.get_objects()))
    return held[0], held[-1]


def test_compile__without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error from inductor's depths would not say that another engine needs nothing more."""
    from torch._inductor import config, cpp_builder

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    cached = getattr(cpp_builder, "cpp_compiler_search", None)
    if hasattr(cached, "cache_clear"):
        cached.cache_clear()
    with pytest.raises(HieraxError, match=r"C\+\+ compiler.*engine='torch'"):
        optimize(encoder(), engine="compile", input_size=64).embedding(pixels(1, 3, 64, 64))
