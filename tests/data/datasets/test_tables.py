"""Tables and lists: every cell arrives as it was written, and rows that cannot be are named."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

from hierax.data.datasets import samples, tables
from hierax.data.datasets.open import find_validation, open_data
from hierax.data.decode import decode_image
from hierax.errors import InputError

from ...members import folder_of_classes, plain_image


def table(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables(tmp_path, kind):
    """Rows without a path or label are named; numbers sort as numbers, relative to the table's folder."""
    folder_of_classes(tmp_path / "images")
    rows = [("images/cat/0.png", "10", "train"), ("images/dog/0.png", "9", "train"), ("images/dog/1.png", "", "train"),
            ("", "9", "train"), ("images/cat/3.png", "9", "val")]  # fmt: skip
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = [list(column) for column in zip(*rows, strict=True)]
        parquet.write_table(pyarrow.table(dict(zip(("path", "label", "split"), columns, strict=True))), path)
    else:
        mark = "\t" if kind == "tsv" else ","
        path.write_text("\n".join(mark.join(row) for row in [("Path", "Label", "Split"), *rows]))
    data = open_data(path)
    assert data.classes == ["9", "10"]
    assert data.labels.tolist() == [1, 0]
    assert [reason for _, reason in data.problems] == ["no label", "no path"]
    assert decode_image(data.read(0)).shape == (16, 20, 3)
    assert len(find_validation(path)) == 1
    assert find_validation(path, beside="all") is None  # its rows are trained on
    assert len(open_data(path, split="all")) == 3
    with pytest.raises(InputError, match="train, val"):
        open_data(path, split="trian")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quoted_cells(tmp_path, end):
    """Splitting into lines before parsing breaks a quoted name in two, and reading as text changes its line ends."""
    names = ["two\nlines.png", "two\r\nlines.png", "com,ma.png", 'quo"te.png', "form\ffeed\u2028.png", "caf\udce9.png"]
    rows = ['"' + name.replace('"', '""') + '",x' for name in names]
    for name in names:
        (tmp_path / name).write_bytes(plain_image())
    data = open_data(table(tmp_path, end.join(["path,label", *rows, ""])))
    assert [data.name(index) for index in range(len(data))] == names
    assert all(decode_image(data.read(index)).shape == (16, 20, 3) for index in range(len(data)))


def test_list__odd_names(tmp_path):
    """`str.splitlines` takes a form feed and Unicode's separators for line ends."""
    names = ["form\ffeed.png", "unit\x1fsep\u2028.png"]
    data = open_data(table(tmp_path, "\r\n".join(names) + "\r\n\r\n", "list.txt"), labelled=False)
    assert [data.name(index) for index in range(2)] == names


def test_rows_of_another_length(tmp_path):
    """A path with an unquoted comma would be cut at it, and its rest taken for the label."""
    path = table(tmp_path, "path,label\na,b.png,cat\nc.png,cat\n\nd.png\ne.png,dog,\n")
    data = open_data(path)
    assert [data.name(index) for index in range(len(data))] == ["c.png", "e.png"]
    assert data.problems == [
        ("line 2 of table.csv", "3 cells under 2 column names"),
        ("line 5 of table.csv", "1 cells under 2 column names"),
    ]


@pytest.mark.parametrize("header", ["path,label,Label", "path,path ,label"])
def test_column_names_twice(tmp_path, header):
    """Of two columns of one name the last would be taken without a word."""
    with pytest.raises(InputError, match="twice"):
        open_data(table(tmp_path, f"{header}\na.png,x,y\n"))


def test_unreadable_tables(tmp_path):
    """The reader of CSV files raises errors of its own kind."""
    with pytest.raises(InputError, match="line"):
        open_data(table(tmp_path, "path,label\n" + "x" * 200_000 + ",y\n"))
    with pytest.raises(InputError, match="empty"):
        open_data(table(tmp_path, "\n\n"))


def test_numbers_far_apart(tmp_path):
    """A table of names by value would take gigabytes for two classes."""
    data = open_data(table(tmp_path, f"path,label\na.png,300000000\nb.png,7\nc.png,{'9' * 5000}\n"))
    assert data.classes == ["7", "300000000", "9" * 5000]
    assert data.labels.tolist() == [1, 0, 2]
    assert isinstance(data.labels, np.ndarray)


@pytest.mark.parametrize(
    "cell", ['"open.png', '"glu"ed.png', "a\0.png", "x" * 2_000_000], ids=["open", "glued", "nul", "long"]
)
def test_rows_that_csv_would_bend(tmp_path, cell):
    """A lenient reader makes of an open quote one cell with the rest of the file, and of '"a"b.png' the name ab.png."""
    with pytest.raises(InputError, match="line"):
        open_data(table(tmp_path, f"path,label\n{cell},cat\nb.png,dog\n"))


def test_endless_row(tmp_path):
    """A quote that is never closed takes in the file, whatever limit other packages have set for a field."""
    limit = tables.csv.field_size_limit(1 << 30)
    try:
        with pytest.raises(InputError, match="quote left open"):
            open_data(table(tmp_path, 'path,label\n"' + "a.png,cat\n" * 200_000))
    finally:
        tables.csv.field_size_limit(limit)


def test_utf16(tmp_path):
    """Spreadsheets save it under the name Unicode text; as UTF-8 its header would be unreadable without a reason."""
    path = tmp_path / "table.csv"
    path.write_bytes("path,label\na.png,cat\n".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        open_data(path)


@pytest.mark.parametrize("name", ["table.csv", "list.txt", "table.parquet"])
def test_only_regular_files(tmp_path, name):
    """Reading a named pipe never begins, reading /dev/zero never ends."""
    pytest.importorskip("pyarrow")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path = tmp_path / name
        make(path)
        with pytest.raises(InputError, match="regular file"):
            open_data(path)
        path.unlink()


def test_list__names_stay(tmp_path):
    """A stripped line is another file; of a name with a tab, the part before it is another one too."""
    names = [" a.png", "a.png ", "b\tc.png", "d.png"]
    data = open_data(table(tmp_path, "\n".join(names), "list.txt"), labelled=False)
    assert [data.name(index) for index in range(4)] == names


def test_parquet__declared_size(tmp_path):
    """A few kilobytes hold millions of equal rows, which no table of paths does."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    ones = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(3_000_000, np.int8)), ["x"])
    parquet.write_table(pyarrow.table({"path": ones, "label": ones}), tmp_path / "table.parquet")
    with pytest.raises(InputError, match="rows"):
        open_data(tmp_path / "table.parquet")
    few = pyarrow.table({"path": [b"caf\xe9.png", b"b.png"], "label": [1.5, None], "note": [[1], []]})
    parquet.write_table(few, tmp_path / "table.parquet")
    data = open_data(tmp_path / "table.parquet")
    assert (data.name(0), data.classes, len(data.problems)) == ("caf\udce9.png", ["1.5"], 1)


def test_labels_that_are_names_of_samples(tmp_path):
    """A head for every row of a large table takes the memory of the machine."""
    rows = "".join(f"{n}.png,{7 * n}\n" for n in range(samples.MOST_CLASSES + 1))
    with pytest.raises(InputError, match="200,001"):
        open_data(table(tmp_path, "path,label\n" + rows))


def test_labels_in_no_utf8(tmp_path):
    r"""Class names leave in JSON and TOML, which hold no lone surrogates."""
    data = open_data(table(tmp_path, "path,label\na.png,caf\udce9\nb.png,\u00e9\n"))
    assert data.classes == ["caf\\xe9", "\u00e9"]
    assert data.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "source",
    ["shapes:1" + "0" * 30, "shapes:-5", "shapes:5@-1", "shapes:5@" + "9" * 5000, "shapes:5@0x4", "shapes:5@0x99999",
     "shapes:1e3", "shapes:\u0663", "x" * 300, "a\0b", "\ud800", "\0.csv", "x" * 5000 + ".csv"],
    ids=lambda source: ascii(source[:15]),
)  # fmt: skip
def test_sources_that_are_none(source):
    """NumPy, the interpreter and the system each raise errors of their own on these."""
    for labelled in (True, False):
        with pytest.raises(InputError):
            open_data(source, labelled=labelled)
    if not source.startswith("shapes:"):
        with contextlib.suppress(InputError):
            assert find_validation(source) is None
