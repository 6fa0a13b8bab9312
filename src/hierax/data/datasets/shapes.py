"""A labelled set of shapes and textures that the project renders itself, without limit and without downloads.

An image is fully determined by its seed and index. Proportions are in units of the frame's shorter side.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image

from ...atomic import folder_beside
from ...errors import InputError, nearest, writing
from . import paint
from .paint import Picture, Plane, Points, Size

PATTERN_SAMPLES = 2  # per pixel and axis: what makes edges smooth
MOST_IMAGES = 100_000_000  # of one set, so that their labels fit into memory
LEAST_SIDE, MOST_SIDE = 8, 4096  # pixels
IMAGE_FORMATS = {"jpg": {"quality": 92, "subsampling": 0}, "png": {}}

OUTLINES = ("circle", "square", "triangle", "pentagon", "star", "cross", "ring", "crescent", "heart", "arrow")
PATTERNS = ("stripes", "checkerboard", "dots", "spiral", "waves", "bricks")
CLASSES: tuple[str, ...] = (*OUTLINES, *PATTERNS)


def _arc(start: float, stop: float, count: int = 48) -> Points:
    angle = np.linspace(start, stop, count)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _polygon(corners: int) -> Points:
    return _arc(0, 2 * math.pi, corners + 1)[:-1]


def outline(name: str, rng: Generator) -> Points:
    """A closed polygon around the origin, about one unit in radius."""
    match name:
        case "circle":
            return _polygon(64)
        case "square":
            return _polygon(4) @ np.array([(1, 1), (-1, 1)]) * math.sqrt(0.5)
        case "triangle":
            return _polygon(3) * 1.1
        case "pentagon":
            return _polygon(5)
        case "star":
            points = _polygon(2 * int(rng.integers(5, 8))) * 1.1
            points[1::2] *= rng.uniform(0.38, 0.5)
            return points
        case "cross":
            arm = rng.uniform(0.24, 0.38)
            quarter = np.array([(1.0, -arm), (1.0, arm), (arm, arm)])
            turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
            return np.concatenate([quarter @ np.array([(c, s), (-s, c)]) for c, s in turns])
        case "ring":
            # Out along the rim and back along the hole; the seam between them has no area.
            return np.concatenate([_arc(0, 2 * math.pi), _arc(2 * math.pi, 0) * rng.uniform(0.5, 0.72)])
        case "crescent":
            # The inner arc shares the outer one's tips, at angle +-tip, and leaves `thickness` at the middle.
            tip, thickness = rng.uniform(0.45, 0.9), rng.uniform(0.4, 0.8)
            x, y, hollow = math.cos(tip), math.sin(tip), 1 - thickness
            center = (1 - hollow**2) / (2 * (x + hollow))
            opening = math.atan2(y, x - center)
            inner = _arc(2 * math.pi - opening, opening) * (center + hollow) + np.array([center, 0])
            return np.concatenate([_arc(tip, 2 * math.pi - tip), inner]) + np.array([0.25, 0])
        case "heart":
            t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
            y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
            return np.stack([16 * np.sin(t) ** 3, y], 1) / 16
    shaft, neck = rng.uniform(0.18, 0.3), rng.uniform(-0.05, 0.25)  # an arrow
    upper = [(1.1, 0.0), (neck, 0.75), (neck, shaft), (-1.0, shaft)]
    return np.array([*upper, *((x, -y) for x, y in upper[:0:-1])])


def _fraction(x: Plane) -> Plane:
    return x - np.floor(x)


def pattern(name: str, rng: Generator, u: Plane, v: Plane) -> Bool[ndarray, "h w"]:
    """Which of two colours each point has; u and v are turned coordinates in units of the shorter side."""
    match name:
        case "stripes":
            return _fraction(u / rng.uniform(0.1, 0.3)) < rng.uniform(0.35, 0.65)
        case "checkerboard":
            side = rng.uniform(0.09, 0.2)
            return (_fraction(u / (2 * side)) < 0.5) == (_fraction(v / (2 * side)) < 0.5)
        case "dots":
            pitch = rng.uniform(0.15, 0.3)
            column, row = u / pitch, v / pitch
            if rng.random() < 0.5:
                row = row + 0.5 * np.floor(column)
            x, y = _fraction(column) - 0.5, _fraction(row) - 0.5
            return x * x + y * y < rng.uniform(0.25, 0.4) ** 2
        case "spiral":
            arms = int(rng.integers(1, 4))
            turns = np.sqrt(u * u + v * v) / rng.uniform(0.12, 0.3) + np.arctan2(v, u) * (arms / (2 * math.pi))
            return _fraction(turns) < rng.uniform(0.4, 0.6)
        case "waves":
            period, length = rng.uniform(0.12, 0.26), rng.uniform(0.25, 0.55)
            sway = rng.uniform(0.13, 0.22) * length * np.sin(v * (2 * math.pi / length))
            return _fraction((u + sway) / period) < rng.uniform(0.4, 0.6)
    height, mortar = rng.uniform(0.11, 0.2), rng.uniform(0.13, 0.22)  # bricks
    row = v / height
    column = u / (height * rng.uniform(1.8, 2.6)) + 0.5 * np.floor(row)
    return (_fraction(row) > mortar) & (_fraction(column) > mortar / 2)


def render(index: int, *, seed: int = 0, size: int | Size = 96) -> tuple[UInt8[ndarray, "h w 3"], int]:
    """Draw one image of the set and give its label.

    Args:
        index: Which image; labels cycle, so any run of `len(CLASSES)` indices holds every class once.
        seed: Which set; sets of different seeds share no image.
        size: Pixels, one side of a square or (height, width).

    Returns:
        RGB pixels, and the label as an index into `CLASSES`.

    Raises:
        InputError: A negative index or seed, or a side below 8 or above 4096 pixels.
    """
    pixels, label, _ = _rendered(index, seed, size)
    return pixels, label


def object_mask(index: int, *, seed: int = 0, size: int | Size = 96) -> Bool[ndarray, "h w"] | None:
    """Which pixels of the image that `render` draws are its object; None where a texture fills the frame.

    Pixels that are covered by more than a half; bars that lie over the object belong to it, its rim and shadow do not.

    Raises:
        InputError: As `render`.
    """
    return _rendered(index, seed, size)[2]


def _rendered(
    index: int, seed: int, size: int | Size
) -> tuple[UInt8[ndarray, "h w 3"], int, Bool[ndarray, "h w"] | None]:
    """Pixels, label and object of one image."""
    sides = checked(index, seed, size, least=LEAST_SIDE)
    rng = np.random.Generator(np.random.PCG64([seed, index]))
    label = index % len(CLASSES)
    if CLASSES[label] in OUTLINES:
        picture, coverage = _draw_outline(rng, CLASSES[label], sides)
        mask = coverage > 0.5
    else:
        picture, mask = _draw_pattern(rng, CLASSES[label], sides), None
    return paint.degrade(rng, paint.occlude(rng, picture)), label, mask


def render_folder(
    destination: str | Path, *, count: int, seed: int = 0, size: int | Size = 96, image_format: str = "jpg"
) -> Path:
    """Write images 0 to `count` - 1 of a set as one folder per class, whole or not at all.

    Args:
        destination: Folder to create; it may exist if it is empty.
        count: Number of images over all classes.
        seed: Which set.
        size: Pixels, one side of a square or (height, width).
        image_format: "jpg" or "png".

    Returns:
        The folder written, holding `CLASS/INDEX.FORMAT`.

    Raises:
        InputError: The destination is a file or a folder with something in it, or an argument is out of range.
    """
    with new_set(destination, count, image_format) as partial:
        for name in CLASSES[:count]:
            (partial / name).mkdir()
        for index in range(count):
            pixels, label = render(index, seed=seed, size=size)
            path = partial / CLASSES[label] / f"{index:0{len(str(count - 1))}}.{image_format}"
            Image.fromarray(pixels).save(path, **IMAGE_FORMATS[image_format])
    return Path(destination)


def checked(index: int, seed: int, size: int | Size, *, least: int) -> Size:
    """The size as (height, width).

    Raises:
        InputError: A negative index or seed, or a side below `least` or above 4096 pixels.
    """
    sides = (size, size) if isinstance(size, int) else size
    if len(sides) != 2 or not least <= min(sides) <= max(sides) <= MOST_SIDE:
        raise InputError(f"Size must be one side or (height, width), of {least} pixels to {MOST_SIDE}; got {size}.")
    if index < 0 or seed < 0:
        raise InputError(f"Index and seed must be 0 or more; got index {index}, seed {seed}.")
    return sides


@contextlib.contextmanager
def new_set(destination: str | Path, count: int, image_format: str) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is whole.

    Raises:
        InputError: The destination is a file or a folder with something in it, no such format, or a count out of range.
    """
    folder = Path(destination)
    if image_format not in IMAGE_FORMATS:
        hint = nearest(image_format, IMAGE_FORMATS)
        raise InputError(f"Image format must be 'jpg' or 'png'; got {image_format!r}. {hint}".rstrip())
    if not 1 <= count <= MOST_IMAGES:
        raise InputError(f"count must be from 1 to {MOST_IMAGES:,}; got {count}.")
    _check_vacant(folder)
    with writing(folder), folder_beside(folder) as partial:
        yield partial
        _check_vacant(folder)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)


def _check_vacant(folder: Path) -> None:
    is_folder = folder.is_dir()
    if (os.path.lexists(folder) and not is_folder) or (is_folder and any(folder.iterdir())):
        kind = "a folder that is not empty" if is_folder else "a file" if folder.is_file() else "no folder"
        raise InputError(
            f"Rendered images go into a new or empty folder; got {str(folder)!r}, {kind}. Name another or remove it."
        )


def _draw_outline(rng: Generator, name: str, size: Size) -> tuple[Picture, Plane]:
    """One filled outline, sometimes with a rim and a shadow, over a plain, graded or cloudy ground; what it covers."""
    side, middle = min(size), np.array(size[::-1]) / 2
    ground, fill, rim = paint.colors(rng, 3)
    radius = rng.uniform(0.3, 0.44) * side
    center = middle + rng.uniform(-1, 1, 2) * np.maximum(middle - 0.95 * radius, 0)
    points = outline(name, rng) @ paint.pose(rng).T * radius
    picture = paint.ground(rng, ground, size)
    if rng.random() < 0.4:
        offset = rng.uniform(0.02, 0.06, 2) * side * rng.choice((-1, 1), 2)
        picture = picture * (1 - 0.45 * paint.coverage(points + center + offset, size, blur=0.02 * side))
    if rng.random() < 0.35:
        width = rng.uniform(0.015, 0.035) * side
        picture = paint.over(picture, rim, paint.coverage(points + center, size, outline=width))
    coverage = paint.coverage(points + center, size)
    return paint.over(picture, fill * paint.light(rng, size), coverage), coverage


def _draw_pattern(rng: Generator, name: str, size: Size) -> Picture:
    """One pattern over the whole frame, in two colours under uneven light."""
    (h, w), n = size, PATTERN_SAMPLES
    x = (np.arange(w * n, dtype=np.float32) + 0.5) / n - w / 2
    y = (np.arange(h * n, dtype=np.float32) + 0.5)[:, None] / n - h / 2
    # A spiral is one only where its centre can be seen.
    reach = 0.25 if name == "spiral" else 1.0
    x = x / min(size) - np.float32(rng.uniform(-reach, reach) * w / min(size) / 2)
    y = y / min(size) - np.float32(rng.uniform(-reach, reach) * h / min(size) / 2)
    (a, b), (c, d) = np.linalg.inv(paint.pose(rng)).astype(np.float32)
    inside = pattern(name, rng, a * x + b * y, c * x + d * y)
    coverage = np.asarray(Image.fromarray(inside * np.uint8(255)).reduce(n), np.float32) / 255
    ground, fill = paint.colors(rng, 2)
    return paint.over(paint.ground(rng, ground, size), fill * paint.light(rng, size), coverage)
