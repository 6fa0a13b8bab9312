"""An .npz file of any number of rows in little memory: columns grow on the disk, then become its arrays."""

from __future__ import annotations

import itertools
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

_TEXTS_AT_ONCE = 4096


class Columns:
    """Columns in files beside the one that they become.

    Args:
        file: The .npz to write; in a folder of its own, which holds the columns meanwhile.
        texts: Names of the columns of strings.
        arrays: Names of the columns of float32 arrays, all of a column of one shape, and of integers (empty shape).
    """

    def __init__(self, file: Path, *, texts: Sequence[str], arrays: Mapping[str, Any]) -> None:
        self._file, self._dtypes, self._open = (
            file,
            {name: np.dtype(kind) for name, kind in arrays.items()},
            ExitStack(),
        )
        self._longest = dict.fromkeys(texts, 1)
        self._counts = dict.fromkeys([*texts, *arrays], 0)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._columns: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Columns:
        """Open the files of the columns."""
        for name in self._counts:
            self._columns[name] = self._open.enter_context(self._place(name).open("w+b"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close them."""
        self._open.close()

    def add(self, **row: Any) -> None:
        """Append one value to each column that is named."""
        for name, value in row.items():
            self._counts[name] += 1
            if name in self._longest:
                self._longest[name] = max(self._longest[name], len(value))
                self._columns[name].write(json.dumps(value).encode() + b"\n")
            else:
                array = np.ascontiguousarray(value, self._dtypes[name])
                self._shapes[name] = np.shape(value)
                self._columns[name].write(array.tobytes())

    def write(self, **whole: np.ndarray) -> None:
        """Make the .npz of the columns and of arrays that are given whole.

        Raises:
            OSError: The disk refuses.
        """
        with zipfile.ZipFile(self._file, "w") as archive:
            for name, array in whole.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            for name, column in self._columns.items():
                column.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    self._copy(name, column, member)
                self._place(name).unlink()  # its room on the disk is needed for the next

    def _copy(self, name: str, column: IO[bytes], member: IO[bytes]) -> None:
        text, shape = name in self._longest, self._shapes.get(name, ())
        dtype = np.dtype(f"U{self._longest[name]}") if text else self._dtypes[name]
        header = {"descr": dtype.str, "fortran_order": False, "shape": (self._counts[name], *shape)}
        np.lib.format.write_array_header_2_0(member, header)
        if not text:
            shutil.copyfileobj(column, member, 1 << 20)
            return
        while lines := list(itertools.islice(column, _TEXTS_AT_ONCE)):
            member.write(np.array([json.loads(line) for line in lines], dtype).tobytes())

    def _place(self, name: str) -> Path:
        return self._file.with_name(f"{name}.column")
