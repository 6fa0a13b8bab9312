"""`Predictor.embed_files`: what the command line has, in Python; a vector or a reason for every file."""

from __future__ import annotations

import numpy as np
import pytest

import hierax

from ..members import write_png


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Three images, one broken, one of them in a folder below."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album" / "more").mkdir(parents=True)
    write_png("album/a.png", 1)
    write_png("album/more/z.png", 2)
    (tmp_path / "album" / "m.jpg").write_text("no image")
    return "album"


@pytest.mark.parametrize("form", ["folder", "glob", "list", "path"])
def test_rows__of_whatever_names_files(predictor, album, tmp_path, form):
    """A row that is missing moves every later vector to another file."""
    sources = {"folder": album, "glob": "album/**", "path": tmp_path / album}
    source = sources.get(form, ["album/a.png", "album/m.jpg", "album/more"])
    rows = list(predictor.embed_files(source, batch_size=2))
    assert [row.path.name for row in rows] == ["a.png", "m.jpg", "z.png"]
    assert [row.error is None for row in rows] == [True, False, True]
    assert rows[1].value is None
    assert "m.jpg" in rows[1].error
    np.testing.assert_allclose([rows[0].value, rows[2].value], predictor.embed([r.path for r in rows[::2]]), atol=1e-5)
    assert rows[0].value.dtype == np.float32


def test_rows__come_as_they_are_done(predictor, album):
    """A list of all vectors of a million photographs does not fit."""
    rows = predictor.embed_files(album, batch_size=1, normalize=True)
    assert iter(rows) is rows
    assert np.linalg.norm(next(rows).value) == pytest.approx(1, abs=1e-5)
    assert len(list(rows)) == 2
    assert list(rows) == []


def test_rows__refused_at_once(predictor, tmp_path):
    """A mistake that shows when the first row is asked for is found far from where it was made."""
    with pytest.raises(hierax.InputError, match="exist"):
        predictor.embed_files(tmp_path / "nowhere")
    write_png(tmp_path / "a.png")
    with pytest.raises(hierax.InputError, match="batch_size"):
        predictor.embed_files(tmp_path, batch_size=0)


def test_table__arrow(predictor, album, tmp_path):
    """Null in place of a vector, and a file that can be read back by any version."""
    pq = pytest.importorskip("pyarrow.parquet")
    table = predictor.embed_files(album).to_arrow()
    assert table.column_names == ["path", "embedding", "error"]
    assert table["embedding"].null_count == 1
    assert [error is None for error in table["error"].to_pylist()] == [True, False, True]
    pq.write_table(table, tmp_path / "v.parquet")
    assert pq.read_table(tmp_path / "v.parquet").equals(table)


def test_table__pandas(predictor, album):
    """One line a file, with the vector in a cell."""
    pytest.importorskip("pandas")
    frame = predictor.embed_files(album).to_pandas()
    assert list(frame.columns) == ["path", "embedding", "error"]
    assert frame["embedding"].isna().tolist() == [False, True, False]
    assert frame["embedding"][0].shape == (256,)


def test_table__without_pandas(predictor, album, monkeypatch):
    """A bare ImportError says nothing of what to do."""
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(hierax.InputError, match="pip install pandas"):
        predictor.embed_files(album).to_pandas()


def test_progress__on_request(predictor, album, capsys, monkeypatch):
    """A library that draws bars unasked fills the logs of others."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(predictor.embed_files(album))
    assert capsys.readouterr().err == ""
    list(predictor.embed_files(album, progress=True))
    assert "0/3" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["embed", "classify", "features"])
def test_embed__of_a_folder_says_where_folders_go(predictor, album, method):
    """ "album is a folder" is true; it does not say what to call instead."""
    for source in (album, "album/*.png"):
        with pytest.raises(hierax.InputError, match="embed_files"):
            getattr(predictor, method)(source)
