"""Every error that hierax raises on purpose, and what becomes of those of a disk.

A message says the rule, what was got, and the remedy, in that order.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_REMEDIES = {
    errno.EAGAIN: "Wait until it is done, or name another place",
    errno.EEXIST: "Name another place",
    errno.ENOSPC: "Free some space or name another place",
    errno.EDQUOT: "Free some space or name another place",
    errno.EFBIG: "Raise the limit (ulimit -f) or name another place",
}

_LONGEST_NAME, _MOST_NAMES = 255, 20_000  # that are searched for a similar one
_LONGEST_MESSAGE = 4000  # characters; what was got may be a file's whole content


class HieraxError(Exception):
    """Base of all errors that a caller or a file can cause; a message too long to read loses its middle."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(_readable(arg) if isinstance(arg, str) else arg for arg in args))

    def __reduce__(self) -> tuple[Any, ...]:
        """For `pickle`, which would call the class with the message alone."""
        return _again, (type(self), self.args), self.__dict__


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


class ExportError(HieraxError, RuntimeError):
    """A program for another runtime that cannot be written, or that answers otherwise than its network."""


class MissingExtraError(HieraxError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        needed = " ".join(f'"{each}"' for each in _extra_packages(extra) or [package])
        super().__init__(
            f"This needs the optional package {package!r}, which is not installed. Install it with: pip install "
            f'{needed}; where an index has hierax, pip install "hierax[{extra}]" is the same.'
        )


def _extra_packages(extra: str) -> list[str]:
    """What an extra brings, as the installed package says: hierax may have come from a wheel or a folder."""
    from importlib import metadata

    try:
        required = metadata.requires("hierax") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return []
    split = [line.partition(";")[::2] for line in required]
    return [package.strip() for package, marker in split if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker)]


def nearest(name: str, candidates: Iterable[str], count: int = 1) -> str:
    """`Did you mean ...? ` for the closest candidates, or an empty string."""
    if len(str(name)) > _LONGEST_NAME:  # the search takes the square of the length
        return ""
    known = {each.lower(): each for each in itertools.islice(candidates, _MOST_NAMES) if len(each) <= _LONGEST_NAME}
    hits = difflib.get_close_matches(str(name).lower(), list(known), n=count, cutoff=0.5)
    if not hits:
        return ""
    return "Did you mean " + " or ".join(repr(known[hit]) for hit in hits) + "? "


@contextmanager
def writing(place: Path | str, kind: type[HieraxError] = InputError) -> Iterator[None]:
    """Say in one line, with the remedy, that and why the system refused to write a place.

    safetensors and torch wrap a full disk in types of their own; it is told all the same.

    Args:
        place: What is being written, as the caller knows it.
        kind: What to raise.

    Raises:
        HieraxError: Of the given kind; the system refused something inside the block.
    """
    try:
        yield
    except HieraxError:
        raise
    except Exception as error:
        refusal = error if isinstance(error, OSError) else _refusal_behind(error)
        if refusal is None:
            raise
        raise kind(cannot_write(place, refusal)) from refusal


def cannot_write(place: Path | str, error: OSError) -> str:
    """Rule, reason and remedy for a place that could not be written, in one line."""
    remedy = _REMEDIES.get(error.errno or 0, "Name a place that can be written")
    return f"Cannot write {place}: {error.strerror or error}. {remedy}."


def _refusal_behind(error: BaseException) -> OSError | None:
    """The system's refusal behind an exception: in its chain, or in the words in which Rust reports it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno:
            return found
        if said := re.search(r"\(os error (\d+)\)", str(found)):
            return OSError(int(said[1]), os.strerror(int(said[1])))
        found = found.__cause__ or found.__context__
    return None


def brief(value: Any) -> str:
    """A value for a message, in about 80 characters at most, however large, deep or odd it is."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Brief(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Digits, if they can be counted: of more than 4300 Python makes no text."""
        return repr(x) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


_BRIEF = _Brief()
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 20
_BRIEF.maxstring = _BRIEF.maxother = 200


def _readable(message: str) -> str:
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[: half - 5]} ... {message[-half:]}"


def _again(kind: type[HieraxError], args: tuple[Any, ...]) -> HieraxError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error
