"""Tables and lists of images: CSV, TSV, text and Parquet."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

from hierax.data.datasets.open import find_validation, open_data
from hierax.errors import HieraxError

from ....members import plain_image
from ..mutate import WORDS, any_bytes, one_of
from ..target import Target, Wrong, named, split_name

_NAMES = ("x.csv", "x.tsv", "x.txt", "x.lst", "x.parquet")
_CELLS = ("0", "1", "-1", "1.5", "", " ", "300000000", "2147483648", "9" * 5000, "1e9", "2024-01-01", "nan", "cat", "a,b", 'a"b', "a\nb", "=1+1",
          "\x00", "\x1b[31m", "../../x.png", "/dev/zero", "http://127.0.0.1:9/a.png", "a" * 300, "\udcff", "train", "val", "٣")  # fmt: skip


def act(folder: Path, data: bytes) -> None:
    """Open it with and without labels; there may be as many classes as rows, and some gaps in their numbers."""
    name, content = split_name(data, _NAMES)
    (folder / name).write_bytes(content)
    (folder / "a.png").write_bytes(plain_image())
    failure: HieraxError | None = None
    for labelled in (True, False):
        try:
            found = open_data(folder / name, labelled=labelled)
            if len(found.classes) > 2 * len(found) + 1000:
                raise Wrong(f"{len(found.classes)} classes of {len(found)} samples")
            found.fingerprint()
            if labelled:
                find_validation(folder / name)
        except HieraxError as error:
            failure = error
    if failure is not None:
        raise failure


def seeds(folder: Path) -> list[bytes]:
    """One of each kind, and Parquet with columns of every type."""
    rows = [
        ("path", "label", "split"),
        ("a.png", "cat", "train"),
        ("a.png", "3", "val"),
        ('"a.png"', '"d""og"', "train"),
    ]
    found = [
        named(name, "\n".join(mark.join(row) for row in rows).encode())
        for name, mark in (("x.csv", ","), ("x.tsv", "\t"))
    ]
    found += [named("x.txt", b"a.png\n"), named("x.lst", b"a.png\t0\na.png\t1\n")]
    try:
        return [*found, *(named("x.parquet", parquet(random.Random(seed))) for seed in range(6))]
    except ImportError:
        return found


def parquet(rng: random.Random) -> bytes:
    """A Parquet table whose labels are of some type."""
    import datetime
    import decimal

    import pyarrow
    import pyarrow.parquet

    kinds: list[list[Any]] = [
        ["a", None, "b"], [0, 1, 300_000_000], [1.5, float("nan"), -0.0], [True, False, None], [b"\xff", b"a", b""],
        [datetime.date(2024, 1, n) for n in (1, 2, 3)], [datetime.datetime(1, 1, 1), None, None], [decimal.Decimal("1.1")] * 3,
        [[1], [], None], [{"a": 1}, {"a": None}, None], [2**63 - 1, -(2**63), 0], [None] * 3, ["9" * 5000, "=1", "\0"],
    ]  # fmt: skip
    paths: list[Any] = ["a.png", "b\n.png", None] if rng.random() < 0.9 else rng.choice(kinds)
    columns = {
        "path": paths,
        rng.choice(("label", "class", "Label ", "x")): rng.choice(kinds),
        "split": ["train", "val", "train"],
    }
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream, compression=rng.choice(("none", "snappy", "gzip")))
    return stream.getvalue()


def cells(data: bytes, rng: random.Random) -> bytes:
    """Cells and lines exchanged."""
    name, content = split_name(data, _NAMES)
    if name == "x.parquet":
        return named(name, footer(parquet(rng), rng) if rng.random() < 0.7 else parquet(rng))
    mark = "," if name == "x.csv" else "\t"
    lines = [line.split(mark) for line in content.decode("utf-8", "surrogateescape").split("\n")]
    for _ in range(rng.choice((1, 2, 4, 20))):
        line = rng.choice(lines)
        kind = rng.randrange(5)
        if kind < 3 and line:
            line[rng.randrange(len(line))] = rng.choice(_CELLS)
        elif kind == 3:
            lines.append(list(line) * rng.choice((1, 1, 2)))
        else:
            lines.insert(rng.randrange(len(lines)), rng.sample(_CELLS, rng.randrange(1, 5)))
    return named(name, "\n".join(mark.join(line) for line in lines).encode("utf-8", "surrogateescape"))


def footer(data: bytes, rng: random.Random) -> bytes:
    """Parquet changed in the metadata at its end, whose length stays right."""
    (length,) = struct.unpack("<I", data[-8:-4])
    at = len(data) - 8 - length
    changed = any_bytes(data[at:-8], rng) if rng.random() < 0.5 else _flipped(data[at:-8], rng)
    return data[:at] + changed + struct.pack("<I", len(changed)) + b"PAR1"


def _flipped(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def words(data: bytes, rng: random.Random) -> bytes:
    """The content changed blindly, or a word put in."""
    name, content = split_name(data, _NAMES)
    at = rng.randrange(len(content) + 1)
    return named(
        name, any_bytes(content, rng) if rng.random() < 0.5 else content[:at] + rng.choice(WORDS) + content[at:]
    )


TARGET = Target("tables", act, seeds, one_of(cells, cells, words))
