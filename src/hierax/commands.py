"""What each command does: read, call the library, print. Signatures are the options, docstrings the help."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .errors import InputError, RecipeError

if TYPE_CHECKING:
    from .bulk.run import Row

Model = Annotated[str | None, arg(aliases=["-m"])]
Output = Annotated[Path, arg(aliases=["-o"])]
Inputs = Positional[tuple[str, ...]]
Settings = Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")]


def list_(pattern: Positional[str] = "*", commercial: bool = False, format: Literal["table", "json"] = "table") -> int:
    """Show catalogue names with licence and size.

    Args:
        pattern: Shell pattern, e.g. "*sam2*".
        commercial: Only weights whose licence allows commercial use.
        format: How to print.
    """
    from . import list_models
    from .weights import catalog

    names = list_models(pattern, commercial=True if commercial else None)
    if not names and "*" not in pattern and "?" not in pattern:
        names = list_models(f"*{pattern}*", commercial=True if commercial else None)
    entries = [catalog.resolve(name) for name in names]
    rows = [
        {
            "name": entry.name,
            "weights": entry.format if entry.pretrained else "-",
            "task": entry.task if entry.pretrained else "-",
            "input": "x".join(map(str, entry.input_size)) if entry.pretrained else "-",
            "license": entry.license if entry.pretrained else "-",
            "dataset": entry.dataset if entry.pretrained else "-",
        }
        for entry in entries
    ]
    if format == "json":
        print(json.dumps(rows, indent=2))
        return 0
    _table(rows, ("name", "weights", "task", "input", "license", "dataset"))
    return 0 if rows else 1


def describe(model: Positional[str]) -> int:
    """Show everything known about a model or a weights file; downloads no weights.

    Args:
        model: Catalogue name, or a local file or folder.
    """
    from . import describe as describe_model

    print(describe_model(model))
    return 0


def classify(
    inputs: Inputs,
    model: Model = None,
    top_k: int = 5,
    device: str = "cpu",
    dtype: str | None = None,
    batch_size: int = 32,
    fast: bool = False,
    views: int = 1,
    format: Literal["table", "json", "jsonl", "csv"] = "table",
) -> int:
    """Name what images show.

    Args:
        inputs: Files, folders, globs, or - for a list on stdin.
        model: Catalogue name, hub id or local path; the small embedded model without it.
        top_k: Classes per image.
        device: Where to run, e.g. cpu or cuda.
        dtype: Parameter type, e.g. bfloat16.
        batch_size: Images at a time.
        fast: Use the fast engine.
        views: Clips taken from each video, whose answers are averaged.
        format: How to print.
    """
    from .bulk.run import classify_rows

    predictor, paths = _open(inputs, model, device, dtype, fast)
    _set_views(predictor, views)
    rows = classify_rows(predictor, paths, top_k=top_k, batch_size=batch_size, progress=_progress(format != "table"))
    failed = 0

    def records() -> Iterable[dict[str, Any]]:
        nonlocal failed
        for row in rows:
            failed += row.error is not None
            base = {"path": str(row.path)}
            if row.error is not None:
                yield {**base, "rank": None, "label": None, "index": None, "score": None, "error": row.error}
            for rank, guess in enumerate(row.value or (), start=1):
                yield {**base, "rank": rank, **guess.to_dict(), "error": None}

    if format == "json":
        print(json.dumps(_grouped(records()), indent=2, ensure_ascii=False))
    elif format == "jsonl":
        for record in _grouped(records()):
            print(json.dumps(record, ensure_ascii=False), flush=True)
    elif format == "csv":
        writer: csv.DictWriter[str] = csv.DictWriter(sys.stdout, ("path", "rank", "label", "index", "score", "error"))
        writer.writeheader()
        writer.writerows(records())
    else:
        shown = [_readable(record) for record in records()]
        _table(shown, ("path", "label", "score"))
    return _partial(len(paths), failed)


def embed(
    inputs: Inputs,
    output: Output,
    model: Model = None,
    normalize: bool = False,
    device: str = "cpu",
    dtype: str | None = None,
    batch_size: int = 32,
    fast: bool = False,
    views: int = 1,
    overwrite: bool = False,
) -> int:
    """Write an embedding for each image, with the reason for each that could not be read.

    Args:
        inputs: Files, folders, globs, or - for a list on stdin.
        output: A .parquet (extra "data") or .npz file.
        model: Catalogue name, hub id or local path; the small embedded model without it.
        normalize: Scale each vector to length 1.
        device: Where to run, e.g. cpu or cuda.
        dtype: Parameter type, e.g. bfloat16.
        batch_size: Images at a time.
        fast: Use the fast engine.
        views: Clips taken from each video, whose answers are averaged.
        overwrite: Replace an existing output.
    """
    from .bulk.run import embed_rows
    from .bulk.write import check_output, provenance, write_vectors

    path = check_output(output, (".parquet", ".npz"), overwrite=overwrite)
    predictor, paths = _open(inputs, model, device, dtype, fast)
    _set_views(predictor, views)
    rows = embed_rows(predictor, paths, normalize=normalize, batch_size=batch_size, progress=_progress())
    size = predictor.encoder.embedding_size
    errors: list[Row] = []
    metadata = provenance(predictor, normalized=normalize)
    total, failed = write_vectors(_noting(rows, errors), path, size=size, metadata=metadata)
    _talk(f"{path}: {total} rows of {size} numbers by {predictor.card.name}")
    _name_errors(errors)
    return _partial(total, failed)


def features(
    inputs: Inputs,
    output: Output,
    model: Model = None,
    stages: str = "stage1,stage2,stage3,stage4",
    plot: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    batch_size: int = 8,
    fast: bool = False,
    overwrite: bool = False,
) -> int:
    """Write the stage maps of each image, and draw them as colours beside it.

    Args:
        inputs: Files, folders, globs, or - for a list on stdin.
        output: A .npz file.
        model: Catalogue name, hub id or local path; the small embedded model without it.
        stages: Which maps, with commas between.
        plot: A .png that shows each image beside its maps in colours of their principal components.
        device: Where to run, e.g. cpu or cuda.
        dtype: Parameter type, e.g. bfloat16.
        batch_size: Images at a time.
        fast: Use the fast engine.
        overwrite: Replace existing outputs.
    """
    from .bulk.run import feature_rows
    from .bulk.write import check_output, provenance, write_maps

    path = check_output(output, (".npz",), overwrite=overwrite)
    picture = check_output(plot, (".png",), overwrite=overwrite) if plot is not None else None
    predictor, paths = _open(inputs, model, device, dtype, fast)
    wanted = [stage.strip() for stage in stages.split(",") if stage.strip()]
    rows = feature_rows(predictor, paths, stages=wanted, batch_size=batch_size, progress=_progress())
    kept = write_maps(rows, path, stages=wanted, metadata=provenance(predictor))
    good = [row for row in kept if row.error is None]
    if good:
        shapes = ", ".join(f"{stage} {'x'.join(map(str, good[0].value[stage].shape))}" for stage in wanted)
        _talk(f"{path}: {len(good)} maps each of {shapes}")
    if picture is not None and good:
        _draw(good, picture)
        _talk(f"{picture}: {min(len(good), 16)} images beside their maps")
    for row in kept:
        if row.error is not None:
            _talk(f"{row.path}: {row.error}")
    return _partial(len(kept), len(kept) - len(good))


def convert(
    source: Positional[str],
    destination: Positional[Path],
    to: Literal["hierax", "meta", "sam2", "transformers", "timm", "birder"],
    name: str | None = None,
) -> int:
    """Rewrite a checkpoint in another format; prints the path it wrote.

    Args:
        source: Catalogue name, hub id, or local file or folder.
        destination: Folder or file to write; nothing existing is overwritten.
        to: Format to write.
        name: Architecture, where the source's tensors do not determine it.
    """
    from . import convert as convert_model

    print(convert_model(source, destination, to=to, name=name))
    return 0


def download(model: Positional[str], revision: str | None = None) -> int:
    """Fetch a published checkpoint into the cache, verify it, and print where it is.

    Args:
        model: Catalogue name or hub id.
        revision: Hub revision.
    """
    from .errors import UnknownNameError
    from .weights import catalog, hub

    try:
        entry = catalog.resolve(model)
    except UnknownNameError:
        if model.count("/") != 1:
            raise
        print(hub.fetch_repo(model, revision=revision))
        return 0
    print(hub.fetch(entry, revision=revision))
    return 0


def verify(source: Positional[str], name: str | None = None) -> int:
    """Check a weights file or folder: readable, complete, finite; prints what was found.

    Args:
        source: Local file or folder, or a catalogue name.
        name: Architecture, where the tensors do not determine it.
    """
    from .registry import find_weights
    from .weights.files import sha256

    weights, entry = find_weights(source, name=name)
    print(f"{weights.config.name}: {weights.report}")
    if weights.raw is not None:
        digest = sha256(weights.raw.path)
        known = f" (the published {entry.name})" if entry is not None and digest == entry.sha256 else ""
        print(f"sha256 {digest}{known}")
    return 0


def pretrain(
    data: Positional[str],
    out: Positional[Path],
    model: Annotated[str, arg(aliases=["-m"])],
    method: Literal["mae", "dinov2"] = "mae",
    recipe: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    set: Settings = (),
    device: str = "auto",
    resume: bool = False,
) -> int:
    """Train an encoder on images without labels; prints the folder of the result.

    Args:
        data: Folder (searched at any depth), list, glob, table, or WebDataset shards.
        out: Folder of the run; OUT/model is the result.
        model: Architecture, e.g. mae_hiera_tiny_224, or a checkpoint to go on from.
        method: How to train; dinov2 is refused in this version.
        recipe: Preset name or TOML file.
        steps: Optimiser steps; overrules epochs.
        epochs: Passes over the data.
        batch_size: Samples of one optimiser step.
        set: Other recipe keys, e.g. --set lr=1e-3 seed=1.
        device: Where to train.
        resume: Go on from the newest whole checkpoint in OUT.
    """
    from .training import pretrain as train

    options = {"steps": steps, "epochs": epochs, "batch_size": batch_size, "device": device, **_settings(set)}
    summary = train(data, out, method=method, model=model, recipe=recipe, resume=resume, **options)
    if os.environ.get("RANK", "0") == "0":
        print(summary.model)
    return 0


def finetune(
    data: Positional[str],
    out: Positional[Path],
    model: Model = None,
    recipe: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    set: Settings = (),
    device: str = "auto",
    resume: bool = False,
) -> int:
    """Train a classifier on labelled images; prints the folder of the result.

    Args:
        data: Folder with one sub-folder a class, CSV, TSV or Parquet with path and label, or WebDataset shards.
        out: Folder of the run; OUT/model is the result.
        model: Catalogue name, hub id, path or architecture to start from; the small embedded model without it.
        recipe: Preset name or TOML file.
        steps: Optimiser steps; overrules epochs.
        epochs: Passes over the data.
        batch_size: Samples of one optimiser step.
        set: Other recipe keys, e.g. --set lr=1e-3 seed=1.
        device: Where to train.
        resume: Go on from the newest whole checkpoint in OUT.
    """
    from .training import finetune as train

    options = {"steps": steps, "epochs": epochs, "batch_size": batch_size, "device": device, **_settings(set)}
    summary = train(data, out, model=model, recipe=recipe, resume=resume, **options)
    if os.environ.get("RANK", "0") == "0":
        print(summary.model)
    return 0


def eval_accuracy(
    data: Positional[str],
    model: Model = None,
    protocol: Literal["checkpoint", "birder", "timm", "meta"] = "checkpoint",
    split: str = "validation",
    batch_size: int = 32,
    device: str = "cpu",
    format: Literal["text", "json"] = "text",
) -> int:
    """Measure top-1 and top-5 accuracy on labelled images, with exact counts.

    Args:
        data: As for finetune.
        model: Catalogue name, hub id or local path; the small embedded model without it.
        protocol: Preprocess as the checkpoint says, or as birder, timm or Meta evaluate.
        split: Which split, where the data has splits.
        batch_size: Images at a time.
        device: Where to run.
        format: How to print.
    """
    from . import load
    from .evaluate.accuracy import accuracy

    result = accuracy(data, load(model, device=device), protocol=protocol, split=split, batch_size=batch_size)
    print(json.dumps(result.to_dict()) if format == "json" else str(result))
    for name, reason in result.unreadable[:10]:
        _talk(f"{name}: {reason}")
    return _partial(result.total + len(result.unreadable), len(result.unreadable))


def render(
    destination: Positional[Path],
    count: int = 1600,
    seed: int = 1,
    size: int = 96,
    format: Literal["jpg", "png"] = "jpg",
) -> int:
    """Write a labelled set of rendered shapes and textures, one folder per class.

    Args:
        destination: Folder to write; must be new or empty.
        count: Images in all.
        seed: Another seed gives other images; the embedded model was trained on seed 0.
        size: Side in pixels.
        format: File type.
    """
    from .data.datasets.shapes import render_folder

    print(render_folder(destination, count=count, seed=seed, size=size, image_format=format))
    return 0


def _open(
    inputs: Sequence[str], model: str | None, device: str, dtype: str | None, fast: bool
) -> tuple[Any, list[Path]]:
    """The files first: a wrong path is told before a model is loaded."""
    from .data.sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, find_images

    if not inputs:
        raise InputError("Name at least one file, folder or glob, or - for a list on stdin.")
    from . import load

    found = find_images(inputs, extensions=IMAGE_EXTENSIONS | VIDEO_EXTENSIONS)
    predictor = load(model, device=device, dtype=dtype, fast=fast)
    kind, other = ("clips", IMAGE_EXTENSIONS) if predictor.encoder.config.is_video else ("images", VIDEO_EXTENSIONS)
    named = {os.path.abspath(item) for item in inputs}
    paths = [p for p in found if p.suffix.lower() not in other or os.path.abspath(p) in named]
    if not paths:
        raise InputError(f"{predictor.card.name!r} takes {kind}; none are among the {len(found)} files found.")
    return predictor, paths


def _set_views(predictor: Any, views: int) -> None:
    if views < 1 or (views > 1 and not predictor.encoder.config.is_video):
        raise InputError(f"--views is for video models and at least 1; got {views} with {predictor.card.name!r}.")
    predictor.views = views


def _draw(rows: Sequence[Any], picture: Path, most: int = 16) -> None:
    import numpy as np

    from .data.decode import decode_image
    from .visualize import sheets
    from .visualize.maps import pca_maps

    rows = rows[:most]
    maps = pca_maps({stage: np.stack([row.value[stage] for row in rows]) for stage in rows[0].value})
    drawn = [
        sheets.feature_sheet(decode_image(row.path), {stage: maps[stage][index] for stage in maps})
        for index, row in enumerate(rows)
    ]
    sheets.write_picture(sheets.stack_sheets(drawn), picture)


def _noting(rows: Iterable[Row], failed: list[Row]) -> Iterator[Row]:
    """Pass rows on as they come, keeping those that failed."""
    for row in rows:
        if row.error is not None:
            failed.append(row)
        yield row


def _name_errors(failed: Sequence[Row], most: int = 10) -> None:
    """Say on stderr which rows failed."""
    from .bulk.write import text_of

    for row in failed[:most]:
        _talk(f"{text_of(row.path)}: {row.error}")
    if len(failed) > most:
        _talk(f"... and {len(failed) - most} more; see the error column")


def _grouped(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per image, its predictions inside."""
    grouped: list[dict[str, Any]] = []
    for record in records:
        if not grouped or grouped[-1]["path"] != record["path"] or record["rank"] in (None, 1):
            grouped.append({"path": record["path"], "predictions": [], "error": record["error"]})
        if record["error"] is None:
            grouped[-1]["predictions"].append({key: record[key] for key in ("label", "index", "score")})
    return grouped


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    if record["error"] is not None:
        return {"path": record["path"], "label": f"error: {record['error']}", "score": ""}
    path = record["path"] if record["rank"] == 1 else ""
    return {"path": path, "label": record["label"], "score": f"{record['score']:.3f}"}


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Recipe overrides from KEY=VALUE, values as in TOML; what is no TOML is text."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set takes KEY=VALUE; got {pair!r}.")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    return values


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    widths = [max([len(column), *(len(str(row[column])) for row in rows)]) for column in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        cells = (str(row[column]).ljust(width) for column, width in zip(columns, widths, strict=True))
        print("  ".join(cells).rstrip())


def _partial(total: int, failed: int) -> int:
    """Exit code of a run over files."""
    if failed:
        _talk(f"{failed} of {total} files could not be read")
    return 3 if failed else 0


def _talk(text: str) -> None:
    if not os.environ.get("HIERAX_QUIET"):
        print(f"hierax: {text}", file=sys.stderr)


def _progress(wanted: bool = True) -> bool:
    return wanted and not os.environ.get("HIERAX_QUIET") and sys.stderr.isatty()
