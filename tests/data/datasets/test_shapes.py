"""The rendered set: same everywhere, balanced, whole on disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hierax.data.datasets import paint, shapes
from hierax.data.datasets.shapes import CLASSES, OUTLINES, PATTERNS, outline, render, render_folder
from hierax.errors import InputError

DIGEST = """
import hashlib
from hierax.data.datasets.shapes import render
digest = hashlib.sha256()
for index in range(20):
    pixels, label = render(index, seed=3, size=48)
    digest.update(pixels.tobytes() + bytes([label]))
print(digest.hexdigest())
"""


def _digest_elsewhere(hash_seed: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", DIGEST],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return run.stdout.strip()


def test_render__same_in_every_process_and_order():
    """Global random state, hash order or state carried between calls would change the bytes."""
    np.random.seed(1)
    pictures = {index: render(index, seed=3, size=48) for index in reversed(range(20))}
    digest = hashlib.sha256()
    for index in range(20):
        pixels, label = pictures[index]
        digest.update(pixels.tobytes() + bytes([label]))
    assert _digest_elsewhere("1") == digest.hexdigest() == _digest_elsewhere("77")


def test_render__seeds_and_indices_differ():
    """A seed that is ignored, or added to the index, would repeat images between sets."""
    first = [render(index, seed=0, size=32)[0].tobytes() for index in range(48)]
    second = [render(index, seed=1, size=32)[0].tobytes() for index in range(48)]
    assert len({*first, *second}) == 96


def test_render__classes_balanced():
    """Random labels would leave some classes out of a short run."""
    labels = [render(index, size=8)[1] for index in range(5, 5 + 4 * len(CLASSES))]
    assert np.bincount(labels, minlength=len(CLASSES)).tolist() == [4] * len(CLASSES)
    assert list(CLASSES) == [*OUTLINES, *PATTERNS]
    assert len(set(CLASSES)) == len(CLASSES) >= 12


@pytest.mark.parametrize("size", [96, 8, (40, 64), (64, 40)])
def test_render__size_and_type(size):
    """Swapped axes or a float picture would not fit the array asked for."""
    for index in range(len(CLASSES)):
        pixels, label = render(index, size=size)
        assert pixels.shape == (*(size if isinstance(size, tuple) else (size, size)), 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert isinstance(label, int)


def test_render__every_image_shows_something():
    """A shape drawn outside the frame or in the ground's colour would leave a flat picture."""
    for index in range(6 * len(CLASSES)):
        pixels, _ = render(index, seed=11, size=64)
        levels = pixels.reshape(-1, 3).astype(float)
        assert np.linalg.norm(np.percentile(levels, 99, 0) - np.percentile(levels, 1, 0)) > 40, index


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines__fill_the_frame_evenly(name):
    """A polygon off its origin, inside out or far too small could not be placed by its radius."""
    for seed in range(20):
        points = outline(name, np.random.default_rng(seed))
        assert points.ndim == 2
        assert 0.85 < np.linalg.norm(points, axis=1).max() < 1.5
        coverage = paint.coverage(points * 20 + 32, (64, 64))
        assert 0.08 < coverage.mean() < 0.35


def test_crescent__tips_meet():
    """Arcs that do not share their tips would draw a ring segment with blunt ends."""
    for seed in range(20):
        points = outline("crescent", np.random.default_rng(seed))
        np.testing.assert_allclose(points[47], points[48], atol=1e-9)
        np.testing.assert_allclose(points[0], points[-1], atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"index": -1}, "0 or more"),
        ({"index": 0, "seed": -1}, "0 or more"),
        ({"index": 0, "size": 4}, "8 pixels"),
        ({"index": 0, "size": (96, 96, 3)}, "8 pixels"),
    ],
)
def test_render__refuses(arguments, word):
    """Without checks NumPy or Pillow would raise something of their own, or draw nonsense."""
    with pytest.raises(InputError, match=word):
        render(**arguments)


def test_render_folder__one_folder_per_class(tmp_path):
    """Labels by folder must be those of `render`, and lossless files hold exactly its pixels."""
    folder = render_folder(tmp_path / "deep" / "set", count=20, seed=4, size=32, image_format="png")
    files = sorted(folder.rglob("*.png"), key=lambda path: int(path.stem))
    assert len(files) == 20
    for index, path in enumerate(files):
        pixels, label = render(index, seed=4, size=32)
        assert path.parent.name == CLASSES[label]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert [entry.name for entry in folder.parent.iterdir()] == ["set"]


def test_render_folder__jpeg(tmp_path):
    """The default must be real JPEG files, and an empty folder is a fine destination."""
    folder = render_folder(tmp_path, count=3, size=16)
    assert sorted(path.name for path in folder.rglob("*.jpg")) == ["0.jpg", "1.jpg", "2.jpg"]
    assert Image.open(next(folder.rglob("*.jpg"))).format == "JPEG"


def test_render_folder__refuses_to_overwrite(tmp_path):
    """A careless writer would mix two sets or replace a person's files."""
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.jpg").write_bytes(b"x")
    for destination in (tmp_path / "full", tmp_path / "mine.txt", tmp_path):
        with pytest.raises(InputError, match="new or empty"):
            render_folder(destination, count=2, size=16)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert (tmp_path / "full" / "a.jpg").read_bytes() == b"x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "mine.txt"]


def test_render_folder__leaves_nothing_when_interrupted(tmp_path, monkeypatch):
    """Writing straight into the destination would leave half a set under its final name."""

    def stop_at_five(index, **options):
        if index == 5:
            raise KeyboardInterrupt
        return render(index, **options)

    monkeypatch.setattr(shapes, "render", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        render_folder(tmp_path / "set", count=9, size=16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 2, "image_format": "gif"}, {"count": 2, "size": 1}])
def test_render_folder__refuses_bad_arguments(tmp_path, arguments):
    """A bad argument must be named before anything is left on disk."""
    with pytest.raises(InputError):
        render_folder(tmp_path / "set", **arguments)
    assert list(tmp_path.iterdir()) == []
