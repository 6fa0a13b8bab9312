"""Stage maps of many images in a folder of .npy files that NumPy maps into memory; `metadata.json` makes it whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..atomic import folder_beside, put
from ..errors import InputError, writing
from ..outputs import OutputFile
from ..schema import positive

if TYPE_CHECKING:
    from .run import Row

INDEX, METADATA = "index.jsonl", "metadata.json"
# What may lie in a folder that is overwritten: what we write, and what a killed process left.
_OURS = re.compile(rf"stage\d-\d{{5,}}\.npy|{re.escape(INDEX)}|{re.escape(METADATA)}|\..*\.hierax-partial\d*")


@contextmanager
def claimed_folder(path: Path, *, overwrite: bool) -> Iterator[OutputFile]:
    """Hold a folder from before any work is done until its files take their places, when the block ends well.

    They are written in a hidden folder inside it. `METADATA` comes last: a folder without it is not whole.

    Args:
        path: The folder; created where there is none.
        overwrite: Whether earlier maps in it may be replaced; files of anybody else never are.

    Raises:
        InputError: A file, a folder that holds anything, one that another process is writing, or a place that cannot
            be written.
    """
    path = path.expanduser()
    with writing(path):
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"Maps of many images go into a folder; {path} is none and was left as it is.")
        _check_free(path, overwrite)
    with ExitStack() as held:
        with writing(path):
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            if made:
                held.callback(_remove_if_empty, path)
            inner = held.enter_context(folder_beside(path / "maps"))
        yield OutputFile(path, inner)
        with writing(path):
            for name in [METADATA, *os.listdir(path)] if overwrite else []:  # first what says that it is whole
                if _OURS.fullmatch(name) and (path / name).is_file():
                    (path / name).unlink()
            for name in sorted(os.listdir(inner), key=lambda name: name == METADATA):
                put(inner / name, path / name, replace=False)


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse a folder in which anything would be lost."""
    found = sorted(name for name in (os.listdir(path) if path.is_dir() else ()) if not name.startswith(".maps."))
    foreign = [name for name in found if not _OURS.fullmatch(name)]
    if foreign:
        raise InputError(f"Maps need a folder of their own; {path} holds {foreign[0]!r}. Name another folder.")
    if found and not overwrite:
        raise InputError(f"{path} holds maps already and was left as it is. Pass --overwrite or name another folder.")


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def write_parts(
    rows: Iterable[Row], output: OutputFile, *, stages: Sequence[str], metadata: dict[str, str], images_per_part: int
) -> None:
    """Write stage maps as `STAGE-PART.npy`, with the place of each image in `INDEX` and the counts in `METADATA`.

    Memory holds one image at a time, the disk every map once.

    Args:
        rows: One for each image, in order; `value` holds a map (c, h, w) by stage.
        output: As `claimed_folder` gives it.
        stages: Which maps.
        metadata: Provenance.
        images_per_part: Images in each file but the last.

    Raises:
        InputError: The disk refuses, or a part would hold nothing.
    """
    positive(images_per_part=images_per_part)
    folder = output.partial
    total = good = 0
    shapes: dict[str, list[int] | None] = dict.fromkeys(stages)
    with writing(output.path):
        with (folder / INDEX).open("w", encoding="utf-8") as index, ExitStack() as last:
            parts: dict[str, _Part] = {}
            for row in rows:
                part, place = divmod(good, images_per_part)
                found = row.value is not None
                if found and place == 0:
                    last.close()
                    parts = {each: last.enter_context(_Part(folder / f"{each}-{part:05}.npy")) for each in stages}
                for stage in stages if found else ():
                    parts[stage].add(row.value[stage])
                    shapes[stage] = list(row.value[stage].shape)
                record = {"path": row.name, "part": part if found else None, "row": place if found else None}
                index.write(json.dumps({**record, "error": row.error}) + "\n")
                total, good = total + 1, good + found
            _sync(index)
        counts = {"images": total, "good": good, "failed": total - good, "parts": -(-good // images_per_part)}
        known = {**metadata, **counts, "images_per_part": images_per_part, "stages": shapes}
        with (folder / METADATA).open("w", encoding="utf-8") as file:
            file.write(json.dumps(known, indent=2) + "\n")
            _sync(file)


class _Part:
    """A .npy file that grows by one array at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._count, self._shape = path, 0, tuple[int, ...]()

    def __enter__(self) -> _Part:
        self._file = self._path.open("w+b")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if error is None:
                self._write_header()  # NumPy leaves room for the digits of the first axis
                _sync(self._file)

    def add(self, array: np.ndarray) -> None:
        """Append it."""
        if not self._count:
            self._shape = array.shape
            self._write_header()
        self._file.write(np.ascontiguousarray(array, np.float32).tobytes())
        self._count += 1

    def _write_header(self) -> None:
        descr = np.dtype(np.float32).str
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": descr, "fortran_order": False, "shape": (self._count, *self._shape)}
        )


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
