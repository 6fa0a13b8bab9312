"""One file from a plain URL in the cache: fetched once, whole, and what its caller expects; or not there at all.

Files of the hub go through huggingface_hub in `weights/hub.py` instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..console import close, progress, say
from ..errors import HieraxError, IntegrityError
from .cache import alone, cache_root, cached_place, offline, short_hash
from .integrity import UNKNOWN, Published, forget, is_unchanged, verified_hash
from .transfer import Transfer, Transient, patiently, shown

_PAGE_BEGINS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<script")


@dataclass(frozen=True)
class Kind:
    """What a caller fetches.

    Attributes:
        noun: What it is, for messages: "a weights file".
        error: What to raise.
        folder: Where it lies inside the cache.
        most_bytes: The largest that is accepted, whatever the server announces.
        trouble: Why a file is none, in words that follow "it"; empty if it is one. Asked before a fetched file takes
            its name, and of what the cache holds, unless the hash of the file is known.
    """

    noun: str
    error: type[HieraxError]
    folder: str
    most_bytes: int
    trouble: Callable[[Path], str]


def download(url: str, kind: Kind, published: Published = UNKNOWN, *, changing: bool = False) -> Path:
    """Path of a URL's file in the cache, downloaded if it is not there whole; several processes download it once.

    Args:
        url: http or https.
        kind: What is expected there.
        published: What is known of the file; without any hash the first download is remembered.
        changing: Ask the server again even if there is a copy, and fall back on that if it does not answer.

    Raises:
        HieraxError: Of the kind's type: the address is wrong, refused or unreachable, something else is there, the
            cache cannot be written, or offline mode is on and nothing is cached.
        IntegrityError: The bytes are not the published ones, twice.
    """
    from huggingface_hub.utils import are_progress_bars_disabled

    path = _place_of(url, kind)
    part = path.with_name(path.name + ".part")
    transfer = Transfer(url, part, kind.noun, kind.error, kind.most_bytes)
    try:
        with alone(shown(url)), progress(not are_progress_bars_disabled()):
            cached = path.is_file() and _is_good(path, kind, published)
            if cached and (offline() or not changing):
                return path
            if offline():
                raise kind.error(
                    f"Offline mode (HF_HUB_OFFLINE) allows only what is cached; {shown(url)} is not, or was corrupted. "
                    f"Unset HF_HUB_OFFLINE once to download it, or copy the cache {cache_root()} from another machine."
                )
            try:
                return _fetch(transfer, path, kind, published, attempts=1 if cached else None)
            except kind.error as error:
                if not (cached and isinstance(error.__cause__, Transient)):
                    raise
                say(f"{shown(url)} does not answer ({error}); the copy in the cache is used.")
                return path
    except OSError as error:
        if isinstance(error, HieraxError):
            raise
        raise kind.error(
            f"The cache must be writable to download {shown(url)}; {path.parent}: {error.strerror or error}. "
            "Free some space, or point HF_HOME to another folder."
        ) from error
    finally:
        close()


def _place_of(url: str, kind: Kind) -> Path:
    """Where a URL's file lies in the cache; nothing of its query is part of a name."""
    try:
        parts = urlsplit(url)
        is_address = (
            parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        is_address = False
    if not is_address:
        raise kind.error(
            f"A download address must start with http:// or https://, without user and password; got {shown(url)!r}. "
            "A local file is named by its path."
        )
    # An address given as "#..." is the same file; the query is part of what the server sends.
    key = short_hash(url.partition("#")[0], 16)
    name = re.sub(r"[^\w.+-]", "_", unquote(parts.path).rstrip("/").rpartition("/")[2]).lstrip(".")
    return cached_place(kind.folder, key, name[-120:] or "file")


def _is_good(path: Path, kind: Kind, published: Published) -> bool:
    """Whether a cached file is what it should be; what is not is deleted."""
    known = bool(published.wanted)
    good = published.matches(path) if known else not kind.trouble(path) and is_unchanged(path)
    if not good:
        forget(path)
    return good


def _fetch(transfer: Transfer, path: Path, kind: Kind, published: Published, attempts: int | None) -> Path:
    """Download to a temporary file, then give it its name; once more if the bytes are not the published ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = ""
    for _ in range(2):
        patiently(transfer.attempt, attempts)
        trouble = _page(transfer.part) or ("" if published.wanted else kind.trouble(transfer.part))
        if trouble:
            raise transfer.nothing_of_the_kind(trouble)
        transfer.part.replace(path)
        transfer.drop()
        digest = verified_hash(path)
        if not published.wanted or published.matches(path):
            return path
        forget(path)
        say(f"{shown(transfer.url)} has not the published bytes (sha256 {digest[:12]}...); deleted.")
    raise IntegrityError(
        f"{shown(transfer.url)} must have sha256 {published.wanted[0]}; got {digest}, twice. The file at the origin "
        "was changed or something on the way alters it. Try another network, or a mirror through HIERAX_CATALOG."
    )


def _page(part: Path) -> str:
    """What is wrong with a file that is a web page, whatever its server called it."""
    with part.open("rb") as stream:
        begin = stream.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "is a web page" if begin.startswith(_PAGE_BEGINS) else ""
