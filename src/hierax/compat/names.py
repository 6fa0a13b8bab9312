"""Names that a stand-in does not have: an error that says what there is, and why that name is not.

A missing attribute is asked of the module's `__getattr__`. A missing name of `from ... import` ends as Python's own
bare ImportError, unless something answers for the submodule of that name, which Python looks for before it gives up:
hence a finder, behind all others, that answers for the packages that stand in for others.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import HieraxError, UnknownNameError, nearest


class MissingNameError(UnknownNameError, AttributeError):
    """A name of another package that its stand-in does not have."""


class MissingImportError(HieraxError, ModuleNotFoundError):
    """The same, of an import."""


Reasons = Mapping[str, str]
_PACKAGES: dict[str, Callable[[str], str]] = {}


def refuse_unknown(module: str, peer: str, known: Sequence[str], reasons: Reasons) -> Callable[[str], Any]:
    """The `__getattr__` of a module that stands in for another; imports of its names are answered likewise.

    Args:
        module: The module, by its full name.
        peer: What it stands in for.
        known: The names that it has, submodules included.
        reasons: By a regular expression that a name matches in full, what to do instead; the first one counts.

    Returns:
        A function that imports a known submodule and raises `MissingNameError` for any other name.
    """

    def explain(name: str) -> str:
        reason = next((text for pattern, text in reasons.items() if re.fullmatch(pattern, name)), "")
        listed = ", ".join(sorted(known))
        why = f"{reason or f'It is no part of the Hiera family, or only {peer} itself has it.'} "
        return f"{module} has no {name!r}. {nearest(name, known)}{why}It has: {listed}."

    def missing(name: str) -> Any:
        if name in known:
            return importlib.import_module(f"{module}.{name}")
        if name.startswith("__"):  # asked by Python and by tools, of any module
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise MissingNameError(explain(name))

    _PACKAGES[module] = explain
    return missing


class _Finder:
    """Finds nothing, and says so for the packages that stand in for others."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        package, _, missing = name.rpartition(".")
        if package in _PACKAGES and not missing.startswith("_"):
            raise MissingImportError(_PACKAGES[package](missing))


sys.meta_path.append(_Finder)  # type: ignore[arg-type]  # a class with the method does
