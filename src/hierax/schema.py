"""Strict dataclasses from TOML, JSON and keyword arguments: the one reader of every setting, sidecar and catalogue.

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        steps: Positive | None = None

        def __post_init__(self) -> None:
            conform(self, RecipeError)

    read(Settings, {"steps": 3}, where="A recipe", error=RecipeError)

A type and its bounds stand once, in the annotation. Unknown keys, wrong types and numbers out of bounds are errors
that name the key, the rule and the value.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from .errors import HieraxError, InputError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
MOST_BYTES = 32 << 20  # of a TOML or JSON file; a config has thousands


@dataclass(frozen=True)
class Between:
    """Bounds of a number; `above` and `below` leave the bound itself out."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether a number lies inside."""
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        words = {"at least": self.least, "at most": self.most, "more than": self.above, "less than": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if math.isfinite(bound))


Positive = Annotated[int, Between(least=1)]
Natural = Annotated[int, Between(least=0)]
NonNegative = Annotated[float, Between(least=0)]
Share = Annotated[float, Between(least=0, most=1)]
ProperShare = Annotated[float, Between(least=0, below=1)]


def read(
    kind: type[T],
    data: Any,
    *,
    where: str,
    error: type[HieraxError] = InputError,
    unknown: type[HieraxError] | None = None,
    elsewhere: Mapping[str, str] = types.MappingProxyType({}),
) -> T:
    """A dataclass from plain data.

    Args:
        kind: A dataclass whose `__post_init__` calls `conform`.
        data: What JSON or TOML gave.
        where: Begins the message, e.g. "A recipe" or a file's name.
        error: What to raise.
        unknown: What to raise for a key that no field has; None is `error`.
        elsewhere: What other software calls some fields, by its lower-case name.

    Raises:
        HieraxError: An unknown key, a missing or wrong value; of the given kind.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where} must be a table of keys and values; got {_shown(data)}.")
    names = [field.name for field, _ in _declared(kind)]
    for key in data:
        if key not in names:
            known = elsewhere.get(str(key).lower())
            close = f"Did you mean {known!r}? " if known else nearest(str(key), names)
            raise (unknown or error)(f"{where} has the unknown key {key!r}. {close}The keys are {', '.join(names)}.")
    required = (dataclasses.MISSING, dataclasses.MISSING)
    for field, _ in _declared(kind):
        if (field.default, field.default_factory) == required and field.name not in data:
            raise error(f"{where} must have the key {field.name!r}.")
    return kind(**data)


def conform(instance: Any, error: type[HieraxError] = InputError) -> None:
    """Bring every field of a dataclass to its declared type, in place; for `__post_init__`, frozen or not.

    Lists become tuples, whole numbers floats, paths text where text is declared, tables dataclasses.

    Raises:
        HieraxError: Of the given kind; a value of another type, or out of its bounds.
    """
    for field, kind in _declared(type(instance)):
        value = getattr(instance, field.name)
        found = _converted(field.name, value, kind, error)
        if found is not value:
            object.__setattr__(instance, field.name, found)


def positive(**numbers: Any) -> None:
    """Refuse arguments that are no positive whole numbers.

    Raises:
        InputError: Names the argument.
    """
    for key, value in numbers.items():
        _converted(key, value, Positive, InputError)


def plain(value: Any) -> Any:
    """JSON-able data, of a dataclass what `read` turns into an equal one; fields that are None are left out."""
    if dataclasses.is_dataclass(value):
        found = {field.name: getattr(value, field.name) for field, _ in _declared(type(value))}
        return {name: plain(item) for name, item in found.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def read_toml(path: str | os.PathLike[str], *, what: str, error: type[HieraxError] = InputError) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        HieraxError: Of the given kind; unreadable, too large, or no TOML.
    """
    return _parsed(Path(path), "TOML", tomllib.loads, what, error)


def read_json(path: str | os.PathLike[str], *, what: str, error: type[HieraxError] = InputError) -> Any:
    """The content of a JSON file.

    Raises:
        HieraxError: Of the given kind; unreadable, too large, or no JSON.
    """
    return _parsed(Path(path), "JSON", json.loads, what, error)


def _parsed(path: Path, language: str, parse: Callable[[str], Any], what: str, error: type[HieraxError]) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise error(f"{what} must be smaller than {MOST_BYTES >> 20} MiB; {path} is not.")
        return parse(path.read_text("utf-8"))
    except HieraxError:
        raise
    except UnicodeDecodeError as problem:
        raise error(f"{what} must be UTF-8 text; {path}: {problem}.") from problem
    except (RecursionError, ValueError) as problem:
        raise error(f"{what} must be valid {language}; {path}: {problem}.") from problem
    except OSError as problem:
        raise error(f"{what} must be readable; {path}: {problem.strerror or problem}.") from problem


def toml_value(text: str) -> Any:
    """One value as TOML writes it; what is no TOML is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (RecursionError, ValueError):
        return text


def to_toml(data: Mapping[str, Any], table: str = "") -> str:
    """TOML of plain data: values first, then tables."""
    values = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    # JSON's numbers, true, false and lists are TOML's too; its strings are but for DEL and escapes beyond 16 bits.
    text = {key: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for key, value in values.items()}
    lines = [f"{key} = {value}" for key, value in text.items()]
    for key, value in data.items():
        if isinstance(value, Mapping):
            name = f"{table}.{key}".removeprefix(".")
            lines += ["", f"[{name}]", to_toml(value, name).rstrip("\n")]
    return "\n".join(lines) + "\n"


@functools.lru_cache(maxsize=64)
def _declared(kind: Any) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """Every field and its type."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(kind) if field.init)


@dataclass(frozen=True)
class _Choice:
    """One member of a union: its type taken apart, and what annotates it."""

    kind: Any
    origin: Any
    parts: tuple[Any, ...]
    bounds: tuple[Between, ...]


def _converted(key: str, value: Any, kind: Any, error: type[HieraxError]) -> Any:
    """A value as its declared type."""
    choices = _choices(kind)
    for choice in choices:
        found = _as(key, value, choice, error)
        if found is _WRONG:
            continue
        for bound in choice.bounds:
            if not bound.holds(found):
                raise error(f"{key} must be {bound}; got {_shown(value)}.")
        return found
    literals = [str(word) for choice in choices if choice.origin is Literal for word in choice.parts]
    if literals and isinstance(value, str):
        raise error(f"{key} must be one of {', '.join(literals)}; got {value!r}. {nearest(value, literals)}".strip())
    names = " or ".join(_name(choice) for choice in choices)
    raise error(f"{key} must be {names}; got {_shown(value)}.")


@functools.lru_cache(maxsize=512)
def _choices(kind: Any) -> tuple[_Choice, ...]:
    """The members of a union, or the one type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return tuple(choice for member in parts for choice in _choices(member))
    if origin is Annotated:
        bounds = tuple(bound for bound in kind.__metadata__ if isinstance(bound, Between))
        return tuple(dataclasses.replace(choice, bounds=bounds) for choice in _choices(kind.__origin__))
    return (_Choice(kind, origin, parts, ()),)


_WRONG = object()


def _as(key: str, value: Any, choice: _Choice, error: type[HieraxError]) -> Any:
    """A value as one simple type, or `_WRONG`."""
    kind, origin, parts = choice.kind, choice.origin, choice.parts
    if type(value) is kind and kind in (int, str, bool):
        return value
    if kind is Any or (kind is types.NoneType and value is None):
        return value
    if origin is Literal:
        return value if any(value == word and type(value) is type(word) for word in parts) else _WRONG
    if origin is tuple and isinstance(value, (list, tuple)):
        return _tuple(key, value, parts, error)
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _converted(key, item, parts[1], error) for name, item in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else _WRONG  # False for NaN too
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind in (str, Path) and isinstance(value, (str, Path)):
        return kind(value)
    if origin is None and dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return read(kind, value, where=key, error=error)  # type: ignore[arg-type]
        return value if isinstance(value, kind) else _WRONG  # type: ignore[arg-type]
    return _WRONG


def _tuple(key: str, value: Any, kinds: tuple[Any, ...], error: type[HieraxError]) -> Any:
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise error(f"{key} must have {len(kinds)} values; got {_shown(value)}.")
    return tuple(_converted(key, item, kind, error) for item, kind in zip(value, kinds, strict=True))


def _name(choice: _Choice) -> str:
    if choice.origin is Literal:
        return " or ".join(map(repr, choice.parts))
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", types.NoneType: "left out"}
    if choice.origin is tuple:
        return "a list"
    is_table = choice.origin is dict or dataclasses.is_dataclass(choice.kind)
    return words.get(choice.kind, "a table" if is_table else str(choice.kind))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
