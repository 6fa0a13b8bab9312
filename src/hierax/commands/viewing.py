"""The command that writes a viewer's page."""

from __future__ import annotations

from pathlib import Path

from .. import console
from ..errors import InputError
from ..outputs import claimed
from . import common
from .common import Device, Dtype, Engine, Fast, Inputs, InputSize, MaxPixels, Model, Output, open_inputs


def view(
    inputs: Inputs,
    output: Output,
    model: Model = None,
    basis: Path | None = None,
    stages: str | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    overwrite: bool = False,
) -> int:
    """Write a page that shows images and their stage maps; point at a cell to compare it with all others.

    The page is one file, *.html, that opens from the disk and loads nothing.

    Args:
        basis: A .safetensors file with the directions that colours stand for: used if it is there, otherwise fitted to
            these images and written, for later pages and for features --plot.
        stages: Which maps, with commas between; without it all that a page of 5 MB an image holds, the coarsest first.
        overwrite: Replace an existing page. A basis is never replaced.
    """
    from ..view import write_view

    wanted = None if stages is None else [stage.strip() for stage in stages.split(",") if stage.strip()]
    if wanted == []:
        raise InputError(f"--stages must name at least one of stage1 to stage4; got {stages!r}.")
    options = {"device": device, "dtype": dtype, "fast": fast, "engine": engine, "input_size": input_size}
    with claimed(output, (".html", ".htm"), overwrite=overwrite) as file:
        predictor, paths, _ = open_inputs(inputs, model, max_pixels=max_pixels, **options)
        done = write_view(predictor, paths, file, basis=basis, stages=wanted)
    if done.basis is not None:
        console.say(f"{done.basis}: the basis, fitted here, for later pages and pictures")
    for stage in done.left_out:
        console.say(f"{stage} was left out, for the size of the page; --stages names what must be on it")
    size = f"{done.bytes / 1e6:.1f} MB" if done.bytes >= 1e6 else f"{done.bytes / 1e3:.0f} kB"
    images = "1 image" if done.images == 1 else f"{done.images} images"
    console.say(f"{done.path}: {images}, {', '.join(done.stages)}, {size}; cosines off by {done.worst:.4f} at most")
    console.name_problems(done.failed)
    return common.exit_code(len(paths), len(done.failed))
