"""The cache's places, the turns that processes take at it, and hashes that are never believed of a changed file."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading

import pytest
from huggingface_hub import constants

from hierax.errors import CheckpointError, InputError, IntegrityError
from hierax.net import cache as places
from hierax.net.cache import Published, alone, cache_root, is_unchanged, verified_hash
from hierax.net.trust import verified


@pytest.mark.parametrize("planted", ["nothing", "folder", "link", "file"])
def test_a_machine_without_homes_has_a_cache_of_its_own(tmp_path, monkeypatch, planted):
    """A folder named "~" would appear wherever a person happens to stand; one that others can write holds their weights."""
    monkeypatch.setattr(constants, "HF_HOME", "~/.cache/huggingface")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places._without_home.cache_clear()
    known = tmp_path / f"hierax-{os.getuid()}"
    if planted == "folder":
        known.mkdir()
        known.chmod(0o777)
    elif planted == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        known.symlink_to(tmp_path / "theirs")
    elif planted == "file":
        known.touch()
    root = cache_root()
    assert root.parent == tmp_path
    assert (root == known) == (planted == "nothing")
    assert root.stat().st_mode & 0o777 == 0o700
    assert cache_root() == root
    assert places.hub_cache() == root / "hub"
    places._without_home.cache_clear()


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
        assert said.wait(120)
        with alone("another thing"):
            order.append("first")
    thread.join(120)
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


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(cache):
    path = cache / "file"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")
    return path


def test_a_file_is_read_once_until_it_changes(file, monkeypatch):
    """Gigabytes hashed at every start, or a changed file that is believed."""
    real, read = places.sha256_of, []
    monkeypatch.setattr(places, "sha256_of", lambda path: read.append(path) or real(path))
    assert [verified_hash(file), verified_hash(file)] == [digest(b"one")] * 2
    assert len(read) == 1
    file.write_bytes(b"two")
    os.utime(file, (1, 1))
    assert not is_unchanged(file)
    assert verified_hash(file) == digest(b"two")


@pytest.mark.parametrize("note", ["", "[]", "{", '{"sha256": 1}', '{"sha256": "abc", "stamp": null}', "\ud800"])
def test_a_damaged_note_is_as_good_as_none(file, cache, note):
    """A cache that is believed turns one bad block into an error at every start."""
    verified_hash(file)
    (kept,) = (cache / "verified").iterdir()
    kept.write_bytes(note.encode("utf-8", "surrogatepass"))
    assert is_unchanged(file)
    assert verified_hash(file) == digest(b"one")


def test_wrong_bytes_are_obtained_once_more_but_not_offline(file, monkeypatch):
    """For ever is a loop; offline there is nobody to ask."""
    asked = []

    def obtain(again):
        asked.append(again)
        file.write_bytes(b"wrong")
        return file, Published((digest(b"right"),))

    with pytest.raises(IntegrityError, match="origin"):
        verified("a file", obtain)
    assert asked == [False, True]
    assert not file.exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(IntegrityError, match="HF_HUB_OFFLINE"):
        verified("a file", obtain)
    assert asked == [False, True, False]


def test_only_what_lies_in_the_cache_is_deleted(tmp_path, cache):
    """A link in the cache that leads to somebody's own file, or whose folder is a link, would delete that file."""
    mine = tmp_path / "mine" / "file"
    mine.parent.mkdir()
    mine.write_bytes(b"years of work")
    link, kept = cache / "link", cache / "kept"
    cache.mkdir(parents=True)
    link.symlink_to(mine)
    places.forget(link)
    assert not os.path.lexists(link)
    (cache / "folder").symlink_to(mine.parent)
    with pytest.raises(CheckpointError, match="Nothing was deleted"):
        places.forget(cache / "folder" / "file")
    assert mine.read_bytes() == b"years of work"
    kept.write_bytes(b"x")
    link.symlink_to(kept)
    places.forget(link)
    assert not kept.exists()


def test_a_link_in_the_place_of_a_lock_is_taken_away(tmp_path, cache):
    """Some lock libraries follow it, and empty the file behind it."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"years of work")
    with alone("a thing"):
        pass
    (lock,) = (cache / "locks").iterdir()
    lock.unlink()
    lock.symlink_to(mine)
    with alone("a thing"):
        assert lock.is_file()
        assert not lock.is_symlink()
    assert mine.read_bytes() == b"years of work"


def test_a_changed_file_stays_changed(file):
    """Remembering the new hash at the first look would make it the right one at the second."""
    verified_hash(file)
    file.write_bytes(b"two")
    assert [is_unchanged(file), is_unchanged(file)] == [False, False]
    assert verified_hash(file, fresh=True) == digest(b"two")
    assert is_unchanged(file)
