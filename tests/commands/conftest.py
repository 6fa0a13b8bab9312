"""A folder to run commands in, and the normal voice before and after each."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image


def picture(path, seed=1):
    """A small PNG under any name."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 40)).save(path, format="PNG")
    return path


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty working folder with one picture, `a.png`."""
    monkeypatch.chdir(tmp_path)
    picture("a.png")
    return tmp_path


@pytest.fixture(autouse=True)
def _voice(monkeypatch):
    """Verbosity is the process's; a test that changes it must not silence the next."""
    monkeypatch.setenv("HIERAX_QUIET", "")
    level = logging.getLogger("hierax").level
    yield
    logging.getLogger("hierax").setLevel(level)
