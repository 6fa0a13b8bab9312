"""CSV that no spreadsheet runs and every reader gets back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierax.bulk.csv_text import as_path, as_text, csv_line
from hierax.cli import main
from hierax.weights.write import write_weights

from ..members import classifier, write_png

FORMULAS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "'=1",
    "''=1",
    "\uff1d1",
    "=cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells__none_begins_a_formula(text, separator):
    """Whatever the spreadsheet splits at, no cell may begin with what it runs."""
    for cell in (as_text(text), as_path(text), as_text(f"bird;{text}"), as_text(f"a\t{text}"), as_text(f"b,{text}")):
        for row in csv.reader(io.StringIO(csv_line([cell, 1, -0.5, None]), newline=""), delimiter=separator):
            for found in row:
                if not found.replace(",", "").replace(".", "").replace("-", "").isdigit():
                    assert not found.lstrip(" \t\r\n").startswith(("=", "+", "-", "@", "\uff1d")), row


@given(st.text(st.sampled_from("'= +-@\t\r\nab;,\"\uff1d"), max_size=6))
def test_text__comes_back(text):
    """A mark that cannot be told from the text would change labels that begin with an apostrophe."""
    cell, _ = next(csv.reader(io.StringIO(csv_line([as_text(text), 1]) + "\n", newline="")))
    marked = as_text(text) != text
    assert (cell.removeprefix("'") if marked else cell) == text
    assert not marked or as_text(cell.removeprefix("'")) == cell
    assert as_text(cell) != cell or not marked


def test_classify__names_and_labels(desk, capsys):
    """Ordinary cells stay byte for byte; a name that is a formula becomes the same file by another name."""
    model = write_weights(classifier(["=HYPERLINK(1)", "plain", "-3;=4"]), desk / "model", to="hierax")
    (desk / "sub").mkdir()
    for name in ("=1+1.png", "-dash.png", "@at.png", "sub/=fine.png"):
        write_png(desk / name)
    names = ["=1+1.png", "@at.png", "sub/=fine.png", "a.png"]
    command = ["classify", "-m", str(model), "--format", "csv", "--", *names, "-dash.png"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("path,rank,label,index,score,error\n")
    assert "\r" not in out  # `cut -d, -f6` and `awk` gave an "error" of one invisible character
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert {row["path"] for row in rows} == {"./=1+1.png", "./@at.png", "sub/=fine.png", "a.png", "./-dash.png"}
    assert {row["label"] for row in rows} == {"'=HYPERLINK(1)", "plain", "'-3;=4"}
    assert all((desk / row["path"]).is_file() for row in rows)
