"""Which class a pixel of a mask belongs to: names and colours, from a file, from palettes, or from the masks' values.

A file of classes is a table, `classes.csv`, with a header and some of the columns index, color and name:

    index,color,name
    0,#808080,road
    1,#d62728,car
    255,,unlabelled

or `classes.txt`, one name a line, for the numbers 0, 1, ... What masks hold and the file does not say is an error.
"""

from __future__ import annotations

import colorsys
import csv
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from ..errors import InputError, brief
from .files import open_regular
from .masks import TRANSPARENT, Color, Mask, packed, unpacked

UNLABELLED_INDEX, UNLABELLED_COLOR = 255, 0x000000  # where nobody says otherwise
MOST_CLASSES = 255
_MOST_COLORS = 64  # of masks without a file of classes: more are no classes but shades
_MOST_BYTES = 1 << 20
_NOTHING = {"unlabelled", "unlabeled"}
_COLOR = re.compile("#([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class MaskClass:
    """A class: its name, its colour in pictures, and its number in masks that are written."""

    name: str
    color: Color
    index: int


@dataclass(frozen=True)
class Classes:
    """What the values of masks mean.

    Attributes:
        known: The classes in order.
        numbers: Class of each number that masks may hold, by its place in `known`; -1 is unlabelled.
        colors: The same of each colour, 0xRRGGBB.
    """

    known: tuple[MaskClass, ...]
    numbers: Mapping[int, int]
    colors: Mapping[int, int]

    def __len__(self) -> int:
        """How many."""
        return len(self.known)

    @property
    def names(self) -> list[str]:
        """In order."""
        return [each.name for each in self.known]

    def decode(self, mask: Mask, name: str) -> Int[ndarray, "h w"]:
        """The class of each pixel, -1 where it has none.

        Args:
            mask: As `read_mask` gives it.
            name: What to call it in messages.

        Raises:
            InputError: A number or colour that means no class.
        """
        if not mask.by_color and not self.numbers:
            mask = mask.as_colors()
        table = self.colors if mask.by_color else self.numbers
        found, inverse = np.unique(mask.values, return_inverse=True)
        classes = np.empty(len(found), np.int32)
        for place, value in enumerate(found.tolist()):
            if value != TRANSPARENT and value not in table:
                raise InputError(self._unknown(mask, value, name))
            classes[place] = -1 if value == TRANSPARENT else table[value]
        return classes[inverse.reshape(mask.values.shape)]

    def _unknown(self, mask: Mask, value: int, name: str) -> str:
        row, column = (int(places[0]) for places in np.nonzero(mask.values == value))
        count = int((mask.values == value).sum())
        known = ", ".join(f"{_shown(each, mask.by_color)}" for each in sorted(self._table(mask))[:12])
        return (
            f"Every value of a mask must mean a class; {name} holds {_shown(value, mask.by_color)} in {count} pixels, "
            f"the first at row {row}, column {column}, and only these are known: {known}. Mend the mask, add the value "
            "to the classes, or state it as --unlabelled."
        )

    def _table(self, mask: Mask) -> Mapping[int, int]:
        return self.colors if mask.by_color else self.numbers


def read_classes(path: Path) -> Classes:
    """A file of classes.

    Raises:
        InputError: It cannot be read, or says something impossible.
    """
    with open_regular(path) as stream:
        raw = stream.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise InputError(f"A file of classes has at most {_MOST_BYTES:,} bytes; {str(path)!r} has more.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"A file of classes is UTF-8 text; {str(path)!r} is not: {error}.") from error
    if path.suffix.lower() == ".txt":
        names = [line.strip() for line in text.splitlines() if line.strip()]
        rows: list[tuple[int, int | None, int | None, str]] = [
            (line, number, None, name) for line, (number, name) in enumerate(enumerate(names), start=1)
        ]
        return _from_rows(rows, str(path))
    return _from_rows(list(_table_rows(text, str(path))), str(path))


def with_unlabelled(classes: Classes, value: str | int | None) -> Classes:
    """The same with a value that means no class, as it is typed: 255, "#ffffff", or "none" for no value at all.

    Raises:
        InputError: Neither a number nor a colour.
    """
    if value is None or str(value).lower() == "none":
        return classes
    number, color = unlabelled_value(value)
    numbers = dict(classes.numbers) | ({number: -1} if number is not None else {})
    colors = dict(classes.colors) | ({color: -1} if color is not None else {})
    return _only_used(classes.known, numbers, colors)


def unlabelled_value(value: str | int) -> tuple[int | None, int | None]:
    """A number, or a colour.

    Raises:
        InputError: Neither.
    """
    number, color = _value(str(value))
    if number is None and color is None:
        raise InputError(
            f"An unlabelled value is a number from 0 to 255, a colour such as '#ffffff', or 'none'; got {brief(value)}."
        )
    return number, color


def _value(text: str) -> tuple[int | None, int | None]:
    """A number of a mask or a colour, as it is typed; neither of what is neither."""
    text = text.strip()
    if found := _COLOR.fullmatch(text):
        return None, int(found[1], 16)
    whole = text.isascii() and text.isdecimal() and len(text) < 4 and int(text) < 256
    return (int(text) if whole else None), None


def classes_of(masks: Iterable[tuple[str, Mask]], unlabelled: str | int | None = None) -> Classes:
    """Classes of masks that no file explains: each value is one, with the colours of the palettes.

    Args:
        masks: Name and content of each.
        unlabelled: The value that means none; None is 255 for numbers and black for colours, "none" is no value.

    Raises:
        InputError: Numbers here and colours there, palettes that contradict each other, or too many colours.
    """
    kinds: dict[bool, str] = {}
    colors: dict[int, tuple[Color, str]] = {}
    values: set[int] = set()
    for name, mask in masks:
        kinds.setdefault(mask.by_color, name)
        if len(kinds) > 1:
            raise InputError(
                f"Masks of one set hold numbers or colours; {kinds[True]} holds colours and {kinds[False]} numbers. "
                "Write a classes.csv with the columns index,color,name, or save all in one way."
            )
        own = set(np.unique(mask.values).tolist()) - {TRANSPARENT}
        values |= own
        if mask.by_color and len(values) > _MOST_COLORS:
            raise InputError(
                f"A mask has one colour a class; {name} brings them to {len(values)}, which are shades of blurred or "
                "compressed edges. Save masks without smoothing, or write a classes.csv with the colours that count."
            )
        _note_palette(mask, own, name, colors)
    skipped = _unlabelled(unlabelled, by_color=True in kinds)
    kept = sorted(values - skipped)
    if True in kinds:
        known = [MaskClass(_hex(value), unpacked(value), place) for place, value in enumerate(kept)]
        table = {value: place for place, value in enumerate(kept)} | dict.fromkeys(skipped, -1)
        return Classes(tuple(known), {}, table)
    shown = {value: color for value, (color, _) in colors.items()}
    known = [MaskClass(f"class_{value}", shown.get(value) or spread(value), value) for value in kept]
    return Classes(tuple(known), {v: place for place, v in enumerate(kept)} | dict.fromkeys(skipped, -1), {})


def _note_palette(mask: Mask, used: set[int], name: str, colors: dict[int, tuple[Color, str]]) -> None:
    """Remember the colour of each number that is used; two palettes that give one number two colours are refused."""
    for value in used if mask.palette else ():
        color = mask.palette[value] if value < len(mask.palette) else (0, 0, 0)  # type: ignore[index]
        before, first = colors.setdefault(value, (color, name))
        if before != color:
            raise InputError(
                f"Masks of one set share a palette; {value} is {_hex(packed(before))} in {first} and "
                f"{_hex(packed(color))} in {name}. Save all with one palette or in RGB, or say in a classes.csv what "
                "each number is."
            )


def _unlabelled(value: str | int | None, *, by_color: bool) -> set[int]:
    if value is None:
        return {UNLABELLED_COLOR if by_color else UNLABELLED_INDEX}
    if str(value).lower() == "none":
        return set()
    number, color = unlabelled_value(value)
    found = color if by_color else number
    if found is None:
        held = "colours" if by_color else "numbers"
        raise InputError(f"These masks hold {held}; the unlabelled value {brief(value)} is of the other kind.")
    return {found}


def _table_rows(text: str, name: str) -> Iterable[tuple[int, int | None, int | None, str]]:
    """(line, index, colour, name) of each row."""
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        fields = [field.strip().lower() for field in reader.fieldnames or ()]
        reader.fieldnames = ["color" if field == "colour" else field for field in fields]
        if not {"index", "color"} & set(reader.fieldnames) or "name" not in reader.fieldnames:
            raise InputError(
                f"A file of classes has a header with name, and index, color or both; {name} begins with "
                f"{brief(text.splitlines()[0] if text.strip() else '')}. Begin it with index,color,name."
            )
        for number, row in enumerate(reader, start=2):
            cells = {key: (row.get(key) or "").strip() for key in ("index", "color", "name")}
            index = color = None
            if cells["index"]:
                index, _ = _value(cells["index"])
                if index is None:
                    raise InputError(
                        f"The index of a class is a number from 0 to 255; line {number} of {name} has "
                        f"{brief(cells['index'])}."
                    )
            if cells["color"]:
                _, color = _value(cells["color"])
                if color is None:
                    raise InputError(
                        f"The color of a class is written '#rrggbb'; line {number} of {name} has "
                        f"{brief(cells['color'])}."
                    )
            if not cells["name"] or (index is None and color is None):
                raise InputError(f"A class has a name, and an index or a color; line {number} of {name} lacks one.")
            yield number, index, color, cells["name"]
    except csv.Error as error:
        raise InputError(f"A file of classes must be a table; {name} is not: {error}.") from error


def _from_rows(rows: list[tuple[int, int | None, int | None, str]], name: str) -> Classes:
    known: list[MaskClass] = []
    numbers: dict[int, int] = {}
    colors: dict[int, int] = {}
    for line, index, color, label in rows:
        nothing = label.lower() in _NOTHING
        if not nothing and label in [each.name for each in known]:
            raise InputError(f"Classes have different names; {label!r} is there twice, in line {line} of {name}.")
        for table, value in ((numbers, index), (colors, color)):
            if value is not None and value in table:
                raise InputError(f"A value means one class; line {line} of {name} gives one a second meaning.")
            if value is not None:
                table[value] = -1 if nothing else len(known)
        if not nothing:
            number = len(known) if index is None else index
            shown = spread(number) if color is None else unpacked(color)
            known.append(MaskClass(label, shown, number))
    if not known or len(known) > MOST_CLASSES:
        raise InputError(f"There are from 1 to {MOST_CLASSES} classes; {name} names {len(known)}.")
    if numbers and not any(each < 0 for each in numbers.values()):
        numbers.setdefault(UNLABELLED_INDEX, -1)
    if colors and not numbers and not any(each < 0 for each in colors.values()):
        colors.setdefault(UNLABELLED_COLOR, -1)
    return Classes(tuple(known), numbers, colors)


def _only_used(known: tuple[MaskClass, ...], numbers: dict[int, int], colors: dict[int, int]) -> Classes:
    """The classes that some value still means, in order."""
    used = sorted({place for table in (numbers, colors) for place in table.values() if place >= 0})
    new = {-1: -1} | {place: position for position, place in enumerate(used)}
    kept = tuple(known[place] for place in used)
    tables = ({value: new[place] for value, place in table.items()} for table in (numbers, colors))
    return Classes(kept, *tables)


def spread(number: int) -> Color:
    """A colour for a number, far from those of its neighbours."""
    hue, value = number * 0.381966 % 1, (0.95, 0.7)[number // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
    return (round(255 * red), round(255 * green), round(255 * blue))


def _hex(value: int) -> str:
    return f"#{value:06x}"


def _shown(value: int, by_color: bool) -> str:
    return _hex(value) if by_color else str(value)


def classes_file(folder: Path) -> Path | None:
    """The file of classes that lies in a folder, if one does."""
    return next((folder / name for name in ("classes.csv", "classes.txt") if os.path.lexists(folder / name)), None)


def class_table(classes: Iterable[MaskClass]) -> str:
    """A `classes.csv` of classes, for masks that are written with their numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("index", "color", "name"))
    writer.writerows((each.index, _hex(packed(each.color)), each.name) for each in classes)
    return out.getvalue()
