"""Images and their stage maps on one page that opens from the disk, with a probe that compares every cell with all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from . import console
from .basis import BasisFile
from .data.files import name_text
from .data.rows import map_rows
from .data.sources import IMAGE_EXTENSIONS, find_images
from .errors import InputError, writing
from .net.address import shown as public
from .outputs import OutputFile, claimed
from .predictor import Predictor
from .registry import predictor_of
from .visualize.sheets import seen_pixels
from .visualize.viewer.data import BYTES_PER_IMAGE, Shown, map_bytes, view_data
from .visualize.viewer.page import viewer_page

MOST_BYTES = 128 << 20  # of maps at one byte a number: a page that browsers still open in seconds
_AT_ONCE = 4  # images, whose maps may be large


@dataclass(frozen=True)
class Viewed:
    """What came of a page.

    Attributes:
        path: The page.
        images: How many are on it.
        failed: Name and reason of each that could not be read.
        stages: Which are on it.
        left_out: Stages that would have made it too large.
        worst: Largest error of a cosine on it, as measured.
        bytes: Its size.
        basis: The file of the basis that was fitted and written, None where none was.
    """

    path: Path
    images: int
    failed: list[tuple[str, str]]
    stages: list[str]
    left_out: list[str]
    worst: float
    bytes: int
    basis: Path | None


def view(
    source: Any,
    images: Any,
    out: str | os.PathLike[str],
    *,
    basis: str | os.PathLike[str] | None = None,
    stages: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page that shows images beside each other and what a network sees in them; it opens without a network.

    Images that cannot be read are named by a warning and on the page, which shows the others.

    Args:
        source: A `Predictor`, or what `load` takes.
        images: Files, folders or globs, PIL images or uint8 arrays (h, w, 3); one or several.
        out: The page, a name that ends with .html.
        basis: A .safetensors file with the directions that colours stand for: used if it is there, otherwise fitted to
            these images and written, for later pages and pictures. None fits to these images.
        stages: Which of "stage1".."stage4"; None is all that a page of 5 MB for each image holds, the coarsest first.
        overwrite: Replace an existing page; a basis is never replaced.

    Returns:
        The page.

    Raises:
        InputError: No image could be read, the page is there already or cannot be written, a basis that is none or
            of other weights, or a network of clips.
        UnknownNameError: A stage that does not exist.
        HieraxError: The model cannot be loaded.
    """
    items = _listed(images)
    with claimed(Path(out), (".html", ".htm"), overwrite=overwrite) as file:
        predictor = predictor_of(source)
        done = write_view(predictor, items, file, basis=basis, stages=stages, progress=False)
        console.name_problems(done.failed)
    return done.path


def write_view(
    predictor: Predictor,
    items: Sequence[Any],
    out: OutputFile,
    *,
    basis: str | os.PathLike[str] | None = None,
    stages: Sequence[str] | None = None,
    progress: bool = True,
) -> Viewed:
    """`view` of images one by one, into a file that is held already.

    Args:
        predictor: What sees.
        items: Paths, PIL images or arrays.
        out: The page.
        basis: As for `view`.
        stages: As for `view`.
        progress: A progress bar where a person watches.

    Raises:
        InputError: As `view`.
        UnknownNameError: As `view`.
    """
    config = predictor.encoder.config
    if config.is_video:
        raise InputError(f"A page shows maps of images; {predictor.card.name!r} takes clips. Load a model of images.")
    wanted = _known(stages, predictor)
    predictor.features([], stages=wanted)  # what it refuses is refused before any file is opened
    numbers = len(items) * map_bytes(config, predictor.preprocess.size, wanted)
    if numbers > MOST_BYTES:
        raise InputError(
            f"A page holds at most {MOST_BYTES >> 20} MB of maps; those of {len(items)} images have "
            f"{numbers >> 20} MB. Name at most {max(1, MOST_BYTES * len(items) // numbers)} images, fewer stages, or a "
            "smaller input size."
        )
    for item in items:
        if _is_path(item) and out.path.exists() and _are_one(item, out.path):
            raise InputError(f"A page must be a file of its own; {out.path} is one of the images. Name another.")
    colours = BasisFile(basis, predictor, wanted)
    rows = list(_rows(predictor, items, wanted, progress=progress))
    names = [public(name_text(item)) if _is_path(item) else _name(item, place) for place, item in enumerate(items)]
    shown = [row for row in rows if isinstance(row, Shown)]
    failed = [(name, row) for name, row in zip(names, rows, strict=True) if isinstance(row, str)]
    # The page is shown to others, whom the folders of this machine do not concern.
    missing = [(_name(item, place), row.replace(str(item), _name(item, place)))
               for place, (item, row) in enumerate(zip(items, rows, strict=True)) if isinstance(row, str)]  # fmt: skip
    if not shown:
        raise InputError(f"A page needs an image that can be read; none of {len(rows)} can. The first: {failed[0][1]}")
    bases = colours.of({stage: np.stack([image.maps[stage] for image in shown]) for stage in wanted})
    data = view_data(
        shown,
        config,
        bases,
        about=_about(predictor),
        colours_from=colours.said(len(shown)),
        missing=missing,
        most_bytes=None if stages is not None else BYTES_PER_IMAGE * max(2, len(shown)),
    )
    text = viewer_page(data).encode("ascii")
    with writing(out.path):
        out.partial.write_bytes(text)
    named, worst = [stage["name"] for stage in data["stages"]], max(stage["worst"] for stage in data["stages"])
    fitted = colours.path if colours.is_new else None
    return Viewed(out.path, len(shown), failed, named, data["left_out"], worst, len(text), fitted)


def _listed(images: Any) -> list[Any]:
    """Images one by one: what paths stand for, and pictures as they are."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    given = [images] if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray)) else images
    if not isinstance(given, Iterable) or isinstance(given, (bytes, bytearray, dict)):
        raise InputError(f"Images are paths, PIL images or uint8 arrays (h, w, 3); got {type(images).__name__}.")
    items = list[Any]()
    for item in given:
        if isinstance(item, (str, os.PathLike)):
            items += find_images(item, extensions=IMAGE_EXTENSIONS)
        elif isinstance(item, (Image.Image, np.ndarray)):
            items.append(item)
        else:
            raise InputError(f"Images are paths, PIL images or uint8 arrays (h, w, 3); got {type(item).__name__}.")
    if not items:
        raise InputError("A page needs at least one image; got none.")
    return items


def _known(stages: Sequence[str] | None, predictor: Predictor) -> list[str]:
    """Names of stages in order; all that the network gives where none are asked for."""
    known = predictor.encoder.config.stage_names
    given = [name for name in known if name in getattr(predictor.encoder, "outputs", known)]  # of a program, some
    asked = predictor.encoder.config.known_stages((given or None) if stages is None else stages)
    if not asked:
        raise InputError(f"stages must name at least one of {', '.join(known)}; got none.")
    return [name for name in known if name in asked]


def _rows(
    predictor: Predictor, items: Sequence[Any], stages: Sequence[str], *, progress: bool
) -> Iterator[Shown | str]:
    """Each image with its maps, or the reason why it has none."""

    def seen(batch: Tensor, **options: Any) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        found = predictor.features(batch, stages=stages, **options)
        pixels = [seen_pixels(image.numpy(), predictor.preprocess) for image in batch]
        return [(each, {stage: maps[place] for stage, maps in found.items()}) for place, each in enumerate(pixels)]

    empty, options = (3, *predictor.encoder.config.input_size), {"batch_size": _AT_ONCE, "progress": progress}
    for place, row in enumerate(map_rows(items, predictor.prepare, seen, empty=empty, **options)):
        yield Shown(_name(items[place], place), *row.value) if row.error is None else row.error


def _name(item: Any, place: int) -> str:
    return console.printable(name_text(os.path.basename(os.fspath(item)))) if _is_path(item) else f"image {place + 1}"


def _is_path(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike))


def _are_one(path: Any, other: Path) -> bool:
    """Whether two paths lead to one file, under whatever names."""
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def _about(predictor: Predictor) -> dict[str, str]:
    card, config = predictor.card, predictor.encoder.config
    size = " x ".join(map(str, predictor.preprocess.size))
    return {
        "model": card.name,
        "architecture": config.name,
        "family": config.family,
        "input": f"{size} px",
        "license": card.license or "unknown",
    }
