"""Rendered scenes with exact masks, by the renderer's own code, and scribbles as a person would draw them."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hierax.data.datasets import paint, shapes

NAMES = ("background", "circle", "star", "cross")
HUES = (0.6, 0.0, 0.33, 0.15)
COLORS = ((70, 70, 70), (214, 39, 40), (44, 160, 44), (31, 119, 180))


def scene(index: int, *, seed: int = 5, size: int = 96, hues: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """RGB pixels, and the class of each: one or two shapes over a ground, under the renderer's light and noise.

    Each class has a hue, as things in photographs have; without `hues` colours say nothing of classes.
    """
    rng = np.random.default_rng([seed, index])
    sides = (size, size)
    grounds = paint.colors(rng, 4)

    def color(kind: int) -> np.ndarray:
        if not hues:
            return grounds[kind]
        rgb = colorsys.hsv_to_rgb((HUES[kind] + rng.uniform(-0.04, 0.04)) % 1, *rng.uniform((0.4, 0.4), (0.9, 1.0)))
        return np.array(rgb, np.float32).reshape(3, 1, 1)

    picture, mask = np.array(paint.ground(rng, color(0), sides)), np.zeros(sides, np.uint8)
    for place, kind in enumerate([1 + index % 3, 1 + (index // 3 + index + 1) % 3][: 1 + index % 2]):
        middle = np.array([0.3 + 0.4 * place, rng.uniform(0.35, 0.65)]) * size
        points = shapes.outline(NAMES[kind], rng) @ paint.pose(rng).T * rng.uniform(0.2, 0.3) * size + middle
        cover = paint.coverage(points, sides)
        picture = paint.over(picture, color(kind) * paint.light(rng, sides), cover)
        mask[cover > 0.5] = kind
    return paint.degrade(rng, picture), mask


def scribbles(mask: np.ndarray, *, seed: int = 0, unlabelled: int = 255) -> np.ndarray:
    """One short stroke inside each class of a mask, two for the class 0."""
    from scipy.ndimage import distance_transform_edt

    rng, out = np.random.default_rng(seed), np.full(mask.shape, unlabelled, np.uint8)
    for kind in np.unique(mask):
        inside = distance_transform_edt(np.pad(mask == kind, 1))[1:-1, 1:-1] > 2
        places = np.argwhere(inside)
        for _ in range(2 if kind == 0 else 1):
            if not len(places):
                continue
            canvas = Image.new("L", mask.shape[::-1])
            start = places[rng.integers(len(places))]
            near = places[np.abs(places - start).max(1) < mask.shape[0] / 4]
            ends = [start, *near[rng.integers(len(near), size=2)]]
            ImageDraw.Draw(canvas).line([(int(x), int(y)) for y, x in ends], fill=1, width=2)
            out[(np.asarray(canvas) > 0) & (mask == kind)] = kind
    return out


def write_labels(
    folder: Path, count: int, *, start: int = 0, seed: int = 5, size: int = 96, full: bool = False
) -> Path:
    """Images and masks in two folders, with a file of classes."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(start, start + count):
        pixels, mask = scene(index, seed=seed, size=size)
        Image.fromarray(pixels).save(folder / "images" / f"{index:03}.png")
        drawn = Image.fromarray(mask if full else scribbles(mask, seed=index))
        drawn.putpalette([value for color in COLORS for value in color] + [0] * 756)
        drawn.save(folder / "masks" / f"{index:03}.png")
    rows = [
        f"{number},#{r:02x}{g:02x}{b:02x},{name}"
        for number, (name, (r, g, b)) in enumerate(zip(NAMES, COLORS, strict=True))
    ]
    (folder / "classes.csv").write_text("\n".join(["index,color,name", *rows, "255,,unlabelled"]) + "\n")
    return folder
