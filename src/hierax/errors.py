"""Every error that hierax raises on purpose.

A message says the rule, what was got, and the remedy, in that order.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

_LONGEST_NAME, _MOST_NAMES = 255, 20_000  # that are searched for a similar one


class HieraxError(Exception):
    """Base of all errors that a caller or a file can cause."""


class UnknownNameError(HieraxError, KeyError):
    """A model, stage, format or option name that does not exist."""

    def __str__(self) -> str:
        """Plain text: KeyError would print the message inside quotes."""
        return str(self.args[0]) if self.args else ""


class CheckpointError(HieraxError, ValueError):
    """A weights file that is broken, incomplete, ambiguous or of another architecture."""


class InputError(HieraxError, ValueError):
    """An image, size, path or argument that cannot be processed."""


class RecipeError(HieraxError, ValueError):
    """A training recipe with an unknown key or an impossible value."""


class IntegrityError(HieraxError, OSError):
    """Downloaded bytes that are not the published ones."""


class MissingExtraError(HieraxError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"This needs the optional package {package!r}, which is not installed. "
            f'Install it with: pip install "hierax[{extra}]"'
        )


def nearest(name: str, candidates: Iterable[str], count: int = 1) -> str:
    """`Did you mean ...? ` for the closest candidates, or an empty string."""
    if len(str(name)) > _LONGEST_NAME:  # the search takes the square of the length
        return ""
    known = {each.lower(): each for each in itertools.islice(candidates, _MOST_NAMES) if len(each) <= _LONGEST_NAME}
    hits = difflib.get_close_matches(str(name).lower(), list(known), n=count, cutoff=0.5)
    if not hits:
        return ""
    return "Did you mean " + " or ".join(repr(known[hit]) for hit in hits) + "? "
