"""Masks of images by a head: one palette PNG an image, and the table of its classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import console
from ..atomic import atomic_file
from ..data.mask_classes import MaskClass, class_table
from ..data.masks import write_mask
from ..data.sources import find_images
from ..dense.maps import read_image
from ..errors import InputError, writing
from ..predictor import Predictor
from ..weights.catalog import list_models
from .head import Head, load_head

TABLE = "classes.csv"


@dataclass
class Written:
    """What was written.

    Attributes:
        folder: Where.
        masks: Image and mask of each, in order.
        problems: Images that have no mask, as (name, reason).
    """

    folder: Path
    masks: list[tuple[Path, Path]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def predict(
    head: Head | str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    model: Any = None,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Written:
    """Write a mask for each image, in the palette and the numbers of the labels.

    A file that cannot be read stops none of the others. Masks stand in folders as their images do.

    Args:
        head: A head, or its file.
        images: Files, folders or globs.
        out: Folder to write to; what is in it stays.
        model: A source as for `hierax.load`, or a Predictor; None is the one that the head names.
        overwrite: Whether masks that are there may be replaced.
        progress: A progress bar.

    Raises:
        InputError: No image, another network than the head's, or masks that are there already.
        CheckpointError: No head.
    """
    head = head if isinstance(head, Head) else load_head(head)
    found = find_images(images)
    places = mask_places(found, Path(out).expanduser(), overwrite=overwrite)
    if not overwrite:
        _has_table(Path(out).expanduser(), head.classes)
    dense = head.dense(network_of(head, model))
    done = Written(Path(out).expanduser())
    values = {place: each.index for place, each in enumerate(head.classes)}
    colors = {each.index: each.color for each in head.classes}
    with console.bar("masks", total=len(found), unit="img", wanted=progress) as bar:
        for image, mask in places:
            try:
                pixels = read_image(image)
                classes = head.segment(dense, pixels)
            except InputError as error:
                done.problems.append((os.fspath(image), str(error)))
                continue
            finally:
                bar.update()
            table = [values.get(place, 0) for place in range(256)]
            put_mask(mask, classes, table, colors, overwrite=overwrite)
            done.masks.append((image, mask))
    if done.masks:
        write_table(done.folder, head.classes, overwrite=overwrite)
    return done


def network_of(head: Head, model: Any = None) -> Predictor:
    """The network that a head was made for.

    A name in a file is looked up in the catalogue alone: nobody's file decides what is fetched from where.

    Raises:
        InputError: The name that it states is none of the catalogue's.
    """
    if isinstance(model, Predictor):
        return model
    from ..registry import load

    if model is not None:
        return load(model)
    name = head.record.model
    if name not in list_models():
        raise InputError(
            f"This head was made for {name!r} (weights sha256 {head.record.sha256[:12]}), which is no name of the "
            "catalogue. Pass -m with the file or folder of those weights."
        )
    return load(name)


def mask_places(images: Sequence[Path], out: Path, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """Where the mask of each image goes: folders as those of the images, the name with .png.

    Images of one name and different extensions keep these: photo.jpg.png.

    Raises:
        InputError: A mask is there already, or would be an image itself.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"Masks go into a folder; {str(out)!r} is a file. Name another.")
    full = [Path(os.path.abspath(image)) for image in images]
    root = Path(os.path.commonpath([image.parent for image in full]))
    stems = Counter(image.relative_to(root).with_suffix("") for image in full)
    places = []
    for image, path in zip(images, full, strict=True):
        below = path.relative_to(root)
        name = below.with_suffix(".png") if stems[below.with_suffix("")] == 1 else below.with_name(below.name + ".png")
        mask = out / name
        if mask.exists() and any(mask.samefile(each) for each in (image,) if each.exists()):
            raise InputError(f"Masks do not take the place of images; {str(mask)!r} is one. Name another folder.")
        if not overwrite and os.path.lexists(mask):
            raise InputError(f"{mask} already exists and was left as it is. Pass --overwrite or name another folder.")
        places.append((image, mask))
    return places


def put_mask(path: Path, classes: Any, table: Sequence[int], colors: Any, *, overwrite: bool) -> None:
    """Write one mask, its folder included."""
    import numpy as np

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(np.array(table, np.uint8)[classes], colors, path, overwrite=overwrite)


def write_table(folder: Path, classes: Sequence[MaskClass], *, overwrite: bool) -> None:
    """Write what the numbers of masks mean beside them; the same table is left as it is.

    Raises:
        InputError: Another one is there, or the place cannot be written.
    """
    path, text = folder / TABLE, class_table(classes)
    if not overwrite and _has_table(folder, classes):
        return
    with writing(path), atomic_file(path, replace=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def _has_table(folder: Path, classes: Sequence[MaskClass]) -> bool:
    """Whether this very table is there.

    Raises:
        InputError: Another one is.
    """
    path = folder / TABLE
    if not os.path.lexists(path):
        return False
    if path.is_file() and path.read_bytes() == class_table(classes).encode():
        return True
    raise InputError(f"{path} says something else and was left as it is. Pass --overwrite or name another folder.")
