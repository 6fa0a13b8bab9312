"""What a command takes, read off its signature: for the words in its help, and for completion by a shell."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

# What one of several is called.
_SINGULAR = {"inputs": "input", "stores": "store"}
# What takes the name of a model, beside a path.
_MODELS = ("model", "source")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a command.

    Attributes:
        flags: How it is written, e.g. ("-m", "--model"); empty where its place says what it is.
        takes_value: Whether a value follows.
        choices: The values that it may have; empty where there are others.
        names_model: Whether the name of a model goes.
    """

    flags: tuple[str, ...]
    takes_value: bool
    choices: tuple[str, ...]
    names_model: bool


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a command, in order."""
    found = []
    for name, hint in _hints(function).items():
        kind, extras = _parts(hint)
        short = [alias for extra in extras for alias in getattr(extra, "aliases", None) or ()]
        flags = () if Positional in extras else (*short, f"--{name.replace('_', '-')}")
        choices = tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
        found.append(Parameter(flags, kind is not bool, choices, name in _MODELS))
    return found


def named_in_help(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a command's parameters, each with the word that stands for its value in help: INPUT, DATA, MODEL.

    Numbers and choices stand for themselves.
    """
    given = inspect.signature(function).parameters
    return {name: _named(given[name], hint) for name, hint in _hints(function).items()}


def _named(parameter: inspect.Parameter, hint: Any) -> Any:
    kind, extras = _parts(hint)
    if any(getattr(extra, "metavar", None) for extra in extras) or get_origin(kind) is Literal or kind is bool:
        return hint
    word = _SINGULAR.get(parameter.name, parameter.name).replace("_", "-").upper()
    if kind in (int, float):
        word = kind.__name__.upper()
    if get_origin(kind) is tuple:
        word = f"{word} [{word} ...]"
    if Positional in extras and parameter.default is not parameter.empty:
        word = f"[{word}]"
    config = next((extra for extra in extras if hasattr(extra, "metavar")), None)
    if config is None:
        return Annotated[hint, arg(metavar=word)]
    others = tuple(extra for extra in extras if extra is not config)
    return Annotated[(get_args(hint)[0], *others, dataclasses.replace(config, metavar=word))]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: _stated(hints[name]) for name in inspect.signature(function).parameters}


def _stated(hint: Any) -> Any:
    """A type as its signature states it.

    Quirk(Python 3.10): what has None for a default comes as Optional of it, and what is said of it is hidden inside.
    """
    inner = get_args(hint)[0] if get_origin(hint) is Union else None
    if get_origin(inner) is Annotated and type(None) in get_args(get_args(inner)[0]):
        return inner
    return hint


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without what is said of it and without None, and what is said of it."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind, tuple(extras)
