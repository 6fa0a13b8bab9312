"""One file from a plain URL in the cache: fetched once, whole, and what its caller expects; or not there at all.

Files of the hub go through huggingface_hub in `weights/hub.py` instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from .. import console
from .cache import UNKNOWN, Published, alone, cache_root, forget, is_unchanged, offline, verified_hash, way_online
from .options import chosen
from .transfer import Kind, Transfer, Transient, patiently
from .trust import remember, trusted, verified


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

    published = trusted(published)
    # What the hash of is known needs no other proof.
    transfer = Transfer(url, dataclasses.replace(kind, trouble=lambda _: "") if published.wanted else kind)
    path, place = transfer.path, transfer.place
    with contextlib.closing(console), alone(place, kind.error), console.progress(not are_progress_bars_disabled()):
        cached = path.is_file()
        if cached:
            cached = published.matches(path) if published.wanted else not kind.trouble(path) and is_unchanged(path)
            if not cached:
                forget(path)
        if cached and (offline() or not (changing or chosen().again)):
            remember(published, path, name=place)
            return path
        if offline():
            forbids, remedy = way_online()
            raise kind.error(
                f"Offline mode ({forbids}) allows only what is cached; {place} is not, or was corrupted. "
                f"{remedy} once to download it, or copy the cache {cache_root()} from another machine."
            )
        try:
            return verified(place, lambda _: (_fetch(transfer, published, cached), published))
        except kind.error as error:
            if not (cached and isinstance(error.__cause__, Transient)):
                raise
            console.say(f"{place} does not answer ({error}); the copy in the cache is used.")
            return path


def _fetch(transfer: Transfer, published: Published, cached: bool) -> Path:
    """Download to a temporary file, then give it its name; there is no hurry where a copy is cached."""
    path = transfer.path
    path.parent.mkdir(parents=True, exist_ok=True)
    patiently(transfer.attempt, 1 if cached else None)
    transfer.settle()
    verified_hash(path, fresh=True)
    return path
