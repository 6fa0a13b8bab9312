"""Strict dataclasses from TOML, JSON and keyword arguments: the one reader of every setting, sidecar and catalogue.

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        steps: Positive | None = None

        def __post_init__(self) -> None:
            conform(self, RecipeError)

    read(Settings, {"steps": 3}, where="A recipe", error=RecipeError)

A type and its bounds stand once, in the annotation. Unknown keys, wrong types and numbers out of bounds are errors
that name the key, the rule and the value. `pick` reads the same way what other software wrote, whose other keys are
none of our business. What a file may cost is bounded before it is parsed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import sys
import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from .errors import HieraxError, InputError, brief, nearest
from .regular import NotRegularError, open_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
MOST_BYTES = 8 << 20  # of a JSON file; a config has thousands
MOST_TOML_BYTES = 1 << 20  # whose parser is a hundred times slower
MOST_VALUES = 400_000  # in one file; 21,000 class names there and back are 44,000
MOST_DEPTH = 64
# Names of a dotted key; the parser's time is quadratic in them.
_WORD = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_WORD}(?:[ \t]*\.[ \t]*{_WORD}){{{MOST_DEPTH}}}")


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


@dataclass(frozen=True)
class Length:
    """Bounds of the number of values in a list, or of characters in a text."""

    least: int = 0
    most: int = 1 << 20

    def holds(self, value: Any) -> bool:
        """Whether a list or text is neither too short nor too long."""
        return self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"of {self.least} to {self.most} parts"


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
        raise error(f"{where} must be a table of keys and values; got {brief(data)}.")
    names = [field.name for field, _ in _declared(kind)]
    for key in data:
        if key not in names:
            known = elsewhere.get(str(key).lower())
            close = f"Did you mean {known!r}? " if known else nearest(str(key), names)
            raise (unknown or error)(
                f"{where} has the unknown key {brief(key)}. {close}The keys are {', '.join(names)}."
            )
    required = (dataclasses.MISSING, dataclasses.MISSING)
    for field, _ in _declared(kind):
        if (field.default, field.default_factory) == required and field.name not in data:
            raise error(f"{where} must have the key {field.name!r}.")
    return kind(**data)


def pick(
    kind: type[T],
    data: Any,
    *,
    where: str,
    error: type[HieraxError] = InputError,
    named: Mapping[str, str] = types.MappingProxyType({}),
) -> T:
    """A dataclass of those keys that it has fields for; other keys, and values that are None, are passed over.

    Args:
        kind: A dataclass; its `__post_init__` need not conform.
        data: What JSON or a torch file gave.
        where: Begins the message, e.g. a file's name.
        error: What to raise.
        named: What the file calls a field, where that is no field's name.

    Raises:
        HieraxError: Of the given kind; no table, or a value of another type or out of its bounds.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where} must be a table of keys and values; got {brief(data)}.")
    found: dict[str, Any] = {}
    for field, declared in _declared(kind):
        key = named.get(field.name, field.name)
        value = data.get(key)
        if value is not None:
            found[field.name] = _converted(f"{where}: {key}", value, declared, error)
    return kind(**found)


def as_field(kind: Any, name: str, value: Any, *, where: str, error: type[HieraxError] = InputError) -> Any:
    """A value as the declared type of a dataclass's field.

    Raises:
        HieraxError: Of the given kind; another type, or out of its bounds.
    """
    return _converted(where, value, next(hint for field, hint in _declared(kind) if field.name == name), error)


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
        whole = isinstance(value, Integral) and not isinstance(value, bool)  # numpy's are too
        # However large: what there is bounds how many are taken of it.
        _converted(key, min(int(value), 1 << 62) if whole else value, Positive, InputError)


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
        HieraxError: Of the given kind; unreadable, no regular file, too large or deep, or no TOML.
    """
    text = _text(Path(path), what, error, MOST_TOML_BYTES)
    if _LONG_KEY.search(text):
        raise error(f"{what} must have keys of at most {MOST_DEPTH} parts; {path} has a longer one.")
    return _parsed("TOML", tomllib.loads, text, f"{what} must be valid TOML; {path}", error)


def read_json(path: str | os.PathLike[str], *, what: str, error: type[HieraxError] = InputError) -> Any:
    """The content of a JSON file, as `parse_json` bounds it.

    Raises:
        HieraxError: As `parse_json`; unreadable, or no regular file.
    """
    return parse_json(
        _text(Path(path), what, error, MOST_BYTES), where=f"{what} must be valid JSON; {path}", error=error
    )


def parse_json(text: str, *, where: str, error: type[HieraxError] = InputError) -> Any:
    """What a JSON text says, if it can be taken literally.

    Args:
        text: Of at most `MOST_BYTES`, whoever reads it sees to that.
        where: Begins the message: the rule, and what the text is of.
        error: What to raise.

    Raises:
        HieraxError: Of the given kind; no JSON, keys that stand twice, numbers that are not finite or need more than
            64 bits, text that is no Unicode, more than `MOST_VALUES` values, or more than `MOST_DEPTH` levels.
    """
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise error(f"{where}: it has more than {MOST_VALUES} values.")
    return _parsed("JSON", functools.partial(json.loads, object_pairs_hook=_table), text, where, error)


def _text(path: Path, what: str, error: type[HieraxError], most: int) -> str:
    """A small regular file's text; nothing is waited for, and no more is read than that."""
    try:
        with open_regular(path) as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise error(f"{what} must be smaller than {most >> 20} MiB; {path} is not.")
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except HieraxError:
        raise
    except UnicodeDecodeError as problem:
        raise error(f"{what} must be UTF-8 text; {path}: {problem}.") from problem
    except NotRegularError as problem:
        raise error(f"{what} must be a regular file; {path} {problem.strerror}.") from problem
    except OSError as problem:
        raise error(f"{what} must be readable; {path}: {problem.strerror or problem}.") from problem
    except ValueError as problem:  # of a name that no file can have
        raise error(f"{what} must be readable; {brief(str(path))}: {problem}.") from problem


def _parsed(language: str, parse: Callable[[str], Any], text: str, where: str, error: type[HieraxError]) -> Any:
    try:
        data = parse(text)
        _plainly(data)
    except RecursionError as problem:
        raise error(f"{where}: it is nested too deeply.") from problem
    except ValueError as problem:
        digits = "integer string conversion" in str(problem)
        raise error(f"{where}: {'a number has too many digits' if digits else problem}.") from problem
    return data


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {brief(twice)} stands twice")
    return found


def _plainly(data: Any) -> None:
    """Refuse values that the rest of the program should never meet, level by level."""
    level = [data]
    for _ in range(MOST_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper += value.values()
                deeper += value
            elif isinstance(value, list):
                deeper += value
            elif isinstance(value, str):
                value.encode()  # a lone surrogate is a ValueError
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"numbers must be finite, one is {value}")
            elif isinstance(value, int) and value.bit_length() > 63:
                raise ValueError("whole numbers must fit into 64 bits, one does not")
        level = deeper
        if not level:
            return
    raise ValueError("it is nested too deeply")


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
    bounds: tuple[Between | Length, ...]


def _converted(key: str, value: Any, kind: Any, error: type[HieraxError]) -> Any:
    """A value as its declared type."""
    choices = _choices(kind)
    for choice in choices:
        found = _as(key, value, choice, error)
        if found is _WRONG:
            continue
        for bound in choice.bounds:
            if not bound.holds(found):
                raise error(f"{key} must be {bound}; got {brief(value)}.")
        return found
    literals = [str(word) for choice in choices if choice.origin is Literal for word in choice.parts]
    if literals and isinstance(value, str):
        raise error(
            f"{key} must be one of {', '.join(literals)}; got {brief(value)}. {nearest(value, literals)}".strip()
        )
    names = " or ".join(_name(choice) for choice in choices)
    raise error(f"{key} must be {names}; got {brief(value)}.")


@functools.lru_cache(maxsize=512)
def _choices(kind: Any) -> tuple[_Choice, ...]:
    """The members of a union, or the one type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return tuple(choice for member in parts for choice in _choices(member))
    if origin is Annotated:
        bounds = tuple(bound for bound in kind.__metadata__ if isinstance(bound, (Between, Length)))
        return tuple(dataclasses.replace(choice, bounds=bounds) for choice in _choices(kind.__origin__))
    return (_Choice(kind, origin, parts, ()),)


_WRONG = object()


def _as(key: str, value: Any, choice: _Choice, error: type[HieraxError]) -> Any:
    """A value as one simple type, or `_WRONG`."""
    kind, origin, parts = choice.kind, choice.origin, choice.parts
    if type(value) is kind and kind in (str, bool):
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
        return value if abs(value) < 1 << 63 else _WRONG
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
        raise error(f"{key} must have {len(kinds)} values; got {brief(value)}.")
    return tuple(_converted(key, item, kind, error) for item, kind in zip(value, kinds, strict=True))


def _name(choice: _Choice) -> str:
    if choice.origin is Literal:
        return " or ".join(map(repr, choice.parts))
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", types.NoneType: "left out"}
    if choice.origin is tuple:
        return "a list"
    is_table = choice.origin is dict or dataclasses.is_dataclass(choice.kind)
    return words.get(choice.kind, "a table" if is_table else str(choice.kind))
