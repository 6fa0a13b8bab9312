"""What was found, as a picture: images as they are on the disk now, with scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.decode import decode_shrunk
from ..data.files import name_text
from ..data.sources import is_video
from ..errors import HieraxError
from ..visualize.sheets import Picture, contact_sheet, missing_picture, stack_sheets

if TYPE_CHECKING:
    from .library import Hit, Store

MOST = 1000  # images on one sheet: 1000 are 5400 x 6500 pixels
_SIDE = 288  # pixels that are kept of an image: twice those of a tile


def hits_sheet(store: Store, query: Any, name: str, hits: Sequence[Hit], *, columns: int | None = None) -> Picture:
    """A query and what it found.

    Args:
        store: Where it was found.
        query: An image, as a path, a PIL image or uint8 (h, w, 3); None where there is none.
        name: Of the query.
        hits: What it found.
        columns: Images side by side at most.
    """
    images, captions = [], []
    if query is not None:
        images.append(thumbnail(query))
        captions.append(f"query\n{short(name)}")
    for hit in hits:
        images.append(thumbnail(store.place(hit.path)))
        captions.append(f"{hit.score:.3f}\n{short(hit.path)}")
    return contact_sheet(images, captions, columns=columns)


def group_sheet(store: Store, groups: Sequence[tuple[str, Sequence[Hit]]], *, note: str = "") -> Picture:
    """Groups of images, one below another, each with its title under the first.

    Args:
        store: Where they are.
        groups: Title and images of each.
        note: What stands below.
    """
    sheets = []
    for title, hits in groups:
        images = [thumbnail(store.place(hit.path)) for hit in hits]
        captions = [f"{title if not n else f'{hit.score:.3f}'}\n{short(hit.path)}" for n, hit in enumerate(hits)]
        sheets.append(contact_sheet(images, captions, columns=8))
    return stack_sheets(sheets, note=note)


def representatives_sheet(store: Store, hits: Sequence[Hit], sizes: Sequence[int]) -> Picture:
    """One image of each cluster, with how many it stands for."""
    images = [thumbnail(store.place(hit.path)) for hit in hits]
    captions = [f"{n}: {size} images\n{short(hit.path)}" for n, (hit, size) in enumerate(zip(hits, sizes, strict=True))]
    return contact_sheet(images, captions)


def thumbnail(source: Any) -> Picture:
    """A small copy of an image; where it cannot be read, a picture that says so."""
    try:
        if isinstance(source, Path) and not os.path.lexists(source):
            return missing_picture("not there any more")
        if is_video(source):
            return missing_picture("a clip")
        pixels, _ = decode_shrunk(source, _shrink)
    except (HieraxError, OSError, MemoryError):
        return missing_picture("cannot be read")
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(picture)


def _shrink(size: tuple[int, int]) -> int:
    """By how much an image may be decoded smaller and still be larger than what is kept."""
    return next((factor for factor in (8, 4, 2) if max(size) // factor >= _SIDE), 1)


def short(path: str) -> str:
    """The name of a file, without its folders."""
    return name_text(os.path.basename(path) or path)
