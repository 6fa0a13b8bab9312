"""The command that shows where an answer comes from: explain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from .. import console
from ..errors import InputError, writing
from ..outputs import OutputFile, claimed
from . import common
from .common import Device, Dtype, Inputs, InputSize, MaxPixels, Model, Output

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


def _draw(question: Question, rows: Sequence[Row], picture: OutputFile) -> None:
    """Draw images beside their maps; nothing where there are none."""
    import numpy as np
    from PIL import Image

    from ..data.decode import decode_image
    from ..data.placing import placed
    from ..visualize import sheets

    if not rows:
        picture.partial.unlink()
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
