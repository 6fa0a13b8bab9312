"""Writing a store part by part, so that a process that is killed loses at most the part that it was at."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic_file, sync
from ..errors import InputError, writing
from .layout import (
    MANIFEST,
    PARTS,
    SEARCH,
    VECTORS,
    VERSION,
    Commits,
    Part,
    Spec,
    is_store,
    ours,
    partial,
    read_commits,
    read_spec,
)
from .lock import alive, writer_lock
from .tables import Block, Record, schema, schema_metadata, write_table

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_PART, SECONDS_PER_PART = 8192, 60.0
_BYTES_PER_PART = 256 << 20


class Writer:
    """Rows into a store that this process alone writes.

    Attributes:
        path: The store.
        spec: What its rows have in common.
        commits: What counts so far.
    """

    def __init__(
        self, path: Path, spec: Spec, commits: Commits, *, rows_per_part: int, seconds_per_part: float
    ) -> None:
        self.path, self.spec, self.commits = path, spec, commits
        row = sum(spec.vectors.values()) * (4 if spec.dtype == "float32" else 2)
        self._block = Block(spec, max(1, min(rows_per_part, _BYTES_PER_PART // max(row, 1))))
        self._seconds, self._since = seconds_per_part, time.monotonic()
        self._round: list[dict[str, Any]] | None = None
        self._metadata, self._committing = schema_metadata(spec.provenance), False

    @property
    def waiting(self) -> int:
        """Rows that are not committed yet."""
        return len(self._block)

    @property
    def capacity(self) -> int:
        """Rows of a part at most."""
        return self._block.capacity

    def add(self, record: Record) -> None:
        """Take a row; it counts once its part is committed."""
        self._block.add(record)

    def due(self) -> bool:
        """Whether a part is full, or has been open for long enough."""
        return len(self._block) >= self._block.capacity or (
            len(self._block) > 0 and time.monotonic() - self._since >= self._seconds
        )

    def commit(self, next: int = 0, digest: str = "") -> None:
        """Make the rows that were taken a part of the store, whole and for good; nothing where there are none.

        Args:
            next: Position in the source behind them.
            digest: Of all names before it.

        Raises:
            InputError: The system refuses. What was committed before stays.
        """
        if self._block.good:
            self.put(self._block.table(self._metadata), self._block.errors, next=next, digest=digest)
            self._block.clear()
        self._since = time.monotonic()

    def rescue(self, next: int, digest: str) -> None:
        """`commit` on the way out, for whom it is no matter if it fails; nothing where a commit was interrupted."""
        if not self._committing:
            with contextlib.suppress(InputError):
                self.commit(next, digest)

    def put(self, table: pa.Table, errors: int, *, next: int = 0, digest: str = "", replaces: str = "") -> None:
        """Commit a table as a part.

        Args:
            table: Rows of the store's schema.
            errors: How many of them are bad.
            next: As in `commit`.
            digest: As in `commit`.
            replaces: In a `round`, the part that it stands for from now on, which is removed; a table without rows only
                removes it.

        Raises:
            InputError: The system refuses.
        """
        self._committing = True
        name = f"part-{self.commits.numbers + len(self._round or ()):08d}.parquet"
        ids, rows = table.column("id"), table.num_rows
        with writing(self.path):
            size = _write_whole(self.path, name, table.replace_schema_metadata(self._metadata)) if rows else 0
            first, last = (ids[0].as_py(), ids[rows - 1].as_py()) if rows else (0, -1)
            part = _line(Part(name, rows, errors, size, first, last, next, digest, replaces))
            if self._round is None:
                self._note(part)
            else:
                self._round.append(part)
        alive(self.path)
        self._committing = False

    def complete(self, count: int, digest: str) -> None:
        """Note that the source was gone through to its end.

        Args:
            count: How many inputs it holds, those of other shards included.
            digest: Of all their names.

        Raises:
            InputError: The system refuses.
        """
        if not self.commits.complete:
            with writing(self.path):
                self._note({"complete": count, "digest": digest})

    @contextmanager
    def round(self) -> Iterator[None]:
        """Commit all that is put inside at once, when the block ends well: parts that come, and those that go.

        Ids are then no positions of one source any more; `hierax embed` does not go on with such a store.

        Raises:
            InputError: The system refuses.
        """
        self._round = []
        try:
            yield
            parts = self._round
        finally:
            self._round = None
        with writing(self.path):
            self._note({"round": parts})
            for part in parts:
                if "replaces" in part:
                    (self.path / part["replaces"]).unlink(missing_ok=True)

    def _note(self, line: dict[str, Any]) -> None:
        """Append a line, whole or not at all."""
        text = json.dumps(line).encode() + b"\n"
        with (self.path / PARTS).open("ab") as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(self.commits.length)
                raise
        self.commits.length += len(text)
        self.commits.take(json.loads(text))


def _line(part: Part) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if value != ""}


@contextmanager
def open_writer(
    path: Path,
    spec: Spec,
    *,
    overwrite: bool = False,
    rows_per_part: int = ROWS_PER_PART,
    seconds_per_part: float = SECONDS_PER_PART,
    check: Callable[[Commits], object] = lambda commits: None,
) -> Iterator[Writer]:
    """Create a store, or go on with one of the same spec, and hold it.

    Args:
        path: The folder; created where there is none. It may hold nothing but a store.
        spec: What its rows have in common.
        overwrite: Whether a store that is there is emptied first.
        rows_per_part: Rows of a part at most; fewer where vectors are long.
        seconds_per_part: After how long what there is becomes one.
        check: Refuses what a store holds by raising.

    Raises:
        InputError: Somebody else writes it, it holds other files, its rows were made by something else, it is damaged,
            or the system refuses.
        MissingExtraError: pyarrow is not installed.
    """
    schema(spec)
    with ExitStack() as held:
        with writing(path):
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            if made:
                held.callback(_remove_if_empty, path)
            check_folder(path)
            held.enter_context(writer_lock(path))
            if overwrite:
                _empty(path)
            if not is_store(path) or not _begun(path):
                with atomic_file(path / MANIFEST) as temporary:
                    text = json.dumps({"version": VERSION, **spec.to_dict()}, indent=2) + "\n"
                    temporary.write_text(text, encoding="utf-8")
        found = read_spec(path)
        differences = found.differences(spec)
        if differences:
            raise InputError(
                f"Rows of one store must be made in one way; {str(path)!r} has {'; '.join(differences)}. Name another "
                "folder, or pass --overwrite to begin anew."
            )
        commits = read_commits(path)
        check(commits)
        with writing(path):
            _sweep(path, commits)
        yield Writer(path, found, commits, rows_per_part=rows_per_part, seconds_per_part=seconds_per_part)


def _begun(path: Path) -> bool:
    """Whether anything was committed; a store that holds nothing may become any other."""
    commits = read_commits(path)
    return bool(commits.numbers or commits.complete)


def check_folder(path: Path) -> None:
    """Refuse a folder in which anybody else's files lie.

    Raises:
        InputError: It holds something that is no store's.
    """
    foreign = sorted(name for name in os.listdir(path) if not ours(name) and not name.startswith(f".{MANIFEST}."))
    if foreign:
        raise InputError(f"A store needs a folder of its own; {str(path)!r} holds {foreign[0]!r}. Name another folder.")
    for name in (MANIFEST, PARTS):
        if os.path.lexists(path / name) and not stat.S_ISREG((path / name).lstat().st_mode):
            raise InputError(f"What a store grows by is a file of its own; {str(path / name)!r} is none. Remove it.")


def _empty(path: Path) -> None:
    """Remove a store from its folder; first what makes it one."""
    (path / MANIFEST).unlink(missing_ok=True)
    (path / PARTS).unlink(missing_ok=True)
    _sweep(path, Commits())
    for made in (VECTORS, SEARCH):
        if (path / made).is_dir() and not (path / made).is_symlink():
            shutil.rmtree(path / made, ignore_errors=True)
        else:
            (path / made).unlink(missing_ok=True)


def _sweep(path: Path, commits: Commits) -> None:
    """Remove what a killed process left: parts that were not committed, and half a line."""
    live = {part.part for part in commits.parts}
    for name in os.listdir(path):
        if partial(name) or (name.endswith(".parquet") and ours(name) and name not in live):
            (path / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if (path / PARTS).stat().st_size != commits.length:
            os.truncate(path / PARTS, commits.length)


def _write_whole(path: Path, name: str, table: pa.Table) -> int:
    """Write a part under its name once it is on the disk; returns its size."""
    temporary = path / f".{name}.{os.getpid()}"
    try:
        with temporary.open("wb") as file:
            write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        os.replace(temporary, path / name)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path)
    return size


def _remove_if_empty(path: Path) -> None:
    """Leave no folder behind where nothing was begun."""
    if not is_store(path):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if all(map(ours, os.listdir(path))) else None
