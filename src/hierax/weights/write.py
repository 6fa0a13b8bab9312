"""From weights to files in any format."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from ..errors import CheckpointError
from ..model.init import fresh
from . import files
from .card import Weights
from .formats import by_name, listed
from .shapes import expected

log = logging.getLogger("hierax")


def write_weights(
    weights: Weights, destination: str | Path, *, to: str, replace: bool = False, new: bool = False
) -> Path:
    """Write weights in a format, if it can hold all of them, whole or not at all.

    Args:
        weights: What to write; parameters they lack are freshly initialised first.
        destination: A folder, or a file by a suffix that the format has.
        to: The format.
        replace: Whether files that hierax did not write may be replaced.
        new: Whether nothing at all may be replaced, not even what appears meanwhile.

    Raises:
        UnknownNameError: No such format.
        CheckpointError: The format cannot express this network (names the obstacle), files are in
            the way, or writing failed.
    """
    kind, destination = by_name(to), Path(destination)
    config, tensors = weights.config, weights.tensors
    obstacle = kind.obstacle(config, tensors)
    if obstacle:
        raise CheckpointError(
            f"{config.name!r} cannot be written in {to} format: {obstacle}. The hierax format holds every network."
        )
    is_file = destination.suffix in files.WEIGHT_SUFFIXES
    if is_file and destination.suffix not in kind.suffixes:
        remedy = f"Name a folder{' or a file ending in ' + ' or '.join(kind.suffixes) if kind.suffixes else ''}"
        raise CheckpointError(f"The {to} format is no {destination.suffix} file; got {destination}. {remedy}.")
    if destination.is_dir() == is_file and destination.exists():
        kinds = "a folder" if destination.is_dir() else "a file"
        raise CheckpointError(f"{destination} is {kinds} already; nothing was written. Name another destination.")
    # Beginnings of parameters that the format has no place for, and that nothing in this network uses.
    unused = ("norm.",) if config.decoder is not None and not kind.norm_when_masked else ()
    if left_out := [name for name in tensors if name.startswith(unused)]:
        log.warning("%s has no place for %s, which nothing uses: left out.", to, listed(left_out))
    if kind.tensors_only and weights.labels:
        log.warning("%s files hold tensors alone: class names and preprocess are not in them; keep those aside.", to)
    # Every parameter that the network has and the format takes.
    complete = {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}
    for name, shape in expected(config).items():
        if name not in complete and not name.startswith(unused):
            complete[name] = fresh(name, shape, config)
    with files.staged(destination, replace=replace, new=new) as stage:
        written = kind.write(
            dataclasses.replace(weights, tensors=complete), stage / destination.name if is_file else stage
        )
    return destination if is_file or written == stage else destination / written.name
