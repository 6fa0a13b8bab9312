"""Names, hub ids and files to networks: load, describe, create and convert."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from .config import ModelConfig, PreprocessSpec, architecture
from .errors import CheckpointError, InputError, UnknownNameError, brief
from .model.encoder import Encoder
from .model.init import build
from .model.mae import MaskedAutoencoder
from .model.necks import Sam2Neck
from .model.precision import as_dtype
from .model.programs.encoder import ProgramEncoder, check_size
from .model.programs.files import open_file
from .net.address import is_address
from .predictor import Predictor
from .weights import catalog
from .weights.adapt import adapted
from .weights.card import ModelCard, Weights
from .weights.geometry import AmbiguousError
from .weights.neck import sam2_neck
from .weights.network import from_module, to_module
from .weights.programs import kind_of, read_facts
from .weights.understand import read_weights
from .weights.write import write_weights

EMBEDDED = "hiera_nano_96"
NECK = "sam2_neck"  # what `create` makes beside whole networks
_LOCAL = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx", ".xml", ".pt2")  # ends of names that are no model's
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
        fast: Run through an engine (`hierax.optimize`).
        engine: Which one; refused without fast=True.
        strict: False loads what matches and says what stayed random.

    Raises:
        UnknownNameError: No such name.
        CheckpointError: The weights are broken, incomplete, ambiguous or of another architecture.
        InputError: An illegal input size, class count, device or dtype.
        IntegrityError: Downloaded bytes are not the published ones.
    """
    target = usable_device(device)
    if source is not None and is_local(source) and (kind := _program_kind(source)):
        given = {"name": name, "num_classes": num_classes, "revision": revision, "dtype": dtype, "fast": fast or None}
        _refuse_options(source, {**given, "engine": None if engine == "auto" else engine})
        return open_program(Path(source).expanduser(), kind, input_size=input_size, device=target)
    deferred = str(dtype) in ("int8", "auto")
    if deferred and not fast:
        raise InputError(f"dtype={dtype!r} needs an engine: pass fast=True.")
    if engine != "auto" and not fast:
        raise InputError(f"engine={engine!r} is for the fast door: pass fast=True (--fast) too.")
    precision = None if dtype is None or deferred else as_dtype(dtype)
    weights = find_weights(source, name=name, revision=revision, strict=strict)
    weights = adapted(weights, input_size=input_size, num_classes=num_classes)
    module = to_module(weights, dtype=precision).to(target)
    predictor = Predictor(module, weights)
    if fast:
        from .model.engines import optimize

        size = weights.config.input_size
        predictor.model = optimize(predictor.model, dtype=dtype, engine=engine, input_size=size)
    return predictor


def predictor_of(source: Any, **options: Any) -> Predictor:
    """A Predictor as it is, or what `load` makes of any other source with these options."""
    return source if isinstance(source, Predictor) else load(source, **options)


def open_program(
    path: Path,
    kind: str,
    *,
    input_size: int | tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
) -> Predictor:
    """A predictor around an exported program, which needs no network in torch.

    Args:
        path: The file.
        kind: What it is, as `weights.programs.kind_of` says.
        input_size: Of a program for every size, the one that images are brought to.
        device: "cpu".

    Raises:
        CheckpointError: It was not written by hierax, or its runtime cannot run it.
        InputError: A size that it was not made for, or another device.
        MissingExtraError: Its runtime is not installed.
    """
    facts = read_facts(path, kind)
    if torch.device(device).type != "cpu":
        raise InputError(f"Exported programs run on the CPU here; got device {str(device)!r}. Use device='cpu'.")
    config, preprocess = facts.config, facts.preprocess
    if input_size is not None:
        check_size(config, config.full_size(input_size), any_size=facts.any_size)
        config = config.with_input_size(input_size)
        preprocess = preprocess.with_size(config.input_size)
    weights = dataclasses.replace(facts, config=config, preprocess=preprocess).weights(path, kind)
    program = open_file(path, kind, facts.outputs, (facts.made_with or {}).get("torch", ""))
    if missing := set(facts.outputs) - set(program.outputs):
        raise CheckpointError(f"{path} must give {', '.join(facts.outputs)}; it lacks {min(missing)}. Export it again.")
    return Predictor(ProgramEncoder(config, program, facts.outputs, any_size=facts.any_size), weights)


def _program_kind(source: str | Path) -> str | None:
    """The kind of exported program that a path leads to, None for anything else."""
    path = Path(source).expanduser()
    try:
        return kind_of(path) if path.is_file() else None
    except OSError:  # whoever reads it says so
        return None


def _refuse_options(source: str | Path, given: dict[str, Any]) -> None:
    """Refuse what only weights can follow."""
    if options := [f"{key}={value!r}" for key, value in given.items() if value is not None]:
        raise InputError(
            f"An exported program runs as it was written; got {', '.join(options)} with {source}. Leave it out, or "
            "export the weights again as you want them."
        )


def find_weights(
    source: str | Path | None, *, name: str | None = None, revision: str | None = None, strict: bool = True
) -> Weights:
    """The weights of a source, local or published, with their card."""
    named = None if name is None else catalog.resolve(name)
    path, known = find_source(source, revision=revision)
    # An architecture, not what the catalogue says of one file: sizes and classes are read off the tensors.
    wanted = named or known
    network = None if wanted is None else architecture(wanted.architecture)
    return read_weights(path, named=network, known=known or named, strict=strict)


def find_source(source: str | Path | None, *, revision: str | None = None) -> tuple[Path, catalog.CatalogEntry | None]:
    """Where the weights of a source lie, fetched where they are not local, and what is published of them."""
    source = EMBEDDED if source is None else source
    if is_local(source):
        return Path(source).expanduser(), None
    from .weights.hub import fetch_source

    return fetch_source(str(source), revision=revision)


def is_local(source: str | Path) -> bool:
    """Whether a source is a path: one that exists, or a string that names nothing on disk but was meant as one."""
    if not isinstance(source, (str, Path)):
        raise InputError(f"A source is a name, hub id or path; got {type(source).__name__}.")
    if isinstance(source, Path) or (source and os.path.exists(source)):  # Path("") is the folder one stands in
        return True
    if source.startswith(("http://", "https://")):
        return False
    return source.startswith((".", "/", "~")) or source.endswith(_LOCAL)


def describe(source: str | Path) -> ModelCard:
    """Everything known about a catalogue entry, architecture or local file; no weights are downloaded.

    Raises:
        UnknownNameError: No such name.
        CheckpointError: A local file that is no Hiera checkpoint.
    """
    if not is_local(source):
        name = str(source)
        return catalog.resolve(name if is_address(name) else name.partition("@")[0])
    path = Path(source).expanduser()
    if kind := _program_kind(path):
        return read_facts(path, kind).weights(path, kind).card
    try:
        return read_weights(path).card
    except AmbiguousError as error:
        card = read_weights(path, named=architecture(error.candidates[0])).card
        return dataclasses.replace(card, candidates=error.candidates)


@overload
def create(  # type: ignore[overload-overlap]  # the name itself goes before other text
    name: Literal["sam2_neck"],
    *,
    source: str | Path | Predictor | None = None,
    trunk: str | None = None,
    high_res: bool | None = None,
) -> Sam2Neck: ...
@overload
def create(
    name: str,
    *,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    **config_overrides: Any,
) -> Encoder: ...
def create(  # type: ignore[misc]  # annotated as most calls end
    name: str,
    *,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    **config_overrides: Any,
) -> Encoder:
    """A randomly initialised network of a named architecture; a masked autoencoder for `mae_...` names.

    "sam2_neck" is what lies between SAM 2's trunk and its mask decoder, `hierax.model.necks.Sam2Neck`. With `source`, a
    whole SAM 2 checkpoint, it has its weights, and turns the maps of `hierax.backbone(source)` into the three that the
    decoder takes.

    Args:
        name: Architecture or catalogue name.
        num_classes: Classes of the head, 0 without one; None is the architecture's own.
        input_size: Pixels, an int or (height, width), multiples of 32.
        **config_overrides: Any field of `ModelConfig`. Of "sam2_neck": `source`; or `trunk`, the architecture under a
            fresh one; and `high_res`, False for maps that have not gone through the decoder's own first projections.

    Raises:
        UnknownNameError: No such architecture or option.
        InputError: An illegal size or class count.
        CheckpointError: The source of a neck has none.
    """
    if name == NECK:
        given = {"num_classes": num_classes, "input_size": input_size}
        return _neck(given, **config_overrides)  # type: ignore[return-value]
    config = architecture(catalog.resolve(name).architecture)
    config = ModelConfig.from_dict({**vars(config), **config_overrides})
    if num_classes is not None:
        config = config.with_num_classes(num_classes)
    if input_size is not None:
        # timm's abswin, told by its branch scales, keeps the table it was trained with.
        grows = config.position_size == config.birder_table and config.layer_scale is None
        config = config.with_input_size(input_size, birder=grows)
    return build(config)  # type: ignore[return-value]  # a MaskedAutoencoder only where its name is asked for


def _neck(
    unfit: dict[str, Any],
    source: str | Path | Predictor | None = None,
    trunk: str | None = None,
    high_res: bool | None = None,
    **others: Any,
) -> Sam2Neck:
    """The neck of a SAM 2 checkpoint, or a fresh one over a named trunk."""
    if wrong := [key for key, value in {**unfit, **others}.items() if value is not None]:
        raise UnknownNameError(f"{NECK!r} takes source, trunk and high_res; got {', '.join(wrong)}. Leave it out.")
    if source is None:
        config = architecture(catalog.resolve(trunk or "sam2_hiera_tiny").architecture)
        if config.is_video:
            raise InputError(f"A neck is for images; {trunk!r} takes clips. Name the trunk of an image member.")
        return Sam2Neck(config.channels, high_res=high_res is not False)
    if trunk is not None:
        raise InputError(f"source= says which trunk it is; got trunk={brief(trunk)} too. Leave one of them out.")
    return sam2_neck(source.weights() if isinstance(source, Predictor) else find_weights(source), high_res=high_res)


def save(
    module: nn.Module,
    path: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocess: PreprocessSpec | None = None,
    format: str = "hierax",
) -> Path:
    """Write any network of ours, however it was trained, so that `load` gives it back.

    Args:
        module: An `Encoder` or `MaskedAutoencoder`; also compiled, or inside DistributedDataParallel.
        path: Folder or file; an earlier save there is replaced, files of anybody else are not.
        labels: Class names by index.
        preprocess: How images became its input; None is the plain recipe at its input size.
        format: As for `convert`.

    Returns:
        The path written.

    Raises:
        InputError: Not a network of ours, or not one label for each class.
        CheckpointError: The format cannot express the network, files are in the way, or writing failed.
    """
    while isinstance(inner := getattr(module, "module", getattr(module, "_orig_mod", None)), nn.Module):
        module = inner
    if not isinstance(module, (Encoder, MaskedAutoencoder)):
        raise InputError(
            f"save takes a network of hierax; got {type(module).__name__}. Pass an Encoder or a MaskedAutoencoder, the "
            "one inside your module perhaps; a Predictor and a Backbone have a save of their own."
        )
    config = module.config
    named = labels is None or (not isinstance(labels, str) and all(isinstance(label, str) for label in labels))
    if not named or (labels is not None and len(labels) != config.num_classes):
        raise InputError(f"Labels are a text for each of {config.num_classes} classes, by index; got {brief(labels)}.")
    spec = PreprocessSpec().with_size(config.input_size) if preprocess is None else preprocess
    card = ModelCard(config=config, preprocess=spec, origin="hierax", pretrained=True)
    weights = from_module(module, Weights(card=card, tensors={}, labels=None if labels is None else list(labels)))
    return write_weights(weights, Path(path).expanduser(), to=format)


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
        The path written, a folder for hierax, transformers and timm (unless a file was named), a file for the others.

    Raises:
        UnknownNameError: No such format.
        CheckpointError: The target cannot express the network, or the destination exists.
    """
    return converted(source, destination, to=to, name=name)[0]


def converted(
    source: str | Path, destination: str | Path, *, to: str, name: str | None = None
) -> tuple[Path, ModelConfig]:
    """As `convert`; the path written, and the network that is there now."""
    from .weights.formats import by_name
    from .weights.formats.sam2 import graft

    by_name(to)
    destination = Path(destination).expanduser()
    swaps = to == "sam2" and destination.is_file()
    occupied = destination.is_dir() and any(destination.iterdir())
    if not swaps and (occupied or (os.path.lexists(destination) and not destination.is_dir())):
        raise CheckpointError(f"{destination} already exists; nothing was overwritten. Name another destination.")
    weights = find_weights(source, name=name)
    behind = [key for key, reason in weights.report.left_over.items() if not reason.startswith("empty")]
    if behind and to != weights.card.format:
        log.warning("%s: %d tensors do not go into %s: %s.", source, len(behind), to, weights.report)
    if not swaps:
        return write_weights(weights, destination, to=to, new=True), weights.config
    weights = graft(weights, destination)
    with _kept(destination):
        return write_weights(weights, destination, to=to, replace=True), weights.config


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Keep a file that is about to be replaced as `<name>.bak`; take the copy away again if replacing it fails."""
    backup = path.with_name(f"{path.name}.bak")
    if os.path.lexists(backup) and not (os.path.exists(backup) and os.path.samefile(path, backup)):
        raise CheckpointError(f"{backup} already exists; nothing was overwritten. Move it away first.")
    try:
        try:
            if not os.path.lexists(backup):  # or a run was killed that had just begun
                os.link(path, backup)
        except OSError:  # a file system without hard links
            shutil.copy2(path, backup)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            backup.unlink(missing_ok=True)  # half a copy
        raise CheckpointError(f"Cannot keep a copy of {path}: {error.strerror or error}.") from error
    try:
        yield
    except BaseException:
        backup.unlink(missing_ok=True)
        raise


def usable_device(device: str | int | torch.device) -> torch.device:
    """A device that can be used here.

    Raises:
        InputError: No such device, or none here.
    """
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {device!r} cannot be used here: {reason}. Use device='cpu'.") from error
    return target
