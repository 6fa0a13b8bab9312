"""A list of classes: one name a line, in the order of the indices; data then has these classes, whichever it holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...errors import InputError, brief, nearest
from ..files import open_regular
from .samples import UNLABELLED, TrainingData, check_classes, is_number

_MOST_BYTES = 64 << 20  # 200,000 names of 320 characters


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """The names of a class file, in order; empty lines behind the last name do not count.

    Raises:
        InputError: No readable UTF-8 text, a name that is empty or stands there twice, or too many of them.
    """
    place = Path(path).expanduser()
    with open_regular(place) as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(f"A class file has at most {_MOST_BYTES} bytes; {str(place)!r} has more.")
    try:
        names = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except ValueError as error:
        raise InputError(f"A class file is UTF-8 text, a name on each line; {str(place)!r}: {error}.") from error
    while names and not names[-1]:
        names.pop()
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            got = f"line {number} has {brief(name)} again" if name else f"line {number} is empty"
            raise InputError(f"A class file has a name of its own on each line; {str(place)!r}: {got}.")
        seen.add(name)
    if not names:
        raise InputError(f"A class file has a name on each line; {str(place)!r} has none.")
    return check_classes(names)


def with_classes(data: TrainingData, names: list[str]) -> TrainingData:
    """The same samples with the classes of a list: by name, or, of whole numbers that are no names, by position.

    Raises:
        InputError: A class with samples that is neither a name of the list nor a position in it.
    """
    known = {name: index for index, name in enumerate(names)}
    used = data.used_classes
    by_position = bool(used) and not known.keys() & set(used) and all(map(is_number, used))
    if by_position:
        known = {name: int(name) for name in used if len(name.lstrip("0")) < 10 and int(name) < len(names)}
    for name in used:
        if name not in known:
            rule = f"positions 0 to {len(names) - 1}" if by_position else f"the {len(names)} names"
            raise InputError(
                f"Classes of data must be {rule} of the class file; got {name!r}. "
                f"{'' if by_position else nearest(name, names)}Take the class file that belongs to the data.".strip()
            )
    table = np.array([*(known.get(name, UNLABELLED) for name in data.classes), UNLABELLED], dtype=np.int64)
    data.labels, data.classes = table[data.labels], list(names)
    return data
