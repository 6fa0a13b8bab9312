"""An index beside a store: how much it finds, when it is made anew, and what happens without usearch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import hierax
from hierax.errors import MissingExtraError
from hierax.search import ann, graph, library
from hierax.store import exact

from .stores import write_store

pytest.importorskip("usearch")


def clustered(count, width, seed=0):
    random = np.random.default_rng(seed)
    return (
        random.standard_normal((40, width))[random.integers(0, 40, count)] + random.standard_normal((count, width))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    vectors = clustered(4000, 32)
    vectors[3000:3010] = vectors[0]  # exact copies
    return hierax.open_store(write_store(tmp_path_factory.mktemp("ann") / "store", vectors))


def test_ann__recall_and_exact_scores(store):
    """An index that looks nowhere near far enough, or scores in half precision, gives other rows and other numbers."""
    random = np.random.default_rng(1)
    queries = store.vectors()[random.integers(0, 4000, 300)] + 0.3 * random.standard_normal((300, 32))
    rows, cosines = store.nearest(queries, k=10, engine="ann")
    wanted, true = store.nearest(queries, k=10, engine="exact")
    recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(rows, wanted, strict=True)])
    assert recall >= 0.99
    same = rows == wanted
    assert np.array_equal(cosines[same], true[same])
    assert (np.diff(cosines) <= 0).all()
    about = json.loads(next((store.path / "_vectors").glob("*.json")).read_text())
    assert about["recall"] >= ann.RECALL


def test_ann__ties_and_all_rows(store):
    """Copies stand in the order of their rows, and more rows than an index proposes are all found."""
    hits = store.search(store.vectors()[0], k=11, engine="ann")
    assert [hit.row for hit in hits] == [0, *range(3000, 3010)]
    assert len(store.search(5, k=4000, engine="ann")) == 4000


def test_ann__groups_of_duplicates(store):
    """Pairs by an index are compared exactly: the same groups where it proposes them all."""
    assert [hit.row for group in ann_groups(store) for hit in group] == [0, *range(3000, 3010)]


def ann_groups(store):
    from hierax.search import duplicates

    found = duplicates._proposed(ann.open_index(store, "embedding"), 0.999, progress=False)
    return [store.hits(group, np.ones(len(group))) for group in found]


def test_ann__is_made_anew_for_other_rows(tmp_path):
    """An index of rows that are no longer there would name other files."""
    place = tmp_path / "store"
    first, second = clustered(700, 16), clustered(900, 16, seed=1)
    found = hierax.open_store(write_store(place, first)).search(first[5], k=1, engine="ann")
    assert found[0].row == 5
    old = list((place / "_vectors").glob("*.usearch"))
    for entry in place.glob("part-*"):
        entry.unlink()
    (place / "_parts.jsonl").unlink()
    store = hierax.open_store(write_store(place, second))
    assert store.search(second[899], k=1, engine="ann")[0].row == 899
    new = list((place / "_vectors").glob("*.usearch"))
    assert len(new) == 1
    assert new != old
    new[0].write_bytes(new[0].read_bytes()[:-100])  # cut off
    assert hierax.open_store(place).search(second[7], k=1, engine="ann")[0].row == 7
    new[0].write_bytes(new[0].read_bytes()[:-100] + b"\xff" * 100)  # names rows that are not there
    assert hierax.open_store(place).search(second[7], k=1, engine="ann")[0].row == 7
    assert b"\xff" * 100 not in new[0].read_bytes()
    assert not [name for name in os.listdir(place / "_vectors") if "partial" in name]


def test_ann__an_index_is_opened_once(store, monkeypatch):
    """Looking through a million rows' index takes most of a second: not at each search."""
    opened = []
    whole = ann.open_index
    monkeypatch.setattr(ann, "open_index", lambda *a, **k: opened.append(1) or whole(*a, **k))
    fresh = hierax.open_store(store.path)
    assert [fresh.search(row, k=1, engine="ann")[0].row for row in (1, 2, 3)] == [1, 2, 3]
    assert len(opened) == 1


def change_bytes(data, *changes):
    """A copy with other numbers at places: (offset, little-endian type, value)."""
    copy = bytearray(data)
    for at, kind, value in changes:
        copy[at : at + np.dtype(kind).itemsize] = np.asarray(value, kind).tobytes()
    return bytes(copy)


def test_graph__what_usearch_would_follow_out_of_a_file(tmp_path):
    """A list of neighbours that is too long, or names a row that is not there or has no list on that level, ends the
    process by a signal; sizes and kinds of another index raise what nobody catches. The whole file passes."""
    rows, width = 300, 8
    index, other = ann._empty(width), ann._empty(4)
    random = np.random.default_rng(0)
    index.add(np.arange(rows, dtype=np.uint64), random.standard_normal((rows, width)).astype(np.float32), threads=1)
    other.add(np.arange(rows, dtype=np.uint64), random.standard_normal((rows, 4)).astype(np.float32), threads=1)
    data, path = bytes(index.save()), tmp_path / "one.usearch"

    def sound(changed, count=rows):
        path.write_bytes(changed)
        return graph.is_sound(path, ann._empty(width), count)

    head = 8 + 2 * width * rows
    numbers, levels, nodes = head + 64, head + 104, head + 104 + 2 * rows
    high = np.frombuffer(data, "<i2", rows, levels).astype(int)
    starts = nodes + np.concatenate([[0], np.cumsum(142 + 68 * high)[:-1]])
    tall = int(starts[high.argmax()])
    low, last = int(np.flatnonzero(high == 0)[0]), int(starts[-1])
    assert sound(data)
    assert high.max() > 0
    assert not sound(data, rows + 1)
    for broken in (b"", data[:-1], data + b"\0", bytes(len(data)), bytes(other.save())):
        assert not sound(broken)
    for change in (
        (0, "<u4", rows + 1), (4, "<u4", 4 * width), (head, "u1", 0), (head + 7, "<u2", 3), (head + 13, "u1", 105),
        (head + 14, "u1", 11), (head + 33, "<u8", width + 1), (head + 41, "u1", 1), (numbers, "<u8", rows - 1),
        (numbers + 8, "<u8", 17), (numbers + 24, "<u8", 30), (numbers + 32, "<u8", rows), (numbers + 32, "<u8", low),
        (levels, "<i2", -1), (levels, "<i2", 9), (last + 8, "<i2", 1), (last + 10, "<u4", 33), (last + 14, "<u4", rows),
        (last + 14, "<u4", 2**32 - 1), (tall + 142, "<u4", 17), (tall + 146, "<u4", low), (tall + 146, "<u4", rows),
    ):  # fmt: skip
        assert not sound(change_bytes(data, change)), change


def test_ann__auto_is_exact_up_to_a_size(store, monkeypatch):
    """Building an index for what takes milliseconds would take minutes; above the size it must be used."""
    asked = []
    store = hierax.open_store(store.path)  # that has no index open
    monkeypatch.setattr(ann, "open_index", lambda *a, **k: asked.append(k) or None)
    store.search(0)
    assert not asked
    monkeypatch.setattr(library, "LARGE", 3999)
    assert store.search(0, k=1)[0].row == 0  # without usearch "auto" is exact
    assert asked == [{"required": False}]
    store.search(0, engine="exact")
    store.duplicates(0.999)
    assert len(asked) == 2


def test_ann__vectors_that_no_index_finds(tmp_path, monkeypatch, capsys):
    """Where even the widest look finds too few, nearly right is not offered as right."""
    monkeypatch.setattr(ann, "EXPANSIONS", (1,))
    monkeypatch.setattr(ann, "_CONNECTIVITY", 2)
    here = lambda path, file, column: ann._built(file, store.vectors(), store.lengths(), column)  # noqa: E731
    monkeypatch.setattr(ann, "_built_apart", here)
    vectors = np.random.default_rng(0).standard_normal((2000, 200)).astype(np.float32)
    store = hierax.open_store(write_store(tmp_path / "store", vectors))
    for engine in ("ann", "auto"):
        monkeypatch.setattr(library, "LARGE", 10)
        rows, _ = store.nearest(vectors[:3], k=10, engine=engine)
        assert np.array_equal(rows, exact.nearest(vectors, vectors[:3], k=10)[0])
    assert "searching exactly" in capsys.readouterr().err


def test_ann__without_usearch(store, monkeypatch):
    """What is missing is named with the command that installs it."""
    store = hierax.open_store(store.path)  # that has no index open
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match="ann"):
        store.search(0, engine="ann")
    monkeypatch.setattr(library, "LARGE", 10)
    assert store.search(0, k=1)[0].row == 0


def test_ann__small_and_empty_stores(tmp_path):
    """Fewer rows than are asked for, and none."""
    store = hierax.open_store(write_store(tmp_path / "few", clustered(3, 8)))
    assert store.search(1, k=10, engine="ann")[0].row == 1
    assert len(store.search(1, k=10, engine="ann")) == 3
    empty = hierax.open_store(write_store(tmp_path / "none", np.zeros((1, 8)), errors={0}))
    assert empty.search(np.ones(8), engine="ann") == []


def test_ann__two_processes_build_one(tmp_path):
    """The second waits for the first and uses what it made."""
    place = write_store(tmp_path / "store", clustered(1500, 24))
    hierax.open_store(place).vectors()
    code = f"import hierax; print(hierax.open_store({str(place)!r}).search(3, k=1, engine='ann')[0].row)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for _ in range(2)]
    assert [process.communicate(timeout=600)[0].strip() for process in both] == ["3", "3"]
    assert [process.returncode for process in both] == [0, 0]
