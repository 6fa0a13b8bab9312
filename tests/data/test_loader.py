"""load_batches: order, isolation of bad items, bounded look-ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.data.loader import default_workers, load_batches, map_batches
from hierax.data.preprocess import preprocess
from hierax.errors import InputError, MissingExtraError

SPEC = PreprocessSpec(size=(32, 32))


def pictures(count):
    return [np.full((40, 40, 3), index, np.uint8) for index in range(count)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_values(workers):
    """Results in the order of completion would label every vector wrongly."""
    items = pictures(11)
    batches = list(load_batches(items, SPEC, batch_size=4, workers=workers))
    assert [batch.indices for batch in batches] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]
    want = torch.stack([preprocess(item, SPEC) for item in items])
    assert torch.equal(torch.cat([batch.tensor for batch in batches]), want)
    assert all(batch.errors == {} for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_items_stop_nothing(tmp_path, workers):
    """One broken file must cost one row; a batch of only broken files still has a shape."""
    good = tmp_path / "good.png"
    Image.new("RGB", (9, 9), "red").save(good)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>")
    items = [good, bad, Image.new("L", (5, 5)), tmp_path / "gone.png", bad, None, good]
    batches = list(load_batches(items, SPEC, batch_size=3, workers=workers))
    assert [batch.indices for batch in batches] == [(0, 2), (), (6,)]
    assert [sorted(batch.errors) for batch in batches] == [[1], [3, 4, 5], []]
    assert [tuple(batch.tensor.shape) for batch in batches] == [(2, 3, 32, 32), (0, 3, 32, 32), (1, 3, 32, 32)]
    assert "bad.jpg" in batches[0].errors[1]
    assert "gone.png" in batches[1].errors[3]


def test_file_that_vanishes_during_the_run(tmp_path):
    """Deleted between listing and decoding: an error row."""
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path in paths:
        Image.new("RGB", (9, 9)).save(path)
    batches = load_batches(paths, SPEC, batch_size=2, workers=0)
    next(batches)
    paths[3].unlink()
    assert next(batches).errors.keys() == {3}
    assert next(batches).indices == (4, 5)


def test_look_ahead_is_bounded():
    """Reading the whole list ahead of a slow network fills the memory."""
    drawn = []

    def endless():
        index = 0
        while True:
            drawn.append(index)
            yield np.zeros((8, 8, 3), np.uint8)
            index += 1

    batches = load_batches(endless(), SPEC, batch_size=4, workers=2)
    for _ in range(3):
        next(batches)
    assert len(drawn) <= 3 * 4 + 4 + 2 * 2
    batches.close()


def test_leaving_early__ends_the_threads():
    """Abandoned threads would keep decoding, and the process alive."""
    batches = load_batches(pictures(200), SPEC, batch_size=4, workers=2)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hierax-decode")]


def test_our_own_faults_surface():
    """Only what a file can cause becomes a row: a missing extra or a bug must stop the run."""

    def prepare(item):
        raise MissingExtraError("video", "av")

    for workers in (0, 2):
        with pytest.raises(MissingExtraError):
            list(map_batches([1, 2, 3], prepare, batch_size=2, workers=workers))


def test_out_of_memory_is_a_row():
    """One giant picture must not end the run."""

    def prepare(item):
        if item == 1:
            raise MemoryError
        return torch.zeros(3, 2, 2)

    (batch,) = map_batches([0, 1, 2], prepare, batch_size=4, workers=0)
    assert batch.indices == (0, 2)
    assert "memory" in batch.errors[1]


def test_tensors_pass_through():
    """A preprocessed tensor is not normalised twice; one of the wrong size is an error of its own."""
    ready = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    (batch,) = load_batches([ready, torch.zeros(3, 16, 16), torch.zeros(3, 32, 32, dtype=torch.uint8)], SPEC)
    assert batch.indices == (0,)
    assert torch.equal(batch.tensor[0], ready)
    assert set(batch.errors) == {1, 2}


def test_options_reach_the_decoder():
    """An option that is silently ignored."""
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    (batch,) = load_batches([clear], SPEC, background=(255, 0, 0), workers=0)
    assert batch.tensor[0, 0].mean() > batch.tensor[0, 1].mean() + 3
    (batch,) = load_batches([clear], SPEC, max_pixels=63, workers=0)
    assert set(batch.errors) == {0}


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.0}, {"workers": -1}, {"workers": 1.5}])
def test_impossible_options(options):
    """Refused at the call, not at the first batch."""
    with pytest.raises(InputError):
        load_batches([], SPEC, **options)


def test_nothing_in_nothing_out():
    """An empty run has no batches."""
    assert list(load_batches([], SPEC)) == []
    assert default_workers() >= 1
