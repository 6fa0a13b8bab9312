"""Hashes that are remembered, and never believed of a file that changed."""

from __future__ import annotations

import hashlib
import os

import pytest
from huggingface_hub import constants

from hierax.errors import IntegrityError
from hierax.net import integrity
from hierax.net.integrity import Published, is_unchanged, verified, verified_hash


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(tmp_path, cache):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


def test_a_file_is_read_once_until_it_changes(file, monkeypatch):
    """Gigabytes hashed at every start, or a changed file that is believed."""
    real, read = integrity.sha256_of, []
    monkeypatch.setattr(integrity, "sha256_of", lambda path: read.append(path) or real(path))
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
