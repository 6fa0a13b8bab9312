"""A store that follows its folder: what is embedded again and what is not, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import hierax
from hierax.errors import HieraxError, InputError
from hierax.search import fresh
from hierax.search.fresh import Round, apply, look, plan
from hierax.store.layout import Spec
from hierax.store.tables import Record
from hierax.store.write import open_writer

SPEC = Spec({"model": "none", "sha256": "0" * 64}, {"embedding": 3})


class Folder:
    """Files of a few bytes and a store of them; a file's vector is made of what it holds."""

    def __init__(self, place):
        self.place, self.store, self.embedded = place / "files", place / "store", []
        self.place.mkdir()

    def write(self, name, text="a"):
        path = self.place / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)

    def embed(self, files, first):
        for number, file in enumerate(files, first):
            self.embedded.append(os.path.basename(file))
            text = Path(file).read_text()
            bad = "bad" in text
            values = None if bad else {"embedding": np.float32([len(text), ord(text[0]), 1])}
            yield Record(number, file, error="bad" if bad else None, values=values)

    def round(self, rows_per_part=2, blind=(), files=None, content=False):
        self.embedded = []
        with open_writer(self.store, SPEC, rows_per_part=rows_per_part) as writer:
            found = look(sorted(self.place.rglob("*.*")) if files is None else files)
            todo = plan(hierax.open_store(self.store), found, [str(self.place)], blind, content=content)
            return Round(kept=todo.kept) if todo.empty and not content else apply(writer, todo, self.embed)

    def check(self, *names):
        """Every file has one row, and it is of what the file holds now."""
        store = hierax.open_store(self.store)
        table = store.to_arrow().to_pydict()
        assert sorted(os.path.basename(path) for path in table["path"]) == sorted(names)
        assert len(set(table["id"])) == len(names)
        for path, vector, error in zip(table["path"], table["embedding"], table["error"], strict=True):
            text = Path(path).read_text()
            assert vector == (None if "bad" in text else [len(text), ord(text[0]), 1]), path
            assert (error is not None) == ("bad" in text)
        assert store.vectors().shape == (store.rows, 3)


@pytest.fixture
def folder(tmp_path):
    found = Folder(tmp_path)
    for name in ("a.x", "b.x", "c.x", "d.x", "sub/e.x"):
        found.write(name)
    assert found.round() == Round(added=5)
    return found


def test_round__nothing_new_embeds_nothing(folder):
    """Embedding all again every half minute would make --watch useless."""
    before = (folder.store / "_parts.jsonl").read_bytes()
    assert folder.round() == Round(kept=5)
    assert folder.embedded == []
    assert (folder.store / "_parts.jsonl").read_bytes() == before


def test_round__new_changed_and_deleted(folder):
    """A row of the old content that stays, or a file with two rows, is a wrong answer to every search."""
    folder.write("a.x", "longer")
    folder.write("f.x", "new")
    folder.write("g.x", "bad")
    (folder.place / "c.x").unlink()
    shutil.rmtree(folder.place / "sub")
    assert folder.round() == Round(added=2, changed=1, removed=2, kept=2, errors=1)
    assert sorted(folder.embedded) == ["a.x", "f.x", "g.x"]
    folder.check("a.x", "b.x", "d.x", "f.x", "g.x")
    assert folder.round() == Round(kept=5)


def test_round__of_equal_length_and_a_bad_file_that_was_mended(folder):
    """The time tells of a change that the size does not; an error is not for ever."""
    folder.write("b.x", "z")
    os.utime(folder.place / "b.x", ns=(1, 12345))
    folder.write("c.x", "bad")
    assert folder.round().changed == 2
    folder.write("c.x", "mended")
    assert folder.round() == Round(changed=1, kept=4)
    folder.check("a.x", "b.x", "c.x", "d.x", "e.x")


def test_round__a_folder_that_cannot_be_listed(folder):
    """A disk that is not mounted must not empty the store."""
    gone = folder.place / "sub"
    files = [path for path in folder.place.rglob("*.x") if path.parent != gone]
    assert folder.round(files=files, blind=[str(gone)]) == Round(kept=5)
    assert folder.round(files=files).removed == 1


def test_round__rows_from_elsewhere_stay(folder, tmp_path):
    """A second folder indexed into one store must not drive out the first; `ab` is not inside `a`."""
    other = Folder.__new__(Folder)
    other.place, other.store, other.embedded = tmp_path / "files-two", folder.store, []
    other.place.mkdir()
    other.write("z.x", "zz")
    assert other.round() == Round(added=1, kept=5)
    assert folder.round() == Round(kept=6)
    folder.check("a.x", "b.x", "c.x", "d.x", "e.x", "z.x")


def test_round__stopped_anywhere_goes_on(folder, monkeypatch):
    """Killed between any two steps: old rows or new ones, never both, never neither."""
    names = [f"n{number}.x" for number in range(7)]
    for name in names:
        folder.write(name, name)
    folder.write("a.x", "changed")
    (folder.place / "b.x").unlink()
    for stop_after in (1, 3, 5, 8):
        count = 0
        usual = Folder.embed

        def embed(self, files, first, usual=usual, stop_after=stop_after):
            nonlocal count
            for record in usual(self, files, first):
                count += 1
                if count > stop_after:
                    raise KeyboardInterrupt
                yield record

        monkeypatch.setattr(Folder, "embed", embed)
        try:
            folder.round()
        except KeyboardInterrupt:
            table = hierax.open_store(folder.store).to_arrow().to_pydict()
            assert len(set(table["path"])) == len(table["path"])
        monkeypatch.setattr(Folder, "embed", usual)
    folder.round()
    folder.check("a.x", "c.x", "d.x", "e.x", *names)


def test_round__a_lost_note_costs_time_only(folder):
    """Without the note of sizes and times, files older than the store are as they were, and others are embedded."""
    shutil.rmtree(folder.store / "_search")
    assert folder.round().added == 0
    (folder.store / "_search").mkdir(exist_ok=True)
    (folder.store / "_search" / "files.parquet").write_bytes(b"no parquet")
    folder.write("d.x", "other")
    folder.round()
    folder.check("a.x", "b.x", "c.x", "d.x", "e.x")
    assert folder.round() == Round(kept=5)


def test_round__a_search_beside_it_sees_whole_rounds(folder):
    """A store that was opened before answers from what it saw, or says that it changed, not that it is damaged."""
    before = hierax.open_store(folder.store)
    assert len(before.search(before.vectors()[0], k=9)) == 5
    folder.write("f.x", "q" * 50)
    (folder.place / "a.x").unlink()
    folder.round()
    assert len(before.search(before.vectors()[0], k=9)) == 5
    with pytest.raises(InputError, match="Open it again"):
        before.to_arrow()
    after = hierax.open_store(folder.store)
    assert after.fingerprint != before.fingerprint
    assert os.path.basename(after.search(np.float32([50, ord("q"), 1]), k=1)[0].path) == "f.x"


def test_round__content(folder):
    """Files that were touched, copied back or moved are what they were; one that only looks so is not."""
    folder.write("bad.x", "bad")
    folder.write("c.x", "picture")
    assert folder.round(content=True) == Round(added=1, changed=1, kept=4, errors=1)
    assert folder.round(content=True) == Round(kept=6)
    os.utime(folder.place / "a.x", ns=(1, 12345))
    folder.write("b.x", "z")  # of the same size
    os.utime(folder.place / "b.x", ns=(1, 12345))
    (folder.place / "c.x").rename(folder.place / "sub" / "m\udcff.x")
    folder.write("n.x", "a")  # as d.x, which stays: a copy is a file of its own
    (folder.place / "bad.x").rename(folder.place / "worse.x")  # an error is tried again
    assert folder.round(content=True) == Round(added=2, changed=1, removed=1, kept=3, errors=1, moved=1)
    assert sorted(folder.embedded) == ["b.x", "n.x", "worse.x"]
    assert folder.round() == Round(kept=7)
    store = hierax.open_store(folder.store)
    assert str(folder.place / "sub" / "m\udcff.x") in store.paths()
    folder.write("d.x", "other")
    shutil.rmtree(folder.place / "sub")
    assert folder.round(content=True) == Round(changed=1, removed=2, kept=4)
    folder.check("a.x", "b.x", "d.x", "n.x", "worse.x")


def test_round__content_of_a_file_that_changes_meanwhile(folder, monkeypatch):
    """What was read after the row was made must not pass for what the row is of."""
    usual = Folder.embed

    def embed(self, files, first):
        yield from usual(self, files, first)
        self.write("f.x", "after")

    monkeypatch.setattr(Folder, "embed", embed)
    folder.write("f.x", "first")
    os.utime(folder.place / "f.x", ns=(1, 1))
    assert folder.round(content=True).added == 1
    monkeypatch.setattr(Folder, "embed", usual)
    assert folder.round(content=True).changed == 1
    folder.check("a.x", "b.x", "c.x", "d.x", "e.x", "f.x")


def test_round__changed_files_come_part_by_part(folder, monkeypatch):
    """All in one commit at the end: a run over a changed collection that is killed begins anew."""
    for name in ("a.x", "b.x", "c.x", "d.x", "sub/e.x"):
        folder.write(name, "longer")
    count = 0
    usual = Folder.embed

    def embed(self, files, first):
        nonlocal count
        for record in usual(self, files, first):
            count += 1
            if count > 3:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(Folder, "embed", embed)
    with pytest.raises(KeyboardInterrupt):
        folder.round()
    monkeypatch.setattr(Folder, "embed", usual)
    assert folder.round() == Round(changed=3, kept=2)
    folder.check("a.x", "b.x", "c.x", "d.x", "e.x")


def test_watch__rounds_until_it_is_interrupted(capsys):
    """The clock is given: three rounds, of which the second is refused and does not end the watch."""
    rounds = iter([Round(added=1), InputError("The disk is full."), Round(), Round(removed=2)])
    waited = []

    def once():
        found = next(rounds)
        if isinstance(found, Exception):
            raise found
        return found

    def wait(seconds):
        waited.append(seconds)
        return len(waited) < 4

    fresh.watch(once, 7.5, wait=wait)
    assert waited == [7.5] * 4
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "new" in line] == [
        "hierax: 1 new, 0 changed, 0 removed, 0 as they were",
        "hierax: 0 new, 0 changed, 2 removed, 0 as they were",
    ]
    assert any("disk is full" in line for line in said)


def test_watch__a_first_refusal_ends_it():
    """A folder that does not exist is a mistake to be told at once, not every half minute."""

    def once():
        raise InputError("No such folder.")

    with pytest.raises(HieraxError, match="No such"):
        fresh.watch(once, 1, wait=lambda s: pytest.fail("waited"))
    for interval in (0, -1, float("nan"), 1e9):
        with pytest.raises(InputError, match="interval"):
            fresh.watch(lambda: Round(), interval, wait=lambda s: False)
