"""Near-duplicates among the files of a store: who is in a group, and which of them to keep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from .. import console
from ..store import exact
from ..store.groups import Links, check_threshold, duplicate_groups
from .library import Hit, uses_index

if TYPE_CHECKING:
    from .ann import Index
    from .library import Store

_NEIGHBOURS = 24  # of each row that an index is asked for, itself included
_AT_ONCE = 4096


@dataclass(frozen=True)
class File:
    """A row's file as it is now.

    Attributes:
        row: Among the good ones.
        path: As the store names it.
        same: What two names of one file have in common; None of what lies in another file.
        size: (pixels, bytes), by which the one to keep is chosen.
    """

    row: int
    path: str
    same: tuple[int, int] | None
    size: tuple[int, int]


def find_duplicates(
    store: Store, threshold: float, *, column: str = "embedding", engine: str = "auto", progress: bool = False
) -> list[list[Hit]]:
    """As `Store.duplicates`."""
    threshold = check_threshold(threshold)
    vectors, lengths = store.vectors(column), store.lengths(column)
    groups = None
    if uses_index(engine, len(vectors)) and len(vectors):
        index = store.index(column, required=engine == "ann")
        groups = None if index is None else _proposed(index, threshold, progress=progress)
    if groups is None:
        groups = duplicate_groups(vectors, threshold, lengths=lengths, progress=progress)
    found = []
    for files in _files(store, groups):
        first = max(files, key=lambda file: (file.size, -file.row))
        rest = np.array([file.row for file in files if file is not first])
        cosines = exact.cosines_of(vectors, rest, exact.units(np.asarray(vectors[first.row])[None])[0])
        names = {file.row: file.path for file in files}
        hits = [Hit(first.path, 1.0, first.row)]
        hits += [Hit(names[int(rest[i])], float(cosines[i]), int(rest[i])) for i in np.lexsort((rest, -cosines))]
        found.append(hits)
    return found


def _proposed(index: Index, threshold: float, *, progress: bool) -> list[Int[ndarray, " g"]]:
    """Groups by the pairs that an index proposes, each compared exactly."""
    vectors = index.vectors
    links = Links(len(vectors))
    with console.bar("rows", total=len(vectors), unit="row", wanted=progress) as bar:
        for start in range(0, len(vectors), _AT_ONCE):
            queries = np.asarray(vectors[start : start + _AT_ONCE])
            for row, found in enumerate(index.propose(queries, _NEIGHBOURS // 2), start):
                others = np.unique(found[found != row])
                query = exact.units(queries[row - start][None])[0]
                near = others[exact.cosines_of(vectors, others, query) >= threshold]
                links.join(np.full(len(near), row), near)
            bar.update(len(queries))
    return links.groups()


def _files(store: Store, groups: Sequence[Int[ndarray, " g"]]) -> Iterator[list[File]]:
    """Groups of different files that are there; of a file with several names the first in the store that is no link."""
    if not groups:
        return
    members = np.concatenate(list(groups))
    order = np.argsort(members)
    table = store.lookup(members[order], ["path", "path_bytes", "width", "height", "shard"]).to_pydict()
    cells = {int(members[place]): number for number, place in enumerate(order)}
    gone = 0
    for group in groups:
        files: dict[object, File] = {}
        for row in group.tolist():
            own = {name: column[cells[row]] for name, column in table.items()}
            path = own["path"] if own["path_bytes"] is None else os.fsdecode(own["path_bytes"])
            file = _file(store, row, path, (own["width"] or 0) * (own["height"] or 0), own["shard"])
            if file is None:
                gone += 1
                continue
            key = file.same or path
            if key not in files or (
                os.path.islink(store.place(files[key].path)) and not os.path.islink(store.place(path))
            ):
                files[key] = file
        if len(files) > 1:
            yield list(files.values())
    if gone:
        console.say(f"{gone} files that are in the store are not there any more and were left out")


def _file(store: Store, row: int, path: str, pixels: int, shard: str | None) -> File | None:
    """A row's file; None where there is none any more."""
    if shard is not None:
        return File(row, path, None, (pixels, 0))
    try:
        status = os.stat(store.place(path))
    except (OSError, ValueError):
        return None
    return File(row, path, (status.st_dev, status.st_ino), (pixels, status.st_size))
