"""Commands about models and weights files: list, describe, convert, download, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..console import emit, printable, say
from ..errors import CheckpointError, HieraxError, IntegrityError, UnknownNameError, nearest
from .common import table


def list_(pattern: Positional[str] = "*", commercial: bool = False, format: Literal["table", "json"] = "table") -> None:
    """Show catalogue names with licence and size.

    Args:
        pattern: Shell pattern, e.g. "*sam2*", or a part of a name.
        commercial: Only weights whose licence allows commercial use.
        format: How to print.
    """
    from ..weights import catalog

    wanted = True if commercial else None
    names = catalog.list_models(pattern, commercial=wanted)
    if not names and not set(pattern) & set("*?["):
        names = catalog.list_models(f"*{pattern}*", commercial=wanted)
    if not names:
        what = "commercial catalogue names" if commercial else "catalogue names"
        hint = nearest(pattern.strip("*?"), catalog.list_models(commercial=wanted), count=3)
        raise UnknownNameError(f"A pattern must match {what}; {pattern!r} matches none. {hint}`hierax list` shows all.")
    columns, rows = ("weights", "task", "input", "license", "dataset"), []
    for entry in map(catalog.resolve, names):
        known = (entry.format, entry.task, "x".join(map(str, entry.input_size)), entry.license, entry.dataset)
        shown = known if entry.pretrained else ("-",) * len(columns)
        rows.append({"name": entry.name, **dict(zip(columns, shown, strict=True))})
    if format == "json":
        emit(json.dumps(rows, indent=2))
    else:
        table(rows)


def describe(model: Positional[str]) -> None:
    """Show everything known about a model or a weights file; downloads no weights.

    Args:
        model: Catalogue name, or a local file or folder.
    """
    from .. import describe as describe_model

    emit(printable(str(describe_model(model)), keep="\n"))


def convert(
    source: Positional[str],
    destination: Positional[Path],
    to: Literal["hierax", "meta", "sam2", "transformers", "timm", "birder"],
    name: str | None = None,
) -> None:
    """Rewrite a checkpoint in another format; prints the path it wrote, and the lines that load it.

    Args:
        source: Catalogue name, hub id, or local file or folder.
        destination: Folder or file to write; nothing existing is overwritten.
        to: Format to write.
        name: Architecture, where the source's tensors do not determine it.
    """
    from ..registry import converted
    from ..weights.loading import loading_lines

    path, config = converted(source, destination, to=to, name=name)
    emit(str(path), now=True)
    say("\n    ".join([f"{to} loads it by these lines:", *loading_lines(to, path, config)]))


def download(model: Positional[str], revision: str | None = None) -> None:
    """Fetch a published checkpoint into the cache, verify it, and print where it is.

    Args:
        model: Catalogue name, hub id or http(s) address.
        revision: Hub revision.
    """
    from ..weights import hub

    emit(str(hub.fetch_source(model, revision=revision)[0]))


def verify(source: Positional[str], name: str | None = None) -> None:
    """Check a weights file or folder: readable, complete, finite; prints what was found.

    A file of the cache is read in full and compared with its published hash, the hub's, or that of its first download.

    Args:
        source: Local file or folder, or a catalogue name.
        name: Architecture, where the tensors do not determine it.
    """
    from ..net.trust import proof
    from ..registry import find_source, find_weights
    from ..weights.files import files_of

    try:
        weights = find_weights(source, name=name)
    except CheckpointError as damage:
        try:
            for path in files_of(find_source(source)[0]):
                proof(path, None, source)
        except IntegrityError:  # a file of the cache was changed: that is what to know
            raise
        except (HieraxError, OSError):
            pass
        raise damage
    emit(printable(f"{weights.config.name}: {weights.report}", keep="\n"))
    if weights.raw is not None:
        files = files_of(weights.raw.path)
        for path in files:
            says = proof(path, weights.card.sha256, weights.card.name)
            emit(printable(f"{path.name}: {says}" if len(files) > 1 else says))
