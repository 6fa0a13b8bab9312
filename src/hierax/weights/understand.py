"""From tensors by anybody's names, and what was said beside them, to complete weights under our names."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError, HieraxError
from . import files
from .adapt import to_encoder, to_hieradet
from .card import LoadReport, ModelCard, Weights, allows_commerce
from .catalog import CatalogEntry
from .files import RawCheckpoint
from .formats import Format, listed, recognise
from .geometry import measure
from .labels import class_names
from .rename import unwrap
from .shapes import expected

log = logging.getLogger("hierax")
# Of what a file lacks, with strict=False: a head, a norm, a decoder. Beyond it, it is of another network.
_MOST_FRESH = 200_000_000


def read_weights(path: str | Path, **hints: Any) -> Weights:
    """The weights of a local file or folder of any format; hints and errors as `understand`."""
    return understand(files.read(path), **hints)


def understand(
    source: RawCheckpoint | Mapping[str, Tensor],
    *,
    named: ModelConfig | None = None,
    known: CatalogEntry | None = None,
    strict: bool = True,
) -> Weights:
    """Find out which network tensors are, whatever they came from, and bring them under our names.

    Args:
        source: What was read of a file, or the state dict of anybody's network; where that has a config, put both
            into a `RawCheckpoint(path, tensors, config=config)`. Nothing is copied.
        named: The architecture, where the caller knows it; files of several formats do not say.
        known: The catalogue's entry of these weights; its facts go before the file's own.
        strict: False lets missing parameters be fresh and unknown tensors be ignored, and logs each.

    Raises:
        CheckpointError: Unreadable, of no known format, ambiguous, incomplete, or not the named architecture.
    """
    raw = source if isinstance(source, RawCheckpoint) else RawCheckpoint(Path("state_dict"), dict(source))
    tensors, notes = unwrap(raw.tensors)
    raw = dataclasses.replace(raw, tensors=tensors, notes=(*raw.notes, *notes))
    kind = recognise(raw)
    known = None if kind.anonymous(raw) else known
    try:
        theirs = kind.our_names(raw)
        geometry = measure({ours: raw.tensors[name] for ours, name in theirs.items()})
        config = kind.config(raw, geometry, named and kind.before(raw, geometry, named))
        tensors = _matched(raw, kind, theirs, config)
        labels = kind.labels(raw, config.num_classes)
        card = _card(raw, kind, config, known)
        config.check_size(config.input_size)
    except CheckpointError:
        raise
    except HieraxError as error:
        raise CheckpointError(
            f"What lies beside {raw.path}, or in it, must describe its network: {error} Save it again with the package "
            "it came from."
        ) from error
    except Exception as error:  # whatever a tensor of the wrong rank leads to
        raise CheckpointError(
            f"{raw.path} is damaged, or the config beside it does not describe its network ({type(error).__name__}: "
            f"{error}). Save it again with the package it came from."
        ) from error
    names = {ours: theirs[ours] for ours in tensors}
    card = dataclasses.replace(card, report=_report(raw, kind, names, config, strict))
    if labels is None and known is not None and known.labels:
        public = class_names(known.labels)
        labels = list(public) if len(public) == config.num_classes else None
    weights = Weights(card=card, tensors=tensors, labels=labels, names=names, raw=raw)
    if named is not None and named.decoder is None and config.decoder is not None:
        return to_encoder(weights, named)
    if named is not None and named.family == "hieradet" and config.family == "hiera_abswin":
        return to_hieradet(weights, named)
    return weights


def _matched(raw: RawCheckpoint, kind: Format, theirs: Mapping[str, str], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors that the network has a place for, laid out as we store them."""
    shapes = expected(config)
    tensors: dict[str, Tensor] = {}
    for ours, name in theirs.items():
        if ours not in shapes or not raw.tensors[name].numel():
            continue
        tensor = kind.laid_out(ours, raw.tensors[name], config)
        if tuple(tensor.shape) != shapes[ours]:
            raise CheckpointError(
                f"{name!r} in {raw.path} has shape {tuple(raw.tensors[name].shape)}, but {config.name!r} needs "
                f"{shapes[ours]}. The file is damaged or of another architecture; name= says which."
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name!r} in {raw.path} holds {tensor.dtype}, not floating-point weights.")
        # The sum is NaN or inf if any element is; only then is the slower exact test needed.
        if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.float().isfinite().all():
            raise CheckpointError(
                f"{raw.path} holds NaN or infinite values in {ours!r}, as float32; it was not loaded."
            )
        tensors[ours] = tensor
    return tensors


def _report(
    raw: RawCheckpoint, kind: Format, names: Mapping[str, str], config: ModelConfig, strict: bool
) -> LoadReport:
    """Account for every tensor of the file and every parameter of the network; refuse what must not be missing."""
    missing = [name for name in expected(config) if name not in names]
    unforgiven = [name for name in missing if not name.startswith(kind.may_be_fresh)]
    used = set(names.values())
    left_over = {
        name: kind.left_over(name) if tensor.numel() else "empty: a head without classes"
        for name, tensor in raw.tensors.items()
        if name not in used
    }
    unknown = [name for name, reason in left_over.items() if reason is None]
    if strict and (unforgiven or unknown):
        wrong = (("missing", unforgiven), ("left over", unknown))
        parts = "".join(f"; {len(keys)} {what} ({listed(keys)})" for what, keys in wrong if keys)
        raise CheckpointError(
            f"{raw.path} ({kind.name} format) is not a complete {config.name!r}: {len(used)} tensors matched{parts}. "
            "Pass the right name=, or strict=False to load what matches."
        )
    fresh = sum(math.prod(expected(config)[name]) for name in missing)
    if fresh > _MOST_FRESH:
        raise CheckpointError(
            f"{raw.path} must hold most of {config.name!r}; it lacks {fresh:,} numbers. Pass the right name=."
        )
    if missing:
        log.warning("%s has no %s: freshly initialised.", raw.path, listed(missing))
    if unknown:
        log.warning("%s: ignored %s.", raw.path, listed(unknown))
    return LoadReport(
        used=tuple(sorted(used)),
        fresh=tuple(missing),
        left_over={name: reason or "unknown to this network" for name, reason in left_over.items()},
        notes=raw.notes,
    )


def _card(raw: RawCheckpoint, kind: Format, config: ModelConfig, known: CatalogEntry | None) -> ModelCard:
    """What the file says about itself, and over it what the catalogue knows."""
    said = kind.facts(raw)
    inner = raw.config.get("pretrained_cfg")
    places = (raw.config, inner if isinstance(inner, Mapping) else {}, raw.container, raw.metadata, raw.card)
    licenses = (said.license, *(place.get("license") for place in places))
    license = next((text for text in licenses if text and isinstance(text, str)), None)
    texts = {key: text for key in ("dataset", "base_model", "citation") if (text := getattr(said, key)) is not None}
    found: dict[str, Any] = {
        "config": config,
        "preprocess": kind.preprocess(raw, config),
        "format": kind.name,
        "origin": said.origin or kind.name,
        "path": raw.path,
    }
    if known is not None and known.pretrained:
        if not (raw.preprocessor or raw.config or raw.container):  # a file that is silent about it
            found["preprocess"] = known.preprocess.with_size(config.input_size)
        parent = {"base_model": texts.get("base_model", known.name), "license": known.license or license}
        rest = {key: getattr(known, key) or texts.get(key) for key in ("dataset", "citation")}
        return dataclasses.replace(known, **found, **parent, **rest)
    stem, folder = raw.path.stem, raw.path.parent.name
    name = folder if folder and stem in ("model", "pytorch_model") else stem
    if name == "model":  # the result of a run, whose folder tells it from that of another
        name = "/".join(filter(None, (raw.path.absolute().parent.parent.name, name)))
    commercial = allows_commerce(license) if said.commercial is None else said.commercial
    return ModelCard(name=name, license=license, commercial=commercial, pretrained=True, **found, **texts)
