"""POST /features: stage maps as NumPy's own files, or the vectors of single cells."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from ...errors import brief, nearest
from ..payloads import image_or_json
from ..replies import Ask, Reply, Route, invalid
from ..service import Service
from .classify import IMAGE_OR_JSON

_MOST_CELLS = 4096
_QUERY = {
    "stage": "stage1 to stage4, given once for each; .npy for one, .npz for several; all of them without it.",
    "cell": "ROW,COLUMN of a map, counted from 0, given once for each: their vectors (n, c) instead of the map.",
    "dtype": "float32 or float16.",
    "format": "npy, or json for cells alone.",
}


@dataclass(frozen=True)
class _Wanted:
    stages: list[str]
    cells: list[tuple[int, int]]
    dtype: str
    json: bool


async def features(service: Service, ask: Ask) -> Reply:
    """Un-normed stage maps (c, h, w) of an image, as .npy or .npz; of a list of images (n, c, h, w).

    X-Hierax-Image-Size and X-Hierax-Input-Size are (height, width) of the image and of the network's input.
    """
    ask.known(*_QUERY)
    wanted = _wanted(service, ask)
    images, _, several = await service.apart(image_or_json, ask)
    made = await service.inputs(images)
    found = await service.answers([each for each, _ in made], wanted.stages)
    sizes = {"Image": made[0][1], "Input": made[0][0].shape[-2:]}
    headers = {f"X-Hierax-{name}-Size": ",".join(map(str, size)) for name, size in sizes.items()}
    maps = {}
    for name in wanted.stages:
        own = [_cells(each[name], wanted.cells) if wanted.cells else each[name] for each in found]
        maps[name] = np.stack(own) if several else own[0]
    return await service.apart(_reply, maps, wanted, headers)


def _wanted(service: Service, ask: Ask) -> _Wanted:
    known = service.facts.stages
    stages = [name.strip() for value in ask.values("stage") for name in value.split(",")] or [*known]
    for name in stages:
        if name not in known:
            raise invalid(f"Stages are {', '.join(known)}; got {brief(name)}. {nearest(name, known)}")
    dtype, form = (ask.values("dtype") or ["float32"])[-1], (ask.values("format") or ["npy"])[-1]
    if dtype not in ("float32", "float16"):
        raise invalid(f"dtype is float32 or float16; got {brief(dtype)}.")
    cells = [_cell(text) for text in ask.values("cell")]
    if len(cells) > _MOST_CELLS:
        raise invalid(f"A request may ask for at most {_MOST_CELLS} cells; got {len(cells)}.")
    if form not in ("npy", "json") or (form == "json" and not cells):
        raise invalid(f"format is npy, or json where cells are named; got {brief(form)}. Add cell=ROW,COLUMN.")
    return _Wanted(list(dict.fromkeys(stages)), cells, dtype, form == "json")


def _cell(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 7 for part in parts):
        raise invalid(f"A cell is ROW,COLUMN, e.g. 3,4; got {brief(text)}.")
    return int(parts[0]), int(parts[1])


def _cells(found: ndarray, cells: Sequence[tuple[int, int]]) -> ndarray:
    """Vectors (n, c) of cells of a map (c, h, w)."""
    height, width = found.shape[1:]
    for row, column in cells:
        if row >= height or column >= width:
            raise invalid(f"This map has {height} rows and {width} columns; got the cell {row},{column}.")
    rows, columns = zip(*cells, strict=True)
    return np.ascontiguousarray(found[:, rows, columns].T)


def _reply(maps: dict[str, ndarray], wanted: _Wanted, headers: dict[str, str]) -> Reply:
    if wanted.json:
        return Reply.of({name: found.tolist() for name, found in maps.items()}, headers=headers)
    with np.errstate(over="ignore"):
        maps = {name: found.astype(wanted.dtype, copy=False) for name, found in maps.items()}
    if not all(np.isfinite(found).all() for found in maps.values()):
        raise invalid("This map does not fit into float16. Ask for dtype=float32.")
    stream = io.BytesIO()
    if len(maps) == 1:
        np.save(stream, next(iter(maps.values())), allow_pickle=False)
    else:
        np.savez(stream, **maps)  # type: ignore[arg-type]
    kind = "application/x-npy" if len(maps) == 1 else "application/x-npz"
    return Reply(stream.getvalue(), kind, headers=headers)


ROUTES = [Route("POST", "/features", features, takes=IMAGE_OR_JSON, gives="application/x-npy", query=_QUERY)]
