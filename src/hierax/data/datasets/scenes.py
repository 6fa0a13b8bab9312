"""Scenes of several rendered shapes, with a box, a polygon and a mask for each: a set to train detectors on.

A scene is fully determined by its seed and index. Shapes stand apart from each other and inside the frame, so that
every one is whole; a box is that of its polygon.
"""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image

from ...errors import InputError, nearest
from ..mask_classes import MaskClass, class_table
from . import paint
from .paint import Points, Size
from .shapes import IMAGE_FORMATS, OUTLINES, checked, new_set, outline

TASKS = ("detection", "segmentation")
LEAST_SIDE = 32  # pixels; below, no shape of a scene could be told from another
MOST_SHAPES = 4
_GAP = 1.15  # of the distance at which the circles around two shapes touch
_TRIES = 40


@dataclass(frozen=True)
class Thing:
    """One shape of a scene.

    Attributes:
        label: Index into `OUTLINES`.
        points: Corners in pixels, x and y.
    """

    label: int
    points: Points

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) in pixels."""
        (left, top), (right, bottom) = self.points.min(0), self.points.max(0)
        return float(left), float(top), float(right - left), float(bottom - top)

    @property
    def area(self) -> float:
        """Pixels inside."""
        x, y = self.points.T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


@dataclass(frozen=True)
class Scene:
    """One image of the set.

    Attributes:
        pixels: RGB.
        things: What is in it, at least one.
        mask: Class of each pixel: 0 is ground, k + 1 is class k of `OUTLINES`.
    """

    pixels: UInt8[ndarray, "h w 3"]
    things: tuple[Thing, ...]
    mask: UInt8[ndarray, "h w"]


def render_scene(index: int, *, seed: int = 0, size: int | Size = 192) -> Scene:
    """Draw one scene of 1 to 4 shapes.

    Args:
        index: Which scene; the first shapes of any run of `len(OUTLINES)` scenes hold every class once.
        seed: Which set; sets of different seeds share no scene.
        size: Pixels, one side of a square or (height, width).

    Raises:
        InputError: A negative index or seed, or a side below 32 or above 4096 pixels.
    """
    sides = checked(index, seed, size, least=LEAST_SIDE)
    rng = np.random.Generator(np.random.PCG64([seed, index, 2]))
    things = _placed(rng, index % len(OUTLINES), sides)
    colors = paint.colors(rng, len(things) + 1)
    picture, mask = paint.ground(rng, colors[0], sides), np.zeros(sides, np.uint8)
    for thing, color in zip(things, colors[1:], strict=True):
        covered = paint.coverage(thing.points, sides)
        picture = paint.over(picture, color * paint.light(rng, sides), covered)
        mask[covered > 0.5] = thing.label + 1
    return Scene(paint.degrade(rng, picture), tuple(things), mask)


def _placed(rng: Generator, first: int, sides: Size) -> list[Thing]:
    """Shapes that neither touch nor leave the frame; the first is of a given class."""
    side, frame = min(sides), np.array(sides[::-1], float)
    things: list[Thing] = []
    circles: list[tuple[Float[ndarray, " 2"], float]] = []
    wanted = int(rng.integers(1, MOST_SHAPES + 1))
    for _ in range(_TRIES):
        label = first if not things else int(rng.integers(len(OUTLINES)))
        points = outline(OUTLINES[label], rng) @ paint.pose(rng).T * rng.uniform(0.13, 0.22) * side
        points = points - (points.min(0) + points.max(0)) / 2
        half, reach = points.max(0), float(np.linalg.norm(points, axis=1).max())
        middle = rng.uniform(half + 1, frame - half - 1)
        if all(math.dist(middle, other) > _GAP * (reach + radius) for other, radius in circles):
            things.append(Thing(label, points + middle))
            circles.append((middle, reach))
        if len(things) == wanted:
            break
    return things


def render_scenes(
    destination: str | Path,
    *,
    task: str = "detection",
    count: int,
    seed: int = 0,
    size: int | Size = 192,
    image_format: str = "jpg",
) -> Path:
    """Write scenes 0 to `count` - 1 with their annotations, whole or not at all.

    Args:
        destination: Folder to create; it may exist if it is empty.
        task: "detection" writes `images/INDEX.FORMAT` and `annotations.json`, COCO's format with boxes and polygons;
            "segmentation" also `masks/INDEX.png`, whose pixels are the categories of that file and 0 for the ground,
            and their names in `classes.csv`.
        count: Number of scenes.
        seed: Which set.
        size: Pixels, one side of a square or (height, width).
        image_format: "jpg" or "png".

    Returns:
        The folder written.

    Raises:
        InputError: The destination is a file or a folder with something in it, or an argument is out of range.
    """
    if task not in TASKS:
        raise InputError(f"task must be 'detection' or 'segmentation'; got {task!r}. {nearest(task, TASKS)}".rstrip())
    with new_set(destination, count, image_format) as partial:
        (partial / "images").mkdir()
        if task == "segmentation":
            (partial / "masks").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            scene = render_scene(index, seed=seed, size=size)
            stem = f"{index:0{len(str(count - 1))}}"
            name = f"{stem}.{image_format}"
            Image.fromarray(scene.pixels).save(partial / "images" / name, **IMAGE_FORMATS[image_format])
            height, width = scene.mask.shape
            images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
            annotations += _annotations(scene, index + 1, len(annotations) + 1)
            if task == "segmentation":
                _indexed(scene.mask).save(partial / "masks" / f"{stem}.png")
        info = {"description": f"hierax render --task {task} --seed {seed}"}
        kinds = [{"id": number, "name": name} for number, name in enumerate(OUTLINES, start=1)]
        said = {"info": info, "images": images, "annotations": annotations, "categories": kinds}
        (partial / "annotations.json").write_text(json.dumps(said), encoding="utf-8")
        if task == "segmentation":
            (partial / "classes.csv").write_text(class_table(_classes()), encoding="utf-8")
    return Path(destination)


def _annotations(scene: Scene, image: int, first: int) -> list[dict[str, Any]]:
    """COCO's records of a scene, numbered from `first`."""
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": thing.label + 1,
            "bbox": [round(value, 2) for value in thing.box],
            "area": round(thing.area, 2),
            "iscrowd": 0,
            "segmentation": [np.round(thing.points, 2).flatten().tolist()],
        }
        for number, thing in enumerate(scene.things, start=first)
    ]


def _indexed(mask: UInt8[ndarray, "h w"]) -> Image.Image:
    """A mask as an image whose pixels are numbers of classes, and that viewers show in colours."""
    image = Image.fromarray(mask, "P")
    image.putpalette([part for each in _classes() for part in each.color])
    return image


def _classes() -> list[MaskClass]:
    """The ground, and each kind of shape under its number in COCO's file."""
    found, count = [MaskClass("ground", (0, 0, 0), 0)], len(OUTLINES)
    for number, name in enumerate(OUTLINES):
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number / count, 0.8, 0.9))
        found.append(MaskClass(name, (red, green, blue), number + 1))
    return found
