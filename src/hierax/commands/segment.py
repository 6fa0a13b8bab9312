"""Commands that make masks: segment train, predict, propagate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .. import console
from ..errors import InputError
from ..outputs import claimed
from . import Exit, common
from .common import Device, Inputs, MaxPixels, Model, Output, exit_code, load

if TYPE_CHECKING:
    from ..predictor import Predictor
    from ..segment import Trained

Labels = Annotated[
    Positional[Path], arg(metavar="LABELS", help="Folder of images and masks, images/NAME.jpg and masks/NAME.png.")
]
HeadFile = Annotated[Positional[Path], arg(metavar="HEAD", help="What segment train wrote.")]
Size = Annotated[str | None, arg(metavar="SIZE", help="Shorter side in pixels at which images are looked at, or full.")]
Tile = Annotated[int | None, arg(help="Side of the tiles of larger images, a multiple of 32.")]
ClassFile = Annotated[Path | None, arg(metavar="CSV", help="Names of classes; classes.csv of the folder without it.")]
Unlabelled = Annotated[
    str | None, arg(metavar="VALUE", help='Value of masks that means no class: a number, "#rrggbb" or none.')
]
Preview = Annotated[Path | None, arg(metavar="PNG", help="Show images beside their masks as a picture.")]
_SHOWN = 8  # images on a preview
_WORST = 5  # images that are named


def train(
    labels: Labels,
    output: Output,
    model: Model = None,
    kind: Literal["linear", "knn"] = "linear",
    classes: ClassFile = None,
    unlabelled: Unlabelled = None,
    stages: str | None = None,
    size: Size = None,
    tile: Tile = None,
    balance: bool = False,
    neighbours: int = 20,
    device: Device = "cpu",
    max_pixels: MaxPixels = None,
    preview: Preview = None,
    overwrite: bool = False,
    format: Literal["table", "json"] = "table",
) -> int:
    """Make a segmentation head from scribbles on a few images; says how right it is on images left out.

    Args:
        output: The head, a .safetensors file below 1 MB.
        kind: linear: logistic regression (extra "eval"); knn: labelled cells that vote.
        stages: Which maps, with commas between; all without it.
        balance: Let every class weigh the same, however little of it is drawn.
        neighbours: Labelled cells that vote, of the kind knn.
        overwrite: Replace existing outputs.
        format: How to print what leaving images out found.
    """
    from ..segment.train import train as trained

    with claimed(output, (".safetensors",), overwrite=overwrite) as out, common.picture(preview, overwrite) as picture:
        predictor = load(model, device=device, max_pixels=max_pixels)
        how: dict[str, Any] = {"kind": kind, "classes": classes, "unlabelled": unlabelled, "size": size_of(size)}
        how |= {"stages": stages_of(stages), "tile": tile, "balance": balance, "neighbours": neighbours}
        found = trained(labels, predictor, **how, progress=True)
        found.head.save(out.partial, overwrite=True)
        if picture is not None:
            _draw_trained(found, predictor, labels, classes, unlabelled, picture)
    console.name_problems(found.problems)
    _tell(found, format, balance)
    console.say(
        f"{output}: {found.head.record.kind} head of {len(found.head.classes)} classes for {predictor.card.name}"
    )
    return Exit.OK


def predict(
    head: HeadFile,
    inputs: Inputs,
    output: Output,
    model: Annotated[str | None, arg(aliases=["-m"], help="The head's own without it.")] = None,
    device: Device = "cpu",
    max_pixels: MaxPixels = None,
    preview: Preview = None,
    overwrite: bool = False,
) -> int:
    """Write a mask for each image: palette PNGs in the colours and numbers of the labels, and their classes.csv.

    Args:
        output: Folder of masks; what else is in it stays.
        overwrite: Replace existing masks.
    """
    from ..segment import load_head
    from ..segment.predict import network_of
    from ..segment.predict import predict as predicted

    if not inputs:
        raise InputError("Name at least one file, folder or glob, or - for a list on stdin.")
    known = load_head(head)
    with common.picture(preview, overwrite) as picture:
        source = network_of(known) if model is None else load(model, max_pixels=max_pixels)
        done = predicted(known, inputs, output, source.to(device), overwrite=overwrite, progress=True)
        if picture is not None and done.masks:
            _draw_masks(done.masks[:_SHOWN], known, picture, len(done.masks))
    console.name_problems(done.problems)
    console.say(f"{done.folder}: {len(done.masks)} masks of {', '.join(each.name for each in known.classes)}")
    return exit_code(len(done.masks) + len(done.problems), len(done.problems))


def propagate(
    clip: Annotated[Positional[Path], arg(metavar="CLIP", help="Folder of frames, or a video file.")],
    first_mask: Annotated[Positional[Path], arg(metavar="FIRST_MASK", help="Mask of the first frame, a PNG.")],
    output: Output,
    model: Model = None,
    stages: str | None = None,
    size: Size = None,
    tile: Tile = None,
    frames: int = 7,
    radius: int = 12,
    top_k: int = 5,
    temperature: float = 0.1,
    device: Device = "cpu",
    max_pixels: MaxPixels = None,
    preview: Preview = None,
    overwrite: bool = False,
) -> int:
    """Carry the mask of the first frame through a clip: cells take the labels of those that they are most like.

    The settings are DINO's on DAVIS: the first frame and 7 before each, 12 cells around, the 5 most alike.

    Args:
        output: Folder of masks; what else is in it stays.
        stages: Whose maps are compared, with commas between; stage2,stage3 without it.
        size: Shorter side in pixels at which frames are looked at, or full; 480 without it.
        frames: Frames just before one that it takes labels from, beside the first.
        radius: Cells, each way, in which like ones are sought.
        top_k: How many cells count.
        temperature: A cell weighs exp(cosine / temperature).
        overwrite: Replace existing masks.
    """
    from ..dense.track import Following
    from ..segment import propagate as propagated

    how, asked = Following(frames, radius, top_k, temperature), {"stages": stages_of(stages), "size": size_of(size)}
    with common.picture(preview, overwrite) as picture:
        predictor = load(model, device=device, max_pixels=max_pixels)
        done = propagated(clip, first_mask, output, predictor, **asked, tile=tile, how=how, overwrite=overwrite,
                          progress=True)  # fmt: skip
        if picture is not None:
            _draw_clip(clip, done.masks, picture)
    console.say(f"{done.folder}: {len(done.masks)} masks")
    return Exit.OK


def size_of(text: str | None) -> int | str | None:
    """A size as it is typed.

    Raises:
        InputError: Neither a number nor full.
    """
    if text is None or text == "full":
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise InputError(f"--size is the shorter side in pixels, or full; got {text!r}. Write e.g. 512.")
    return int(text)


def stages_of(text: str | None) -> list[str] | None:
    """Stages as they are typed."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _tell(found: Trained, format: str, balance: bool) -> None:
    """Print what leaving images out found."""
    if format == "json":
        console.emit(json.dumps(found.to_dict(), indent=2), as_json=True)
        return
    if found.accuracy is None:
        console.say("one image alone: nothing says how right the head is on others")
        return
    shares = [(name, "-" if share is None else f"{share:.1%}") for name, share in found.by_class.items()]
    rows = [{"left out": "each image in turn", "right": f"{found.accuracy:.1%}"}]
    rows += [{"left out": "the same, mean of the classes", "right": f"{found.mean_accuracy or 0:.1%}"}]
    rows += [{"left out": f"pixels of {name}", "right": share} for name, share in shares]
    worst = sorted(found.left, key=lambda each: each.right / each.pixels)[:_WORST]
    rows += [{"left out": each.name, "right": f"{each.right / each.pixels:.1%}"} for each in worst]
    common.table(rows)
    console.say(f"of the labelled pixels {found.largest:.1%} are of the largest class: what guessing it would get")
    if found.missed:
        remedy = "draw more of them" if balance else "draw more of them, or pass --balance"
        console.say(f"hardly ever right: {', '.join(found.missed)}; {remedy}, or look closer with --size")
    for each in found.left:
        if each.unseen:
            console.say(f"{each.name}: {', '.join(each.unseen)} is on no other image and could not be right")


def _draw_trained(
    found: Trained, predictor: Predictor, labels: Path, classes: Path | None, unlabelled: str | None, out: Any
) -> None:
    """Draw labelled images, their labels, and what the head says of them."""
    from ..data.labelled import mask_meaning, read_pair
    from ..data.pairs import find_pairs
    from ..visualize.overlays import overlay

    pairs = find_pairs(labels)
    meaning, dense = mask_meaning(pairs, classes, unlabelled), found.head.dense(predictor)
    shown, columns = [], {"labels": [], "the head": []}
    theirs, ours = [each.color for each in meaning.known], [each.color for each in found.head.classes]
    for pair in pairs.pairs[:_SHOWN]:
        pixels, drawn = read_pair(pair, meaning)
        shown.append((pixels, pair.name))
        columns["labels"].append(overlay(pixels, drawn, theirs, share=1.0))
        columns["the head"].append(overlay(pixels, found.head.segment(dense, pixels).astype(int), ours))
    note = f"The first {len(shown)} of {len(pairs.pairs)} images." if len(shown) < len(pairs.pairs) else ""
    _put(shown, columns, {each.name: each.color for each in found.head.classes}, note, out)


def _draw_masks(masks: Sequence[tuple[Path, Path]], head: Any, out: Any, total: int) -> None:
    import numpy as np

    from ..data.masks import read_mask
    from ..dense.maps import read_image
    from ..visualize.overlays import overlay

    places = np.full(256, -1)
    places[[each.index for each in head.classes]] = np.arange(len(head.classes))
    shown, columns = [], {"mask": []}
    for image, mask in masks:
        pixels = read_image(image)
        shown.append((pixels, image.name))
        columns["mask"].append(overlay(pixels, places[read_mask(mask).values], [each.color for each in head.classes]))
    note = f"The first {len(shown)} of {total} images." if len(shown) < total else ""
    _put(shown, columns, {each.name: each.color for each in head.classes}, note, out)


def _draw_clip(clip: Path, masks: Sequence[tuple[Path, Path]], out: Any) -> None:
    """Draw some frames under their masks, from the first to the last."""
    import numpy as np

    from ..data.frames import open_frames
    from ..data.mask_classes import classes_of
    from ..data.masks import read_mask
    from ..visualize.overlays import overlay

    chosen = set(np.linspace(0, len(masks) - 1, min(_SHOWN, len(masks))).round().astype(int).tolist())
    meaning = classes_of([(str(masks[0][1]), read_mask(masks[0][1]))])
    shown, columns = [], {"mask": []}
    for place, (name, pixels) in enumerate(open_frames(clip)):
        if place in chosen:
            classes = meaning.decode(read_mask(masks[place][1]), str(masks[place][1]))
            shown.append((pixels, name))
            columns["mask"].append(overlay(pixels, classes, [each.color for each in meaning.known]))
    _put(shown, columns, {each.name: each.color for each in meaning.known}, f"Of {len(masks)} frames.", out)


def _put(shown: Sequence[tuple[Any, str]], columns: Any, legend: Any, note: str, out: Any) -> None:
    from PIL import Image

    from ..errors import writing
    from ..visualize.overlays import overlay_sheet

    images, names = [pixels for pixels, _ in shown], [console.printable(name) for _, name in shown]
    sheet = overlay_sheet(images, names, columns, legend, note=note)
    with writing(out.path):
        Image.fromarray(sheet).save(out.partial, format="PNG")
