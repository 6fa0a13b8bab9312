"""Names, hub ids and files to networks: load, describe, create, list and convert."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import ARCHITECTURES, ModelConfig, architecture
from .errors import CheckpointError, InputError, UnknownNameError, nearest
from .model.init import build
from .model.precision import as_dtype
from .predictor import Predictor
from .weights import catalog
from .weights.card import ModelCard, make_card
from .weights.geometry import AmbiguousError
from .weights.load import read_weights, to_module, write_weights
from .weights.resize import to_encoder, to_input_size, to_num_classes
from .weights.state import Weights

EMBEDDED = "hiera_nano_96"
log = logging.getLogger("hierax")


def load(  # noqa: PLR0913 - the public signature
    source: str | Path | None = None,
    *,
    name: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    fast: bool = False,
    engine: str = "auto",
    strict: bool = True,
) -> Predictor:
    """Load a checkpoint of any format and origin.

    Args:
        source: Catalogue name or alias, hub id ("org/repo" or "org/repo@revision"), or a local file or folder;
            None is the small embedded model.
        name: Catalogue or architecture name, where the tensors alone do not determine the network.
        input_size: Pixels, an int or (height, width), multiples of 32; position tables follow.
        num_classes: Replace the head by a fresh one; 0 removes it.
        revision: Hub revision.
        device: Where the model goes.
        dtype: Parameter type, e.g. "bfloat16"; None is float32. With fast=True also "int8" and "auto".
        fast: Use the fast door (`hierax.optimize`).
        engine: The fast door's engine.
        strict: False loads what matches and says what stayed random.

    Raises:
        UnknownNameError: No such name.
        CheckpointError: The weights are broken, incomplete, ambiguous or of another architecture.
        InputError: An illegal input size, class count, device or dtype.
        IntegrityError: Downloaded bytes are not the published ones.
    """
    target = _device(device)
    deferred = str(dtype) in ("int8", "auto")
    if deferred and not fast:
        raise InputError(f"dtype={dtype!r} exists only behind the fast door: pass fast=True.")
    precision = None if dtype is None or deferred else as_dtype(dtype)
    weights, entry = find_weights(source, name=name, revision=revision, strict=strict)
    if num_classes is not None and weights.config.decoder is not None:
        weights = to_encoder(weights)
    if num_classes is not None:
        before = weights
        weights = to_num_classes(weights, num_classes)
        if weights is not before:
            log.warning("%s: %s.", weights.config.name, weights.report.notes[-1])
    if input_size is not None:
        weights = to_input_size(weights, input_size)
    model = to_module(weights, dtype=precision).to(target)
    card = _card(weights, entry)
    predictor = Predictor(model, weights.preprocess, weights.labels, card, weights)
    if fast:
        from .model.engines import optimize

        size = weights.config.input_size
        predictor.model = optimize(model.eval(), dtype=dtype, engine=engine, input_size=size)
    return predictor


def find_weights(
    source: str | Path | None, *, name: str | None = None, revision: str | None = None, strict: bool = True
) -> tuple[Weights, catalog.CatalogEntry | None]:
    """The weights of a source, local or published, and the catalogue's entry if it has one."""
    named_entry, named = _named(name)
    if source is None:
        source = EMBEDDED
    if not isinstance(source, (str, Path)):
        raise InputError(f"A source is a name, hub id or path; got {type(source).__name__}.")
    if isinstance(source, Path) or Path(source).exists() or _looks_local(str(source)):
        weights = read_weights(Path(source).expanduser(), named=named, strict=strict)
        return _described(weights, named_entry), named_entry
    text, _, at = str(source).partition("@")
    revision = revision or at or None
    try:
        entry = catalog.resolve(text)
    except UnknownNameError:
        if text.count("/") != 1:
            raise
        from .weights import hub

        path = hub.fetch_repo(text, revision=revision)
        weights = read_weights(path, named=named, strict=strict)
        return _described(weights, named_entry), named_entry
    if not entry.pretrained:
        raise CheckpointError(
            f"No weights are published for {entry.name!r}. Use hierax.create({entry.name!r}) for random "
            "initialisation, or name a checkpoint (`hierax list`)."
        )
    path = entry.path
    if path is None:
        from .weights import hub

        path = hub.fetch(entry, revision=revision)
    wanted = named or (architecture(entry.architecture) if entry.architecture in ARCHITECTURES else None)
    return _described(read_weights(path, named=wanted, strict=strict), entry), entry


def _looks_local(source: str) -> bool:
    """Whether a string that names nothing on disk was still meant as a path."""
    return source.startswith((".", "/", "~")) or source.endswith((".safetensors", ".pt", ".pth", ".bin", ".ckpt"))


def _named(name: str | None) -> tuple[catalog.CatalogEntry | None, ModelConfig | None]:
    if name is None:
        return None, None
    if name in ARCHITECTURES:
        with contextlib.suppress(UnknownNameError):
            return catalog.resolve(name), architecture(name)
        return None, architecture(name)
    entry = catalog.resolve(name)
    return entry, architecture(entry.architecture)


def _described(weights: Weights, entry: catalog.CatalogEntry | None) -> Weights:
    """Fill in what the file does not say from the catalogue: labels, preprocess, licence, size."""
    from .weights.labels import class_names

    labels, origin = weights.labels, weights.provenance
    dataset = entry.labels if entry is not None else None
    if labels is None and not dataset and origin.origin in ("meta", "timm"):
        # Meta's and timm's files carry no class names; these counts are ImageNet's.
        dataset = {1000: "imagenet1k", 11821: "imagenet12k"}.get(weights.config.num_classes)
    if labels is None and dataset:
        names = class_names(dataset)
        labels = list(names) if len(names) == weights.config.num_classes else None
    if entry is None or not entry.pretrained:
        return dataclasses.replace(weights, labels=labels)
    origin = dataclasses.replace(
        origin,
        name=entry.name,
        aliases=tuple(entry.aliases),
        license=entry.license or origin.license,
        commercial=entry.commercial,
        dataset=entry.dataset or origin.dataset,
        sha256=entry.sha256 or None,
        base_model=origin.base_model or entry.name,
        citation=catalog.citation(entry) or origin.citation,
    )
    preprocess = weights.preprocess
    silent = not (weights.raw and (weights.raw.preprocessor or weights.raw.config or weights.raw.container))
    if silent:
        size = weights.config.input_size[-2:]
        preprocess = entry.preprocess.with_size((size[0], size[1]))
    return dataclasses.replace(weights, labels=labels, provenance=origin, preprocess=preprocess)


def _card(weights: Weights, entry: catalog.CatalogEntry | None) -> ModelCard:
    origin = weights.provenance
    return make_card(
        weights.config,
        name=origin.name,
        aliases=origin.aliases,
        license=origin.license,
        commercial=origin.commercial,
        dataset=origin.dataset,
        preprocess=weights.preprocess,
        format=origin.format,
        url=(entry.url or None) if entry is not None else None,
        repo=(entry.repo or None) if entry is not None else None,
        source=origin.source,
        sha256=origin.sha256,
        citation=origin.citation,
        base_model=origin.base_model,
        pretrained=True,
        report=str(weights.report),
    )


def describe(source: str | Path) -> ModelCard:
    """Everything known about a catalogue entry, architecture or local file; no weights are downloaded.

    Raises:
        UnknownNameError: No such name.
        CheckpointError: A local file that is no Hiera checkpoint.
    """
    text = str(source)
    if isinstance(source, Path) or Path(text).exists() or _looks_local(text):
        return _describe_file(Path(source).expanduser())
    entry = catalog.resolve(text.partition("@")[0])
    config = architecture(entry.architecture)
    changes: dict[str, Any] = {}
    if entry.pretrained:
        changes["input_size"] = tuple(entry.input_size)
        if entry.num_classes is not None and config.decoder is None:
            changes["num_classes"] = entry.num_classes
    config = dataclasses.replace(config, **changes)
    return make_card(
        config,
        task=entry.task,
        name=entry.name,
        aliases=tuple(entry.aliases),
        license=entry.license or None,
        commercial=entry.commercial if entry.pretrained else None,
        dataset=entry.dataset or None,
        preprocess=entry.preprocess,
        format=entry.format or None,
        url=entry.url or None,
        repo=entry.repo or None,
        source=entry.source or None,
        sha256=entry.sha256 or None,
        citation=catalog.citation(entry) or None,
        pretrained=entry.pretrained,
    )


def _describe_file(path: Path) -> ModelCard:
    """The card of a local file; where it fits several architectures, of all of them."""
    try:
        return _card(_described(read_weights(path), None), None)
    except AmbiguousError as error:
        weights = read_weights(path, named=architecture(error.candidates[0]))
        card = _card(_described(weights, None), None)
        names = ", ".join(error.candidates)
        changes = {"name": weights.provenance.name, "architecture": f"one of {names}", "candidates": error.candidates}
        return dataclasses.replace(card, **changes)


def list_models(pattern: str = "*", *, pretrained: bool | None = None, commercial: bool | None = None) -> list[str]:
    """Catalogue names that match a shell pattern.

    Args:
        pattern: E.g. "*sam2*".
        pretrained: Only entries with (True) or without (False) published weights.
        commercial: True drops weights whose licence forbids commercial use.
    """
    return catalog.list_names(pattern, pretrained=pretrained, commercial=commercial)


def create(
    name: str,
    *,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    **config_overrides: Any,
) -> nn.Module:
    """A randomly initialised network of a named architecture; a masked autoencoder for `mae_...` names.

    Args:
        name: Architecture or catalogue name.
        num_classes: Classes of the head, 0 without one; None is the architecture's own.
        input_size: Pixels, an int or (height, width), multiples of 32.
        **config_overrides: Any field of `ModelConfig`.

    Raises:
        UnknownNameError: No such architecture or option.
        InputError: An illegal size or class count.
    """
    config = architecture(name) if name in ARCHITECTURES else architecture(catalog.resolve(name).architecture)
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    for key in config_overrides:
        if key not in fields:
            raise UnknownNameError(f"Unknown model option {key!r}. {nearest(key, fields)}")
    config = dataclasses.replace(config, **config_overrides)
    if num_classes is not None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
            raise InputError(f"num_classes must be a non-negative int; got {num_classes!r}.")
        config = dataclasses.replace(config, num_classes=num_classes)
    if input_size is not None:
        before = config
        config = config.with_input_size(input_size)
        if config.family == "hiera_abswin" and before.position_size == (14, 14) and not config.layer_scale:
            # Quirk(birder): its abswin background table grows with the input.
            config = dataclasses.replace(config, position_size=tuple(side // 16 for side in config.input_size))
    return build(config)


def convert(source: str | Path, destination: str | Path, *, to: str, name: str | None = None) -> Path:
    """Rewrite a checkpoint in another format.

    Nothing that exists is overwritten, with one exception that is asked for by naming it: where `to` is "sam2" and
    `destination` is a whole SAM 2 file, its trunk is exchanged, all else in it stays, and the file as it was is kept
    beside it under the same name with `.bak` behind.

    Args:
        source: Anything that `load` takes.
        destination: A folder that does not exist or is empty; or a file, by a suffix of the format: `.pth` or
            `.safetensors` for meta and timm, `.pt` for sam2, `.pt` or `.safetensors` for birder.
        to: "hierax", "meta", "sam2", "transformers", "timm" or "birder".
        name: As for `load`.

    Returns:
        The path written: a folder for hierax, transformers and timm (unless a file was named), a file for the others.

    Raises:
        UnknownNameError: No such format.
        CheckpointError: The target cannot express the network, or the destination exists.
    """
    from .weights.formats import by_name
    from .weights.formats.sam2 import graft

    by_name(to)
    destination = Path(destination).expanduser()
    swaps = to == "sam2" and destination.is_file()
    occupied = destination.is_dir() and any(destination.iterdir())
    if not swaps and (occupied or (os.path.lexists(destination) and not destination.is_dir())):
        raise CheckpointError(f"{destination} already exists; nothing was overwritten. Name another destination.")
    weights, _ = find_weights(source, name=name)
    behind = [key for key, reason in weights.report.left_over.items() if not reason.startswith("empty")]
    if behind and to != weights.provenance.format:
        log.warning("%s: %d tensors do not go into %s: %s.", source, len(behind), to, weights.report)
    if not swaps:
        return write_weights(weights, destination, to=to)
    weights = graft(weights, destination)
    with _kept(destination):
        return write_weights(weights, destination, to=to)


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Keep a file that is about to be replaced as `<name>.bak`; take the copy away again if replacing it fails."""
    backup = path.with_name(f"{path.name}.bak")
    if os.path.lexists(backup):
        raise CheckpointError(f"{backup} already exists; nothing was overwritten. Move it away first.")
    try:
        try:
            os.link(path, backup)
        except OSError:  # a file system without hard links
            shutil.copy2(path, backup)
    except OSError as error:
        raise CheckpointError(f"Cannot keep a copy of {path}: {error.strerror or error}.") from error
    try:
        yield
    except BaseException:
        backup.unlink(missing_ok=True)
        raise


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {device!r} cannot be used here: {reason}. Use device='cpu'.") from error
    return target
