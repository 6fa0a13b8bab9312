"""The command line from outside: what is printed where, what is written, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hierax.cli import COMMANDS, main

from .members import picture


@pytest.fixture
def album(tmp_path):
    """The folder that the first users will point us at: good, odd and broken files together."""
    folder = tmp_path / "album"
    folder.mkdir()
    picture((120, 90), 1).save(folder / "a.jpg")
    picture((120, 90), 2).save(folder / "b.png")
    picture((120, 90), 3).save(folder / "whole.jpg", quality=95)
    data = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("this is no image")
    picture((120, 90), 4).convert("CMYK").save(folder / "cmyk.jpg")
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture((120, 90), 5).save(folder / "rotated.jpg", exif=exif)
    return folder


GOOD = ["a.jpg", "b.png", "cmyk.jpg", "rotated.jpg", "sixteen.png", "whole.jpg"]
BAD = ["text.jpg", "truncated.jpg"]


def test_embed_npz__row_for_each_file(album, tmp_path, capsys):
    """A run that stops at the first bad file, or drops it, or gives it a vector, fails here."""
    out = tmp_path / "v.npz"
    assert main(["embed", str(album), "-o", str(out)]) == 3
    data = np.load(out)
    names = [p.rsplit("/", 1)[-1] for p in data["path"]]
    assert names == sorted(GOOD + BAD)
    for name, vector, error in zip(names, data["embedding"], data["error"], strict=True):
        assert bool(error) == (name in BAD)
        assert np.isnan(vector).all() if name in BAD else np.isfinite(vector).all()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "truncated.jpg" in captured.err


@pytest.mark.parametrize("fixed", [None, False])
def test_embed_parquet__provenance_and_nulls(album, tmp_path, monkeypatch, fixed):
    """Vectors without provenance cannot be told from another model's; a failed row must be null.

    Before pyarrow 26 a null vector of fixed size makes the whole file unreadable: there lists have no fixed size.
    """
    pq = pytest.importorskip("pyarrow.parquet")
    import hierax.store.tables as tables

    fixed = tables.reads_null_vectors() if fixed is None else fixed
    monkeypatch.setattr(tables, "reads_null_vectors", lambda: fixed)
    out = tmp_path / "v.parquet"
    assert main(["embed", str(album), "-o", str(out), "--normalize"]) == 3
    table = pq.read_table(out)
    assert getattr(table.schema.field("embedding").type, "list_size", None) == (256 if fixed else None)
    assert table.schema.metadata[b"hierax.model"] == b"hiera_nano_96"
    assert table.schema.metadata[b"hierax.normalized"] == b"True"
    for row in table.to_pylist():
        failed = row["path"].rsplit("/", 1)[-1] in BAD
        assert (row["embedding"] is None) == failed
        assert (row["error"] is not None) == failed
        if not failed:
            assert np.linalg.norm(row["embedding"]) == pytest.approx(1.0, abs=1e-5)


def test_embed__existing_output_is_kept(album, tmp_path, capsys):
    """Overwriting unasked would lose somebody's vectors."""
    out = tmp_path / "v.npz"
    out.write_bytes(b"precious")
    assert main(["embed", str(album), "-o", str(out)]) == 1
    assert out.read_bytes() == b"precious"
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_classify__every_format_names_every_file(album, capsys, format):
    """stdout must hold the data alone, in each format, bad files included."""
    assert main(["classify", str(album), "--top-k", "2", "--format", format]) == 3
    out = capsys.readouterr().out
    for name in GOOD + BAD:
        assert name in out
    if format == "json":
        rows = json.loads(out)
        assert {len(r["predictions"]) for r in rows if not r["error"]} == {2}
    if format == "jsonl":
        assert len([json.loads(line) for line in out.splitlines()]) == len(GOOD + BAD)


def test_features__maps_and_picture(tmp_path):
    """Maps must be (k, c, h, w) of the rows in `index`; the picture must exist."""
    for seed in (1, 2):
        picture((120, 90), seed).save(tmp_path / f"{seed}.jpg")
    (tmp_path / "1a.jpg").write_text("no image")
    out, plot = tmp_path / "f.npz", tmp_path / "f.png"
    arguments = ["features", str(tmp_path / "1.jpg"), str(tmp_path / "1a.jpg"), str(tmp_path / "2.jpg")]
    assert main([*arguments, "-o", str(out), "--stages", "stage1,stage4", "--plot", str(plot)]) == 3
    data = np.load(out)
    assert data["index"].tolist() == [0, 2]
    assert data["stage1"].shape == (2, 32, 24, 24)
    assert data["stage4"].shape == (2, 256, 3, 3)
    assert "stage2" not in data
    with Image.open(plot) as drawn:
        assert min(drawn.size) > 100


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["clasify", "x.jpg"], 2, "Did you mean 'classify'"),
        (["classify", "x.jpg", "--nonsense"], 2, ""),
        (["describe", "hiera_bas_224"], 1, "hiera_base_224"),
        (["classify", "no/such/folder"], 1, "no/such/folder"),
        (["embed", "x.jpg", "-o", "out.txt"], 1, ".parquet or .npz"),
        (["eval"], 2, "accuracy"),
        (["convert", "nowhere.pt", "out", "--to", "timm"], 1, "nowhere.pt"),
    ],
)
def test_errors__no_traceback(arguments, code, words, capsys, tmp_path, monkeypatch):
    """A user's mistake must give one sentence with a remedy, never a traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert words in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_list__is_data(capsys):
    """--commercial must drop every non-commercial licence."""
    assert main(["list", "--commercial", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 20
    assert not any("-nc-" in row["license"] for row in rows)
    assert main(["list", "*sam2*"]) == 0
    assert "sam2.1_hiera_small" in capsys.readouterr().out


def test_stdin_list(album, tmp_path):
    """`find ... | hierax embed -` is how long lists arrive."""
    listing = "\n".join(str(album / name) for name in ("a.jpg", "b.png")) + "\n"
    command = [sys.executable, "-m", "hierax", "embed", "-", "-o", str(tmp_path / "v.npz")]
    done = subprocess.run(command, input=listing, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "v.npz")["path"]) == 2


def test_help__lists_every_command(capsys):
    """A command that help forgets does not exist for users."""
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help__each_command(name, capsys):
    """Every command's signature must parse into options with help."""
    assert main([*name.split(), "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()
