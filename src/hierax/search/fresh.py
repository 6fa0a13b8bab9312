"""Keeping a store fresh: only new and changed files are embedded, and those that were deleted leave it.

A file is known by its absolute path, and is unchanged while its size and modification time are those of when it was
embedded, which are noted beside the store. A file that nobody noted, as in a store that `hierax embed` made, is
unchanged if it is older than the store. Rows that come from elsewhere than the folders looked at stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..atomic import atomic_file
from ..errors import HieraxError, InputError, writing
from ..regular import open_regular
from ..store.layout import MANIFEST, SEARCH
from ..store.parts import read_part
from ..store.read import Store, paths_of
from ..store.tables import Record
from ..store.write import Writer

if TYPE_CHECKING:
    import pyarrow as pa

State = tuple[int, int]  # bytes, and the modification time in nanoseconds
_FILES = "files.parquet"


@dataclass(frozen=True)
class Round:
    """What one look at the folders came to.

    Attributes:
        added: Files that were not in the store.
        changed: Files that were embedded anew.
        removed: Rows that left, as their files did.
        kept: Rows that stayed as they are.
        errors: Of the added and changed ones, those that could not be read.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    errors: int = 0

    def __str__(self) -> str:
        """For a person."""
        errors = f", {self.errors} could not be read" if self.errors else ""
        return f"{self.added} new, {self.changed} changed, {self.removed} removed, {self.kept} as they were{errors}"


@dataclass
class Plan:
    """What is to be done to a store.

    Attributes:
        new: Files to embed.
        changed: Files to embed in place of their rows.
        leaving: By part, the places of rows that go: of files that were deleted, or changed.
        removed: How many of these are of deleted files.
        kept: How many rows stay.
        states: Of every file that was found, as it is now.
        noted: Of every file whose row stays or comes, as it was embedded.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    leaving: dict[str, list[int]] = field(default_factory=dict)
    removed: int = 0
    kept: int = 0
    states: dict[str, State] = field(default_factory=dict)
    noted: dict[str, State] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.new or self.changed or self.leaving)


def look(files: Iterable[str | os.PathLike[str]]) -> dict[str, State]:
    """Absolute paths of files with their states; what is gone by now is left out."""
    found = {}
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(file)
            found[os.path.abspath(file)] = (status.st_size, status.st_mtime_ns)
    return found


def plan(store: Store | None, states: dict[str, State], roots: Sequence[str], blind: Sequence[str] = ()) -> Plan:
    """Compare a store with what lies in folders.

    Args:
        store: None where there is none yet.
        states: As `look` gives them.
        roots: Absolute paths of what was looked at; rows of other files stay.
        blind: Folders in it that could not be listed: their rows stay.
    """
    found = Plan(states=states)
    rest = dict(states)
    if store is not None:
        noted, began = _noted(store), (store.path / MANIFEST).stat().st_mtime_ns
        within, hidden = _inside(roots), _inside(blind)
        seen: set[str] = set()
        for part, table in zip(store.parts, store.tables(["path", "path_bytes", "shard"]), strict=True):
            inner = table["shard"].to_pylist()
            for place, path in enumerate(paths_of(table)):
                file = os.path.abspath(os.path.join(store.origin.get("folder", ""), path))
                if inner[place] is not None or not within(file) or (file not in states and hidden(file)):
                    found.kept += 1
                    if file in noted:
                        found.noted[file] = noted[file]
                    continue
                state = states.get(file)
                same = state is not None and file not in seen and _unchanged(file, state, noted.get(file), began)
                if same and state is not None:
                    found.kept += 1
                    found.noted[file] = state
                else:
                    found.leaving.setdefault(part.part, []).append(place)
                    found.removed += state is None or file in seen
                    if state is not None and file not in seen:
                        found.changed.append(file)
                seen.add(file)
                rest.pop(file, None)
    found.new = list(rest)
    return found


def apply(
    writer: Writer,
    todo: Plan,
    embed: Callable[[Sequence[str], int], Iterator[Record]],
) -> Round:
    """Bring a store up to date.

    New files come in part by part, so that a run that is killed goes on where it was. Rows that leave do so at once
    with those that stand in their place, when all are there.

    Args:
        writer: Of the store, held.
        todo: As `plan` gives it for the same commit.
        embed: Gives a record for each of some files, with ids from a number on.

    Raises:
        InputError: The system refuses; what was committed before stays.
    """
    errors, first = 0, 1 + max((part.last for part in writer.commits.parts), default=-1)
    try:
        for record in embed(todo.new, first) if todo.new else ():
            writer.add(record)
            errors += record.error is not None
            if writer.due():
                _commit(writer, todo.new, first, todo)
        _commit(writer, todo.new, first, todo)
        first = 1 + max((part.last for part in writer.commits.parts), default=-1)
        first = max(first, 0)
        if todo.leaving or todo.changed:
            with writer.round():
                for record in embed(todo.changed, first) if todo.changed else ():
                    writer.add(record)
                    errors += record.error is not None
                    if writer.due():
                        writer.commit()
                writer.commit()
                _leave(writer, todo.leaving)
            todo.noted |= {file: todo.states[file] for file in todo.changed}
    finally:
        _note(writer.path, todo.noted)
    return Round(len(todo.new), len(todo.changed), todo.removed, todo.kept, errors)


def watch(look_again: Callable[[], Round], interval: float, *, wait: Callable[[float], Any] = time.sleep) -> None:
    """Look again and again, until `wait` is interrupted; after the first time a refusal only waits for the next.

    Args:
        look_again: One round.
        interval: Seconds between rounds.
        wait: Sleeps; one that returns False ends the watch.

    Raises:
        InputError: No interval.
        HieraxError: The first round is refused.
    """
    if not 0 < interval < 1e7:
        raise InputError(f"An interval is seconds above 0, e.g. 30; got {interval}.")
    first = True
    while True:
        try:
            found = look_again()
            if first or found.added or found.changed or found.removed:
                console.say(str(found))
        except (HieraxError, OSError) as error:
            if first:
                raise
            console.complain(f"{error} Looking again in {interval:g} s.")
        first = False
        if wait(interval) is False:
            return


def _commit(writer: Writer, files: Sequence[str], first: int, todo: Plan) -> None:
    """Make what is waiting a part, and note its files as they were before they were read."""
    if writer.waiting:
        with writer.round():
            writer.commit()
        done = writer.commits.parts[-1]
        for number in range(done.first, done.last + 1):
            file = files[number - first]
            todo.noted[file] = todo.states[file]


def _leave(writer: Writer, leaving: dict[str, list[int]]) -> None:
    """Put parts without some rows in place of those that have them."""
    for part in [part for part in writer.commits.parts if part.part in leaving]:
        table = read_part(writer.path, part, writer.spec, writer.spec.columns)
        keep = np.ones(table.num_rows, bool)
        keep[leaving[part.part]] = False
        rest = _filtered(table, keep)
        writer.put(rest, rest.num_rows - rest["error"].null_count, replaces=part.part)


def _filtered(table: pa.Table, keep: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return table.filter(pa.array(keep))


def _unchanged(file: str, state: State, noted: State | None, began: int) -> bool:
    if noted is not None:
        return state == noted
    try:
        status = os.stat(file)
    except OSError:
        return False
    return max(status.st_mtime_ns, status.st_ctime_ns) < began


def _inside(folders: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path is one of some, or below it."""
    exact, heads = set(folders), tuple(folder.rstrip(os.sep) + os.sep for folder in folders)
    return lambda path: path in exact or path.startswith(heads)


def _noted(store: Store) -> dict[str, State]:
    """What was noted of the store's files; nothing where the note is lost, which only costs time."""
    import pyarrow.parquet as pq

    try:
        with open_regular(store.path / SEARCH / _FILES) as file:
            table = pq.read_table(file, columns=["path", "bytes", "modified_ns"])
        paths = map(os.fsdecode, table["path"].to_pylist())
        return dict(
            zip(paths, zip(*(table[name].to_pylist() for name in table.column_names[1:]), strict=True), strict=True)
        )
    except MemoryError:
        raise
    except Exception:  # damaged files raise almost anything
        return {}


def _note(store: Path, states: dict[str, State]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "path": pa.array([os.fsencode(path) for path in states], pa.binary()),
        "bytes": pa.array([size for size, _ in states.values()], pa.int64()),
        "modified_ns": pa.array([when for _, when in states.values()], pa.int64()),
    }
    place = store / SEARCH / _FILES
    with writing(place):
        place.parent.mkdir(exist_ok=True)
        with atomic_file(place) as temporary, temporary.open("wb") as file:
            pq.write_table(pa.table(columns), file)
