"""From a file in any format to complete weights under our names, and from weights to a network."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import CheckpointError
from ..model.init import build, fresh
from . import files
from .account import expected
from .formats import Format, by_name, listed, recognise
from .geometry import Geometry, measure
from .rename import flat_name, to_ours, unwrap
from .resize import to_encoder, to_hieradet
from .state import LoadReport, Provenance, Weights

if TYPE_CHECKING:
    from .files import RawCheckpoint

log = logging.getLogger("hierax")
_ENCODER_ONLY = ("patch_embed.", "pos_embed", "blocks.", "norm.")


def read_weights(path: str | Path, *, named: ModelConfig | None = None, strict: bool = True) -> Weights:
    """Read a local file or folder of any format, complete or not at all.

    Args:
        path: Weights file, or a folder that holds one.
        named: The architecture, where the caller knows it; files of several formats do not say.
        strict: False lets missing parameters be fresh and unknown tensors be ignored, and logs each.

    Raises:
        CheckpointError: Unreadable, of no known format, ambiguous, incomplete, or not the named architecture.
    """
    raw = files.read(path)
    tensors, notes = unwrap(raw.tensors)
    raw = dataclasses.replace(raw, tensors=tensors, notes=(*raw.notes, *notes))
    kind = recognise(raw)
    theirs = _our_names(raw, kind)  # ours -> theirs
    try:
        geometry = measure({ours: raw.tensors[name] for ours, name in theirs.items()})
        config = _config_in_file(raw, kind, geometry, named)
        shapes = expected(config)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged config.json or a tensor of the wrong rank leads to
        raise CheckpointError(
            f"{path} is damaged, or the config beside it does not describe its network ({type(error).__name__}: "
            f"{error}). Save it again with the package it came from."
        ) from error
    weights = _assemble(raw, kind, theirs, config, shapes, strict)
    if named is None or named == config:
        return weights
    if named.decoder is None and config.decoder is not None:
        return to_encoder(weights, named)
    if named.family == "hieradet" and config.family == "hiera_abswin":
        return to_hieradet(weights, named)
    return weights


def _config_in_file(raw: RawCheckpoint, kind: Format, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
    """The network that the file holds, which a name may ask to be read as another."""
    if named is None:
        return kind.config(raw, geometry, None)
    if geometry.decoder_pools >= 0 and named.decoder is None and kind.name != "hierax":
        # Read as the autoencoder it is; the encoder is taken out afterwards.
        from ..config import DecoderConfig

        decoder = DecoderConfig(num_heads=int(raw.config.get("decoder_num_heads", 16)))
        head = "pool_norm" if geometry.has_norm else "pool"
        as_mae = {"name": f"mae_{named.name}", "decoder": decoder, "q_pool": geometry.decoder_pools, "head": head}
        return kind.config(raw, geometry, dataclasses.replace(named, **as_mae))
    if named.family == "hieradet" and "features.1.weight" in raw.tensors:
        # An abswin Hiera in birder's layout, asked for as a HieraDet.
        abswin = {
            "family": "hiera_abswin",
            "name": named.name.replace("hieradet_d_", "hiera_abswin_").replace("hieradet_", "hiera_abswin_"),
            "windows": ((8, 8), (4, 4), None, None),
            "global_blocks": (),
            "head": "pool_norm",
            "position_antialias": True,
        }
        return kind.config(raw, geometry, dataclasses.replace(named, **abswin))
    return kind.config(raw, geometry, named)


def _our_names(raw: RawCheckpoint, kind: Format) -> dict[str, str]:
    """Our flat name of each tensor that may be the network's, to the file's."""
    prefix, dialect = kind.dialect(raw)
    inside = {name[len(prefix) :]: name for name in raw.tensors if name.startswith(prefix)}
    names = {our: inside[bare] for bare, our in dialect.read(inside).items()}
    outside = [name for name in raw.tensors if prefix and not name.startswith(prefix)]
    for bare, our in dialect.read(outside).items():
        # Outside the encoder's prefix stand heads and decoders, never encoder parameters.
        if not our.startswith(_ENCODER_ONLY):
            names.setdefault(our, bare)
    return names


def _assemble(
    raw: RawCheckpoint,
    kind: Format,
    theirs: Mapping[str, str],
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    strict: bool,
) -> Weights:
    """Match the file's tensors with the network's parameters, and account for every one."""
    tensors: dict[str, Tensor] = {}
    for ours, name in theirs.items():
        if ours in shapes and raw.tensors[name].numel():
            tensor = to_ours(ours, raw.tensors[name], config) if kind.name != "hierax" else raw.tensors[name]
            if tuple(tensor.shape) != shapes[ours]:
                raise CheckpointError(
                    f"{name!r} in {raw.path} has shape {tuple(raw.tensors[name].shape)}, but {config.name!r} needs "
                    f"{shapes[ours]}. The file is damaged or of another architecture; name= says which."
                )
            if not tensor.is_floating_point():
                raise CheckpointError(f"{name!r} in {raw.path} holds {tensor.dtype}, not floating-point weights.")
            tensors[ours] = tensor
    files.check_finite(raw.path, tensors)
    missing = [name for name in shapes if name not in tensors]
    unforgiven = [name for name in missing if not kind.may_be_fresh(name)]
    used = {theirs[ours] for ours in tensors}
    left_over = {
        name: kind.left_over(name) if tensor.numel() else "empty: a head without classes"
        for name, tensor in raw.tensors.items()
        if name not in used
    }
    unknown = [name for name, reason in left_over.items() if reason is None]
    if strict and (unforgiven or unknown):
        raise CheckpointError(_mismatch(raw, kind, config, len(used), unforgiven, unknown))
    if missing:
        log.warning("%s has no %s: freshly initialised.", raw.path, listed(missing))
    if unknown:
        log.warning("%s: ignored %s.", raw.path, listed(unknown))
    report = LoadReport(
        used=tuple(sorted(used)),
        fresh=tuple(missing),
        left_over={name: reason or "unknown to this network" for name, reason in left_over.items()},
        notes=raw.notes,
    )
    return Weights(
        config=config,
        tensors=tensors,
        preprocess=kind.preprocess(raw, config),
        labels=kind.labels(raw, config.num_classes),
        provenance=_provenance(raw, kind),
        report=report,
        names={ours: theirs[ours] for ours in tensors},
        raw=raw,
    )


def _provenance(raw: RawCheckpoint, kind: Format) -> Provenance:
    data = raw.config if kind.name == "hierax" else {}
    inner = raw.config.get("pretrained_cfg")
    stated = (raw.config, inner if isinstance(inner, Mapping) else {}, raw.container, raw.metadata, raw.card)
    license = next((str(place["license"]) for place in stated if place.get("license")), None)
    folder = raw.path.parent.name
    return Provenance(
        name=raw.path.stem if raw.path.stem not in ("model", "pytorch_model") else folder or raw.path.stem,
        origin=str(data.get("origin_format") or kind.name),
        format=kind.name,
        license=license,
        commercial=data.get("commercial", _commercial(license)),
        dataset=data.get("dataset"),
        base_model=data.get("base_model"),
        citation=data.get("citation"),
        source=str(raw.path),
    )


def _commercial(license: str | None) -> bool | None:
    """Whether a licence allows commercial use, None where its identifier does not say."""
    words = (license or "").lower()
    if "-nc" in words:
        return False
    return True if words.startswith(("apache", "mit", "bsd", "cc-by-4", "cc0")) else None


def _mismatch(
    raw: RawCheckpoint, kind: Format, config: ModelConfig, used: int, missing: list[str], unknown: list[str]
) -> str:
    parts = [f"{raw.path} ({kind.name} format) is not a complete {config.name!r}: {used} tensors matched"]
    if missing:
        parts.append(f"{len(missing)} missing ({listed(missing)})")
    if unknown:
        parts.append(f"{len(unknown)} left over ({listed(unknown)})")
    return "; ".join(parts) + ". Pass the right name=, or strict=False to load what matches."


def to_module(weights: Weights, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Build the network around the weights: no double allocation, no wasted initialisation.

    Args:
        weights: Complete weights; parameters they lack are initialised.
        dtype: Floating type of the parameters; None is float32 (float64 stays).
    """
    module = build(weights.config, device="meta")
    state: dict[str, Tensor] = {}
    for name, parameter in module.state_dict().items():
        tensor = weights.tensors.get(flat_name(name))
        if tensor is None:
            tensor = fresh(flat_name(name), tuple(parameter.shape), weights.config)
        wanted = dtype or (torch.float64 if tensor.dtype == torch.float64 else torch.float32)
        state[name] = tensor.to(wanted).contiguous()
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(True)


def from_module(module: nn.Module, weights: Weights) -> Weights:
    """The weights with a network's present parameters."""
    tensors = {flat_name(name): tensor.detach() for name, tensor in module.state_dict().items()}
    return dataclasses.replace(weights, tensors=tensors)


def write_weights(weights: Weights, destination: str | Path, *, to: str) -> Path:
    """Write weights in a format, if it can hold all of them, whole or not at all.

    Args:
        weights: What to write; parameters they lack are freshly initialised first.
        destination: A folder, or a file by a suffix that the format has.
        to: The format.

    Raises:
        UnknownNameError: No such format.
        CheckpointError: The format cannot express this network (names the obstacle), or writing failed.
    """
    kind, destination = by_name(to), Path(destination)
    obstacle = kind.obstacle(weights.config, weights.tensors)
    if obstacle:
        raise CheckpointError(
            f"{weights.config.name!r} cannot be written in {to} format: {obstacle}. "
            "The hierax format holds every network."
        )
    is_file = destination.suffix in files.WEIGHT_SUFFIXES
    if is_file and destination.suffix not in kind.suffixes:
        remedy = f"Name a folder{' or a file ending in ' + ' or '.join(kind.suffixes) if kind.suffixes else ''}"
        raise CheckpointError(f"The {to} format is no {destination.suffix} file; got {destination}. {remedy}.")
    if destination.is_dir() == is_file and destination.exists():
        kinds = "a folder" if destination.is_dir() else "a file"
        raise CheckpointError(f"{destination} is {kinds} already; nothing was written. Name another destination.")
    if unused := [name for name in weights.tensors if name.startswith(kind.unused(weights.config))]:
        log.warning("%s has no place for %s, which nothing uses: left out.", to, listed(unused))
        kept = {name: tensor for name, tensor in weights.tensors.items() if name not in unused}
        weights = dataclasses.replace(weights, tensors=kept)
    if kind.tensors_only and weights.labels:
        log.warning("%s files hold tensors alone: class names and preprocess are not in them; keep those aside.", to)
    with files.staged(destination) as stage:
        written = kind.write(_complete(weights, kind), stage / destination.name if is_file else stage)
    return destination if is_file or written == stage else destination / written.name


def _complete(weights: Weights, kind: Format) -> Weights:
    """The weights with every parameter that the network has and the format takes."""
    shapes, unused = expected(weights.config), kind.unused(weights.config)
    missing = {n: shape for n, shape in shapes.items() if n not in weights.tensors and not n.startswith(unused)}
    if not missing:
        return weights
    new = {name: fresh(name, shape, weights.config) for name, shape in missing.items()}
    return dataclasses.replace(weights, tensors={**weights.tensors, **new})
