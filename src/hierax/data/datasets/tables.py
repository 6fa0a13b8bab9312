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
Columns = dict[str, list[str]]  # cells as text, by lower-case name


def open_table(path: Path, split: str, labelled: bool) -> FileData:
    """The samples of a table or list; a `split` column, where there is one, selects.

    Raises:
        InputError: As `read_table`; without the columns that are needed, or without such a split.
    """
    columns, lines, problems = read_table(path)
    paths = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
    labels = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
    for name, column in (("path", paths), ("label", labels if labelled else paths)):
        if column is None:
            raise InputError(f"A table must have a column named {name}; {str(path)!r} has {', '.join(columns)}.")
    splits, wanted = columns.get("split"), wanted_split(columns, split)
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
        else:
            names.append(name)
            texts.append(text)
    return FileData(path.parent, names, *number_labels(texts), problems)


def wanted_split(columns: Columns, split: str) -> str | None:
    """What a table calls a split, None where it has none of it."""
    present = {text.strip().lower() for text in columns.get("split", [])}
    return next((name for name in (split.lower(), *SPLITS.get(split, ())) if name in present), None)


def read_table(path: Path) -> tuple[Columns, list[int], list[tuple[str, str]]]:
    """Columns, the line that each row ends on, and rows that are none, as (name, reason).

    Raises:
        InputError: Unreadable, empty, or two columns of one name.
        MissingExtraError: A Parquet table without pyarrow.
    """
    kind = path.suffix.lower()
    if kind in LISTS:  # a path on each line, with a label behind a tab if there is one
        rows = [(line, text.split("\t")) for line, text in enumerate(_text(path).split("\n"), 1) if text.strip()]
        names = ["path", "label"] if rows and all(len(cells) == 2 for _, cells in rows) else ["path"]
        rows = [(line, [cells[0].strip(), *cells[1 : len(names)]]) for line, cells in rows]
    else:
        names, rows = _parquet(path) if kind == ".parquet" else _csv(path, "\t" if kind == ".tsv" else ",")
        names = [name.strip().lower() for name in names]
    twice = [name for name, count in Counter(names).items() if name and count > 1]  # those that have none may be many
    if twice:
        raise InputError(f"Columns of a table must have different names; {str(path)!r} has {twice[0]!r} twice.")
    good = [(line, row) for line, row in rows if len(row) >= len(names) and not any(row[len(names) :])]
    lines = {line for line, _ in good}
    problems = [
        (f"line {line} of {path.name}", f"{len(row)} cells under {len(names)} column names")
        for line, row in rows
        if line not in lines
    ]
    return {name: [row[n] for _, row in good] for n, name in enumerate(names)}, [line for line, _ in good], problems


def _csv(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"A table must be readable; {str(path)!r}, line {reader.line_num}: {error}.") from error
    if not rows:
        raise InputError(f"A table must start with a row of column names; {str(path)!r} is empty.")
    return rows[0][1], rows[1:]


def _parquet(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("data", "pyarrow") from error
    try:
        table = parquet.read_table(path)
    except Exception as error:
        raise InputError(f"A Parquet table must be readable; {str(path)!r}: {error}.") from error
    cells = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [(line, list(row)) for line, row in enumerate(zip(*cells, strict=True), 1)]


def _text(path: Path) -> str:
    """The text of a file, line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"Training data must be readable; {str(path)!r}: {error.strerror or error}.") from error
