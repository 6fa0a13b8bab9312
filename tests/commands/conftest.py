"""A folder to run commands in, and the normal voice before and after each."""

from __future__ import annotations

import logging

import pytest

from ..members import write_png


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty working folder with one picture, `a.png`."""
    monkeypatch.chdir(tmp_path)
    write_png("a.png")
    return tmp_path


@pytest.fixture(autouse=True)
def _voice(monkeypatch):
    """Verbosity is the process's; a test that changes it must not silence the next."""
    monkeypatch.setenv("HIERAX_QUIET", "")
    level = logging.getLogger("hierax").level
    yield
    logging.getLogger("hierax").setLevel(level)
