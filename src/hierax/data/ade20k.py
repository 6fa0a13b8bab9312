"""The layout of ADE20k's benchmark (ADEChallengeData2016): 150 classes numbered from 1, and 0 for everything else."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .files import open_regular
from .mask_classes import Classes, MaskClass, spread

NAMES_FILE = "objectInfo150.txt"
_CLASSES, _MOST_BYTES = 150, 1 << 20


def ade20k_classes(folder: Path) -> Classes | None:
    """The classes of a folder in that layout; None of any other.

    Raises:
        InputError: Its file of names cannot be read.
    """
    file = folder / NAMES_FILE
    if not file.is_file() and folder.name != "ADEChallengeData2016":
        return None
    names = _names(file) if file.is_file() else [f"class_{number}" for number in range(1, _CLASSES + 1)]
    known = tuple(MaskClass(name, spread(number), number) for number, name in enumerate(names, start=1))
    numbers = {each.index: place for place, each in enumerate(known)}
    return Classes(known, numbers | {255: -1}, {}) if 255 not in numbers else None


def _names(file: Path) -> list[str]:
    """Of a table with tabs: Idx, Ratio, Train, Val, Stuff, Name."""
    with open_regular(file) as stream:
        text = stream.read(_MOST_BYTES).decode("utf-8", "replace")
    rows = [line.split("\t") for line in text.splitlines()[1:] if line.strip()]
    try:
        numbered = {int(row[0]): row[-1].strip() for row in rows}
    except (ValueError, IndexError):
        numbered = {}
    if sorted(numbered) != list(range(1, _CLASSES + 1)):
        raise InputError(
            f"{NAMES_FILE} lists the classes 1 to {_CLASSES}, one a line with tabs; {str(file)!r} does not. Take the "
            "file of ADEChallengeData2016, or remove it and pass a file of classes."
        )
    return [f"{numbered[number]}" if list(numbered.values()).count(numbered[number]) == 1
            else f"{numbered[number]} ({number})" for number in sorted(numbered)]  # fmt: skip
