"""Tables and lists: a row is a path, relative to the file, and perhaps a label and a split."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from ...errors import InputError, MissingExtraError
from .samples import EVERYTHING, SPLITS, FileData, number_labels

TABLES = (".csv", ".tsv", ".parquet")
LISTS = (".txt", ".lst")
_PATH_COLUMNS = ("path", "file", "filename", "filepath", "image")
_LABEL_COLUMNS = ("label", "class", "target", "category")


_Columns = dict[str, list[str]]  # cells as text, by lower-case name
_Problems = list[tuple[str, str]]  # rows that are no rows, as (name, reason)
_Table = tuple[_Columns, list[int], _Problems]  # with the line that each row ends on


def open_table(path: Path, split: str, labelled: bool) -> FileData:
    """The samples of a table or list; a `split` column, where there is one, selects.

    Raises:
        InputError: Unreadable, without the columns that are needed, or without such a split.
        MissingExtraError: A Parquet table without pyarrow.
    """
    columns, lines, problems = _read(path)
    paths = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
    labels = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
    for name, column in (("path", paths), ("label", labels if labelled else paths)):
        if column is None:
            raise InputError(f"A table must have a column named {name}; {str(path)!r} has {', '.join(columns)}.")
    splits, wanted = columns.get("split"), _split_name(columns, split)
    if splits and wanted is None and split != EVERYTHING:
        known = ", ".join(sorted({text.strip() for text in splits}))
        raise InputError(f"A table must hold rows of the split; {str(path)!r} has {known}, got {split!r}.")
    names: list[str] = []
    texts: list[str] = []
    for row, name in enumerate(paths or ()):
        if splits and wanted is not None and splits[row].strip().lower() != wanted:
            continue
        text = labels[row].strip() if labels is not None else ""
        if not name or (labelled and not text):
            problems.append((f"line {lines[row]} of {path.name}", "no label" if name else "no path"))
            continue
        names.append(name)
        texts.append(text)
    data = FileData(path.parent, names, *number_labels(texts))
    data.problems = problems
    return data


def wanted_split(path: Path, split: str) -> str | None:
    """What a table calls a split, None where it has none of it.

    Raises:
        InputError: As `open_table`.
    """
    return _split_name(_read(path)[0], split)


def _split_name(columns: _Columns, split: str) -> str | None:
    present = {text.strip().lower() for text in columns.get("split", [])}
    return next((name for name in (split.lower(), *SPLITS.get(split, ())) if name in present), None)


def _read(path: Path) -> _Table:
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _read_parquet(path)
    if kind in LISTS:
        return _read_list(path)
    return _read_csv(path, "\t" if kind == ".tsv" else ",")


def _read_list(path: Path) -> _Table:
    """A path on each line, with a label behind a tab if there is one."""
    rows = [(line, text.split("\t")) for line, text in enumerate(_text(path).split("\n"), 1) if text.strip()]
    columns = {"path": [cells[0].strip() for _, cells in rows]}
    if rows and all(len(cells) == 2 for _, cells in rows):
        columns["label"] = [cells[1] for _, cells in rows]
    return columns, [line for line, _ in rows], []


def _read_csv(path: Path, delimiter: str) -> _Table:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"A table must be readable; {str(path)!r}, line {reader.line_num}: {error}.") from error
    if not rows:
        raise InputError(f"A table must start with a row of column names; {str(path)!r} is empty.")
    header = _header(path, rows[0][1])
    good: list[tuple[int, list[str]]] = []
    problems: _Problems = []
    for line, row in rows[1:]:
        if len(row) < len(header) or any(row[len(header) :]):
            problems.append((f"line {line} of {path.name}", f"{len(row)} cells under {len(header)} column names"))
        else:
            good.append((line, row))
    columns = {name: [row[number] for _, row in good] for number, name in enumerate(header)}
    return columns, [line for line, _ in good], problems


def _read_parquet(path: Path) -> _Table:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("data", "pyarrow") from error
    try:
        table = parquet.read_table(path)
    except Exception as error:
        raise InputError(f"A Parquet table must be readable; {str(path)!r}: {error}.") from error
    header = _header(path, table.column_names)
    cells = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    return dict(zip(header, cells, strict=True)), list(range(1, table.num_rows + 1)), []


def _header(path: Path, names: list[str]) -> list[str]:
    """Column names in lower case; those that have none may be many."""
    header = [name.strip().lower() for name in names]
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise InputError(f"Columns of a table must have different names; {str(path)!r} has {twice[0]!r} twice.")
    return header


def _text(path: Path) -> str:
    """The text of a file, line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"Training data must be readable; {str(path)!r}: {error.strerror or error}.") from error
