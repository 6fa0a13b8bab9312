"""Commands that measure models, and the rendered set to measure the embedded one on: eval ..., render."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .. import console
from ..errors import InputError
from .common import BatchSize, Device, Dtype, Engine, Fast, InputSize, MaxPixels, Model, exit_code, load, table

if TYPE_CHECKING:
    from ..evaluate.result import Scores
    from ..predictor import Predictor

Labelled = Annotated[
    Positional[str | None],
    arg(
        metavar="DATA",
        help_behavior_hint="(required)",
        help="Labelled images, as for finetune, with splits or without.",
    ),
]
Models = Annotated[
    tuple[tuple[str, ...], ...],
    UseAppendAction,
    arg(aliases=["-m"], metavar="MODEL", help="Catalogue names, hub ids or local paths, several or repeated; the small "
        "embedded model without it."),
]  # fmt: skip
Features = Annotated[str, arg(help='"embedding", "stages" (averages of all stage maps), or e.g. stage2,stage4.')]
Split = Annotated[
    str,
    arg(help="auto: training and validation where there are both, else each image against the others; or one split."),
]
Baselines = Annotated[
    Literal["none", "histograms", "all"],
    arg(help="Rows to compare with: histograms of colours and edges; all: also each network with random weights."),
]
NoCache = Annotated[bool, arg(help="Use and keep no features on disk.")]
Plot = Annotated[Path | None, arg(help='A .png with a chart of the table (extra "viz").')]
Overwrite = Annotated[bool, arg(help="Replace an existing chart.")]
Format = Annotated[Literal["table", "json"], arg(help="How to print; json has everything, by class and by seed.")]


def accuracy(
    data: Positional[str],
    model: Model = None,
    protocol: Literal["checkpoint", "birder", "timm", "meta"] = "checkpoint",
    split: str = "validation",
    frame_stride: int | None = None,
    batch_size: BatchSize = 32,
    device: Device = "cpu",
    dtype: Dtype = None,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    format: Literal["text", "json"] = "text",
) -> int:
    """Measure top-1 and top-5 accuracy on labelled images, with exact counts.

    Args:
        data: As for finetune.
        protocol: Preprocess as the checkpoint says, or as birder, timm or Meta evaluate.
        split: Which split, where the data has splits; "all" takes every sub-folder for a class.
        frame_stride: For clips, source frames from one frame to the next; the checkpoint's without it.
        format: How to print.
    """
    from ..evaluate.accuracy import accuracy as measured

    options = {"protocol": protocol, "split": split, "frame_stride": frame_stride, "batch_size": batch_size}
    loading = {"device": device, "dtype": dtype, "fast": fast, "engine": engine, "input_size": input_size}
    result = measured(data, load(model, max_pixels=max_pixels, **loading), **options)
    numbers = {name: value if value == value else None for name, value in result.to_dict().items()}  # NaN is no JSON
    console.emit(json.dumps(numbers) if format == "json" else str(result))
    console.name_problems(result.unreadable)
    return exit_code(result.total + len(result.unreadable), len(result.unreadable))


def knn(
    data: Labelled = None,
    model: Models = (),
    k: int = 20,
    temperature: float = 0.07,
    majority: bool = False,
    features: Features = "embedding",
    split: Split = "auto",
    baselines: Baselines = "histograms",
    batch_size: BatchSize = 32,
    device: Device = "cpu",
    dtype: Dtype = None,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    no_cache: NoCache = False,
    plot: Plot = None,
    overwrite: Overwrite = False,
    format: Format = "table",
) -> int:
    """Measure features by nearest neighbours: each image is named by the images most similar to it, by cosine.

    Args:
        k: Neighbours that vote.
        temperature: A vote weighs exp(cosine / temperature).
        majority: Give each neighbour one vote.
    """
    options = locals()
    from ..evaluate import knn as judged

    return _judge(judged, data, model, options, k=k, temperature=None if majority else temperature)


def linear(
    data: Labelled = None,
    model: Models = (),
    seeds: int = 5,
    features: Features = "embedding",
    split: Split = "auto",
    baselines: Baselines = "histograms",
    batch_size: BatchSize = 32,
    device: Device = "cpu",
    dtype: Dtype = None,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    no_cache: NoCache = False,
    plot: Plot = None,
    overwrite: Overwrite = False,
    format: Format = "table",
) -> int:
    """Measure features by a linear probe (extra "eval"): logistic regression on what the frozen network gives.

    Args:
        seeds: How many fits; without a validation split each judges another fifth of the images.
    """
    options = locals()
    from ..evaluate import linear as judged

    return _judge(judged, data, model, options, seeds=seeds)


def retrieval(
    data: Labelled = None,
    model: Models = (),
    features: Features = "embedding",
    split: Split = "auto",
    baselines: Baselines = "histograms",
    batch_size: BatchSize = 32,
    device: Device = "cpu",
    dtype: Dtype = None,
    fast: Fast = False,
    engine: Engine = "auto",
    input_size: InputSize = None,
    max_pixels: MaxPixels = None,
    no_cache: NoCache = False,
    plot: Plot = None,
    overwrite: Overwrite = False,
    format: Format = "table",
) -> int:
    """Measure features by retrieval: how far up the images of its class come when all are ranked by an image.

    Folders or splits named gallery and query are searched and asked; else as for knn.
    """
    options = locals()
    from ..evaluate import retrieval as judged

    return _judge(judged, data, model, options)


def _judge(
    judged: Callable[..., Any],
    data: str | None,
    models: Sequence[Sequence[str]],
    options: Mapping[str, Any],
    **own: Any,
) -> int:
    """Evaluate features.

    Args:
        judged: What evaluates.
        data: Labelled images.
        models: Sources.
        options: All of the command's, by name.
        own: What only this evaluation takes.
    """
    data, names = told_apart(data, models)
    check_sources(names)
    how = {name: options[name] for name in ("features", "split", "baselines", "batch_size")}
    loading = {name: options[name] for name in ("device", "dtype", "fast", "engine", "input_size", "max_pixels")}
    how |= {**own, "cache": not options["no_cache"], "progress": True}
    judge = partial(judged, data, loaded(names, loading), **how)
    return told(judge, options["format"], options["plot"], overwrite=options["overwrite"])


def told(judge: Callable[[], Scores], format: str, plot: Path | None = None, *, overwrite: bool = False) -> int:
    """Evaluate, print and draw; the exit code. The chart's place is claimed before the first model is at work."""
    from ..outputs import claimed

    scores: Any  # only those of features can be drawn, and only their commands take a place for it
    with contextlib.nullcontext() if plot is None else claimed(plot, (".png",), overwrite=overwrite) as chart:
        scores = judge()
        if format == "json":
            console.emit(json.dumps(scores.to_dict(), indent=2), as_json=True)
        else:
            table(scores.table())
        if chart is not None:
            scores.plot(chart.partial)
    if plot is not None:
        console.say(f"{plot}: a chart of the table")
    console.name_problems(scores.unreadable)
    return exit_code(scores.total, len(scores.unreadable))


def told_apart(
    data: str | None,
    models: Sequence[Sequence[str]],
    what: str = "a folder with one sub-folder a class, a table, or shards",
) -> tuple[str, list[str | None]]:
    """The data and the models; in `-m MODEL DATA` the data was taken for another model.

    Raises:
        InputError: No data.
    """
    groups = [list(group) for group in models]
    if data is None:
        several = [group for group in groups if len(group) > 1]
        if not several:
            raise InputError(f"Name the data: {what}.")
        data = several[-1].pop()
    names = [name for group in groups for name in group]
    return data, [*names] or [None]


def check_sources(names: Sequence[str | None]) -> None:
    """Refuse a local path that is not there before the first model is at work.

    Raises:
        InputError: It is not there.
        UnknownNameError: No such name.
    """
    from ..registry import describe, is_local

    for name in names:
        if name is not None and (is_local(name) or "/" not in name):
            describe(name)


def loaded(names: Sequence[str | None], loading: dict[str, Any]) -> Iterator[tuple[str, Predictor]]:
    """Each model with its name, when it is its turn."""
    for name in names:
        predictor = load(name, **loading)
        yield name or predictor.card.name, predictor


def render(
    destination: Positional[Path],
    count: int = 1600,
    seed: int = 1,
    size: Annotated[int | None, arg(help="Side in pixels; 96, or 192 of scenes.")] = None,
    format: Literal["jpg", "png"] = "jpg",
    task: Literal["classification", "detection", "segmentation"] = "classification",
) -> None:
    """Write a labelled set of rendered shapes and textures: one folder per class, or scenes with boxes and masks.

    Args:
        destination: Folder to write; must be new or empty.
        count: Images in all.
        seed: Another seed gives other images; the embedded model was trained on seed 0.
        format: File type.
        task: detection writes scenes of several shapes, boxes and polygons in COCO's format; segmentation also masks.
    """
    from ..data.datasets.scenes import render_scenes
    from ..data.datasets.shapes import render_folder

    if task == "classification":
        written = render_folder(destination, count=count, seed=seed, size=size or 96, image_format=format)
    else:
        written = render_scenes(destination, task=task, count=count, seed=seed, size=size or 192, image_format=format)
    console.emit(str(written))
