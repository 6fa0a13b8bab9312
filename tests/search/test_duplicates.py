"""Which of almost equal files to keep: a wrong answer piped into rm loses the only copy."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

import hierax

from .stores import write_store


@pytest.fixture
def same(tmp_path):
    """Makes a store of files that all have one vector, given as {name: size in pixels}."""

    def make(sizes, **cells):
        paths = []
        for name, side in sizes.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            if side and not os.path.lexists(path):
                Image.new("RGB", (side, side), "red").save(path, "PNG")
            paths.append(path)
        widths = [side or 10 for side in sizes.values()]
        vectors = np.tile(np.float32([[1, 2, 2]]), (len(paths), 1))
        return hierax.open_store(write_store(tmp_path / "store", vectors, paths, width=widths, height=widths, **cells))

    return make


def names(groups):
    return [[hit.path.rsplit("/", 1)[-1] for hit in group] for group in groups]


def test_duplicates__the_largest_first(same):
    """More pixels before more bytes, more bytes before the earlier row."""
    store = same({"a.png": 20, "b.png": 40, "c.png": 40, "d.png": 10})
    with open(store.paths()[2], "ab") as file:
        file.write(b"x" * 100)
    assert names(store.duplicates()) == [["c.png", "a.png", "b.png", "d.png"]]
    assert [hit.score for hit in store.duplicates()[0]] == [1.0] * 4


def test_duplicates__of_real_images(album):
    """Copies scaled down come after what they were made of, in its group; another image is in none."""
    store = hierax.open_store(album / "store")
    groups = names(store.duplicates(0.985))
    assert sum(any("-small" in name for name in group) for group in groups) == 4
    large = next(group for group in groups if any("-large" in name for name in group))
    assert "-large" in large[0]
    assert all("-small" not in group[0] for group in groups)
    assert store.duplicates(0.9999) == []


def test_duplicates__a_file_that_is_gone_stands_for_none(same):
    """If the one to keep was deleted since, the others are the only copies: none may be called a duplicate of it."""
    store = same({"kept.png": 90, "copy.png": 20, "other.png": 10})
    os.unlink(store.paths()[0])
    assert names(store.duplicates()) == [["copy.png", "other.png"]]
    os.unlink(store.paths()[1])
    assert store.duplicates() == []


def test_duplicates__one_file_of_several_names(same, tmp_path):
    """A link and its target are one file: deleting either as a copy of the other leaves none."""
    Image.new("RGB", (30, 30)).save(tmp_path / "real.png")
    os.symlink(tmp_path / "real.png", tmp_path / "a-link.png")
    os.link(tmp_path / "real.png", tmp_path / "hard.png")
    store = same({"a-link.png": 30, "real.png": 30, "hard.png": 30})
    assert store.duplicates() == []


def test_duplicates__a_link_is_not_kept_for_its_target(same, tmp_path):
    """Of the names of one file the real one stands for it, or what is kept would lead nowhere."""
    Image.new("RGB", (30, 30)).save(tmp_path / "real.png")
    os.symlink(tmp_path / "real.png", tmp_path / "a-link.png")
    store = same({"a-link.png": 30, "copy.png": 10, "real.png": 30})
    found = names(store.duplicates())
    assert found == [["real.png", "copy.png"]]


def test_duplicates__the_same_path_twice(same, tmp_path):
    """A path that a store has twice is one file, not two copies."""
    (tmp_path / "sub").mkdir()
    store = same({"a.png": 10, "sub/../a.png": 10, "./a.png": 10})
    assert store.duplicates() == []


def test_duplicates__names_that_are_no_text(tmp_path):
    """A path given back as another name deletes another file, or none."""
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    vectors = np.ones((2, 3), np.float32)
    paths = [tmp_path / "caf_xe9.png", tmp_path / "plain.png"]
    for place in (raw, os.fsencode(paths[1])):
        with open(place, "wb") as file:
            Image.new("RGB", (8, 8)).save(file, "PNG")
    store = hierax.open_store(write_store(tmp_path / "store", vectors, paths, path_bytes=[raw, None]))
    assert [os.fsencode(hit.path) for hit in store.duplicates()[0]] == [raw, os.fsencode(paths[1])]
