"""Which OpenVINO program belongs to which network, and where one is kept that another process converted.

A program is a function of the tensors, the layers' settings, the input size, the outputs and the versions of the code
that traced and converted it. All of them are its key, read from the network as it is now: no file's hash can vouch for
parameters that somebody changed after loading.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import kept
from ...config import STAGE_NAMES
from ..encoder import Encoder
from .base import EMBEDDING

FILE = "program.xml"
_NO_PART = ("name", "num_classes", "head_dropout", "decoder")  # of a program, in the config


@dataclass(frozen=True)
class Wanted:
    """A program by what it depends on.

    Attributes:
        name: What it is kept under.
        key: All of it, as JSON-able data.
    """

    name: str
    key: dict[str, Any]


def wanted(encoder: Encoder, size: tuple[int, ...], last: int, lower: dict[str, Any] | None = None) -> Wanted:
    """The program of an encoder for images of a size and outputs up to a stage, or `EMBEDDING`.

    Args:
        encoder: As it is now: its tensors are read (0.1 s for 140 MB).
        size: Of an image, (3, *pixels).
        last: The last stage, or `EMBEDDING`.
        lower: What an int8 program depends on beside the rest.
    """
    network = _network(encoder)
    what = {"weights": _weights(encoder), "size": list(size), "last": last, "int8": lower}
    key = {"network": network, **what}
    return Wanted(f"{_short(network)}-{what['weights'][:32]}-{_short(what)}", key)


def ready(encoder: Encoder) -> set[tuple[tuple[int, ...], int]]:
    """Sizes (3, *pixels) and outputs of which float programs of an encoder are kept, none of them looked into.

    Its tensors are read only where some of a network like it are.
    """
    network = f"{_short(_network(encoder))}-"
    if not kept.names(network):
        return set()
    found = (kept.look(name) for name in kept.names(f"{network}{_weights(encoder)[:32]}-"))
    keys = [about["key"] for about in found if about is not None]
    return {(tuple(key["size"]), key["last"]) for key in keys if key.get("weights") and key["int8"] is None}


def find(program: Wanted) -> Any:
    """The OpenVINO model that is kept, mapped into memory; None where there is none."""
    found = kept.find(program.name, program.key)
    if found is None:
        return None
    try:
        model = _load(found.path / FILE)
        if _fits(model, program):
            return model
        problem = "it has other inputs or outputs"
    except RuntimeError as error:  # cleared since, or of a format that this OpenVINO does not read
        problem = str(error).partition("\n")[0]
    kept.log.info("A kept program cannot be read, and is made anew: %s", problem)
    return None


def keep(program: Wanted, model: Any, encoder: Encoder) -> bool:
    """Keep a model for other processes, unless the encoder's tensors changed while it was made; never an error.

    Args:
        program: What it is.
        model: The OpenVINO model, whose constants may share memory with the tensors.
        encoder: What it was made from.
    """

    def write(folder: Path) -> bool:
        _save(model, folder / FILE)
        return _weights(encoder) == program.key["weights"]

    last = program.key["last"]
    output = "embedding" if last == EMBEDDING else STAGE_NAMES[last]
    return kept.keep(program.name, program.key, write, output=output, **_about(program, encoder))


def _fits(model: Any, program: Wanted) -> bool:
    last = program.key["last"]
    shapes = [[axis.get_min_length() for axis in given.get_partial_shape()] for given in model.inputs]
    return [shape[1:] for shape in shapes] == [program.key["size"]] and len(model.outputs) == max(1, last + 1)


def _save(model: Any, path: Path) -> None:
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


def _load(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(path)


def note(program: Wanted, encoder: Encoder, **found: Any) -> bool:
    """Keep what was found out on the way to a program, without one; as `keep`."""

    def write(folder: Path) -> bool:
        return _weights(encoder) == program.key["weights"]

    return kept.keep(program.name, program.key, write, output="report", found=found, **_about(program, encoder))


def noted(program: Wanted) -> dict[str, Any] | None:
    """What was found out on the way to a program."""
    known = kept.find(program.name, program.key)
    return None if known is None else known.about["found"]


def _about(program: Wanted, encoder: Encoder) -> dict[str, Any]:
    """What a list says of a program."""
    dtype = str(next(encoder.parameters()).dtype).removeprefix("torch.")
    precision = "int8" if program.key["int8"] else dtype
    return {"model": encoder.config.name, "input_size": program.key["size"][1:], "precision": precision}


def _network(encoder: Encoder) -> dict[str, Any]:
    """Everything but tensors that decides what is traced and how it is converted."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _NO_PART}
    modules = [
        [name, type(module).__name__, {key: value for key, value in vars(module).items() if _is_setting(key, value)}]
        for name, module in _modules(encoder)
        if name
    ]
    return {"config": config, "modules": _short([encoder.stage_ends, modules]), "versions": _versions()}


def _is_setting(name: str, value: object) -> bool:
    plain = isinstance(value, (bool, int, float, str, tuple, list, type(None)))
    return plain and not name.startswith("_") and name != "training"


def _modules(encoder: Encoder) -> Iterator[tuple[str, nn.Module]]:
    """By name, but for the head, which is no part of a program."""
    return ((name, m) for name, m in encoder.named_modules() if name.partition(".")[0] != "head")


@functools.cache
def _versions() -> dict[str, str]:
    from ... import __version__

    # The sources too: one version number stands for many states of a checkout.
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        sources.update(path.read_bytes())
    return {
        "hierax": __version__,
        "sources": sources.hexdigest(),
        "torch": torch.__version__,
        "openvino": _version("openvino"),
        "machine": platform.machine(),
    }


def _version(package: str) -> str:
    """Without an import where the package was installed like others."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(package), "__version__", ""))


def digest_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors as they are: names, types, shapes and every byte."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _weights(encoder: Encoder) -> str:
    """Digest of the parameters and buffers of which a program is made, as they are now."""
    return digest_of(
        (f"{prefix}.{name}", tensor)
        for prefix, module in _modules(encoder)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    )


def _short(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
