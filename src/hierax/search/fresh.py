"""Keeping a store fresh: only new and changed files are embedded, and those that were deleted leave it.

A file is known by its absolute path, and is unchanged while its size and modification time are those of when it was
embedded, which are noted beside the store. A file that nobody noted, as in a store that `hierax embed` made, is
unchanged if it is older than the store. Where content is compared, a file that was touched is unchanged too, and one
that was moved keeps its row under the new name. Rows that come from elsewhere than the folders looked at stay as they
are.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..data.items import Item, texts_of
from ..errors import HieraxError, InputError
from ..store.layout import MANIFEST
from ..store.parts import read_part
from ..store.read import Store, paths_of
from ..store.tables import Record
from ..store.write import Writer
from .notes import Note, digest_of, read_notes, write_notes

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Round:
    """What one look at the folders came to.

    Attributes:
        added: Files that were not in the store.
        changed: Files that were embedded anew.
        removed: Rows that left, as their files did.
        kept: Rows that stayed as they are.
        errors: Of the added and changed ones, those that could not be read.
        moved: Files that have another name, and their row as it was.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    errors: int = 0
    moved: int = 0

    def __str__(self) -> str:
        """For a person."""
        errors = f", {self.errors} could not be read" if self.errors else ""
        moved = f", {self.moved} moved" if self.moved else ""
        return (
            f"{self.added} new, {self.changed} changed{moved}, {self.removed} removed, {self.kept} as they were{errors}"
        )


@dataclass
class Plan:
    """What is to be done to a store.

    Attributes:
        new: Files to embed.
        changed: By part, files to embed in place of its rows.
        moved: By part, the places of rows that get another name, and that.
        leaving: By part, the places of rows that go: of files that were deleted, or changed.
        removed: How many of these are of deleted files.
        kept: How many rows stay.
        states: Of every file that was found, as it is now.
        noted: Of every file whose row stays or comes, as it was embedded.
        content: Whether content is compared, and noted.
    """

    new: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    moved: dict[str, dict[int, str]] = field(default_factory=dict)
    leaving: dict[str, list[int]] = field(default_factory=dict)
    removed: int = 0
    kept: int = 0
    states: dict[str, Note] = field(default_factory=dict)
    noted: dict[str, Note] = field(default_factory=dict)
    content: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.new or self.leaving or self.moved)

    def note(self, file: str, digest: bytes | None = None) -> None:
        """Note a file as it was before it was embedded; its content, if it is still that."""
        if self.content and digest is None:
            digest = digest_of(file)
            digest = digest if look([file]).get(file) == self.states[file] else None
        self.noted[file] = self.states[file]._replace(digest=digest)


def look(files: Iterable[str | os.PathLike[str]]) -> dict[str, Note]:
    """Absolute paths of files with their sizes and times; what is gone by now is left out."""
    found = {}
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(file)
            found[os.path.abspath(file)] = Note(status.st_size, status.st_mtime_ns)
    return found


def plan(
    store: Store, states: dict[str, Note], roots: Sequence[str], blind: Sequence[str] = (), *, content: bool = False
) -> Plan:
    """Compare a store with what lies in folders.

    Args:
        store: Whose rows are looked at.
        states: As `look` gives them.
        roots: Absolute paths of what was looked at; rows of other files stay.
        blind: Folders in it that could not be listed: their rows stay.
        content: Compare content where names, sizes or times differ.
    """
    found = Plan(states=states, content=content)
    noted, began = read_notes(store.path), (store.path / MANIFEST).stat().st_mtime_ns
    within, hidden = _inside(roots), _inside(blind)
    seen, gone = set[str](), dict[bytes, tuple[str, int]]()
    for part, table in zip(store.parts, store.tables(["path", "path_bytes", "shard", "error"]), strict=True):
        inner, errors = table["shard"].to_pylist(), table["error"].to_pylist()
        for place, path in enumerate(paths_of(table)):
            file = os.path.abspath(os.path.join(store.origin.get("folder", ""), path))
            note, state = noted.get(file), states.get(file)
            if inner[place] is not None or not within(file) or (state is None and hidden(file)):
                found.kept += 1
                if note is not None:
                    found.noted[file] = note
                continue
            if state is not None and file not in seen and _unchanged(file, state, note, began, content):
                found.kept += 1
                found.note(file, None if note is None else note.digest)
            else:
                found.leaving.setdefault(part.part, []).append(place)
                if state is None or file in seen:
                    found.removed += 1
                else:
                    found.changed.setdefault(part.part, []).append(file)
                if state is None and note is not None and note.digest is not None and errors[place] is None:
                    gone[note.digest] = (part.part, place)
            seen.add(file)
    found.new = [file for file in states if file not in seen]
    if content and gone:
        _find_moved(found, gone)
    return found


def _find_moved(todo: Plan, gone: dict[bytes, tuple[str, int]]) -> None:
    """Give the rows of files that are gone to new files of the same content."""
    new = []
    for file in todo.new:
        digest = digest_of(file)
        part, place = gone.pop(digest, ("", 0)) if digest is not None else ("", 0)
        if not part:
            new.append(file)
            continue
        todo.moved.setdefault(part, {})[place] = file
        todo.leaving[part].remove(place)
        todo.removed -= 1
        todo.note(file, digest)
    todo.new, todo.leaving = new, {part: places for part, places in todo.leaving.items() if places}


def apply(
    writer: Writer,
    todo: Plan,
    embed: Callable[[Sequence[str], int], Iterator[Record]],
) -> Round:
    """Bring a store up to date.

    New files come in part by part, so that a run that is killed goes on where it was. Rows that leave do so at once
    with those that stand in their place, a part or so at a time.

    Args:
        writer: Of the store, held.
        todo: As `plan` gives it for the same commit.
        embed: Gives a record for each of some files, with ids from a number on.

    Raises:
        InputError: The system refuses; what was committed before stays.
    """
    errors, first = 0, _next_id(writer)
    try:
        for record in embed(todo.new, first) if todo.new else ():
            writer.add(record)
            errors += record.error is not None
            if writer.due():
                _commit(writer, todo.new, first, todo)
        _commit(writer, todo.new, first, todo)
        for parts in _groups(writer, todo):
            files = [file for part in parts for file in todo.changed.get(part, ())]
            with writer.round():
                for record in embed(files, _next_id(writer)) if files else ():
                    writer.add(record)
                    errors += record.error is not None
                    if writer.due():
                        writer.commit()
                writer.commit()
                _replace(writer, parts, todo)
            for file in files:
                todo.note(file)
    finally:
        write_notes(writer.path, todo.noted)
    changed, moved = (sum(map(len, each.values())) for each in (todo.changed, todo.moved))
    return Round(len(todo.new), changed, todo.removed, todo.kept, errors, moved)


def _next_id(writer: Writer) -> int:
    return max(0, 1 + max((part.last for part in writer.commits.parts), default=-1))


def _groups(writer: Writer, todo: Plan) -> Iterator[list[str]]:
    """Parts that change, so many at a time that what comes in their place fills one."""
    group, count = list[str](), 0
    for part in [part.part for part in writer.commits.parts]:
        if part in todo.leaving or part in todo.moved:
            group.append(part)
            count += len(todo.changed.get(part, ()))
        if count >= writer.capacity:
            yield group
            group, count = [], 0
    if group:
        yield group


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
            todo.note(files[number - first])


def _replace(writer: Writer, parts: Sequence[str], todo: Plan) -> None:
    """Put parts without the rows that leave, and with other names of files that were moved, in place of some."""
    for part in [part for part in writer.commits.parts if part.part in parts]:
        table = _renamed(read_part(writer.path, part, writer.spec, writer.spec.columns), todo.moved.get(part.part, {}))
        keep = np.ones(table.num_rows, bool)
        keep[todo.leaving.get(part.part, [])] = False
        rest = _filtered(table, keep)
        writer.put(rest, rest.num_rows - rest["error"].null_count, replaces=part.part)


def _renamed(table: pa.Table, names: dict[int, str]) -> pa.Table:
    import pyarrow as pa

    if not names:
        return table
    for column, values in zip(("path", "path_bytes"), (0, 1), strict=True):
        cells = table[column].to_pylist()
        for place, file in names.items():
            cells[place] = texts_of(Item(file))[values]
        number = table.schema.get_field_index(column)
        table = table.set_column(number, table.schema.field(number), pa.array(cells, table.schema.field(number).type))
    return table


def _filtered(table: pa.Table, keep: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return table.filter(pa.array(keep))


def _unchanged(file: str, state: Note, noted: Note | None, began: int, content: bool) -> bool:
    if noted is not None:
        if state.is_of(noted):
            return True
        known = content and noted.digest is not None and state.bytes == noted.bytes
        return known and digest_of(file) == noted.digest
    try:
        status = os.stat(file)
    except OSError:
        return False
    return max(status.st_mtime_ns, status.st_ctime_ns) < began


def _inside(folders: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path is one of some, or below it."""
    exact, heads = set(folders), tuple(folder.rstrip(os.sep) + os.sep for folder in folders)
    return lambda path: path in exact or path.startswith(heads)
