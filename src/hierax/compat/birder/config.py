"""`load_model_with_cfg`: a network by the JSON description that birder writes beside its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

from ...config import ARCHITECTURES, ModelConfig
from ...errors import CheckpointError, InputError, UnknownNameError, brief, nearest
from ...model.encoder import Encoder
from ...model.init import build
from ...weights import files
from ...weights.files import read_json
from ...weights.formats.birder import NAMES, overridden, table
from ...weights.network import to_module
from ...weights.understand import understand
from .common.lib import get_channels_from_signature, get_num_labels_from_signature, get_size_from_signature
from .net import Net

_CLASSES = ("hiera", "hieradet")  # birder's names of the classes themselves, whose config says all
# What a file says of its network beside the weights; the caller's description goes before it.
_SAID = ("config", "signature", "encoder_config")


def load_model_with_cfg(
    cfg: dict[str, Any] | str | Path, weights_path: str | Path | None
) -> tuple[Net, dict[str, Any]]:
    """Build a network by its description, and load its weights.

    Args:
        cfg: What birder's `write_config` writes, or the path of that JSON: "name" or "registered_name", "task",
            "model_config" (options over the registered ones) and "signature".
        weights_path: A `.pt` or `.safetensors`; None leaves the network untrained.

    Returns:
        The network in training mode, as birder gives it, and the description.

    Raises:
        UnknownNameError: No network of the family.
        InputError: A description that lacks something, is of another task, or of no possible network.
        CheckpointError: The weights are missing, broken, or of another network.
    """
    said = table(cfg if isinstance(cfg, dict) else read_json(Path(cfg).expanduser()), "cfg")
    config = _network(said)
    if weights_path is None:
        return Net(cast("Encoder", build(config))), dict(said)
    raw = files.read(Path(weights_path).expanduser())
    container, metadata = (
        {key: value for key, value in told.items() if key not in _SAID} for told in (raw.container, raw.metadata)
    )
    raw = dataclasses.replace(raw, container=container, metadata=metadata, config=dict(said))
    found = understand(raw, named=config)
    if found.config != config:
        raise CheckpointError(
            f"{weights_path} must hold the network of the description: {_summary(config)}; it holds "
            f"{_summary(found.config)}. Pass the description that was written with these weights."
        )
    return Net(cast("Encoder", to_module(found))), dict(said)


def _network(said: Any) -> ModelConfig:
    """The architecture of a description."""
    missing = [key for key in ("task", "signature") if key not in said]
    name = said.get("registered_name") or said.get("name")
    if missing or not isinstance(name, str):
        raise InputError(
            "A description must have 'name' or 'registered_name', 'task', 'model_config' and 'signature', as "
            f"birder's write_config writes; got {brief(sorted(map(str, said)))}."
        )
    if said["task"] != Net.task:
        raise InputError(f"The task must be {Net.task!r}; got {said['task']!r}. Use hierax.load for an autoencoder.")
    options = table(said.get("model_config") or {}, "model_config")
    if name not in NAMES and not (name in _CLASSES and {"depths", "embed_dim"} <= options.keys()):
        raise UnknownNameError(f"hierax has no network {name!r}. {nearest(name, NAMES)}It has the Hiera family only.")
    signature = said["signature"]
    classes, channels = get_num_labels_from_signature(signature), get_channels_from_signature(signature)
    start = ARCHITECTURES.get(name, ModelConfig(name="custom"))
    config = overridden(dataclasses.replace(start, in_channels=channels), options)
    return config.with_num_classes(classes).with_input_size(get_size_from_signature(signature), birder=True)


def _summary(config: ModelConfig) -> str:
    return f"{config.name} of width {config.embed_dim}, depths {config.depths}, {config.num_classes} classes"
