"""Tables for people: as wide as the terminal, whatever one row holds; and no more classes than there are."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import hierax
from hierax.cli import main
from hierax.commands.common import table
from hierax.predictor import Predictions
from hierax.weights.write import write_weights

from ..members import classifier, folder_of_classes, write_png

EXAMPLE = Path(__file__).parents[2] / "examples" / "star.jpg"
URL = "https://someone:secret@example.com/photo.jpg?token=1"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_one_error__widens_nothing(desk, capsys, monkeypatch, columns):
    """A reason of 130 characters made every line 180 wide; and nothing of it may be lost."""
    monkeypatch.setenv("COLUMNS", str(columns))
    (desk / "bad.png").write_text("no image")
    assert main(["classify", "a.png", "bad.png", "--top-k", "2"]) == 3
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert "An image must be one of JPEG, PNG, WEBP" in " ".join(out.split())
    assert "'bad.png' is none of them." in " ".join(out.split())
    assert all(line == line.rstrip() for line in out.splitlines())


def test_one_long_path__leaves_the_others_in_line(desk, capsys, monkeypatch):
    """One folder with a name of 100 characters pushed the scores of all files out of sight."""
    monkeypatch.setenv("COLUMNS", "80")
    write_png("x" * 100 + ".png")
    assert main(["classify", "a.png", "x" * 100 + ".png", "--top-k", "1"]) == 0
    head, short, long = capsys.readouterr().out.splitlines()
    assert head.split() == ["path", "score", "label"]
    assert len(short) < 40
    assert long.startswith("x" * 100 + ".png  0.")


def test_table__other_tables_keep_their_lines(capsys, monkeypatch):
    """`hierax list | grep NAME` needs all of a row on its line."""
    monkeypatch.setenv("COLUMNS", "20")
    table([{"name": "a" * 30, "dataset": "one two three four five six"}])
    assert capsys.readouterr().out.splitlines()[1] == f"{'a' * 30}  one two three four five six"


def test_address__is_shown_as_one_and_told_as_one(desk, capsys):
    """Path makes `https:/` of it; "does not exist" helps nobody; what is secret in it stays out."""
    assert main(["classify", "a.png", URL, "--top-k", "1", "--format", "json"]) == 3
    good, bad = json.loads(capsys.readouterr().out)
    assert bad["path"] == "https://example.com/photo.jpg"
    assert "'https://example.com/photo.jpg' is a URL, which hierax does not fetch" in bad["error"]
    assert good["error"] is None
    assert main(["embed", URL, "-o", "v.npz"]) == 1
    said = capsys.readouterr().err
    assert "'https://example.com/photo.jpg' is a URL" in said
    assert "https:/e" not in said
    assert "secret" not in said


def test_address__of_a_folder_that_looks_like_one(desk):
    """A folder may be called so; its files keep their names."""
    folder = desk / "http:"
    folder.mkdir()
    write_png(folder / "b.png")
    (row,) = hierax.load().embed_files(Path("http:/b.png"))
    assert row.error is None
    assert row.name == "http:/b.png"


def test_doubled_words(desk, capsys):
    """ "cannot be opened: cannot be opened": one reason, once."""
    (desk / "loop.png").symlink_to("loop.png")
    assert main(["classify", "a.png", "loop.png", "--format", "jsonl"]) == 3
    error = json.loads(capsys.readouterr().out.splitlines()[1])["error"]
    assert error.count("opened") == 1
    assert error.count("loop.png") == 1


def test_three_classes__have_a_top_3(desk, capsys):
    """ "top-5 100 %" of three classes says nothing and is no number that anybody else has."""
    model = str(write_weights(classifier(["star", "ring", "heart"]), desk / "model", to="hierax"))
    folder_of_classes(desk / "set", ("star", "ring"), 2)
    assert main(["eval", "accuracy", "set", "-m", model]) == 0
    out = capsys.readouterr().out
    assert ", top-3 100.00% (4)" in out
    assert "top-5" not in out
    assert main(["classify", "a.png", "-m", model, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert len({row["label"] for row in rows}) == 3


def test_one_class__has_no_top_5(desk, capsys):
    """ "top-1 100 %, top-1 100 %" would be the same twice."""
    model = str(write_weights(classifier(["star"]), desk / "model", to="hierax"))
    folder_of_classes(desk / "set", ("star",), 2)
    assert main(["eval", "accuracy", "set", "-m", model]) == 0
    assert capsys.readouterr().out == "top-1 100.00% (2 of 2)\n"


def test_nothing__is_no_header():
    """A notebook showed a table of headings alone."""
    assert Predictions()._repr_html_() == "<p>no predictions</p>"
    assert Predictions([Predictions()])._repr_html_() == "<p>no predictions</p>"
    assert "<th>label</th>" in hierax.load().classify(EXAMPLE, top_k=1)._repr_html_()


@pytest.mark.parametrize("format", ["table", "csv", "jsonl", "json"])
def test_nothing__prints_nothing(desk, capsys, monkeypatch, format):
    """An empty list on stdin is an error with a remedy, not a header with no rows."""
    import sys
    import types

    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"\n\n")))
    assert main(["classify", "-", "--format", format]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "at least one image" in captured.err
