"""Where fetched things lie on this disk, and how processes take turns at fetching them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..atomic import locked
from ..console import say
from ..errors import CheckpointError, HieraxError


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network, for plain addresses as for the hub's."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cache_root() -> Path:
    """Our corner of the cache, beside huggingface_hub's own: HF_HOME moves both."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    return (home if home.parts[:1] != ("~",) else Path(tempfile.gettempdir())) / "hierax"  # "~": nobody has a home


def cached_place(*parts: str) -> Path:
    """Path of a thing in the cache, which need not exist; earlier versions kept shards in XDG_CACHE_HOME/hierax."""
    path = cache_root().joinpath(*parts)
    earlier = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "hierax", *parts)
    return earlier if earlier.is_file() and not path.exists() else path


def short_hash(text: str, digits: int = 32) -> str:
    """A file name for any text."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:digits]


@contextlib.contextmanager
def alone(thing: str, error: type[HieraxError] = CheckpointError) -> Iterator[None]:
    """Let one process at a time fetch a thing; without a lock where the cache is read-only.

    Raises:
        HieraxError: Of the given kind; the cache cannot be read or written.
    """
    path = cache_root() / "locks" / f"{short_hash(thing)}.lock"
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):  # the latter: a file system without locks
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path, waiting=lambda: say(f"waiting for another process that fetches {thing}")))
        try:
            yield
        except OSError as problem:
            if isinstance(problem, HieraxError):
                raise
            raise disk_refused(thing, problem, error) from problem


def disk_refused(place: str, problem: OSError, error: type[HieraxError] = CheckpointError) -> HieraxError:
    """The error for a cache that cannot be read or written."""
    return error(
        f"The cache must be readable and writable to fetch {place}; {problem}. "
        "Free some space, or point HF_HOME to another folder."
    )
