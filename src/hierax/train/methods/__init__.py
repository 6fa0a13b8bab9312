"""The ways to train, each in a file of its own; this table is the only place that lists them."""

from __future__ import annotations

from ...errors import UnknownNameError, nearest
from .base import Method
from .dinov2 import DINOv2
from .mae import MaskedPretraining
from .supervised import Supervised

METHODS: dict[str, type[Method]] = {"supervised": Supervised, "mae": MaskedPretraining, "dinov2": DINOv2}


def find_method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        UnknownNameError: There is none; names the nearest and all.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise UnknownNameError(
            f"A method must be one that exists; got {name!r}. {nearest(name, METHODS)}Methods: {', '.join(METHODS)}."
        )
    return METHODS[name]
