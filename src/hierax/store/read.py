"""Reading a store: its rows as Arrow, its good vectors as one array in a file that is mapped into memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import atomic_file
from ..errors import InputError, UnknownNameError, brief, nearest
from ..regular import open_regular
from .layout import VECTORS, Commits, Part, Spec, read_commits, read_spec
from .parts import read_part, vectors_of
from .tables import schema, schema_metadata

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 65536


class Store:
    """A data set of embeddings as it was when it was opened; a run that is writing it adds rows that this does not see.

    Rows are counted from 0 in the order of the parts; good rows, those without an error, likewise among themselves.

    Attributes:
        path: The folder.
        spec: What its rows have in common.
        parts: The files, in order.
        complete: Whether the source was gone through to its end.
        edited: Whether files were added or removed since; ids are then no positions of one source.
        count: How many inputs of the source were gone through, those of other shares included.
        digest: Of all their names.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"A store is named by the path of its folder; got {brief(path)}.")
        self.path = Path(path).expanduser()
        self.spec: Spec = read_spec(self.path)
        commits: Commits = read_commits(self.path)
        self.parts: tuple[Part, ...] = tuple(commits.parts)
        self.complete, self.edited = commits.complete, commits.edited
        self.count, self.digest = commits.next, commits.digest
        self._vectors: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        """Place, counts and model on one line."""
        unfinished = "" if self.complete or self.edited else ", unfinished"
        model = self.metadata.get("model", "?")
        return f"Store({str(self.path)!r}, {self.rows} rows, {self.errors} errors, {model}{unfinished})"

    def __len__(self) -> int:
        """Good and bad rows."""
        return sum(part.rows for part in self.parts)

    @property
    def errors(self) -> int:
        """Bad rows, inputs that have a reason in place of vectors."""
        return sum(part.errors for part in self.parts)

    @property
    def rows(self) -> int:
        """Good rows, which `vectors` and `paths` hold."""
        return len(self) - self.errors

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        return self.spec.columns

    @property
    def metadata(self) -> dict[str, Any]:
        """What made the vectors (model, sha256 of its weights, preprocess, pooling, dtype, normalized, versions)."""
        return dict(self.spec.provenance)

    @property
    def origin(self) -> dict[str, str]:
        """The `folder` in which relative paths begin, and the file of the `weights`, on the machine that wrote it."""
        return dict(self.spec.origin)

    @property
    def files(self) -> list[Path]:
        """The parts' paths, in order."""
        return [self.path / part.part for part in self.parts]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Each part as a `pyarrow.Table`, in order.

        Args:
            columns: Which; all without.

        Raises:
            UnknownNameError: No such column.
            InputError: A part is damaged.
            MissingExtraError: pyarrow is not installed.
        """
        wanted = self._named(columns)
        return (read_part(self.path, part, self.spec, wanted) for part in self.parts)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, good and bad, as one `pyarrow.Table`, which is read into memory whole.

        Raises:
            HieraxError: As `tables`.
        """
        tables = list(self.tables(columns))
        import pyarrow as pa

        wanted = schema(self.spec, schema_metadata(self.spec.provenance))
        empty = wanted.empty_table().select(self._named(columns))
        return pa.concat_tables([empty, *tables]).replace_schema_metadata(wanted.metadata)

    def vectors(self, column: str = "embedding") -> np.ndarray:
        """The vectors of all good rows (n, c), mapped into memory from a file beside the parts, read-only.

        The file is made when it is first asked for, in memory that does not grow with the store, and made anew when
        the store has changed since.

        Raises:
            UnknownNameError: No such column of vectors.
            InputError: A part is damaged, or there is no room for the file.
        """
        size = self.spec.vectors.get(column) if isinstance(column, str) else None
        if size is None:
            known = list(self.spec.vectors)
            raise UnknownNameError(
                f"This store has vectors in {', '.join(known)}; got {brief(column)}. {nearest(str(column), known)}"
            )
        if not self.rows:
            return np.zeros((0, size), self.spec.dtype)
        file = self.path / VECTORS / f"{column}-{self.fingerprint}.npy"
        if column not in self._vectors:  # mapping anew costs as much as half a search
            found = _mapped(file, (self.rows, size), self.spec.dtype)
            self._vectors[column] = self._made(file, column, size) if found is None else found
        return self._vectors[column]

    def paths(self) -> list[str]:
        """Names of the good rows, in the order of `vectors`; those that are no UTF-8 as `os.fsdecode` gives them."""
        return paths_of(self.lookup(range(self.rows), ["path", "path_bytes"]))

    def lookup(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Some good rows, in the order in which they are asked for; only their parts are read.

        Args:
            rows: Places among the good rows, as in `vectors`.
            columns: Which; all without.

        Raises:
            InputError: A place outside of them, or a part is damaged.
        """
        import pyarrow as pa

        names = self._named(columns)
        wanted = np.asarray(rows if len(rows) else [], dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.rows:
            raise InputError(f"Good rows are counted from 0 to {self.rows - 1}; got {int(wanted.max())}.")
        where = np.searchsorted(self._ends, wanted, side="right")
        found, places = [schema(self.spec).empty_table().select(names)], np.empty(len(wanted), np.int64)
        count = 0
        for number in np.unique(where):
            chosen = np.flatnonzero(where == number)
            start = int(self._ends[number - 1]) if number else 0
            table = read_part(self.path, self.parts[number], self.spec, list(dict.fromkeys([*names, "error"])))
            good = table.filter(table["error"].is_null()) if self.parts[number].errors else table
            found.append(good.take(pa.array(wanted[chosen] - start)).select(names))
            places[chosen] = np.arange(count, count + len(chosen))
            count += len(chosen)
        table = pa.concat_tables([each.replace_schema_metadata(None) for each in found])
        return table if bool((np.diff(places) > 0).all()) else table.take(pa.array(places))

    @cached_property
    def fingerprint(self) -> str:
        """Changes when rows do; what was made of a store names its file by it."""
        text = "\n".join(f"{part.part} {part.rows} {part.errors} {part.bytes}" for part in self.parts)
        return hashlib.sha256(f"{self.spec.dtype}\n{text}".encode()).hexdigest()[:16]

    @cached_property
    def _ends(self) -> np.ndarray:
        """How many good rows there are up to the end of each part."""
        return np.cumsum([part.rows - part.errors for part in self.parts], dtype=np.int64)

    def _named(self, columns: Sequence[str] | None) -> list[str]:
        wanted = self.columns if columns is None else [columns] if isinstance(columns, str) else list(columns)
        for name in wanted:
            if name not in self.columns:
                raise UnknownNameError(
                    f"This store has the columns {', '.join(self.columns)}; got {brief(name)}. "
                    f"{nearest(str(name), self.columns)}"
                )
        return wanted

    def _made(self, file: Path, column: str, size: int) -> np.ndarray:
        """Write the vectors to their file, or where that may not be to one that goes with this process."""
        try:
            try:
                file.parent.mkdir(exist_ok=True)
                with atomic_file(file) as temporary:
                    self._write_vectors(temporary, column, size)
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                return self._passing(column, size)
        except OSError as error:
            raise InputError(
                f"The vectors of a store are mapped from a file, for which there must be room; {str(file)!r}: "
                f"{error.strerror or error}. Free {self.rows * size * np.dtype(self.spec.dtype).itemsize:,} bytes."
            ) from error
        for old in file.parent.glob(f"{column}-*.npy"):
            if old != file:
                with contextlib.suppress(OSError):
                    old.unlink()
        found = _mapped(file, (self.rows, size), self.spec.dtype)
        if found is None:
            raise InputError(f"{str(file)!r} was changed while it was made. Ask again.")
        return found

    def _passing(self, column: str, size: int) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="hierax-") as folder:
            file = Path(folder) / "vectors.npy"
            self._write_vectors(file, column, size)
            return np.load(file, mmap_mode="r")

    def _write_vectors(self, file: Path, column: str, size: int) -> None:
        with file.open("wb") as out:
            header = {"descr": np.dtype(self.spec.dtype).str, "fortran_order": False, "shape": (self.rows, size)}
            np.lib.format.write_array_header_1_0(out, header)
            for table in self.tables([column, "error"]):
                for start in range(0, table.num_rows, _ROWS_AT_ONCE):
                    good = vectors_of(table.slice(start, _ROWS_AT_ONCE)[column], size)
                    out.write(np.ascontiguousarray(good).data)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open the data set of embeddings that `hierax embed SOURCE -o OUT/` wrote.

    Raises:
        InputError: No store, or a damaged one.
    """
    return Store(path)


def paths_of(table: pa.Table) -> list[str]:
    """The names in the columns `path` and `path_bytes`, exact."""
    exact = table["path_bytes"].to_pylist()
    return [
        path if raw is None else os.fsdecode(raw) for path, raw in zip(table["path"].to_pylist(), exact, strict=True)
    ]


def _mapped(file: Path, shape: tuple[int, int], dtype: str) -> np.ndarray | None:
    """A file of vectors, None where there is none, or one that is not whole."""
    try:
        open_regular(file).close()  # NumPy would wait for a pipe
        found = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.dtype(dtype) else None
