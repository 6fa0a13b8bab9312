"""A mask of the first frame, carried through a clip: a palette PNG a frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import console
from ..data.frames import open_frames
from ..data.mask_classes import UNLABELLED_INDEX, classes_of
from ..data.masks import read_mask, write_mask
from ..dense.track import Following, Tracker, tracking_maps
from ..errors import InputError, writing
from ..registry import predictor_of
from .predict import Written


def propagate(  # noqa: PLR0913 - a signature is a command's options
    clip: str | Path,
    first_mask: str | Path,
    out: str | Path,
    model: Any = None,
    *,
    stages: Sequence[str] | None = None,
    size: int | str | None = None,
    tile: int | None = None,
    how: Following | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Written:
    """Write a mask for each frame of a clip, the first included, in the numbers and the palette of the first.

    Every number of the first mask is a class, 0 too; 255, and clear pixels, are none.

    Args:
        clip: A folder of frames, or a video file (extra "video").
        first_mask: Mask of the first frame.
        out: Folder to write to; what is in it stays.
        model: A source as for `hierax.load`, or a Predictor; None is the embedded model.
        stages: Whose maps are compared; None is stages 2 and 3.
        size: Pixels of the shorter side at which frames are looked at, or "full"; None is 480.
        tile: Side of the tiles into which larger frames are cut; None is twice the network's own.
        how: Settings; None is DINO's protocol on DAVIS.
        overwrite: Whether masks that are there may be replaced.
        progress: A progress bar.

    Raises:
        InputError: No clip, a mask of another size or of one class, or masks that are there already.
    """
    frames, folder = open_frames(clip), Path(out).expanduser()
    mask = read_mask(first_mask)
    meaning = classes_of([(str(first_mask), mask)])
    if len(meaning) < 2:
        raise InputError(
            f"A first mask holds two classes at least, such as 0 and 1; {os.fspath(first_mask)!r} holds "
            f"{', '.join(meaning.names) or 'none'}."
        )
    classes = meaning.decode(mask, str(first_mask))
    if frames.paths is not None:
        _check_free([folder / f"{path.stem}.png" for path in frames.paths], overwrite)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Masks go into a folder; {str(folder)!r} is a file. Name another.")
    maps = tracking_maps(predictor_of(model), stages, size, tile)
    numbers = np.array([each.index for each in meaning.known], np.uint8)
    colors = {each.index: each.color for each in meaning.known}
    done, tracker = Written(folder), None
    total = None if frames.paths is None else len(frames.paths)
    with console.bar("frames", total=total, unit="frame", wanted=progress) as bar:
        for name, pixels in frames:
            place = folder / f"{name}.png"
            if tracker is None:
                if classes.shape != pixels.shape[:2]:
                    raise InputError(
                        f"A first mask has the size of the frames; {os.fspath(first_mask)!r} is {classes.shape[1]} x "
                        f"{classes.shape[0]} and frame {name} {pixels.shape[1]} x {pixels.shape[0]}."
                    )
                tracker = Tracker(maps, pixels, classes, len(meaning), how)
                found = np.where(classes < 0, UNLABELLED_INDEX, numbers[classes])
            else:
                found = numbers[tracker.follow(pixels)]
            _check_free([place], overwrite)
            with writing(place):
                folder.mkdir(parents=True, exist_ok=True)
            write_mask(found, colors, place, overwrite=overwrite)
            done.masks.append((frames.source / name, place))
            bar.update()
    return done


def _check_free(places: Sequence[Path], overwrite: bool) -> None:
    for place in places if not overwrite else ():
        if os.path.lexists(place):
            raise InputError(f"{place} already exists and was left as it is. Pass --overwrite or name another folder.")
