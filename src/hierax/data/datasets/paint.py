"""What rendered pictures are painted with: colours, grounds, covered pixels, and what a camera does to them.

Proportions are in units of the frame's shorter side.
"""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

OUTLINE_SAMPLES = 3  # per pixel and axis: what makes edges smooth
MAX_TILT = math.radians(25)  # Things mostly stand upright; a full turn would be a harder set than a nano model needs.

Size = tuple[int, int]
Points = Float[ndarray, "n 2"]
Picture = Float[ndarray, "3 h w"]  # RGB in 0..1; planes, because NumPy is slow along an axis of three.
Plane = Float[ndarray, "h w"]
Color = Float[ndarray, "3 1 1"]


def pose(rng: Generator) -> Float[ndarray, "2 2"]:
    """A random tilt and mirror, then a mild stretch along the image axes."""
    angle, stretch = rng.uniform(-MAX_TILT, MAX_TILT), math.exp(rng.uniform(-0.16, 0.16))
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([(c, -s), (s, c)]) * (1.0, rng.choice((-1, 1)))
    return np.array([(stretch,), (1 / stretch,)]) * turn


def coverage(points: Points, size: Size, *, outline: float = 0, blur: float = 0) -> Plane:
    """How much of each pixel a polygon (or a line of that width around it) covers, in 0..1."""
    n = OUTLINE_SAMPLES
    canvas = Image.new("L", (size[1] * n, size[0] * n))
    draw = ImageDraw.Draw(canvas)
    corners = [(float(x), float(y)) for x, y in points * n]
    if outline:
        draw.line([*corners, *corners[:2]], fill=255, width=max(1, round(2 * outline * n)), joint="curve")
    else:
        draw.polygon(corners, fill=255)
    canvas = canvas.reduce(n)
    if blur:
        canvas = canvas.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(canvas, np.float32) / 255


def over(below: Picture | Color, color: Picture | Color, coverage: Plane) -> Picture:
    """A colour laid over a picture as far as it covers each pixel."""
    return (color - below) * coverage + below


def colors(rng: Generator, count: int) -> list[Color]:
    """Random colours, each clearly different from all before it."""
    chosen: list[Color] = []
    distance = 0.55
    while len(chosen) < count:
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.beta(2, 1.6), rng.uniform(0.15, 1.0))
        color = np.array(rgb, np.float32).reshape(3, 1, 1)
        if all(np.linalg.norm(color - other) > distance for other in chosen):
            chosen.append(color)
        distance *= 0.98
    return chosen


def ground(rng: Generator, color: Color, size: Size) -> Picture:
    """A background of one colour: plain, graded to a neighbouring colour, or cloudy."""
    kind = rng.integers(3)
    if kind == 0:
        return np.broadcast_to(color, (3, *size))
    other = np.clip(color + rng.uniform(-0.3, 0.3, color.shape).astype(np.float32), 0, 1)
    return over(color, other, _slope(rng, size) if kind == 1 else _clouds(rng, size))


def light(rng: Generator, size: Size) -> Plane:
    """A factor that darkens one side of the picture by up to 30 %."""
    return 1 - rng.uniform(0, 0.3) * _slope(rng, size)


def _slope(rng: Generator, size: Size) -> Plane:
    """A linear ramp from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    x = np.linspace(-1, 1, size[1], dtype=np.float32) * np.float32(math.cos(angle))
    return (y + x) / (2 * (abs(math.sin(angle)) + abs(math.cos(angle)))) + 0.5


def _clouds(rng: Generator, size: Size) -> Plane:
    """Smooth noise in 0..1: three octaves of random grids, enlarged."""
    total = np.zeros(size, np.float32)
    for octave, weight in ((3, 0.5), (6, 0.3), (14, 0.2)):
        grid = Image.fromarray(rng.random((octave, octave), np.float32))
        total += weight * np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return np.clip(total * 1.6 - 0.3, 0, 1)


def occlude(rng: Generator, picture: Picture) -> Picture:
    """Lay up to two opaque bars over the picture, thin enough to leave the class visible."""
    size = picture.shape[1:]
    side = min(size)
    for _ in range(rng.integers(3)):
        length, width = rng.uniform(0.2, 0.7) * side, rng.uniform(0.01, 0.035) * side
        angle = rng.uniform(0, math.pi)
        along = np.array([math.cos(angle), math.sin(angle)]) * length / 2
        across = np.array([-math.sin(angle), math.cos(angle)]) * width / 2
        center, (color,) = rng.uniform(0, 1, 2) * size[::-1], colors(rng, 1)
        if width >= 1:
            bar = np.stack([along + across, along - across, -along - across, -along + across])
            picture = over(picture, color, coverage(bar + center, size))
    return picture


def degrade(rng: Generator, picture: Picture) -> UInt8[ndarray, "h w 3"]:
    """What a camera does: defocus, exposure, sensor noise, JPEG."""
    blur = rng.uniform(0, 0.006) * min(picture.shape[1:]) * (rng.random() < 0.5)
    gain, offset = 1 + rng.uniform(-0.15, 0.05), rng.uniform(-0.025, 0.06)
    noise = rng.uniform(0, 0.035)
    quality = round(100 - rng.uniform(2.5, 37.5)) if rng.random() < 0.5 else None
    if blur > 0.2:
        image = Image.fromarray(_to_bytes(picture)).filter(ImageFilter.GaussianBlur(blur))
        picture = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(noise)
    pixels = _to_bytes(grain + picture * np.float32(gain) + np.float32(offset))
    if quality is None:
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def _to_bytes(picture: Picture) -> UInt8[ndarray, "h w 3"]:
    levels = np.clip(picture * np.float32(255) + np.float32(0.5), 0, 255)
    return levels.astype(np.uint8).transpose(1, 2, 0).copy()
