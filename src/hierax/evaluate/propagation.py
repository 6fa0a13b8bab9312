"""How well labels follow the maps of a network through clips: J of regions and F of boundaries, as on DAVIS 2017.

Of each clip the first mask is given and all frames but the first and the last are judged, object by object. Nothing is
trained. The first mask, left as it is, stands beside each network: it shows how much of a clip stands still.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from .. import console
from ..data.files import open_regular
from ..data.frames import Frames, open_frames
from ..data.masks import Mask, read_mask
from ..dense.track import Following, Tracker, tracking_maps
from ..errors import InputError
from ..model.regions import Track, boundary_accuracy, region_similarity
from ..provenance import provenance
from .features import untrained
from .result import FeatureScores
from .rows import predictors

STILL = "the first mask, unchanged"
VOID = 255
_FRAMES, _MASKS, _SETS = "JPEGImages", "Annotations", "ImageSets"
_SIZES, _YEARS = ("480p", "Full-Resolution"), ("2017", "2016", "")
_Follow = Callable[[Frames, ndarray, int], Iterator[ndarray]]


@dataclass(frozen=True)
class Clip:
    """A clip and its masks."""

    name: str
    frames: Frames
    masks: dict[str, Path]


def propagation(  # noqa: PLR0913 - a signature is a command's options
    data: str | Path,
    models: Any = None,
    *,
    split: str = "val",
    stages: Sequence[str] | None = None,
    size: int | str | None = None,
    tile: int | None = None,
    how: Following | None = None,
    baselines: Literal["none", "still", "all"] = "still",
    progress: bool = False,
) -> FeatureScores:
    """Carry the first mask of each clip through it, and compare.

    Args:
        data: A folder in the layout of DAVIS: JPEGImages/480p/CLIP/00000.jpg, Annotations/480p/CLIP/00000.png, and
            ImageSets/2017/val.txt where not all clips are meant.
        models: A source as for `hierax.load`, a Predictor, several of these, or a dict of them by name; None is the
            embedded model.
        split: Which list of ImageSets.
        stages: As for `segment propagate`.
        size: As for `segment propagate`.
        tile: As for `segment propagate`.
        how: As for `segment propagate`.
        baselines: "still": the first mask, unchanged; "all": each network with random weights too; "none".
        progress: Progress bars.

    Returns:
        For each row means over objects: `jf`, `j`, `f`, and recall and decay of both; `per_class` has J&F by clip.

    Raises:
        InputError: No clip, or one that cannot be judged.
    """
    clips, settings = list(davis_clips(Path(data).expanduser(), split)), how or Following()
    about = {"name": str(data), "clips": len(clips), "split": split, "layout": "DAVIS"}
    scores = FeatureScores("propagation", about, {**vars(settings), "size": size, "tile": tile, "stages": stages})
    rows: list[tuple[str, Any]] = []
    for name, predictor in predictors(models):
        rows = [(name, predictor)]
        if baselines == "all":
            rows.append((f"{name}, random weights", untrained(predictor)))
        for title, network in rows:
            maps = tracking_maps(network, stages, size, tile)

            def follow(frames: Frames, classes: ndarray, count: int, maps: Any = maps) -> Iterator[ndarray]:
                tracker: Tracker | None = None
                for _, pixels in frames:
                    _check_size(frames, classes, pixels)
                    if tracker is None:
                        tracker = Tracker(maps, pixels, classes, count, settings)
                        yield classes
                    else:
                        yield tracker.follow(pixels)

            found = _judged(clips, follow, title, progress)
            told = {"features": ",".join(maps.stages), "dimensions": sum(maps.channels.values())}
            scores.results.append({"model": title, **told, **found, "about": provenance(network)})
    if baselines != "none":

        def still(frames: Frames, classes: ndarray, count: int) -> Iterator[ndarray]:
            return (classes for _ in frames.paths or ())

        scores.results.append({"model": STILL, "features": "-", "dimensions": 0, **_judged(clips, still, STILL, False)})
    scores.total = sum(len(clip.masks) for clip in clips)
    return scores


def davis_clips(root: Path, split: str) -> Iterator[Clip]:
    """The clips of a folder in the layout of DAVIS.

    Raises:
        InputError: It is none, or a clip lacks its frames or its first mask.
    """
    frames, masks = _below(root / _FRAMES), _below(root / _MASKS)
    lists = [root / _SETS / year / f"{split}.txt" for year in _YEARS]
    listed = next((path for path in lists if path.is_file()), None)
    if listed is not None:
        with open_regular(listed) as stream:
            names = stream.read(1 << 20).decode("utf-8", "replace").split()
        names = list(dict.fromkeys(name.strip("/").split("/")[-2] if "/" in name else name for name in names))
    elif (root / _SETS).is_dir():
        raise InputError(f"ImageSets has a list for each split; {str(root)!r} has none named {split}.txt.")
    else:
        names = sorted(path.name for path in masks.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise InputError(f"Propagation is judged on clips; {str(masks)!r} holds none.")
    for name in names:
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise InputError(f"A list of clips holds names of folders; {str(listed)!r} holds {name[:80]!r}.")
        clip = open_frames(frames / name)
        drawn = {path.stem: path for path in sorted((masks / name).glob("*.png"))}
        if not clip.paths or clip.paths[0].stem not in drawn or len(set(drawn) & {p.stem for p in clip.paths}) < 2:
            raise InputError(
                f"A clip has a mask of its first frame and of others; {str(masks / name)!r} holds {len(drawn)} masks "
                f"for {len(clip.paths or ())} frames in {str(frames / name)!r}."
            )
        yield Clip(name, clip, drawn)


def _below(folder: Path) -> Path:
    """The folder of one resolution, where there are such."""
    if not folder.is_dir():
        raise InputError(
            f"DAVIS has the folders {_FRAMES} and {_MASKS}; {str(folder)!r} is not there. Put clips into "
            f"{_FRAMES}/480p/CLIP and their masks into {_MASKS}/480p/CLIP."
        )
    return next((folder / size for size in _SIZES if (folder / size).is_dir()), folder)


def _judged(clips: Sequence[Clip], follow: _Follow, what: str, progress: bool) -> dict[str, Any]:
    """Measures over all objects of all clips, and J&F of each clip."""
    regions: list[Track] = []
    edges: list[Track] = []
    by_clip, judged = {}, 0
    with console.bar(what, total=len(clips), unit="clip", wanted=progress) as bar:
        for clip in clips:
            own = _tracks(clip, follow)
            regions, edges = [*regions, *(j for j, _ in own)], [*edges, *(f for _, f in own)]
            by_clip[clip.name] = float(np.mean([(j.mean + f.mean) / 2 for j, f in own]))
            judged += len(own[0][0].values)
            bar.update()
    found: dict[str, Any] = {"images": judged, "objects": len(regions)}
    for key, tracks in (("j", regions), ("f", edges)):
        found[key] = float(np.mean([track.mean for track in tracks]))
        found[f"{key}_recall"] = float(np.mean([track.recall for track in tracks]))
        found[f"{key}_decay"] = float(np.mean([track.decay for track in tracks]))
    return {"jf": (found["j"] + found["f"]) / 2, **found, "per_class": by_clip}


def _tracks(clip: Clip, follow: _Follow) -> list[tuple[Track, Track]]:
    """J and F of each object of a clip."""
    names = [path.stem for path in clip.frames.paths or ()]
    first = _numbers(read_mask(clip.masks[names[0]]), clip)
    count = int(first[first != VOID].max(initial=0)) + 1
    if count < 2:
        raise InputError(f"A first mask has an object; that of {clip.name!r} has none: {str(clip.masks[names[0]])!r}.")
    classes = np.where(first == VOID, -1, first.astype(np.int64))
    values: list[tuple[list[float], list[float]]] = [([], []) for _ in range(count - 1)]
    last = len(names) - 1 if len(names) > 2 else len(names)  # nobody judges the last frame, but of two
    for place, (name, answer) in enumerate(zip(names, follow(clip.frames, classes, count), strict=True)):
        if not 0 < place < last or name not in clip.masks:
            continue
        truth = _numbers(read_mask(clip.masks[name]), clip)
        if truth.shape != answer.shape:
            raise InputError(
                f"A mask has the size of its frame; {str(clip.masks[name])!r} is {truth.shape[1]} x {truth.shape[0]}, "
                f"the frame {answer.shape[1]} x {answer.shape[0]}."
            )
        void = truth == VOID
        for number, (j, f) in enumerate(values, start=1):
            j.append(region_similarity(truth == number, answer == number, void))
            f.append(boundary_accuracy(truth == number, answer == number, void))
    if not values[0][0]:
        raise InputError(f"Nothing of clip {clip.name!r} can be judged: only its first and last frame have masks.")
    return [(Track(tuple(j)), Track(tuple(f))) for j, f in values]


def _numbers(mask: Mask, clip: Clip) -> UInt8[ndarray, "h w"]:
    if mask.by_color:
        raise InputError(f"Masks of DAVIS hold the numbers of objects; one of {clip.name!r} holds colours.")
    return np.where(mask.values < 0, VOID, mask.values).astype(np.uint8)


def _check_size(frames: Frames, classes: ndarray, pixels: ndarray) -> None:
    if classes.shape != pixels.shape[:2]:
        raise InputError(
            f"A mask has the size of its frame; the first of {str(frames.source)!r} is {classes.shape[1]} x "
            f"{classes.shape[0]}, the frame {pixels.shape[1]} x {pixels.shape[0]}."
        )
