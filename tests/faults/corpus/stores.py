"""Stores that somebody else changed: manifests, lists of parts and parts that lie, and traps where a store's files stand.

Whoever opens one gets a refusal that says what is wrong; whoever writes to one changes nothing but the store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hierax as library
from hierax.errors import InputError

from ...search.stores import write_store
from .case import Case, hierax, refused

PARTS, MANIFEST = "_parts.jsonl", "_store.json"
Change = Callable[[Path], object]


def store(folder: Path) -> Path:
    """Twelve rows of four numbers in three parts, the fourth without a vector."""
    place = folder / "s"
    write_store(place, np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32), part=5, errors={3})
    (folder / "mine.txt").write_text("mine")
    return place


def changed(change: Change) -> Callable[[Path], None]:
    """A store, and then what was done to it."""
    return lambda folder: change(store(folder)) and None


def read_all(folder: Path) -> int:
    """Everything that a reader may ask for."""
    found = library.open_store(folder / "s")
    table = found.to_arrow()
    assert len(found.vectors()) == found.rows == len(found.paths()) == len(table) - found.errors
    return len(found.search(np.ones(4, np.float32), k=20)) + len(found.duplicates(0.999))


def refuses(name: str, change: Change, match: str, **bounds: Any) -> Case:
    """Reading it, in Python and by commands, is refused with the reason."""

    def act(folder: Path) -> object:
        copy = folder / "s2"
        for arguments in (("search", "s", "row:0"), ("store", "merge", "s", "s", "-o", copy), ("duplicates", "s")):
            ran = hierax(*arguments)
            assert ran.code == 0 or refused(ran), ran.err
        if (folder / "mine.txt").read_text() != "mine" or sorted(os.listdir(folder)) != ["mine.txt", "s"]:
            raise AssertionError(f"something was written outside: {os.listdir(folder)}")
        return read_all(folder)

    return Case(name, act, changed(change), raises=InputError, match=match, **bounds)


def manifest(**fields: Any) -> Change:
    """Its manifest with other fields."""

    def change(place: Path) -> None:
        known = json.loads((place / MANIFEST).read_text())
        (place / MANIFEST).write_text(json.dumps({**known, **fields}))

    return change


def first_part(**fields: Any) -> Change:
    """Its list with other fields in the first line."""

    def change(place: Path) -> None:
        first, *rest = (place / PARTS).read_text().splitlines()
        (place / PARTS).write_text("\n".join([json.dumps({**json.loads(first), **fields}), *rest, ""]))

    return change


def lines(text: bytes) -> Change:
    """Its list with a text before it."""
    return lambda place: (place / PARTS).write_bytes(text + (place / PARTS).read_bytes())


def part(make: Callable[[Any], Any], **fields: Any) -> Change:
    """Another table in the place of the first part, with its size in the list."""

    def change(place: Path) -> None:
        import pyarrow.parquet as pq

        file = place / "part-00000000.parquet"
        pq.write_table(make(pq.read_table(file)), file)
        first_part(bytes=file.stat().st_size, **fields)(place)

    return change


def column(name: str, values: Callable[[Any], Any]) -> Change:
    """A part with another column."""
    return part(lambda table: table.set_column(table.schema.get_field_index(name), name, values(table)))


def arrow(values: Any, kind: str) -> Any:
    import pyarrow as pa

    lists = {"list3": pa.list_(pa.float32(), 3), "texts": pa.list_(pa.string()), "any": pa.list_(pa.float32())}
    return pa.array(values, lists[kind] if kind in lists else getattr(pa, kind)())


def millions_of_rows(place: Path) -> None:
    """Some kilobytes that say a hundred million rows without vectors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = place / "part-00000000.parquet"
    table = pq.read_table(file)
    count = 1_000_000
    nulls = {field.name: pa.nulls(count, field.type) for field in table.schema}
    with pq.ParquetWriter(file, table.schema.with_metadata(None).remove(0).insert(0, pa.field("id", pa.int64()))) as to:
        block = pa.table({**nulls, "id": pa.array(np.zeros(count, np.int64)), "error": pa.array(["x"] * count)})
        for _ in range(100):
            to.write_table(block)
    first_part(bytes=file.stat().st_size, rows=100 * count, errors=100 * count)(place)


def instead(name: str, kind: str) -> Change:
    """A trap where one of its files stands."""

    def change(place: Path) -> None:
        there = place / name
        if there.is_dir():
            shutil.rmtree(there)
        there.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(there)
        elif kind == "folder":
            there.mkdir()
        else:
            there.symlink_to(kind)

    return change


def writes(name: str, change: Change, expect: Callable[[int], bool] = lambda code: code == 1) -> Case:
    """Writing to it, by whichever command, ends, and leaves what is not the store's."""

    def make(folder: Path) -> None:
        from ...members import write_png

        (folder / "album").mkdir()
        write_png(folder / "album" / "1.png", 1)
        (folder / "mine.txt").write_text("mine")
        assert hierax("embed", "album", "-o", f"{folder}/s/").code == 0
        (folder / "album" / "1.png").rename(folder / "album" / "0.png")
        write_png(folder / "album" / "2.png", 2)
        change(folder / "s")

    def act(folder: Path) -> int:
        ran = hierax("index", "album", "s")
        again = hierax("embed", "album", "-o", "s/", "--overwrite")
        for each in (ran, again):
            if each.code and not refused(each):
                raise AssertionError(each.err)
        if (folder / "mine.txt").read_text() != "mine" or sorted(os.listdir(folder)) != ["album", "mine.txt", "s"]:
            raise AssertionError("something was written outside")
        return ran.code

    return Case(name, act, make, expect=expect, seconds=20)


def of_manifests() -> Iterator[Case]:
    for name, text in (("empty", ""), ("list", "[]"), ("cut", '{"version": 1, "prov'), ("deep", "[" * 100_000)):
        yield refuses(f"manifest {name}", lambda place, text=text: (place / MANIFEST).write_text(text), ".")
    wrong: dict[str, dict[str, Any]] = {
        "of another version": {"version": 99},
        "of a version in words": {"version": "1"},
        "without columns": {"vectors": None},
        "with vectors of no length": {"vectors": {"embedding": 0}},
        "with vectors of negative length": {"vectors": {"embedding": -4}},
        "with vectors of any length": {"vectors": {"embedding": 10**15}},
        "with a column of ids": {"vectors": {"id": 4}},
        "with a column outside": {"vectors": {"../../mine": 4}},
        "with a column below": {"vectors": {"a/b": 4}},
        "with objects as numbers": {"dtype": "O"},
        "with numbers of another kind": {"dtype": "float64"},
        "with classes that are a number": {"top": 5},
        "with a column twice": {"top": "embedding"},
        "with a share of none": {"shard": [0, 0]},
        "with a share of words": {"shard": ["a", "b"]},
        "with provenance of words": {"provenance": "hiera"},
        "with an origin of lists": {"origin": {"folder": ["x"]}},
    }
    for name, fields in wrong.items():
        yield refuses(f"manifest {name}", manifest(**fields), "_store.json|layout|version")


def of_lists() -> Iterator[Case]:
    wrong: dict[str, dict[str, Any]] = {
        "rows below none": {"rows": -5},
        "rows in words": {"rows": "5"},
        "rows in halves": {"rows": 4.5},
        "more errors than rows": {"errors": 6},
        "errors that are none": {"errors": 0},
        "rows that are not there": {"rows": 6},
        "rows by the million": {"rows": 10**12},
        "rows beyond numbers": {"rows": 10**30},
        "a part outside": {"part": "../mine.txt"},
        "a part of another name": {"part": "part-x.parquet"},
        "a number as digest": {"digest": 5},
        "a name of next": {"next": "x"},
    }
    for name, fields in wrong.items():
        yield refuses(f"list of {name}", first_part(**fields), ".")
    for name, text in {
        "infinity": b'{"complete": Infinity}\n',
        "a list": b"[]\n",
        "a number": b"5\n",
        "nested lists": b"[" * 50_000 + b"\n",
        "rounds of numbers": b'{"round": [5]}\n',
        "a round of one": b'{"round": 5}\n',
        "the same part twice": b'{"part": "part-00000001.parquet", "rows": 5, "errors": 0, "bytes": 1, "first": 0, "last": 4}\n',
    }.items():
        yield refuses(f"list with {name}", lines(text), "damaged|as they were")


def of_parts() -> Iterator[Case]:
    file = "part-00000001.parquet"
    yield refuses("part missing", lambda place: (place / file).unlink(), "is missing")
    yield refuses("part cut off", lambda place: os.truncate(place / file, 900), "has 900 bytes instead")
    yield refuses("part of zeros", lambda p: (p / file).write_bytes(bytes((p / file).stat().st_size)), "readable")
    yield refuses("part that is a folder", instead(file, "folder"), "bytes instead|readable")
    yield refuses("part that is a pipe", instead(file, "pipe"), "bytes instead|readable")
    yield refuses("part without vectors", part(lambda table: table.drop_columns(["embedding"])), "embedding")
    yield refuses(
        "part of errors at other rows",
        column("error", lambda t: arrow([None] * 2 + ["x"] + [None] * 2, "string")),
        "neither",
    )
    yield refuses("part of an id that is none", column("id", lambda t: arrow([None, 1, 2, 3, 4], "int64")), "id")
    yield refuses("part with fewer rows", part(lambda table: table.slice(0, 4)), "rows")
    yield refuses(
        "part with shorter vectors", column("embedding", lambda t: arrow([[1] * 3] * 5, "list3")), "embedding"
    )
    yield refuses(
        "part with ragged vectors",
        column("embedding", lambda t: arrow([[1] * 3, [1] * 5, [1] * 4, None, [1] * 4], "any")),
        "embedding|rows",
    )
    yield refuses(
        "part with words as vectors", column("embedding", lambda t: arrow([["x"] * 4] * 5, "texts")), "embedding"
    )
    yield refuses("part with numbers as paths", column("path", lambda t: arrow(range(5), "int64")), "path")
    yield refuses("part with words as ids", column("id", lambda t: arrow(list("abcde"), "string")), "id")
    yield refuses("part of a vector with an error", column("error", lambda t: arrow(["x"] * 5, "string")), "rows")
    yield refuses(
        "part of vectors that are not numbers",
        column(
            "embedding",
            lambda t: arrow([[np.nan] * 4] * 3 + [None, [1] * 4], "any").cast(t.schema.field("embedding").type),
        ),
        "finite",
    )
    yield refuses("part of a hundred million rows", millions_of_rows, "rows", megabytes=300)


def of_traps() -> Iterator[Case]:
    either = lambda code: code in (0, 1)  # noqa: E731
    for name in (MANIFEST, PARTS, "_lock", "_writer.json", "_vectors"):
        yield writes(f"{name} is a pipe", instead(name, "pipe"), either)
    for name in (PARTS, "_writer.json"):
        yield writes(f"{name} is a link", instead(name, "../mine.txt"), either)

    def notes(place: Path) -> None:
        (place / "_search").mkdir()
        instead("_search/files.parquet", "pipe")(place)

    yield writes("notes are a pipe", notes, either)

    def planted(kind: str) -> Change:
        def change(place: Path) -> None:
            found = library.open_store(place)
            instead(f"_vectors/embedding-{found.fingerprint}.npy", kind)(place)

        return lambda place: ((place / "_vectors").mkdir(exist_ok=True), change(place))

    for kind in ("/dev/zero", "../../mine.txt"):
        yield Case(
            f"vectors are {kind.strip('./')}", read_all, changed(planted(kind)), expect=lambda answers: answers == 11
        )
    yield Case(
        "vectors are a pipe", read_all, changed(planted("pipe")), raises=InputError, match="a pipe, which is left"
    )


CASES = [*of_manifests(), *of_lists(), *of_parts(), *of_traps()]
