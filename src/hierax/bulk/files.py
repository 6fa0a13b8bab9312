"""The rows of a small job as one file, which appears when it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..data.files import name_bytes
from ..errors import writing
from ..outputs import OutputFile, claimed
from ..store.layout import SOURCE, Commits, Part, Spec
from ..store.tables import Block, Record, schema, schema_metadata
from .csv_text import as_path, as_text, csv_line
from .npz import Columns

FILES = (".csv", ".jsonl", ".parquet", ".npz")
_ROWS_PER_GROUP = 4096
_TEXTS, _NUMBERS = ("path", "error", "shard"), ("id", "width", "height", "offset")


class FileWriter:
    """Takes rows like a store's writer; nothing counts before all is written.

    Attributes:
        path: The file.
        spec: What its rows have in common.
        commits: Counts of rows.
    """

    spec: Spec

    def __init__(self, file: OutputFile, held: ExitStack) -> None:
        self.path, self._file, self._held, self.commits = file.path, file.partial, held, Commits()
        self.waiting, self._bad, self._id = 0, 0, -1

    @classmethod
    @contextmanager
    def claimed(cls, path: Path, *, overwrite: bool) -> Iterator[FileWriter]:
        """Hold a file from before any work is done until it takes its place, when the block ends well.

        Raises:
            InputError: As `outputs.claimed`.
        """
        with claimed(path, FILES, overwrite=overwrite, folder=f"For a store write '{path}/'.") as file:
            held = ExitStack()
            try:
                yield cls(file, held)
            except BaseException:
                with suppress(OSError):  # what a full disk refused is refused again, and would hide the first reason
                    held.close()
                raise
            with writing(path):
                held.close()

    def begin(self, spec: Spec) -> FileWriter:
        """Say what rows will have in common; returns the writer."""
        self.spec = spec
        kinds = {".npz": _Npz, ".csv": _Csv, ".jsonl": _Jsonl, ".parquet": _Parquet}
        with writing(self.path):
            self._to = kinds[self.path.suffix.lower()](self._file, spec, self._held)
        return self

    def add(self, record: Record) -> None:
        """Take a row."""
        with writing(self.path):
            self._to.add(record)
        self.waiting, self._id = self.waiting + 1, record.id
        self._bad += record.error is not None

    def due(self) -> bool:
        """Never: all rows are one part."""
        return False

    def commit(self, next: int = 0, digest: str = "") -> None:
        """Write what is left; the file takes its place when the block ends."""
        with writing(self.path):
            self._to.end()
        self.commits.parts = [Part(self.path.name, self.waiting, self._bad, 0, 0, self._id)]

    def rescue(self, next: int, digest: str) -> None:
        """Nothing: half a file is none."""

    def complete(self, count: int, digest: str) -> None:
        """Nothing more to note."""


class _Npz:
    def __init__(self, file: Path, spec: Spec, held: ExitStack) -> None:
        self._spec = spec
        texts = (*_TEXTS, *([spec.top] if spec.top else []))
        arrays = {**dict.fromkeys(_NUMBERS, np.int64), **dict.fromkeys(spec.vectors, spec.dtype)}
        self._columns = held.enter_context(Columns(file, texts=texts, arrays=arrays))
        self._missing = {name: np.full(size, np.nan, spec.dtype) for name, size in spec.vectors.items()}

    def add(self, record: Record) -> None:
        texts = {name: getattr(record, name) or "" for name in _TEXTS}
        numbers = {name: -1 if getattr(record, name) is None else getattr(record, name) for name in _NUMBERS}
        values = dict(record.values or self._missing)
        if self._spec.top:
            values[self._spec.top] = json.dumps(values.get(self._spec.top))
        self._columns.add(**texts, **numbers, **values)

    def end(self) -> None:
        self._columns.write(metadata=np.array(json.dumps(schema_metadata(self._spec.provenance))))


class _Parquet:
    def __init__(self, file: Path, spec: Spec, held: ExitStack) -> None:
        import pyarrow.parquet as pq

        self._metadata = schema_metadata(spec.provenance)
        stream = held.enter_context(file.open("wb"))  # pyarrow takes no names that are not UTF-8
        options: dict[str, Any] = {"use_dictionary": ["error", "shard"]}  # its stub knows only the default, a bool
        self._writer = held.enter_context(pq.ParquetWriter(stream, schema(spec, self._metadata), **options))
        self._block = Block(spec, _ROWS_PER_GROUP)

    def add(self, record: Record) -> None:
        exact = name_bytes(record.path) if record.path_bytes is None else record.path_bytes
        self._block.add(replace(record, path_bytes=exact))
        if len(self._block) == self._block.capacity:
            self.end()

    def end(self) -> None:
        if len(self._block):
            self._writer.write_table(self._block.table(self._metadata))
            self._block.clear()


class _Lines:
    """A file of text, one line a row."""

    def __init__(self, file: Path, spec: Spec, held: ExitStack) -> None:
        self._spec = spec
        self._out: IO[str] = held.enter_context(file.open("w", encoding="utf-8", newline=""))

    def end(self) -> None:
        self._out.flush()


class _Jsonl(_Lines):
    def add(self, record: Record) -> None:
        source = {name: getattr(record, name) for name in SOURCE if name != "path_bytes"}
        values: Mapping[str, Any] = record.values or {}
        head = json.dumps(source, ensure_ascii=False)[:-1]
        vectors = "".join(f', "{name}": {_numbers(values.get(name))}' for name in self._spec.vectors)
        top = f', "{self._spec.top}": {json.dumps(values.get(self._spec.top))}' if self._spec.top else ""
        self._out.write(f"{head}{vectors}{top}}}\n")


class _Csv(_Lines):
    """One column a number: a list in a cell is text to whatever reads it."""

    _NAMES = tuple(name for name in SOURCE if name != "path_bytes")

    def __init__(self, file: Path, spec: Spec, held: ExitStack) -> None:
        super().__init__(file, spec, held)
        numbers = [f"{name}_{index}" for name, size in spec.vectors.items() for index in range(size)]
        self._out.write(csv_line([*self._NAMES, *([spec.top] if spec.top else []), *numbers]) + "\n")

    def add(self, record: Record) -> None:
        source = {name: getattr(record, name) for name in self._NAMES}
        cells = [
            {"path": as_path, "shard": as_path}.get(name, as_text)(value) if value is not None else None
            for name, value in source.items()
        ]
        values: Mapping[str, Any] = record.values or {}
        if self._spec.top:
            cells.append(json.dumps(values[self._spec.top]) if values else None)
        line = csv_line(cells)
        for name, size in self._spec.vectors.items():
            line += "," + ("," * (size - 1) if not values else _numbers(values[name])[1:-1].replace(" ", ""))
        self._out.write(line + "\n")


def _numbers(vector: np.ndarray | None) -> str:
    """Numbers as JSON, as many digits as bring the same float32 back."""
    return "null" if vector is None else f"[{', '.join(format(float(each), '.9g') for each in vector)}]"
