"""map_batches: order, isolation of bad items, bounded look-ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.data import loader
from hierax.data.decode import decode_image
from hierax.data.loader import map_batches
from hierax.data.preprocess import preprocess
from hierax.errors import InputError, MissingExtraError

SPEC = PreprocessSpec(size=(32, 32))


def pictures(count):
    return [np.full((40, 40, 3), index, np.uint8) for index in range(count)]


def batches_of(items, *, batch_size=32):
    def prepare(item):
        return preprocess(decode_image(item), SPEC)

    return map_batches(items, prepare, batch_size=batch_size, empty=(3, 32, 32))


@pytest.mark.parametrize("processors", [1, 3])
def test_order_and_values(processors, monkeypatch):
    """Results in the order of completion would label every vector wrongly."""
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: range(processors), raising=False)
    items = pictures(11)
    batches = list(batches_of(items, batch_size=4))
    assert [batch.indices for batch in batches] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]
    want = torch.stack([preprocess(item, SPEC) for item in items])
    assert torch.equal(torch.cat([batch.tensor for batch in batches]), want)
    assert all(batch.errors == {} for batch in batches)


def test_bad_items_stop_nothing(tmp_path):
    """One broken file must cost one row; a batch of only broken files still has a shape."""
    good = tmp_path / "good.png"
    Image.new("RGB", (9, 9), "red").save(good)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>")
    items = [good, bad, Image.new("L", (5, 5)), tmp_path / "gone.png", bad, None, good]
    batches = list(batches_of(items, batch_size=3))
    assert [batch.indices for batch in batches] == [(0, 2), (), (6,)]
    assert [sorted(batch.errors) for batch in batches] == [[1], [3, 4, 5], []]
    assert [tuple(batch.tensor.shape) for batch in batches] == [(2, 3, 32, 32), (0, 3, 32, 32), (1, 3, 32, 32)]
    assert "bad.jpg" in batches[0].errors[1]
    assert "gone.png" in batches[1].errors[3]


def test_file_that_vanishes_during_the_run(tmp_path, monkeypatch):
    """Deleted between listing and decoding: an error row."""
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: range(1), raising=False)
    paths = [tmp_path / f"{index}.png" for index in range(8)]
    for path in paths:
        Image.new("RGB", (9, 9)).save(path)
    batches = batches_of(paths, batch_size=2)
    next(batches)
    paths[7].unlink()  # one batch and two items a thread are read ahead
    assert [batch.indices for batch in batches] == [(2, 3), (4, 5), (6,)]


def test_look_ahead_is_bounded(monkeypatch):
    """Reading the whole list ahead of a slow network fills the memory."""
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: range(2), raising=False)
    drawn = []

    def endless():
        index = 0
        while True:
            drawn.append(index)
            yield np.zeros((8, 8, 3), np.uint8)
            index += 1

    batches = batches_of(endless(), batch_size=4)
    for _ in range(3):
        next(batches)
    assert len(drawn) <= 3 * 4 + 4 + 2 * 2
    batches.close()


def test_leaving_early__ends_the_threads():
    """Abandoned threads would keep decoding, and the process alive."""
    batches = batches_of(pictures(200), batch_size=4)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hierax-decode")]


def test_our_own_faults_surface():
    """Only what a file can cause becomes a row: a missing extra or a bug must stop the run."""

    def prepare(item):
        raise MissingExtraError("video", "av")

    with pytest.raises(MissingExtraError):
        list(map_batches([1, 2, 3], prepare, batch_size=2))


def test_out_of_memory_is_a_row():
    """One giant picture must not end the run."""

    def prepare(item):
        if item == 1:
            raise MemoryError
        return torch.zeros(3, 2, 2)

    (batch,) = map_batches([0, 1, 2], prepare, batch_size=4)
    assert batch.indices == (0, 2)
    assert "memory" in batch.errors[1]


@pytest.mark.parametrize("batch_size", [0, 2.0, True])
def test_impossible_batch_size(batch_size):
    """Refused at the call, not at the first batch."""
    with pytest.raises(InputError):
        batches_of([], batch_size=batch_size)


def test_nothing_in_nothing_out():
    """An empty run has no batches."""
    assert list(batches_of([])) == []
