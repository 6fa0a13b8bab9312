"""Images that lie in files with others: tar shards, and tables with a column of images or of their paths."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ..arrow import arrow_batches
from ..errors import InputError, MissingExtraError
from ..net.address import is_address, shown
from ..net.download import download
from ..net.transfer import Kind
from ..parquet import check_rows, few_rows, parquet_batches, parquet_file, rows_at_once
from . import remote
from .datasets.places import PATH_COLUMNS
from .datasets.shard_index import index_of, not_a_tar
from .datasets.shards import list_shards
from .files import open_regular
from .items import Item, is_there
from .sources import IMAGE_EXTENSIONS, is_glob

_TABLES = (".parquet", ".arrow", ".feather")
_TAR = re.compile(r"(\.tar(\.\w+)?|\.tgz)$")
_WEB = ("http://", "https://")
# What a column of images is called; the first that is there is taken, else the only one that holds bytes.
_IMAGE_COLUMNS = ("image", "img", "image_bytes", "bytes", "data", "content", "jpg", "jpeg", "png", "webp")
_ROWS_AT_ONCE = 64
_NAME_CHARACTERS = 1 << 15
_LOOKED_AT = 10_000  # names in a folder, in search of one that says what it holds


def means_tars(text: str) -> bool:
    """Whether an input is a tar, a pattern or an address of tars, or a folder in which tars lie and no images."""
    if text.startswith(_WEB):
        place = re.split("[?#]", text)[0]
        return bool(_TAR.search(place)) or place.endswith(("/", "_info.json"))
    return text.startswith("pipe:") or bool(_TAR.search(text) and not os.path.isdir(text)) or _holds(text, (".tar",))


def means_tables(text: str) -> bool:
    """Whether an input is a table, a pattern of tables, or a folder in which tables lie and no images."""
    return bool(text.lower().endswith(_TABLES) and not os.path.isdir(text)) or _holds(text, _TABLES)


def in_tars(text: str) -> Iterator[Item]:
    """The samples of tars; what is wrong with a tar is an item of its own, with the reason.

    Raises:
        InputError: No tar, a `pipe:` URL, compressed tars, or one that cannot be fetched.
    """
    kind = Kind("a plain tar", InputError, folder="shards", most_bytes=1 << 40, trouble=not_a_tar)
    for place in list_shards(text):
        path, name = (download(place, kind), shown(place)) if isinstance(place, str) else (place, str(place))
        try:
            samples, problems = index_of(path)
        except OSError as error:
            samples, problems = [], [(path.name, f"cannot be read: {error.strerror or error}")]
        for sample in samples:
            yield Item(f"{name}/{sample.key}", str(path), shard=name, offset=sample.offset, size=sample.size)
        for which, reason in problems:
            inner = which.removeprefix(path.name)
            yield Item(f"{name}{inner}", shard=name, error=f"{name}{inner} {reason}")


def in_tables(text: str, wants: Callable[[int], bool]) -> Iterator[Item]:
    """The rows of tables; `wants`, asked before so many rows, says whether any of them will be read.

    Raises:
        InputError: No table, or none with images or paths.
        MissingExtraError: pyarrow is not installed.
    """
    if os.path.isdir(text):
        places = sorted(str(path) for path in Path(text).iterdir() if path.suffix.lower() in _TABLES)
    else:
        places = sorted(glob.glob(text, recursive=True)) if is_glob(text) else [text]
    if not places:
        raise InputError(f"Tables must exist; none are in {text!r}.")
    for place in places:
        yield from _Table(place).items(wants)


class _Table:
    """One file of rows."""

    def __init__(self, place: str) -> None:
        try:
            import pyarrow as pa
        except ImportError as error:
            raise MissingExtraError("data", "pyarrow") from error
        self.place, self._pa = place, pa
        self.name = shown(place)

    def items(self, wants: Callable[[int], bool]) -> Iterator[Item]:
        """Its rows, in order."""
        file: BinaryIO = remote.open_file(self.place) if _is_remote(self.place) else open_regular(self.place)
        with file:
            row = 0
            try:
                for count, read in self._groups(file):
                    batches = read() if wants(count) or self.kind == "path" else None
                    if batches is None:
                        yield from (Item(self._row(n), shard=self.name, offset=n) for n in range(row, row + count))
                        row += count
                        continue
                    for batch in batches:
                        for value in batch.column(0).to_pylist():
                            yield self._item(row, value)
                            row += 1
            except (InputError, GeneratorExit):
                raise
            except Exception as error:  # damaged files raise almost anything
                raise InputError(f"A table must be readable; {self.name!r}: {str(error)[:300]}.") from error

    def _groups(self, file: BinaryIO) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Groups of rows: how many, and what reads the column that matters in batches."""
        if self.place.lower().endswith(".parquet"):
            table = parquet_file(file)
            check_rows(table.metadata.num_rows, file.seek(0, os.SEEK_END), self.name)
            column = self._column(table.schema_arrow)
            groups = range(table.num_row_groups)
            most = [rows_at_once(table, group, column, _ROWS_AT_ONCE, self.name) for group in groups]
            for group in groups:
                rows = table.metadata.row_group(group).num_rows
                yield rows, partial(parquet_batches, table, most[group], [column], [group])
            return
        for batch in arrow_batches(file, self.name, self._column):
            yield batch.num_rows, partial(_slices, batch)

    def _column(self, schema: Any) -> str:
        """The column of images, or of their paths; sets what kind it is."""
        types = self._pa.types
        names = {name.lower(): name for name in schema.names}

        def bytes_in(name: str) -> bool:
            kind = schema.field(name).type
            inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
            return types.is_binary(inner) or types.is_large_binary(inner) or types.is_binary_view(inner)

        images = [names[name] for name in _IMAGE_COLUMNS if name in names and bytes_in(names[name])]
        images = images or [name for name in schema.names if bytes_in(name) and name != "path_bytes"]
        if images and (len(images) == 1 or images[0].lower() in _IMAGE_COLUMNS):
            self.kind = "image"
            return images[0]
        paths = [names[name] for name in PATH_COLUMNS if name in names]
        paths = [
            name
            for name in paths
            if types.is_string(schema.field(name).type) or types.is_large_string(schema.field(name).type)
        ]
        if paths and not images:
            self.kind = "path"
            return paths[0]
        raise InputError(
            f"A table must have one column of images (bytes), named e.g. image, or of paths, named path; {self.name!r} "
            f"has {', '.join(schema.names[:20])[:500]}."
        )

    def _item(self, row: int, value: Any) -> Item:
        where = {"shard": self.name, "offset": row}
        inner: Any = value if self.kind == "path" else value.get("path") if isinstance(value, dict) else None
        if len(inner or "") > _NAME_CHARACTERS:
            reason = f"names a file by {len(inner):,} characters; {_NAME_CHARACTERS:,} are the most."
            return Item(self._row(row), **where, error=f"{self._row(row)} {reason}")
        if self.kind == "path":
            return self._file(inner) if inner else Item(self._row(row), **where, error=f"{self._row(row)} has no path.")
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and inner:
            return self._file(inner)
        name = f"{self.name}/{inner}" if inner else self._row(row)
        if data is None:
            return Item(name, **where, error=f"{name} is null.")
        return Item(name, **where, data=data)

    def _file(self, path: str) -> Item:
        """A file that a cell names: beside the table, or as it is."""
        beside = os.path.join(os.path.dirname(self.place), path)
        place = beside if not os.path.isabs(path) and not is_address(path) and is_there(beside) else path
        return Item(place, place)

    def _row(self, row: int) -> str:
        return f"{self.name}#{row}"


def _slices(batch: Any) -> Iterator[Any]:
    """A few rows at a time: as Python's objects they take as much memory again, or each as much as all."""
    rows = few_rows(batch.nbytes, _ROWS_AT_ONCE)
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _is_remote(place: str) -> bool:
    return is_address(place) and not is_there(place)


def _holds(text: str, extensions: tuple[str, ...]) -> bool:
    """Whether a folder holds files of an extension and no images."""
    if not os.path.isdir(text):
        return False
    found = False
    try:
        with os.scandir(text) as entries:
            for entry, _ in zip(entries, range(_LOOKED_AT), strict=False):
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in IMAGE_EXTENSIONS:
                    return False
                found |= suffix in extensions and not entry.name.startswith((".", "_"))
    except OSError:
        return False
    return found
