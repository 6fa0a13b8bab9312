"""Two runs to one output: the second is refused, or replaces nothing; never are both told that all went well."""

from __future__ import annotations

import pytest

import hierax
from hierax.atomic import atomic_file, folder_beside
from hierax.errors import CheckpointError
from hierax.weights.formats.hierax import Hierax
from hierax.weights.write import write_weights

from ..members import MEMBERS, weights_of


@pytest.mark.parametrize("empty", [True, False])
def test_convert__replaces_nothing_that_appeared_meanwhile(tmp_path, monkeypatch, empty):
    """The other conversion's files are ours too, and were taken for an earlier save's, which may be replaced."""
    source = hierax.load().save(tmp_path / "source")
    place, real = tmp_path / "m", Hierax.write
    if empty:
        place.mkdir()

    def write(self, weights, destination):
        monkeypatch.setattr(Hierax, "write", real)
        write_weights(weights_of(MEMBERS["Hiera"]), tmp_path / "first", to="hierax")
        if empty:
            place.rmdir()
        (tmp_path / "first").rename(place)
        return real(self, weights, destination)

    monkeypatch.setattr(Hierax, "write", write)
    with pytest.raises(CheckpointError, match="meanwhile"):
        hierax.convert(source, place, to="hierax")
    assert hierax.load(place).labels == ["bird 0", "bird 1", "bird 2"]


@pytest.mark.parametrize("hold", [folder_beside, lambda path: atomic_file(path, alone=True)])
def test_save_and_convert__while_another_writes(tmp_path, hold):
    """Files of two models, moved in turn into one folder, load as a third that nobody trained."""
    source, place = hierax.load().save(tmp_path / "source"), tmp_path / "m"
    with hold(place):
        for write in (lambda: hierax.load().save(place), lambda: hierax.convert(source, place, to="hierax")):
            with pytest.raises(CheckpointError, match=r"this process is writing it\. Wait"):
                write()
        assert not place.exists()
