"""POST /search: the images of a store that are most similar to one; and their thumbnails, by row alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy import ndarray

from ...data.files import name_text
from ...errors import HieraxError, brief
from ...search import Store
from ..payloads import image_or_json, is_raw, table_of
from ..replies import Ask, Refusal, Reply, Route, invalid
from ..service import Service
from .classify import IMAGE_OR_JSON

_MOST, _SIDE = 1000, 256
_QUERY = {"k": "How many, 10 without it.", "column": "Which vectors of the store, embedding without it."}


async def search(service: Service, ask: Ask) -> Reply:
    """Images of the store most similar to an image, a row or a vector, by cosine, the most similar first."""
    ask.known(*_QUERY)
    store = _store(service)
    count, column = ask.number("k", 10, most=_MOST), (ask.values("column") or ["embedding"])[-1]
    if column not in store.columns or column not in service.facts.gives:
        raise invalid(f"The columns of this store are {', '.join(store.columns)}; got {brief(column)}.")
    query: Any = await service.apart(_vector, ask)
    if query is None:
        images, _, several = await service.apart(image_or_json, ask)
        if several or len(images) != 1:
            raise invalid(f"A search is for one image; got {len(images)}. Ask once for each.")
        made = await service.inputs(images)
        found = (await service.answers([made[0][0]], [column]))[0][column]
        query = found if found.ndim == 1 else found.mean(axis=(1, 2), dtype=np.float64)
    hits = await service.apart(lambda: store.search(query, k=count, column=column))
    return Reply.of([{"path": name_text(hit.path), "score": hit.score, "row": hit.row} for hit in hits])


def _vector(ask: Ask) -> int | ndarray | None:
    """The row or vector that a body asks with, None where it is an image."""
    if ask.files or is_raw(ask) or ask.kind not in ("application/json", "text/json"):
        return None
    data = table_of(ask, "inputs", "row", "vector")
    if len(data) != 1:
        raise invalid(f'The body has one of the keys "inputs", "row" and "vector"; got {brief(sorted(data))}.')
    if "row" in data:
        if isinstance(data["row"], bool) or not isinstance(data["row"], int):
            raise invalid(f"A row is a whole number; got {brief(data['row'])}.")
        return data["row"]
    if "vector" in data:
        values = data["vector"]
        if not isinstance(values, list) or not all(type(each) in (int, float) for each in values):
            raise invalid(f"A vector is a list of numbers; got {brief(values)}.")
        return np.array(values, np.float64)
    return None


async def thumbnail(service: Service, ask: Ask) -> Reply:
    """A small JPEG of a row of the store, drawn anew; files are named by their row alone."""
    store, row = _store(service), ask.path["row"]
    if not (row.isascii() and row.isdecimal() and len(row) < 12 and int(row) < store.rows):
        raise Refusal(404, "NotFound", f"Rows of this store are counted from 0 to {store.rows - 1}; got {brief(row)}.")
    try:
        picture = await service.apart(_drawn, store, int(row))
    except Refusal as refusal:  # of a file that moved, or lies in an archive; its words name it
        raise Refusal(404, "NotFound", "The file of this row cannot be read from here.") from refusal
    return Reply(picture, "image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _drawn(store: Store, row: int) -> bytes:
    from ...data.decode import open_rgb

    image = open_rgb(store.place(store.names([row])[0]))
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _store(service: Service) -> Store:
    if service.store is None:
        raise Refusal(404, "NotFound", "This server has no store to search. Start it with --store STORE.")
    return service.store


def usable(service: Service) -> None:
    """Open the store before anybody asks.

    Raises:
        HieraxError: It cannot be opened, or is empty.
    """
    if service.store is not None and not service.store.rows:
        raise HieraxError("A store must have rows to be searched; this one has none. Embed images first.")


_JSON = IMAGE_OR_JSON["application/json"]
_MORE = {"row": {"type": "integer"}, "vector": {"type": "array", "items": {"type": "number"}}}
ROUTES = [
    Route(
        "POST",
        "/search",
        search,
        takes={
            **IMAGE_OR_JSON,
            "application/json": {"type": "object", "properties": {**_JSON["properties"], **_MORE}},
        },
        query=_QUERY,
    ),
    Route("GET", "/search/images/{row}", thumbnail, gives="image/jpeg"),
]
