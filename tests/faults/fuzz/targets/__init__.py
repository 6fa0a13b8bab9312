"""The targets: each module here is one, and has a `TARGET`."""

from __future__ import annotations

import importlib

from ..target import Target


def find_target(name: str) -> Target:
    """A target by the name of its module."""
    return importlib.import_module(f"{__name__}.{name}").TARGET
