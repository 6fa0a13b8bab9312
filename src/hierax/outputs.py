"""A file that is claimed before any work is done, and takes its place when it is whole."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .atomic import atomic_file
from .errors import InputError, MissingExtraError, nearest, writing


@dataclass(frozen=True)
class OutputFile:
    """A file that this process alone is writing.

    Attributes:
        path: Its place.
        partial: Where it is written; what is deleted there takes no place.
    """

    path: Path
    partial: Path


@contextmanager
def claimed(path: Path, suffixes: tuple[str, ...], *, overwrite: bool, folder: str = "") -> Iterator[OutputFile]:
    """Hold an output from before any work is done until it takes its place, when the block ends well.

    Args:
        path: The output.
        suffixes: Extensions that it may have.
        overwrite: Whether what is there may be replaced.
        folder: What to say of a name with none of them.

    Raises:
        InputError: Unknown extension, an existing file, one that another process is writing, or a place that cannot
            be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"Output must end with {' or '.join(suffixes)}; got {path.name!r}. {nearest(path.suffix, suffixes)}{folder}"
        )
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("data", "pyarrow")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it.")
    if not overwrite and os.path.lexists(path):
        raise InputError(f"{path} already exists and was left as it is. Pass --overwrite or name another file.")
    with ExitStack() as held:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = held.enter_context(atomic_file(path, alone=True, replace=overwrite))
        yield OutputFile(path, partial)
        with writing(path):
            held.close()
