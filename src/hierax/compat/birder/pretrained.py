"""`load_pretrained_model` and what belongs to it: names, signatures, statistics."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ...config import ModelConfig, square_windows
from ...errors import CheckpointError, InputError, UnknownNameError, nearest
from ...model.precision import as_dtype
from ...registry import find_weights
from ...weights import catalog, hub
from ...weights.adapt import at_size
from ...weights.card import Weights
from ...weights.formats.birder import class_indices, item, signature
from ...weights.network import to_module
from .common.lib import get_size_from_signature
from .net import Net
from .transform import classification_transform

FORMATS = {"pt": ".pt", "safetensors": ".safetensors"}


class ModelInfo(NamedTuple):
    """What a birder file says about its network.

    Attributes:
        class_to_idx: Class index by name; empty without classes.
        signature: Shapes of inputs and outputs, 0 for the batch axis.
        rgb_stats: Mean and std per channel, in 0..1.
        custom_config: Options that the file overrides, None if it overrides none.
    """

    class_to_idx: dict[str, int]
    signature: dict[str, Any]
    rgb_stats: dict[str, Any]
    custom_config: dict[str, Any] | None = None


def load_pretrained_model(  # noqa: PLR0913 - birder's signature
    weights: str,
    *,
    dst: str | Path | None = None,
    file_format: str = "pt",
    inference: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    new_size: tuple[int, int] | None = None,
    custom_config: Mapping[str, Any] | None = None,
    progress_bar: bool = True,
) -> tuple[Net, ModelInfo]:
    """Load published weights by birder's name, downloaded or from a place that holds them.

    Args:
        weights: Name, old or new: both `hieradet_small_dino-v2-imagenet12k` and `hieradet_d_small_dino-v2-imagenet12k`.
        dst: A file, or a folder with the file, that already holds the weights; nothing is downloaded then.
        file_format: "pt" or "safetensors"; a file at `dst` is told by its content.
        inference: Evaluation mode, without gradients.
        device: Where the network goes; the CPU by default.
        dtype: Type of the parameters; float32 by default.
        new_size: Adjust to another (height, width) after loading.
        custom_config: birder's `window_spec` and `global_att_blocks`, to override the network's.
        progress_bar: Show a bar on stderr while downloading.

    Returns:
        The network and what its file says about it.

    Raises:
        UnknownNameError: No such name or format.
        CheckpointError: The weights are missing, broken, or of another network.
        InputError: An illegal size or option.
    """
    if file_format not in FORMATS:
        raise UnknownNameError(
            f"file_format must be one of {', '.join(map(repr, FORMATS))}; got {file_format!r}. "
            "hierax never runs code from a weights file."
        )
    entry = catalog.resolve(weights)
    if dst is None:
        entry = _published(entry, file_format)
        path = hub.fetch(entry, progress=progress_bar)
    else:
        path = _in_place(Path(dst).expanduser(), entry, file_format)
    found = find_weights(path, name=entry.name)
    if found.config.decoder is not None:
        raise InputError(f"{weights!r} is a masked autoencoder, not a network with classes. Use hierax.load for it.")
    info = _model_info(found)
    if custom_config:
        found = found.with_card(config=_overridden(found.config, custom_config))
    size = None if new_size is None else (int(new_size[0]), int(new_size[1]))
    found = at_size(found if size is None else found.with_card(origin="birder"), size, option="new_size=")
    network: Any = to_module(found, dtype=None if dtype is None else as_dtype(dtype))
    net = Net(network).to(device or "cpu")
    if inference:
        net.requires_grad_(False).eval()
    return net, info


def load_pretrained_model_and_transform(
    weights: str, *, inference: bool = True, classification_kwargs: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Net, ModelInfo, Callable[[Image.Image], Tensor]]:
    """`load_pretrained_model` together with its `classification_transform`.

    Args:
        weights: As for `load_pretrained_model`.
        inference: As there, but true by default.
        classification_kwargs: `center_crop` and `simple_crop` of the transform.
        **options: Any other option of `load_pretrained_model`.

    Raises:
        UnknownNameError: No such name or format.
        CheckpointError: The weights are missing, broken, or of another network.
    """
    net, info = load_pretrained_model(weights, inference=inference, **options)
    size = get_size_from_signature(info.signature)
    return net, info, classification_transform(size, info.rgb_stats, **(classification_kwargs or {}))


def list_pretrained_models(include_filter: str | None = None, task: str | None = None) -> list[str]:
    """Names that `load_pretrained_model` knows, sorted.

    Args:
        include_filter: Shell pattern, e.g. "hieradet*".
        task: "image_classification", which all of them are.
    """
    if task not in (None, Net.task):
        return []
    names = {
        name
        for entry in catalog.entries().values()
        if entry.format == "birder" and entry.pretrained and entry.task != "mae"
        for name in (entry.name, *entry.aliases)
        if "/" not in name and not name.endswith(tuple(FORMATS.values()))
    }
    return sorted(fnmatch.filter(names, include_filter or "*"))


def _in_place(dst: Path, entry: catalog.CatalogEntry, file_format: str) -> Path:
    """The file that `dst` means: itself, or in a folder the one with the entry's name."""
    if not dst.exists():
        raise CheckpointError(
            f"dst must be a file or folder that already holds the weights; {dst} does not exist. "
            "Leave dst out to download them."
        )
    suffixes = (FORMATS[file_format], *FORMATS.values())
    files = (dst / f"{name}{suffix}" for name in (entry.name, *entry.aliases) for suffix in suffixes)
    return next((file for file in files if file.is_file()), dst)


def _published(entry: catalog.CatalogEntry, file_format: str) -> catalog.CatalogEntry:
    """The entry of the same weights in the wanted container."""
    if entry.format != "birder":
        raise UnknownNameError(
            f"{entry.name!r} is no birder model. {nearest(entry.name, list_pretrained_models())}Pass dst= with a "
            "birder file, or use hierax.load for other origins."
        )
    if file_format == "pt" or entry.path is not None:
        return entry
    try:
        return catalog.resolve(f"{entry.name.removesuffix('.safetensors')}.safetensors")
    except UnknownNameError:
        raise UnknownNameError(f"{entry.name!r} is published as 'pt' only; pass file_format='pt'.") from None


def _overridden(config: ModelConfig, options: Mapping[str, Any]) -> ModelConfig:
    """The network with birder's options on top that leave its parameters as they are."""
    known = ("window_spec", "global_att_blocks")
    for key in options:
        if key not in known:
            raise UnknownNameError(f"custom_config may hold {' and '.join(known)}; got {key!r}. {nearest(key, known)}")
    if config.family != "hieradet":
        raise InputError(f"custom_config changes the windows of a HieraDet; {config.name!r} is {config.family!r}.")
    windows = square_windows(tuple(options["window_spec"])) if "window_spec" in options else config.windows
    global_blocks = tuple(options.get("global_att_blocks", config.global_blocks))
    return dataclasses.replace(config, windows=windows, global_blocks=global_blocks)


def _model_info(weights: Weights) -> ModelInfo:
    """What the file says; what it does not say, from the network."""
    keys, raw, spec = ("class_to_idx", "signature", "rgb_stats", "config"), weights.raw, weights.preprocess
    said = [item(raw, key) if raw else None for key in keys]
    classes, shapes, stats, config = (dict(value) if isinstance(value, Mapping) else None for value in said)
    return ModelInfo(
        class_to_idx=class_indices(weights.labels or []) if classes is None else classes,
        signature=shapes or signature(weights.config),
        rgb_stats=stats or {"mean": spec.mean, "std": spec.std},
        custom_config=config or None,
    )
