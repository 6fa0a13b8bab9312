"""Commands over images: classify, embed, features. Each file becomes a row, whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from tyro.conf import arg

from .. import console
from ..bulk.csv_text import as_path, as_text, csv_line
from ..bulk.parts import claimed_folder, write_parts
from ..bulk.write import write_maps
from ..errors import InputError, writing
from ..outputs import OutputFile, claimed
from ..provenance import provenance
from ..schema import positive
from ..store.tables import schema_metadata
from . import Exit, common
from .common import (
    BatchSize,
    Device,
    Dtype,
    Engine,
    Fast,
    Inputs,
    InputSize,
    MaxPixels,
    Model,
    Views,
    are_one,
    open_inputs,
)  # fmt: skip

if TYPE_CHECKING:
    from ..basis import BasisFile
    from ..bulk.run import Row
    from ..predictor import Predictor

_DRAWN = 16  # images on a picture of stage maps
_READING = (
    "Colours are the three strongest directions of a stage's features, red the strongest: within one column equal "
    "colours mean equal features, in all images; colours of different columns have nothing to do with each other."
)


def classify(
    inputs: Inputs,
    model: Model = None,
    top_k: int = 5,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = 32,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    views: Views = 1,
    format: Literal["table", "json", "jsonl", "csv"] = "table",
) -> int:
    """Name what images show.

    Args:
        top_k: Classes per image.
        format: How to print; jsonl and csv print as results come. In csv an apostrophe marks a label that a
            spreadsheet would run as a formula.
    """
    options = {"device": device, "dtype": dtype, "fast": fast, "engine": engine, "input_size": input_size}
    predictor, paths, run = open_inputs(inputs, model, views, max_pixels=max_pixels, **options)
    predictor.classify([], top_k=top_k)  # what it refuses is refused before any file is opened
    bar = format in ("table", "json") or not sys.stdout.isatty()  # between lines that come it would tear
    rows = run(predictor.classify, batch_size=batch_size, progress=bar, top_k=top_k)
    failed = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for row in rows:
            failed += row.error is not None
            guesses = [guess.to_dict() for guess in row.value or ()]
            yield {"path": row.name, "predictions": guesses, "error": row.error}

    ascii = not _is_unicode(sys.stdout)
    if format == "json":
        console.emit(json.dumps(list(records()), indent=2, ensure_ascii=ascii), as_json=True)
    elif format == "jsonl":
        for record in records():
            console.emit(json.dumps(record, ensure_ascii=ascii), as_json=True, now=True)
    elif format == "csv":
        _print_csv(records())
    else:
        common.table([line for record in records() for line in _lines(record)], wrap=True)
    return common.exit_code(len(paths), failed)


def embed(
    inputs: Inputs,
    output: Annotated[str, arg(aliases=["-o"], metavar="OUT")],
    model: Model = None,
    columns: str = "embedding",
    normalize: bool = False,
    device: Device = "cpu",
    dtype: str | None = None,
    batch_size: Annotated[str, arg(metavar="INT", help="Images at a time; auto finds out.")] = "auto",
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    views: Views = 1,
    workers: int | None = None,
    shard: str | None = None,
    cluster: Literal["ray"] | None = None,
    actors: int | None = None,
    cpus_per_actor: float | None = None,
    gpus_per_actor: float | None = None,
    max_error_rate: float = 0.0,
    rows_per_part: int = 8192,
    exact: bool = False,
    overwrite: bool = False,
) -> int:
    """Write an embedding for each image, with the reason for each that could not be read.

    Inputs may also be tar shards (files or http), Parquet or Arrow tables of images or paths, and URLs that fsspec has
    a driver for. A run into a store that is stopped goes on where it was when it is started again.

    Args:
        output: A folder (ends with /) becomes a store of Parquet parts; a .parquet, .npz, .csv or .jsonl file is one
            file.
        columns: Of embedding, stage1 to stage4 (means of stage maps) and top5 (classes), with commas between.
        normalize: Scale each vector to length 1.
        dtype: Of the vectors, float32 or float16; any other is the type of the model's parameters, e.g. bfloat16.
        engine: Fast engine: auto, torch, compile or openvino; none for the network as it is.
        workers: Processes that read and decode, of each actor with --cluster; one for each processor without it, 0 for
            threads.
        shard: Take one of several shares of the inputs, e.g. 2/16; `hierax store merge` joins what they wrote.
        cluster: Run on the Ray cluster that RAY_ADDRESS names, or on one of this machine alone; every node must be able
            to read the inputs.
        actors: Copies of the model in the cluster; as many as it has room for without it.
        cpus_per_actor: Processors of each; 4 at most without it.
        gpus_per_actor: GPUs of each, or a part of one; 1 with --device cuda without it.
        max_error_rate: Share of the inputs that may fail before the exit code is 3.
        rows_per_part: Rows in each file of a store, at most.
        exact: Decode large JPEGs whole, as classify does: their vectors then are the same to rounding, not to 0.999.
        overwrite: Replace an existing output.
    """
    from ..bulk.embed import Options, embed_with

    if not inputs:
        raise InputError("Name at least one file, folder or glob, or - for a list on stdin.")
    stored = dtype if dtype in ("float32", "float16") else "float32"
    names = [name.strip() for name in columns.split(",") if name.strip()]
    size = int(batch_size) if batch_size.isascii() and batch_size.lstrip("-").isdecimal() else batch_size
    how = Options(
        names,
        stored,
        normalize,
        size,
        "auto" if fast and cluster is None else engine,
        workers,
        shard,
        cluster,
        max_error_rate,
        overwrite,
        rows_per_part,
        exact,
        device,
        actors,
        cpus_per_actor,
        gpus_per_actor,
    )

    def load() -> Predictor:
        options = {"device": how.device_here, "dtype": None if stored == dtype else dtype, "input_size": input_size}
        if fast and cluster is None:
            options |= {"fast": True, "engine": engine}
        predictor = common.load(model, max_pixels=max_pixels, **options)
        if views < 1 or (views > 1 and not predictor.encoder.config.is_video):
            raise InputError(f"--views is for video models and at least 1; got {views} with {predictor.card.name!r}.")
        predictor.views = views
        return predictor

    done = embed_with(list(inputs), output, load, how)
    if done.within_limit:
        return Exit.OK
    return common.exit_code(done.rows + done.errors, done.errors)


def features(
    inputs: Inputs,
    output: Annotated[str, arg(aliases=["-o"], metavar="OUT")],
    model: Model = None,
    stages: str = "stage1,stage2,stage3,stage4",
    plot: Path | None = None,
    basis: Path | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = 8,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    images_per_part: int = 256,
    overwrite: bool = False,
) -> int:
    """Write the stage maps of each image, and draw them as colours beside it.

    Args:
        output: A .npz file, or for many images a folder (ends with /) of .npy files.
        stages: Which maps, with commas between.
        plot: A .png that shows images, what the network saw of them, and their maps in colours of their principal
            components; the first 16.
        basis: A .safetensors file with the components for --plot: used if it is there, otherwise fitted to the images
            that are drawn and written, for later pictures and for view.
        images_per_part: Images in each .npy file of a folder.
        overwrite: Replace existing outputs.
    """
    wanted = list(dict.fromkeys(stage.strip() for stage in stages.split(",") if stage.strip()))
    if not wanted:
        raise InputError(f"--stages must name at least one of stage1 to stage4; got {stages!r}.")
    if basis is not None and plot is None:
        raise InputError("--basis is for the colours of --plot, which is missing. Add --plot FILE.png.")
    options = {"device": device, "dtype": dtype, "fast": fast, "engine": engine, "input_size": input_size}
    with contextlib.ExitStack() as held:
        picture = held.enter_context(claimed(plot, (".png",), overwrite=overwrite)) if plot is not None else None
        with _claimed_maps(output, images_per_part, overwrite=overwrite) as out:
            predictor, paths, run = open_inputs(inputs, model, max_pixels=max_pixels, **options)
            if plot is not None and any(are_one(plot, path) for path in paths):
                raise InputError(f"--plot must name a file of its own; {plot} is one of the inputs. Name another.")
            if picture is not None and predictor.encoder.config.is_video:
                raise InputError(f"--plot draws maps of images; {predictor.card.name!r} takes clips. Leave --plot out.")
            predictor.features([], stages=wanted)  # what it refuses is refused before any file is opened
            from ..basis import BasisFile

            colours = BasisFile(basis, predictor, wanted)

            def maps(batch: Any, **options: Any) -> list[dict[str, Any]]:
                found = predictor.features(batch, **options)
                return [{stage: found[stage][index] for stage in wanted} for index in range(len(batch))]

            from ..bulk.run import Tally

            rows = Tally(run(maps, batch_size=batch_size, stages=wanted), keep=1 if picture is None else _DRAWN)
            about = {"stages": wanted, "metadata": schema_metadata(provenance(predictor))}
            if out.partial.is_dir():
                write_parts(rows, out, **about, images_per_part=images_per_part)
            else:
                write_maps(rows, out, **about)
        good = len(paths) - len(rows.failed)
        if good:
            shapes = ", ".join(f"{stage} {'x'.join(map(str, rows.first[0].value[stage].shape))}" for stage in wanted)
            console.say(f"{out.path}: {good} maps each of {shapes}")
        if picture is not None:
            _draw(predictor, rows.first, good, picture, colours)
    console.name_problems(rows.failed)
    return common.exit_code(len(paths), len(rows.failed))


def _claimed_maps(output: str, images_per_part: int, *, overwrite: bool) -> AbstractContextManager[OutputFile]:
    """Hold the file or the folder that maps go to."""
    positive(images_per_part=images_per_part)
    path = Path(output).expanduser()
    if output.endswith(("/", os.sep)) or path.is_dir():
        return claimed_folder(path, overwrite=overwrite)
    if path.suffix.lower() != ".npz":
        raise InputError(f"Maps go into a .npz file, or into a folder; got {output!r}. Write {output + '/'!r}.")
    return claimed(path, (".npz",), overwrite=overwrite)


def _is_unicode(stream: TextIO) -> bool:
    """Whether every character can be written; what the stream escapes by itself would be no JSON."""
    return (stream.encoding or "ascii").lower().startswith("utf")


def _lines(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a table for one file, its name on the first."""
    if record["error"] is not None:
        return [{"path": record["path"], "score": "", "label": f"error: {record['error']}"}]
    return [
        {"path": "" if rank else record["path"], "score": f"{guess['score']:.3f}", "label": guess["label"]}
        for rank, guess in enumerate(record["predictions"])
    ]


def _print_csv(records: Iterable[dict[str, Any]]) -> None:
    """One line a guess, or a line with the error."""
    columns = ("path", "rank", "label", "index", "score", "error")
    console.emit(csv_line(columns))
    for record in records:
        ranked = [{"rank": rank, **guess} for rank, guess in enumerate(record["predictions"], start=1)] or [{}]
        for guess in ranked:
            line = {**record, **guess}
            cells = [as_path(record["path"]), *(as_text(line.get(column)) for column in columns[1:])]
            console.emit(csv_line(cells), now=True)


def _draw(predictor: Predictor, rows: Sequence[Row], good: int, picture: OutputFile, colours: BasisFile) -> None:
    """Draw images, what the network saw of them, and their maps; nothing where there are none."""
    import numpy as np
    from PIL import Image

    from ..data.decode import decode_image
    from ..visualize import sheets
    from ..visualize.maps import colour_maps

    if not rows:
        picture.partial.unlink()
        return
    every = {stage: np.stack([row.value[stage] for row in rows]) for stage in rows[0].value}
    bases = colours.of(every)
    colors = {stage: colour_maps(stage, maps, bases[stage]) for stage, maps in every.items()}
    maps = [dict(zip(colors, found, strict=True)) for found in zip(*colors.values(), strict=True)]
    drawn = []
    for row, found in zip(rows, maps, strict=True):
        seen = sheets.seen_pixels(predictor.prepare(row.path).numpy(), predictor.preprocess)
        name = console.printable(os.path.basename(row.name))
        drawn.append(sheets.feature_sheet(decode_image(row.path), found, seen=seen, name=name))
    count = f"{len(rows)} images" if len(rows) == good else f"the first {len(rows)} of {good} images"
    note = f"{_READING} Drawn: {count}." + (f" Colours: {colours.said(len(rows))}." if colours.path is not None else "")
    with writing(picture.path):
        Image.fromarray(sheets.stack_sheets(drawn, note=note)).save(picture.partial)
    console.say(f"{picture.path}: {count} beside their maps")
    if colours.path is not None and colours.is_new:
        console.say(f"{colours.path}: the basis, fitted here, for later pages and pictures")
