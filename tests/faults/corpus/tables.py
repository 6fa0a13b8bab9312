"""Tables of images and paths that are traps, damaged, or name what is no image: refused, or a row with the reason."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hierax as library

from ...members import write_png
from .case import Case, Ran, hierax, refused


def table(*, values: Callable[[bytes], Sequence[object]], kind: str, column: str = "image") -> Callable[[Path], None]:
    """A table t.parquet of one column, beside an image, a pipe and a link that leads to itself."""

    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        write_png(folder / "1.png", 1)
        os.mkfifo(folder / "pipe.png")
        (folder / "loop.png").symlink_to("loop.png")
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        made = pa.array(values((folder / "1.png").read_bytes()), struct if kind == "struct" else getattr(pa, kind)())
        pq.write_table(pa.table({column: made}), folder / "t.parquet")

    return make


def repeated(cell: bytes, count: int, *, column: str = "image") -> Callable[[Path], None]:
    """A table of equal cells, of which the file holds one."""

    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        one = pa.array([cell], pa.string() if column == "path" else pa.binary())
        made = pa.DictionaryArray.from_arrays(pa.array(bytes(count), pa.uint8()), one)
        pq.write_table(pa.table({column: made}), folder / "t.parquet", compression="zstd", store_schema=False)

    return make


def rows(name: str, make: Callable[[Path], None], good: int, bad: int, **bounds: Any) -> Case:
    """Each row is accounted for."""

    def act(folder: Path) -> tuple[int, int, int]:
        ran = hierax("embed", "t.parquet", "-o", "out/", "--workers", "0")
        found = library.open_store("out")
        return ran.code, found.rows, found.errors

    return Case(name, act, make, expect=lambda found: found == (3, good, bad), **{"seconds": 10, **bounds})


def refuses(name: str, make: Callable[[Path], object]) -> Case:
    def act(folder: Path) -> Ran:
        return hierax("embed", *sorted(file.name for file in folder.glob("t.*")), "-o", "out/")

    return Case(name, act, lambda folder: make(folder) and None, expect=refused)


def cut(folder: Path) -> None:
    table(values=lambda image: [image], kind="binary")(folder)
    os.truncate(folder / "t.parquet", (folder / "t.parquet").stat().st_size - 30)


def arrow(*, kind: str, stream: bool = False, packed: bool = True) -> Callable[[Path], None]:
    """t.arrow: a batch or dictionaries that unpack to far more than they take, or offsets that lead outside."""

    def make(folder: Path) -> None:
        import pyarrow as pa

        cell = b"x" * (70 << 20)
        images, words = pa.array([b"1" * 97] * 3, pa.binary()), pa.array(["a", "b", "c"])
        if kind == "batch":
            tables = [pa.table({"image": pa.array([cell] * 4, pa.large_binary())})]
        elif kind == "dictionaries":
            words = [pa.array([f"{number}" * (30 << 20), "b", "c"]) for number in range(9)]
            tables = [pa.table({"image": images, "label": each.dictionary_encode()}) for each in words]
        else:
            tables = [pa.table({"image": images, "label": words})]
        options = pa.ipc.IpcWriteOptions(compression="zstd" if packed else None)
        writer = (pa.ipc.new_stream if stream else pa.ipc.new_file)(
            folder / "t.arrow", tables[0].schema, options=options
        )
        with writer:
            for each in tables:
                writer.write_table(each)
        if kind == "offsets":
            offsets = [struct.pack("<4i", 0, 97, end, 291) for end in (194, 2**31 - 1)]
            (folder / "t.arrow").write_bytes((folder / "t.arrow").read_bytes().replace(*offsets))

    return make


PATHS = ["/dev/zero", "pipe.png", "", "a\0b", None, "x" * 5000, "loop.png", ".", "1.png"]
CASES = [
    rows("images that are none", table(values=lambda image: [None, image, b"", b"x"], kind="binary"), 1, 3),
    rows("paths of anything", table(values=lambda image: PATHS, kind="string", column="path"), 1, 8),
    rows(
        "structs without images",
        table(
            values=lambda image: [{"bytes": image, "path": "a"}, {"path": None}, None, {"path": "/dev/zero"}],
            kind="struct",
        ),
        1,
        3,
    ),
    rows("a cell that is many rows", repeated(b"x" * (6 << 20), 60), 0, 60, megabytes=500),
    rows("a name that is many rows", repeated(b"x" * (1 << 20), 150, column="path"), 0, 150),
    refuses("rows without end", repeated(b"", 3_000_000)),
    refuses("table of numbers", table(values=lambda image: [1, 2], kind="int64")),
    refuses("table of no rows", table(values=lambda image: [], kind="binary")),
    refuses("table cut off", cut),
    refuses("table that is a pipe", lambda folder: os.mkfifo(folder / "t.parquet")),
    refuses("table that never ends", lambda folder: (folder / "t.arrow").symlink_to("/dev/zero")),
    refuses("table that is a loop", lambda folder: (folder / "t.feather").symlink_to("t.feather")),
    refuses("table of nothing", lambda folder: (folder / "t.parquet").touch()),
    refuses("heavy batch", arrow(kind="batch")),
    refuses("heavy batch in a stream", arrow(kind="batch", stream=True)),
    refuses("heavy dictionaries in a stream", arrow(kind="dictionaries", stream=True)),
    refuses("offsets outside of a file", arrow(kind="offsets", packed=False)),
    refuses("offsets outside of a stream", arrow(kind="offsets", packed=False, stream=True)),
    refuses("table of another kind", lambda folder: (folder / "t.arrow").write_bytes(b"ARROW1\0\0" + b"x" * 100)),
]
