"""Tables and lists: a row is a path, relative to the file, and perhaps a label and a split."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError, MissingExtraError
from ...parquet import check_rows, parquet_batches, parquet_file
from ..files import open_regular
from .places import LABEL_COLUMNS, PATH_COLUMNS, locate
from .samples import EVERYTHING, SPLITS, FileData, number_labels

TABLES = (".csv", ".tsv", ".parquet")
LISTS = (".txt", ".lst")
_USED = frozenset((*PATH_COLUMNS, *LABEL_COLUMNS, "split"))
_ROW_CHARACTERS = 1 << 20  # of one row; a quote that is never closed would take in the rest of the file
_PARQUET_BYTES = 1 << 30  # of one group of rows, unpacked
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 begins


@dataclass
class Table:
    """What a table or list says.

    Attributes:
        names: Every column, in lower case.
        columns: The cells of those that are used, as text.
        lines: The line that each row ends on.
        problems: Rows that are none, as (name, reason).
    """

    names: list[str]
    columns: dict[str, list[str]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def wanted_split(self, split: str) -> str | None:
        """What the table calls a split, None where it has none of it."""
        present = {text.strip().lower() for text in self.columns.get("split", [])}
        return next((name for name in (split.lower(), *SPLITS.get(split, ())) if name in present), None)

    def first(self, names: Sequence[str]) -> list[str] | None:
        """The column with the first of these names that is there."""
        return next((self.columns[name] for name in names if name in self.columns), None)


def open_table(path: Path, split: str, labelled: bool) -> FileData:
    """The samples of a table or list; a `split` column, where there is one, selects.

    Raises:
        InputError: As `read_table`; without the columns that are needed, or without such a split.
    """
    table = read_table(path)
    paths, labels = table.first(PATH_COLUMNS), table.first(LABEL_COLUMNS)
    where = ""
    if paths is not None:
        paths, where, there = locate(path, paths)
        other = [name for name in table.columns if name not in (*PATH_COLUMNS, "split")]
        if labels is None and there and len(table.names) == 2 and other:
            labels = table.columns[other[0]]
            where = "; ".join(filter(None, (where, f"the column {other[0]} of {path.name} is taken for the classes")))
    for name, column in (("path", paths), ("label", labels if labelled else paths)):
        if column is None:
            raise InputError(
                f"A table must have a column named {name}; {str(path)!r} has {', '.join(table.names[:20])[:500]}. Its "
                "first row must be column names, its cells separated by commas, or by tabs in a .tsv file: name the "
                f"column that holds them {name}."
            )
    splits, wanted = table.columns.get("split"), table.wanted_split(split)
    if splits and wanted is None and split != EVERYTHING:
        known = ", ".join(sorted({text.strip() for text in splits})[:20])
        raise InputError(f"A table must hold rows of the split; {str(path)!r} has {known}, got {split!r}.")
    names: list[str] = []
    texts: list[str] = []
    for row, name in enumerate(paths or ()):
        if splits and wanted is not None and splits[row].strip().lower() != wanted:
            continue
        text = labels[row].strip() if labels is not None else ""
        if not name or (labelled and not text):
            table.problems.append((f"line {table.lines[row]} of {path.name}", "no label" if name else "no path"))
        else:
            # A name is the bytes in the file, whatever encoding the system gives to names.
            names.append(os.fsdecode(name.encode("utf-8", "surrogateescape")))
            texts.append(text)
    data = FileData(path.parent, names, *number_labels(texts), table.problems)
    data.notes += [where] if where else []
    return data


def read_table(path: Path) -> Table:
    """Read the columns that samples come from.

    Raises:
        InputError: Unreadable, empty, no UTF-8, a row without end, or two columns of one name.
        MissingExtraError: A Parquet table without pyarrow.
    """
    kind = path.suffix.lower()
    if kind in LISTS:
        return _list(path)
    return _parquet(path) if kind == ".parquet" else _csv(path, "\t" if kind == ".tsv" else ",")


def _begun(path: Path, names: Sequence[str], *, of_two: bool = False) -> Table:
    """A table without rows; with `of_two`, one of two columns is kept whatever its name."""
    names = [name.strip().lower() for name in names]
    twice = [name for name, count in Counter(names).items() if name and count > 1]  # those that have none may be many
    if twice:
        raise InputError(f"Columns of a table must have different names; {str(path)!r} has {twice[0]!r} twice.")
    return Table(names, {name: [] for name in names if name in _USED or (of_two and len(names) == 2)})


def _list(path: Path) -> Table:
    """A path on each line, with a label behind a tab if every line has just one."""
    rows = [(number, line.rstrip("\r\n")) for number, line in enumerate(_lines(path, "\n"), 1) if line.strip()]
    table = Table(["path"], lines=[number for number, _ in rows])
    if rows and all(line.count("\t") == 1 for _, line in rows):
        paths, labels = zip(*(line.split("\t") for _, line in rows), strict=True)
        table.names, table.columns = ["path", "label"], {"path": list(paths), "label": list(labels)}
    else:
        table.columns = {"path": [line for _, line in rows]}
    return table


def _csv(path: Path, delimiter: str) -> Table:
    fed = 0  # characters since the last row ended

    def feed() -> Iterator[str]:
        nonlocal fed
        for number, line in enumerate(_lines(path, ""), 1):
            fed += len(line)
            if fed > _ROW_CHARACTERS:
                raise csv.Error(f"a row longer than {_ROW_CHARACTERS:,} characters; is a quote left open?")
            if "\0" in line:
                raise csv.Error(f"line {number} holds a NUL byte, which text has none of")
            yield line

    table: Table | None = None
    kept: list[tuple[list[str], int]] = []  # a column that is used, and where it stands
    reader = csv.reader(feed(), delimiter=delimiter, strict=True)  # lenient, it would join '"a"b.png' to a name
    try:
        for row in reader:
            fed = 0
            if not any(cell.strip() for cell in row):
                continue
            if table is None:
                table = _begun(path, row, of_two=True)
                kept = [(table.columns[name], n) for n, name in enumerate(table.names) if name in table.columns]
            elif len(row) < len(table.names) or any(row[len(table.names) :]):
                name = f"line {reader.line_num} of {path.name}"
                table.problems.append((name, f"{len(row)} cells under {len(table.names)} column names"))
            else:
                table.lines.append(reader.line_num)
                for column, place in kept:
                    column.append(row[place])
    except csv.Error as error:
        raise InputError(f"A table must be readable; {str(path)!r}, line {reader.line_num}: {error}.") from error
    if table is None:
        raise InputError(f"A table must start with a row of column names; {str(path)!r} is empty.")
    return table


def _lines(path: Path, newline: str) -> Iterator[str]:
    """Lines of a text file, their ends as they are; bytes that are no UTF-8 survive as in file names.

    Raises:
        InputError: No regular file, UTF-16, or a line without end.
    """
    with open_regular(path) as file:
        if file.read(2) in _WIDE:
            raise InputError(f"A table must be UTF-8 text; {str(path)!r} is UTF-16. Save it as CSV UTF-8.")
        file.seek(0)
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=newline)
        try:
            while line := text.readline(_ROW_CHARACTERS + 1):
                if len(line) > _ROW_CHARACTERS:
                    raise InputError(
                        f"A line of a table may have at most {_ROW_CHARACTERS:,} characters; {str(path)!r} has a "
                        "longer one. Is it text?"
                    )
                yield line
        except OSError as error:
            raise InputError(f"A table must be readable; {str(path)!r}: {error.strerror or error}.") from error


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("data", "pyarrow") from error
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            schema = parquet_file(stream).schema_arrow
            table = _begun(path, schema.names)
            own = {name: own for own, name in zip(schema.names, table.names, strict=True) if name in table.columns}
            texts = [name for name in own.values() if pyarrow.types.is_string(schema.field(name).type)]
            stream.seek(0)
            # Equal cells stay one: a packed column of long texts would unpack to gigabytes.
            file = parquet_file(stream, read_dictionary=texts)
            check_rows(file.metadata.num_rows, size, str(path))
            _check_unpacked(path, file.metadata)
            for batch in parquet_batches(file, 65536, list(own.values())):
                for name, column in own.items():
                    table.columns[name] += _cells(pyarrow, batch.column(column))
            table.lines = list(range(1, file.metadata.num_rows + 1))
    except InputError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise InputError(f"A Parquet table must be readable; {str(path)!r}: {str(error)[:500]}.") from error
    if any(len(column) != len(table.lines) for column in table.columns.values()):
        raise InputError(f"A Parquet table must have the rows that it declares; {str(path)!r} has others.")
    return table


def _check_unpacked(path: Path, metadata: Any) -> None:
    """Refuse what would unpack to far more than a table of paths."""
    groups = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    if max(groups, default=0) > _PARQUET_BYTES:
        raise InputError(
            f"A Parquet table of paths may hold at most {_PARQUET_BYTES >> 30} GiB in a group of rows; {str(path)!r} "
            f"has a group of {max(groups):,} bytes. Write it with smaller row groups."
        )


def _cells(pyarrow: Any, column: Any) -> list[str]:
    """A column as text; what is null is empty."""
    if not isinstance(column, pyarrow.DictionaryArray):
        column = column.dictionary_encode()
    known = ["" if value is None else _text(value) for value in column.dictionary.to_pylist()]
    if max(map(len, known), default=0) > _ROW_CHARACTERS:
        raise InputError(f"A cell of a table may have at most {_ROW_CHARACTERS:,} characters.")
    return ["" if index is None else known[index] for index in column.indices.to_pylist()]


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
