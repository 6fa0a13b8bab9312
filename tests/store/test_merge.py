"""`hierax store merge`: what shares wrote is what one run would have written, or it is refused."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

import hierax
from hierax.cli import main
from hierax.errors import InputError
from hierax.store.merge import merge
from hierax.store.write import open_writer

from .test_store import SPEC, fill, record


def fill_share(path, number, of, total, *, digest="d", whole=True, per_part=3):
    spec = dataclasses.replace(SPEC, shard=(number, of))
    with open_writer(path, spec, rows_per_part=per_part) as writer:
        for index in range(number - 1, total, of):
            writer.add(record(index))
            if writer.due():
                writer.commit(index + 1, digest)
        writer.commit(total, digest)
        if whole:
            writer.complete(total, digest)


@pytest.mark.parametrize(("of", "total"), [(2, 20), (3, 20), (3, 2), (5, 23)])
def test_shares__as_one_run(tmp_path, monkeypatch, of, total):
    """Rows out of order, or a row that the last share lacks."""
    monkeypatch.chdir(tmp_path)
    for number in range(1, of + 1):
        fill_share(tmp_path / f"s{number}", number, of, total, per_part=2 + number)
    fill(tmp_path / "one", range(total), per_part=4)
    store = merge([f"s{number}" for number in range(of, 0, -1)], "all", rows_per_part=4)
    one = hierax.open_store("one")
    assert store.to_arrow().equals(one.to_arrow())
    assert (len(store), store.errors, store.complete, store.spec.shard) == (len(one), one.errors, True, None)
    assert [part.rows for part in store.parts] == [part.rows for part in one.parts]
    np.testing.assert_array_equal(store.vectors(), one.vectors())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("missing", "2 of 3 is missing.*--shard 2/3"), ("twice", "1/3 is"), ("unfinished", "finished"), ("other source", "of other names"),
     ("other count", "21"), ("of four", "one of 4"), ("no share", "no shard"), ("other model", "sha256"), ("one", "at least two")],
)  # fmt: skip
def test_shares__refused(tmp_path, monkeypatch, wrong, words):
    """A merge that lacks a share looks like a whole one for ever."""
    monkeypatch.chdir(tmp_path)
    fill_share(tmp_path / "s1", 1, 3, 20)
    fill_share(tmp_path / "s3", 3, 3, 20)
    options = {"unfinished": {"whole": False}, "other source": {"digest": "e"}}.get(wrong, {})
    number, of, total = {"twice": (1, 3, 20), "of four": (2, 4, 20), "other count": (2, 3, 21)}.get(wrong, (2, 3, 20))
    if wrong == "no share":
        fill(tmp_path / "s2", range(20))
    elif wrong == "other model":
        spec = dataclasses.replace(SPEC, shard=(2, 3), provenance={**SPEC.provenance, "sha256": "b"})
        fill(tmp_path / "s2", range(20), spec=spec)
    else:
        fill_share(tmp_path / "s2", number, of, total, **options)
    paths = {"missing": ["s1", "s3"], "one": ["s1"]}.get(wrong, ["s1", "s2", "s3"])
    with pytest.raises(InputError, match=words):
        merge(paths, "all")
    assert not os.path.exists("all")
    assert len(os.listdir()) == 3


def test_stores__one_after_another(tmp_path, monkeypatch, capsys):
    """Two folders of photographs, embedded apart."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "a", range(12))
    with open_writer(tmp_path / "b", SPEC) as writer:
        for index in range(5):
            writer.add(dataclasses.replace(record(index), path=f"other{index}"))
        writer.commit(5, "other")
        writer.complete(5, "other")
    assert main(["store", "merge", "a", "b", "-o", "all/"]) == 0
    assert "all: 17 rows, 3 of them errors, of 2 stores" in capsys.readouterr().err
    table = hierax.open_store("all").to_arrow()
    assert table["id"].to_pylist() == list(range(17))
    assert table["path"].to_pylist()[11:14] == ["p11", "other0", "other1"]
    assert main(["store", "merge", "a", "a", "-o", "twice"]) == 1
    assert main(["store", "merge", "a", "b", "-o", "all"]) == 1
    assert main(["store", "merge", "a", "nowhere", "-o", "new"]) == 1
    assert main(["store", "merge", "-o", "new"]) == 1
    assert capsys.readouterr().err.count("\n") == 4
    assert len(hierax.open_store("all")) == 17
