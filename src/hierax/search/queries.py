"""What is asked for, an image, a part of one, a vector or a row of the store, as vectors of the kind of the store."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..errors import InputError, brief
from ..regular import open_regular

if TYPE_CHECKING:
    from ..predictor import Predictor
    from .library import Store

_ROW = "row:"
_MOST_BYTES = 1 << 30  # of a file of vectors


@dataclass(frozen=True)
class Query:
    """Something that is asked for.

    Attributes:
        name: As it was asked.
        vector: Of the column's width.
        row: The good row that it is, if it is one.
        image: What it shows, where that is known.
    """

    name: str
    vector: Float[ndarray, " c"]
    row: int | None = None
    image: Any = None


@dataclass
class _Asked:
    """A query on its way to a vector: one of the last three says how."""

    name: str
    row: int | None = None
    image: Any = None
    vector: ndarray | None = None
    by_row: bool = False


def resolve(
    store: Store,
    queries: Sequence[Any],
    *,
    column: str = "embedding",
    crop: Sequence[int] | None = None,
    model: Any = None,
    device: str = "cpu",
) -> list[Query]:
    """Vectors of queries; the model is loaded only where an image has to be embedded.

    Args:
        store: What is asked.
        queries: Vectors (c,), row numbers, images; of texts, paths of images or of .npy files with vectors, `row:7`,
            and paths that the store has.
        column: Whose vectors are searched.
        crop: (x, y, width, height) of every image.
        model: As for `Store.search`.
        device: Where a model is loaded to.

    Raises:
        InputError: A query that is none, or a model that did not make the store.
    """
    vectors = store.vectors(column)
    width = vectors.shape[1]
    asked = [each for query in queries for each in _asked(store, query, width)]
    _find_rows(store, asked, crop)
    images = [each for each in asked if each.vector is None and not each.by_row]
    if crop is not None and any(each.by_row or each.vector is not None for each in asked):
        raise InputError("A crop is of an image; a vector has none. Leave --crop out, or name image files.")
    if images:
        predictor = stored_model(store, model, device=device)
        for each, vector in zip(images, _embedded(predictor, images, column, crop), strict=True):
            each.vector = vector
    for each in asked:
        if each.by_row and each.row is not None:
            each.vector = np.asarray(vectors[each.row])
    return [Query(each.name, np.asarray(each.vector), each.row, each.image) for each in asked]


def _asked(store: Store, query: Any, width: int) -> list[_Asked]:
    if isinstance(query, (int, np.integer)) and not isinstance(query, bool):
        return [_Asked(f"{_ROW}{query}", row=_checked_row(store, int(query)), by_row=True)]
    if isinstance(query, np.ndarray) and query.dtype != np.uint8:
        return _of_vectors("vector", query, width)
    if not isinstance(query, (str, os.PathLike)):
        return [_Asked("image", image=query)]
    text = os.fspath(query)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"A query must be a path; got {brief(text)}.")
    if text.startswith(_ROW) and not os.path.lexists(text):
        number = text.removeprefix(_ROW)
        if not number.isdecimal() or len(number) > 12:
            raise InputError(f"A row is asked for by its number, e.g. {_ROW}7; got {brief(text)}.")
        return [_Asked(text, row=_checked_row(store, int(number)), by_row=True)]
    if text.lower().endswith(".npy") and os.path.lexists(text):
        return _of_vectors(text, _read_vectors(text), width)
    return [_Asked(text, image=Path(text))]


def _checked_row(store: Store, row: int) -> int:
    if not 0 <= row < store.rows:
        raise InputError(f"Good rows of {str(store.path)!r} are counted from 0 to {store.rows - 1}; got {row}.")
    return row


def _of_vectors(name: str, found: ndarray, width: int) -> list[_Asked]:
    many = found[None] if found.ndim == 1 else found
    if many.ndim != 2 or many.shape[1] != width or many.dtype.kind not in "fiu" or not len(many):
        raise InputError(
            f"A query has {width} numbers, as the rows of this store; {brief(name)} is {found.dtype} of {found.shape}. "
            "Use vectors of the same model and column."
        )
    if not np.isfinite(many).all():
        raise InputError(f"A query must be finite; {brief(name)} holds NaN or infinity.")
    return [_Asked(name if len(many) == 1 else f"{name}[{i}]", vector=each) for i, each in enumerate(many)]


def _read_vectors(path: str) -> ndarray:
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise InputError(f"Queries must fit into memory; {path!r} is larger than {_MOST_BYTES:,} bytes.")
            return np.lib.format.read_array(file, allow_pickle=False)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:200] or type(error).__name__
        raise InputError(f"A query that ends with .npy is an array of numbers; {path!r}: {reason}.") from error


def _find_rows(store: Store, asked: list[_Asked], crop: Sequence[int] | None) -> None:
    """Which queries are rows: a path that the store has is answered by its row while its file is as it was."""
    texts: dict[str, _Asked] = {}
    for each in asked:
        if isinstance(each.image, Path):
            texts.setdefault(each.name, each)
            texts.setdefault(os.path.abspath(each.name), each)
    rows = rows_of(store, list(texts)) if texts else {}
    for text, row in rows.items():
        texts[text].row = row
    for each in asked:
        if not isinstance(each.image, Path):
            continue
        if each.row is None and each.name in texts:  # asked for twice
            each.row = texts[each.name].row
        there = os.path.lexists(each.image)
        if each.row is not None and not there:
            each.image = store.place(each.name)
            there = os.path.lexists(each.image)
        if each.row is None and not there:
            raise InputError(
                f"A query is an image, a .npy file of vectors, {_ROW}NUMBER, or a path that {str(store.path)!r} has; "
                f"{brief(each.name)} is none of these."
            )
        if each.row is None and os.path.isdir(each.image):
            raise InputError(f"Queries are named one by one; {each.name!r} is a folder. Name its files.")
        each.by_row = each.row is not None and crop is None and not (there and _is_newer(store, each.row, each.image))


def rows_of(store: Store, paths: Sequence[str]) -> dict[str, int]:
    """The first good row of each path that the store has."""
    import pyarrow as pa

    pc: Any = importlib.import_module("pyarrow.compute")  # its stubs know none of its functions
    wanted = [(path, path.encode("utf-8", "surrogateescape")) for path in paths]
    texts = pa.array([exact.decode("utf-8", "replace") for _, exact in wanted])
    exacts = pa.array([exact for _, exact in wanted])
    found: dict[str, int] = {}
    before = 0
    for table in store.tables(["path", "path_bytes", "error"]):
        good = table.filter(pc.is_null(table["error"])) if table["error"].null_count < len(table) else table
        named = pc.coalesce(pc.index_in(good["path_bytes"], exacts), pc.index_in(good["path"], texts))
        for place in np.flatnonzero(pc.is_valid(named).to_numpy()):
            found.setdefault(paths[int(named[int(place)].as_py())], before + int(place))
        before += len(good)
    return found


def _is_newer(store: Store, row: int, place: Path) -> bool:
    """Whether a file may have changed since its row was written."""
    part = int(np.searchsorted(np.cumsum([each.rows - each.errors for each in store.parts]), row, side="right"))
    try:
        file = place.stat()
        return max(file.st_mtime_ns, file.st_ctime_ns) > store.files[part].stat().st_mtime_ns
    except OSError:
        return False


def stored_model(store: Store, model: Any = None, *, device: str = "cpu") -> Predictor:
    """The model that made a store.

    Args:
        store: Whose.
        model: A `Predictor`, or what `hierax.load` takes; None is what the store names.
        device: Where it is loaded to.

    Raises:
        InputError: It did not make the store: vectors of two models must not be compared.
        HieraxError: It cannot be loaded.
    """
    from ..predictor import Predictor
    from ..registry import load

    made = store.metadata
    if not isinstance(model, Predictor):
        size = tuple((made.get("preprocess") or {}).get("size") or ()) or None
        named = model or store.origin.get("weights") or made.get("model")
        _refuse(store, _differences(made, _published(named)), named)
        model = load(named, input_size=size, dtype=made.get("precision"), device=device)
    from ..provenance import provenance

    _refuse(store, _differences(made, provenance(model)), model.card.name)
    model.views = int(made.get("views") or 1)
    return model


def _published(source: Any) -> dict[str, Any]:
    """What is known of a published model before its weights are fetched."""
    from ..registry import describe
    from ..weights.catalog import list_models

    known = describe(source).to_dict() if source in list_models() else {}
    return {key: known[key] for key in ("architecture", "sha256") if known.get(key)}


def _differences(made: dict[str, Any], own: dict[str, Any]) -> list[str]:
    from ..store.layout import IDENTITY

    def plain(value: Any) -> Any:
        return (
            [plain(v) for v in value]
            if isinstance(value, (list, tuple))
            else ({k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value)
        )

    keys = [key for key in ("architecture", *IDENTITY) if key in own and key in made]
    return [
        f"{key} {brief(own[key])} instead of {brief(made[key])}" for key in keys if plain(own[key]) != plain(made[key])
    ]


def _refuse(store: Store, differences: list[str], named: Any) -> None:
    if differences:
        raise InputError(
            f"A query must be embedded by the model that made the store; {brief(str(named))} has "
            f"{'; '.join(differences)}. Name the weights of {brief(store.metadata.get('model'))} with -m, or ask by a "
            "row or a vector."
        )


def _embedded(predictor: Predictor, images: list[_Asked], column: str, crop: Sequence[int] | None) -> ndarray:
    sources = [each.image if crop is None else cropped(each.image, crop, each.name) for each in images]
    if column == "embedding":
        return predictor.embed(sources)
    return predictor.features(sources, stages=[column])[column].mean(axis=(2, 3), dtype=np.float64)


def cropped(image: Any, crop: Sequence[int], name: str) -> ndarray:
    """A part of an image as RGB (h, w, 3).

    Args:
        image: What `Predictor.embed` takes for one.
        crop: (x, y, width, height) in pixels, of the image as a person sees it.
        name: For the message.

    Raises:
        InputError: It is no part of the image.
    """
    from ..data.decode import decode_image

    pixels = decode_image(image)
    if len(crop) != 4 or not all(isinstance(side, (int, np.integer)) for side in crop):
        raise InputError(f"A crop is x,y,width,height in pixels, e.g. 10,20,200,100; got {brief(tuple(crop))}.")
    x, y, width, height = (int(side) for side in crop)
    if min(x, y) < 0 or min(width, height) < 1 or x + width > pixels.shape[1] or y + height > pixels.shape[0]:
        raise InputError(
            f"A crop lies inside its image; {brief(name)} has {pixels.shape[1]} x {pixels.shape[0]} pixels, got "
            f"x,y,width,height = {x},{y},{width},{height}."
        )
    return np.ascontiguousarray(pixels[y : y + height, x : x + width])
