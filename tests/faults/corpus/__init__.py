"""The regression corpus: every attack that ever got through, each as a case with its bounds.

A room has a module here with `CASES`. `make` writes the hostile file, `act` meets it as a user would; each runs in a
child of `server`, which measures what `act` cost. `test_corpus` runs them all.
"""

from __future__ import annotations

import importlib
import pkgutil

from .case import Case

HARNESS = {"case", "server"}


def all_cases() -> dict[str, Case]:
    """Every case by `room/name`."""
    rooms = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in HARNESS)
    found: dict[str, Case] = {}
    for room in rooms:
        for case in importlib.import_module(f"{__name__}.{room}").CASES:
            name = f"{room}/{case.name}"
            if name in found:
                raise ValueError(f"two cases are called {name}")
            found[name] = case
    return found
