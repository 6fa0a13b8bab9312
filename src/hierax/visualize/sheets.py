"""Sheets of images with captions, as RGB bytes (h, w, 3): contact sheets, stage maps, masked autoencoders.

Only Pillow and its built-in font, so that no plotting package is needed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from ..atomic import atomic_file
from ..config import PreprocessSpec
from ..errors import InputError, writing
from .heat import INK, PAPER, Picture, heat_colors, overlay, scale_bar

FAINT = (122, 128, 138)
_HIDDEN = np.uint8(205)  # the grey of what a masked autoencoder did not see
_GAP, _TEXT, _TILE, _PANEL = 12, 13, 144, 224  # pixels; an image on a contact sheet, and on others
_SCALE = 64  # pixels of a scale of colours, at least


def contact_sheet(images: Sequence[Picture], captions: Sequence[str], *, columns: int | None = None) -> Picture:
    """A grid of images, about 4:3, with a caption each, such as the worst mistakes of an evaluation.

    Args:
        images: RGB images of any sizes.
        captions: One per image; further lines, after newlines, are drawn fainter.
        columns: Images side by side at most, where the grid is to have another shape.

    Raises:
        InputError: No image, or not one caption per image.
    """
    if not images or len(images) != len(captions):
        raise InputError(f"A contact sheet has one caption per image; got {len(images)} and {len(captions)}.")
    columns = min(len(images), max(1, columns or round(math.sqrt(len(images) * 4 / 3))))
    rows = -(-len(images) // columns)
    further = max(caption.count("\n") for caption in captions)
    step_x, step_y = _TILE + _GAP, _TILE + 3 * _GAP + _TEXT * max(1, further)
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), PAPER)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = _GAP + k % columns * step_x, _GAP + k // columns * step_y
        picture = _fitted(image, _TILE)
        sheet.paste(picture, (x + (_TILE - picture.width) // 2, y + (_TILE - picture.height) // 2))
        _write_caption(sheet, (x, y + _TILE), _TILE, *caption.split("\n"))
    return np.asarray(sheet)


def missing_picture(why: str) -> Picture:
    """What stands on a sheet in place of an image that cannot be shown."""
    sheet = Image.new("RGB", (_TILE, _TILE), (232, 233, 235))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, _TILE - 1, _TILE - 1), outline=FAINT)
    text = _clipped(why, _font(-1), _TILE - _GAP)
    draw.text(((_TILE - _font(-1).getlength(text)) / 2, _TILE / 2 - _TEXT / 2), text, FAINT, _font(-1))
    return np.asarray(sheet)


def feature_sheet(
    image: Picture, maps: Mapping[str, Picture], *, seen: Picture | None = None, name: str = "image"
) -> Picture:
    """One image beside its stage maps, cells enlarged without smoothing.

    Args:
        image: RGB pixels.
        maps: Per stage, one image's map as `maps.pca_maps` colours it.
        seen: What the network saw of the image, as `seen_pixels` gives it: maps are maps of that. Without it they are
            drawn as if of the whole image.
        name: What stands under the image, such as its file name.
    """
    panels = [(_fitted(image, _PANEL), name, f"{image.shape[1]} x {image.shape[0]} px")]
    if seen is not None:
        panels.append((_fitted(seen, _PANEL), "seen by the network", f"{seen.shape[1]} x {seen.shape[0]} px"))
    size = panels[-1][0].size
    for stage, cells in maps.items():
        panel = Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)
        panels.append((panel, stage, f"{cells.shape[1]} x {cells.shape[0]}"))
    return _row_of(panels)


def heat_sheet(
    image: Picture, values: Float[ndarray, "h w"], *, name: str, size: tuple[int, int], about: str, unit: str
) -> Picture:
    """An image, a map over it, the map alone, and the scale of its colours.

    Args:
        image: RGB pixels, as large as they are drawn or larger.
        values: One for each of these pixels.
        name: What stands under the image, such as its file name.
        size: Height and width of the file.
        about: What the map is of.
        unit: What its numbers are.
    """
    shown = _fitted(image, _PANEL)
    small = np.asarray(Image.fromarray(values.astype(np.float32)).resize(shown.size, Image.Resampling.BILINEAR))
    least, largest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    lightest = max(largest, -least)
    most = "nowhere above 0"
    if largest > 0:
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        y, x = (int((k + 0.5) * side / n) for k, side, n in zip((row, column), size, values.shape, strict=True))
        most = f"most at x {x}, y {y}"
    panels = [
        (shown, name, f"{size[1]} x {size[0]} px"),
        (Image.fromarray(overlay(np.asarray(shown), small, lightest)), about, unit),
        (Image.fromarray(heat_colors(small, lightest)), "the map alone", most),
        (Image.fromarray(scale_bar(least, largest, max(shown.height, _SCALE))), "", ""),
    ]
    return _row_of(panels)


def timeline_sheet(
    images: Sequence[Picture], names: Sequence[str], columns: Mapping[str, Sequence[Picture]], *, note: str = ""
) -> Picture:
    """One row an image: the image, then its map in each column.

    Args:
        images: What the network saw of each.
        names: What stands under each.
        columns: Maps of all images, by what stands under them, from left to right.
        note: What stands below all.

    Raises:
        InputError: No image.
    """
    rows = []
    for place, (image, name) in enumerate(zip(images, names, strict=True)):
        first = _fitted(image, _TILE)
        shown = [(Image.fromarray(found[place]).resize(first.size, Image.Resampling.NEAREST), said, "")
                 for said, found in columns.items()]  # fmt: skip
        rows.append(_row_of([(first, _clipped(name, _font(1), _TILE), ""), *shown]))
    return stack_sheets(rows, note=note)


def seen_pixels(image: Float[ndarray, "3 h w"], spec: PreprocessSpec) -> Picture:
    """A preprocessed image as colours again: what a network sees.

    Args:
        image: One preprocessed image.
        spec: Its mean and std turn values back into colours.
    """
    rgb = image.transpose(1, 2, 0) * np.array(spec.std) + np.array(spec.mean)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def masked_triptych(
    image: Float[ndarray, "3 h w"],
    rebuilt: Float[ndarray, "3 h w"],
    visible: Bool[ndarray, "h w"],
    spec: PreprocessSpec,
    normalized: bool,
) -> Picture:
    """The image, what a masked autoencoder saw of it, and what it made of that.

    Args:
        image: One preprocessed image.
        rebuilt: As `reconstruction` gives it.
        visible: As `reconstruction` gives it.
        spec: Its mean and std turn values back into colours.
        normalized: Whether targets were normalised.
    """
    true, made = seen_pixels(image, spec), seen_pixels(rebuilt, spec)
    seen = np.where(visible[..., None], true, _HIDDEN)
    note = "un-normalised with the original's patch mean and std" if normalized else "as predicted"
    return _row_of(
        [
            (_fitted(true, _PANEL), "image", f"{true.shape[1]} x {true.shape[0]} px"),
            (_fitted(seen, _PANEL), "seen", f"{visible.mean():.0%} visible"),
            (_fitted(made, _PANEL), "reconstruction", note),
        ]
    )


def stack_sheets(sheets: Sequence[Picture], *, note: str = "") -> Picture:
    """Several sheets, one below another.

    Args:
        sheets: The sheets.
        note: What stands below them, such as how to read them.

    Raises:
        InputError: There is none.
    """
    if not sheets:
        raise InputError("A stack needs at least one sheet; got none.")
    width = max(sheet.shape[1] for sheet in sheets)
    stack = [np.full((len(sheet), width, 3), PAPER, np.uint8) for sheet in sheets]
    for wide, sheet in zip(stack, sheets, strict=True):
        wide[:, : sheet.shape[1]] = sheet
    return np.concatenate([*stack, _note(note, width)] if note else stack)


def _note(text: str, width: int) -> Picture:
    """A paragraph, wrapped to a width."""
    lines, font = [""], _font(0)
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font.getlength(longer) > width - 2 * _GAP:
            lines.append(word)
        else:
            lines[-1] = longer
    sheet = Image.new("RGB", (width, _GAP + len(lines) * (_TEXT + 6)), PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((_GAP, number * (_TEXT + 6)), line, INK, font)
    return np.asarray(sheet)


def write_picture(picture: Picture, path: Path) -> None:
    """Write a picture whole or not at all, in the format that the file name ends with.

    Raises:
        InputError: The place cannot be written.
    """
    with writing(path), atomic_file(path) as partial:
        Image.fromarray(picture).save(partial)


def _fitted(image: Picture, tile: int) -> Image.Image:
    """An image scaled so that its longer side is `tile`."""
    picture = Image.fromarray(image)
    scale = tile / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small images are shown as what they are: pixels.
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS)


def _row_of(panels: Sequence[tuple[Image.Image, str, str]]) -> Picture:
    """Panels side by side, each with a name and a fainter detail below."""
    height = max(panel.height for panel, _, _ in panels)
    widest = 2 * _PANEL  # of a caption: names are those of files and classes, as long as anybody made them
    panels = [(panel, name[:widest], detail[:widest]) for panel, name, detail in panels]
    columns = [
        max(panel.width, min(widest, math.ceil(max(_font(1).getlength(name), _font(-1).getlength(detail)))))
        for panel, name, detail in panels
    ]
    sheet = Image.new("RGB", (sum(columns) + _GAP * (len(panels) + 1), height + _GAP + 4 * _TEXT), PAPER)
    left = _GAP
    for (panel, name, detail), width in zip(panels, columns, strict=True):
        sheet.paste(panel, (left, _GAP + (height - panel.height) // 2))
        _write_caption(sheet, (left, _GAP + height), width, name, detail)
        left += width + _GAP
    return np.asarray(sheet)


def _write_caption(sheet: Image.Image, corner: tuple[int, int], width: int, name: str, *details: str) -> None:
    """Write a name and fainter details below it, each cut to a width."""
    draw, (x, y) = ImageDraw.Draw(sheet), corner
    draw.text((x, y + 5), _clipped(name, _font(1), width), INK, _font(1))
    for line, detail in enumerate(details, start=1):
        draw.text((x, y + 9 + line * _TEXT), _clipped(detail, _font(-1), width), FAINT, _font(-1))


def drawn_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """What names on sheets are written in."""
    return _font(0)


def _font(larger: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT + larger)


def _clipped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of one line as fits, with dots where it was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    cut = bisect.bisect(range(1, len(text)), width, key=lambda n: font.getlength(text[:n] + "..."))
    return text[:cut].rstrip() + "..."
