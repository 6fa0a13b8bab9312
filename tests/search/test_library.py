"""Asking a store: vectors, rows, images and parts of them; what must be refused."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.errors import HieraxError, InputError, UnknownNameError
from hierax.search import library

from ..members import picture
from .stores import write_store


def test_search__a_vector_against_brute_force(tmp_path):
    """Rows with an error must not shift the rows behind them: a hit would name another file."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((500, 12)).astype(np.float32)
    bad = {0, 7, 130, 499}
    store = hierax.open_store(write_store(tmp_path / "store", vectors, errors=bad, part=128))
    good = [row for row in range(500) if row not in bad]
    query = random.standard_normal(12)
    unit = vectors[good] / np.linalg.norm(vectors[good], axis=1, keepdims=True)
    order = np.argsort(-(unit @ query), kind="stable")[:7]
    hits = store.search(query, k=7)
    assert [hit.path for hit in hits] == [f"{good[row]}.jpg" for row in order]
    assert [hit.row for hit in hits] == order.tolist()
    assert [hit.score for hit in hits] == pytest.approx(
        (unit @ query / np.linalg.norm(query))[order].tolist(), abs=1e-6
    )
    assert store.search(5, k=1)[0].path == f"{good[5]}.jpg"
    assert len(store.search(query, k=9999)) == 496


def test_search__an_image_not_in_the_store(album):
    """A query must go through the store's own model, whatever form it has: else cosines mean nothing."""
    store = hierax.open_store(album / "store")
    place = next(path for path in store.paths() if "-" not in path)
    other = shutil.copy(place, album / "elsewhere.jpg")
    with Image.open(place) as image:
        forms = [other, str(other), image.copy(), np.asarray(image.convert("RGB"))]
    for form in forms:
        hits = store.search(form, k=3)
        assert (hits[0].path, round(hits[0].score, 5)) == (place, 1.0)
    assert store.search(other, k=1, column="stage2")[0].path == place
    assert store.search(other, k=1, model=hierax.load())[0].path == place


def test_search__a_path_of_the_store_needs_no_model(album, monkeypatch):
    """Loading a model, seconds, for a vector that is there; but not of a file that was changed since."""
    store = hierax.open_store(album / "store")
    path = store.paths()[3]
    with monkeypatch.context() as patch:
        patch.setattr("hierax.registry.load", lambda *a, **k: pytest.fail("loaded a model"))
        assert store.search(path, k=1) == [library.Hit(path, 1.0, 3)]
        os.unlink(path)
        assert store.search(path, k=1)[0].row == 3
    picture((120, 90), 3).save(path)
    assert store.search(path, k=1)[0].score < 0.999


def test_search__with_a_part_of_an_image(album):
    """A crop that is taken of the sideways pixels, or that is ignored, finds another image."""
    store = hierax.open_store(album / "store")
    first, second = (path for path in store.paths() if path.endswith(("arrow/09.jpg", "ring/06.jpg")))
    sheet = Image.new("RGB", (300, 220), "white")
    sheet.paste(Image.open(first), (10, 20))
    sheet.paste(Image.open(second), (150, 100))
    exif = Image.Exif()
    exif[0x0112] = 6
    sheet.transpose(Image.Transpose.ROTATE_90).save(album / "sheet.png", exif=exif)
    query = album / "sheet.png"
    for path, corner in ((first, (10, 20)), (second, (150, 100))):
        hit = store.search(query, k=1, crop=(*corner, 96, 96))[0]
        assert (hit.path, hit.score > 0.999) == (path, True)
    for crop in ((0, 0, 301, 10), (-1, 0, 5, 5), (0, 0, 0, 5), (300, 0, 1, 1), (1, 2, 3), (0, 0, 1.5, 2)):
        with pytest.raises(InputError, match="crop"):
            store.search(query, crop=crop)
    with pytest.raises(InputError, match="crop"):
        store.search(np.ones(256), crop=(0, 0, 1, 1))


def test_search__another_model_is_refused(album):
    """Vectors of two models have nothing to do with each other; a cosine of them looks like an answer."""
    store = hierax.open_store(album / "store")
    other = hierax.load()
    with np.errstate(all="ignore"):
        other.model.head.projection.weight.data.mul_(0.5)
    other = hierax.load(hierax.save(other.model, album / "other", preprocess=other.preprocess))
    query = picture((50, 40), 1)
    with pytest.raises(InputError, match="sha256"):
        store.search(query, model=other)
    with pytest.raises(InputError, match="sha256"):
        store.search(query, model=str(album / "other"))
    with pytest.raises(InputError, match="architecture"):
        store.search(query, model="hiera_tiny_224")  # told before 110 MB are downloaded
    resized = hierax.load(input_size=128)
    with pytest.raises(InputError, match="preprocess"):
        store.search(query, model=resized)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (np.ones(3), "256 numbers"),
        (np.full(256, np.nan), "finite"),
        (np.ones((2, 256)), "one query"),
        (-1, "counted from 0"),
        (10**9, "counted from 0"),
        ("row:x", "number"),
        ("row:99999", "counted from 0"),
        ("no-such-file.jpg", "none of these"),
        ("", "path"),
        ("a\0b", "path"),
        (None, "Images are"),
        ({"a": 1}, "Images are"),
        (True, "Images are"),
    ],
)
def test_search__refuses_what_is_no_query(album, query, words):
    """Each must be one sentence, not a traceback of the library below."""
    store = hierax.open_store(album / "store")
    with pytest.raises(HieraxError, match=words):
        store.search(query)


def test_search__files_that_are_no_queries(album):
    """Pickled objects in .npy run code when they are loaded; a folder or a text is no image."""
    store, file = hierax.open_store(album / "store"), album / "q.npy"
    np.save(file, np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"\.npy"):
        store.search(str(file))
    file.write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 9)
    with pytest.raises(InputError, match=r"\.npy"):
        store.search(str(file))
    for name in ("photos", "photos/broken.jpg"):
        with pytest.raises(InputError):
            store.search(str(album / name))
    with pytest.raises(UnknownNameError, match="stage2"):
        store.search(0, column="stage1")
    with pytest.raises(UnknownNameError, match="exact"):
        store.search(0, engine="exakt")
    for k in (0, -1):
        with pytest.raises(InputError):
            store.search(0, k=k)


def test_search__an_empty_store(tmp_path):
    """Nothing is found in nothing; of errors alone neither."""
    empty = write_store(tmp_path / "empty", np.zeros((3, 4)), errors={0, 1, 2})
    store = hierax.open_store(empty)
    assert store.search(np.ones(4)) == []
    assert store.duplicates() == []


def test_paths__from_another_folder(album, monkeypatch, tmp_path):
    """Relative paths are of the folder that a store was made in: from elsewhere they would lead nowhere."""
    monkeypatch.chdir(tmp_path)
    store = hierax.open_store(album / "store")
    assert store.place(store.paths()[0]) == album / store.paths()[0]
    assert store.duplicates(0.97)
