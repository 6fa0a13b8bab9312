"""What is explained: a class by name or number, a cell of a stage, or nothing in particular."""

from __future__ import annotations

from typing import Any

from ..errors import InputError, UnknownNameError, brief, nearest
from ..predictor import Predictor


def class_index(target: Any, predictor: Predictor) -> int:
    """The class that a name or number means.

    Args:
        target: The name as `classify` gives it, in any case of letters; its index; or `class_7`.
        predictor: Whose classes.

    Raises:
        UnknownNameError: No class of that name; names the nearest.
        InputError: A number that no class has, or a name that several have.
    """
    count = predictor.encoder.num_classes
    if isinstance(target, str):
        names = [predictor.label(index) for index in range(count)]
        found = [index for index, name in enumerate(names) if name.casefold() == target.strip().casefold()]
        if len(found) > 1:
            numbers = ", ".join(map(str, found))
            raise InputError(f"A class must be one; {target!r} is the name of classes {numbers}. Pass its number.")
        if found:
            return found[0]
        number = target.strip().removeprefix("class_")
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            raise UnknownNameError(
                f"{predictor.card.name!r} knows {count} classes; {brief(target)} is none of them. "
                f"{nearest(target, names)}Names are those that `hierax classify` prints; a number works as well."
            )
        target = int(number)
    if isinstance(target, bool) or not hasattr(target, "__index__"):
        raise InputError(f"A target is the name or number of a class; got {brief(target)}.")
    if not 0 <= int(target) < count:
        raise InputError(f"Classes of {predictor.card.name!r} are numbered 0 to {count - 1}; got {int(target)}.")
    return int(target)


def is_cell(target: Any) -> bool:
    """Whether a target is meant as a cell, (row, column)."""
    return isinstance(target, (tuple, list)) and len(target) == 2


def check_cell(target: Any, grid: tuple[int, int]) -> tuple[int, int]:
    """A cell of a grid of (rows, columns).

    Raises:
        InputError: It is outside, or not two whole numbers.
    """
    for place, count in zip(target, grid, strict=True):
        if isinstance(place, bool) or not hasattr(place, "__index__") or not 0 <= int(place) < count:
            raise InputError(
                f"A cell is (row, column), counted from 0, of a grid of {grid[0]} x {grid[1]}; got {brief(target)}."
            )
    return int(target[0]), int(target[1])
