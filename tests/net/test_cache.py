"""The cache's places, and the turns that processes take at it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from hierax.errors import InputError, IntegrityError
from hierax.net import cache as places
from hierax.net.cache import alone, cache_root


def test_a_machine_without_homes_has_a_cache(monkeypatch):
    """A folder named "~" would appear wherever a person happens to stand."""
    monkeypatch.setattr(constants, "HF_HOME", "~/.cache/huggingface")
    assert cache_root() == Path(tempfile.gettempdir()) / "hierax"


def test_the_second_waits_and_says_so(cache, monkeypatch):
    """Two that write one file at a time destroy it; one that waits in silence looks dead."""
    said, order = threading.Event(), []
    monkeypatch.setattr(places, "say", lambda text: said.set())

    def second():
        with alone("a thing"):
            order.append("second")

    thread = threading.Thread(target=second)
    with alone("a thing"):
        thread.start()
        assert said.wait(20)
        with alone("another thing"):
            order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_a_refusing_disk_is_an_error_of_ours(cache):
    """An OSError would be a traceback; one of our own errors keeps its kind."""
    with pytest.raises(InputError, match="HF_HOME"), alone("a thing", InputError):
        raise OSError("no space left")
    with pytest.raises(IntegrityError, match="^as it was$"), alone("a thing"):
        raise IntegrityError("as it was")


def test_no_lock_where_nothing_can_be_written(cache):
    """Containers mount the cache read-only, with all in it that is needed."""
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    with alone("a thing"):
        pass
    assert cache.read_text() == "in the way"
