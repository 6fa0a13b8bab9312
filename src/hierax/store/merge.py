"""Several stores as one: the shares of one source by their positions, or stores of other sources in a row."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import folder_beside
from ..errors import InputError, writing
from .read import Store, open_store
from .write import ROWS_PER_PART, Writer, open_writer

if TYPE_CHECKING:
    import pyarrow as pa


def merge(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, rows_per_part: int = ROWS_PER_PART
) -> Store:
    """Write a store with the rows of others, which stay as they are.

    Shares of one source (`--shard 1/4` to `4/4`) become what one run over it would have written: each id once, in
    order. Stores that are no shares are put one after another, and their rows numbered anew.

    Args:
        paths: The stores.
        out: A folder that does not exist, or is empty; it appears when it is whole.
        rows_per_part: Rows of its files at most.

    Raises:
        InputError: Rows were made in different ways, a share is missing or there twice, one is unfinished or of another
            source, or the output is there.
    """
    place = Path(out).expanduser()
    stores = [open_store(path) for path in paths]
    if len(stores) < 2:
        raise InputError(f"A merge needs at least two stores; got {len(stores)}.")
    _check_alike(stores)
    shares = stores[0].spec.shard is not None
    _check_shares(stores) if shares else _check_whole(stores)
    with writing(place):
        if os.path.lexists(place) and not (place.is_dir() and not os.listdir(place)):
            raise InputError(f"{place} exists already and was left as it is. Name another folder.")
    spec = dataclasses.replace(stores[0].spec, shard=None)
    with writing(place), folder_beside(place) as inner:
        with open_writer(inner, spec, rows_per_part=rows_per_part) as writer:
            tables = _by_position(stores) if shares else _one_by_one(stores)
            _write(tables, writer, rows_per_part)
            writer.complete(stores[0].count if shares else sum(map(len, stores)), stores[0].digest if shares else "")
        if place.exists():
            place.rmdir()  # it was empty, or is not removed
        os.replace(inner, place)
    return open_store(place)


def _check_alike(stores: Sequence[Store]) -> None:
    first = stores[0]
    for store in stores[1:]:
        alike = dataclasses.replace(store.spec, shard=None)
        differences = dataclasses.replace(first.spec, shard=None).differences(alike)
        if (store.spec.shard is None) != (first.spec.shard is None):
            differences.append("no shard" if store.spec.shard is None else "a shard")
        if differences:
            raise InputError(
                f"Rows of one store must be made in one way; {str(first.path)!r} and {str(store.path)!r} differ: "
                f"{'; '.join(differences)}. Merge those that are alike."
            )


def _check_shares(stores: Sequence[Store]) -> None:
    """Every share once, all whole and of one source."""
    numbers: dict[int, Store] = {}
    of = (stores[0].spec.shard or (1, 1))[1]
    for store in stores:
        number, count = store.spec.shard or (1, 1)
        if count != of:
            raise InputError(
                f"Shares must be of one whole; {str(store.path)!r} is one of {count}, {str(stores[0].path)!r} of {of}."
            )
        if number in numbers:
            raise InputError(
                f"Each share may come once; {number}/{of} is {str(numbers[number].path)!r} and {str(store.path)!r}."
            )
        numbers[number] = store
    missing = [str(number) for number in range(1, of + 1) if number not in numbers]
    if missing:
        raise InputError(
            f"All {of} shares must be there; {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''} of {of} "
            f"{'are' if len(missing) > 1 else 'is'} missing. Run `hierax embed` with --shard {missing[0]}/{of}."
        )
    for store in stores:
        if not store.complete or store.edited:
            raise InputError(
                f"A share must be finished before it is merged; {str(store.path)!r} is not. Run it again: it goes on."
            )
        if (store.count, store.digest) != (stores[0].count, stores[0].digest):
            raise InputError(
                f"Shares must be of one source; that of {str(store.path)!r} had {store.count:,} inputs, that of "
                f"{str(stores[0].path)!r} {stores[0].count:,}{', of other names' * (store.count == stores[0].count)}."
            )
        number, expected = (store.spec.shard or (1, 1))[0], store.count
        if len(store) != (expected - number) // of + 1:
            raise InputError(
                f"{str(store.path)!r} must hold every {of}th of {expected:,} inputs; it has {len(store):,}."
            )


def _check_whole(stores: Sequence[Store]) -> None:
    """No source twice."""
    seen: dict[str, Store] = {}
    for store in stores:
        key = store.digest if store.digest and not store.edited else str(store.path.resolve())
        if key in seen:
            raise InputError(
                f"Each store may come once; {str(store.path)!r} has the inputs of {str(seen[key].path)!r}."
            )
        seen[key] = store


def _by_position(stores: Sequence[Store]) -> Iterator[pa.Table]:
    """Tables in order of ids, which lie between each other's in the stores; one part of each is in memory."""
    import pyarrow as pa

    rests = [store.tables() for store in stores]
    heads: list[pa.Table | None] = [next(rest, None) for rest in rests]
    while any(head is not None for head in heads):
        end = min(head["id"][-1].as_py() for head in heads if head is not None)
        taken = []
        for index, head in enumerate(heads):
            if head is None:
                continue
            count = int((head["id"].to_numpy() <= end).sum())
            taken.append(head.slice(0, count))
            heads[index] = head.slice(count) if count < head.num_rows else next(rests[index], None)
        yield pa.concat_tables(taken).sort_by("id")


def _one_by_one(stores: Sequence[Store]) -> Iterator[pa.Table]:
    """Tables with ids that count on."""
    import numpy as np
    import pyarrow as pa

    count = 0
    for store in stores:
        for table in store.tables():
            ids = pa.array(np.arange(count, count + table.num_rows, dtype=np.int64))
            count += table.num_rows
            yield table.set_column(0, table.schema.field("id"), ids)


def _write(tables: Iterator[pa.Table], writer: Writer, rows_per_part: int) -> None:
    import pyarrow as pa

    waiting: list[pa.Table] = []

    def put(table: pa.Table) -> None:
        writer.put(table.combine_chunks(), table.num_rows - table["error"].null_count)

    for table in tables:
        waiting.append(table)
        while sum(each.num_rows for each in waiting) >= rows_per_part:
            whole = pa.concat_tables(waiting)
            put(whole.slice(0, rows_per_part))
            waiting = [whole.slice(rows_per_part)]
    last = pa.concat_tables(waiting) if waiting else None
    if last is not None and last.num_rows:
        put(last)
