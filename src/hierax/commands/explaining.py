"""Commands about where an answer comes from: explain, eval explanations, eval seams."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from .. import console
from ..errors import InputError, writing
from ..outputs import OutputFile, claimed
from . import common
from .common import Device, Dtype, Inputs, InputSize, MaxPixels, Model, Output
from .evaluation import Format, Models, check_sources, loaded, told, told_apart

if TYPE_CHECKING:
    from ..bulk.run import Row
    from ..explain.run import Question

_DRAWN = 48  # images on a sheet
_SIDE = 896  # pixels of what is drawn small
_UNITS = {
    "rollout": "share of a token",
    "gradcam": "activation x gradient",
    "occlusion": "probability lost when covered",
}


def explain(
    inputs: Inputs,
    output: Output,
    model: Model = None,
    method: Literal["rollout", "gradcam", "occlusion"] = "rollout",
    target: Annotated[
        str | None,
        arg(name="class", metavar="NAME", help="Which class, by name or number; the most probable one without it, and "
            "for rollout none in particular."),
    ] = None,
    stage: Annotated[
        str | None, arg(help="Whose cells, stage1 to stage4; the last, for occlusion the last but one without it.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    overwrite: bool = False,
) -> int:  # fmt: skip
    """Show which parts of images an answer comes from, as a picture.

    Args:
        output: A .png; several images stand one below another.
        method: rollout: what attention carries; gradcam: channels that speak for the class; occlusion: what the class
            loses when a part is covered, slow and exact.
        overwrite: Replace an existing picture.
    """
    loading = {"device": device, "dtype": dtype, "input_size": input_size, "max_pixels": max_pixels}
    with claimed(output, (".png",), overwrite=overwrite) as picture:
        predictor, paths, run = common.open_inputs(inputs, model, **loading)
        from ..bulk.run import Tally
        from ..explain.run import Question

        question = Question(predictor, method, target, stage)
        if any(common.are_one(output, path) for path in paths):
            raise InputError(f"The picture must be a file of its own; {output} is one of the inputs. Name another.")
        rows = Tally(run(question.answers, batch_size=8), keep=_DRAWN)
        done = 0
        for row in rows:
            done += row.error is None
            if done == _DRAWN:
                break
        _draw(question, rows.first, picture)
        left = len(paths) - rows.total
    if left:
        console.say(f"a sheet has {_DRAWN} images at most; {left} files were left out. Name fewer at a time.")
    console.name_problems(rows.failed)
    return common.exit_code(rows.total, len(rows.failed))


def explanations(
    data: Annotated[
        Positional[str | None],
        arg(metavar="DATA", help_behavior_hint="(required)", help="Images, with classes or without; of "
            "shapes:COUNT@SEED, which are rendered, the objects are known."),
    ] = None,
    model: Models = (),
    methods: Annotated[tuple[str, ...], arg(help="Of rollout, gradcam and occlusion.")] = (
        "rollout", "gradcam", "occlusion",
    ),
    stage: Annotated[str | None, arg(help="Whose cells, stage1 to stage4; each method's own without it.")] = None,
    images: int = 50,
    seeds: int = 3,
    steps: int = 20,
    masks: Annotated[
        Path | None, arg(help="A folder with a PNG for each image, of the same name and size, in which 0 is not the "
            "object."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    format: Format = "table",
) -> int:  # fmt: skip
    """Measure which explanations to trust: insertion and deletion areas, and pointing at objects that are known.

    The probability of the most probable class is followed while the image is deleted in the order of a map (lower is
    better) and inserted into a blurred one (higher is better); pointing is the share of images with the largest value
    on the object, inside the share of the map that is on it. Random maps and one that names the centre stand beside.

    Args:
        images: How many for each seed.
        seeds: How often images and random maps are drawn; what follows +- is the standard deviation over them.
        steps: Parts in which an image is deleted and inserted.
    """
    from ..evaluate import explanations as judged

    data, names = told_apart(data, model)
    check_sources(names)
    loading = {"device": device, "dtype": dtype, "input_size": input_size, "max_pixels": max_pixels}
    how = {"methods": methods, "stage": stage, "images": images, "seeds": seeds, "steps": steps, "masks": masks}
    return told(partial(judged, data, loaded(names, loading), **how, progress=True), format)


def seams(
    model: Models = (),
    size: Annotated[
        tuple[int, ...] | None, arg(metavar="H [W]", help="Height and width of the inputs; the model's own without it.")
    ] = None,
    data: Annotated[str | None, arg(help="Images, with classes or without; rendered shapes without it.")] = None,
    images: int = 4,
    random_weights: bool = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    format: Format = "table",
) -> int:
    """Measure how much the borders of attention windows show in the maps of a model, stage by stage.

    ratio is the mean distance of neighbouring cells across a border over that of neighbours inside windows, 1 where
    windows leave no trace; pixels is the same of the images. Where padding fills up the last windows, the strip that
    it enters is named.

    Args:
        images: How many of them; the first.
        random_weights: Judge architectures, by name, with random weights.
    """
    from ..evaluate import seams as judged

    names = [name for group in model for name in group] or [None]
    if size is not None and len(size) not in (1, 2):
        raise InputError(f"--size is a side, or height and width, in pixels; got {len(size)} numbers.")
    sides = None if size is None else size[0] if len(size) == 1 else (size[0], size[1])
    models = names
    if not random_weights:
        check_sources(names)
        models = loaded(names, {"device": device, "dtype": dtype, "max_pixels": max_pixels})
    how = {"size": sides, "data": data, "images": images, "random_weights": random_weights}
    return told(partial(judged, models, **how, progress=True), format)


def _draw(question: Question, rows: Sequence[Row], picture: OutputFile) -> None:
    """Draw images beside their maps; nothing where there are none."""
    import numpy as np
    from PIL import Image

    from ..data.decode import decode_image
    from ..data.placing import placed
    from ..visualize import sheets

    if not rows:
        picture.partial.unlink()
        console.say(f"{picture.path} was not written: there is nothing to show")
        return
    drawn = []
    for row in rows:
        pixels = decode_image(row.path)
        small = Image.fromarray(pixels)
        small.thumbnail((_SIDE, _SIDE))
        values = placed(row.value.cells, (small.height, small.width), question.predictor.preprocess)
        about = question.method if row.value.label is None else f"{question.method}: {row.value.label}"
        drawn.append(
            sheets.heat_sheet(
                np.asarray(small),
                values,
                name=console.printable(os.path.basename(row.name)),
                size=(pixels.shape[0], pixels.shape[1]),
                about=console.printable(about),
                unit=_UNITS[question.method],
            )
        )
    with writing(picture.path):
        Image.fromarray(sheets.stack_sheets(drawn)).save(picture.partial)
    count = "1 image" if len(rows) == 1 else f"{len(rows)} images"
    console.say(f"{picture.path}: {question.method} of {count}")
