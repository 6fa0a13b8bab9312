"""How much a crop leaves of images that are far from the input's shape, and which input shows them whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..config import ModelConfig

_Size = tuple[int, int]  # height, width

SIZE_OPTION = "--input-size {height}x{width} (in Python input_size=({height}, {width}))"  # of most commands
FAR = 2.0  # one aspect ratio over the other, from which on a crop leaves less than half; photographs are below (16:9)
_LARGER = 1.25  # pixels of an input of another shape, at most, over the input's own
_SQUASHED = 4.0  # the same for images that are squashed, not cropped: pieces of photographs lose nothing until there
_SOME = 0.25  # of the images, from which on those that are far from the input's shape count


def stretch(size: _Size, shape: _Size) -> float:
    """How many times longer an image of (height, width) is than a shape, or the other way round: 1 where they agree."""
    ratio = size[0] * shape[1] / (size[1] * shape[0])
    return max(ratio, 1 / ratio)


def share_far(sizes: Sequence[_Size], shape: _Size, limit: float = FAR) -> float:
    """Share of images, by their (height, width), that are over so many times longer than a shape, or shorter."""
    return sum(stretch(size, shape) > limit for size in sizes) / max(len(sizes), 1)


def are_far(sizes: Sequence[_Size], shape: _Size, limit: float = FAR) -> bool:
    """Whether so many images are far from a shape that what becomes of them matters."""
    return bool(sizes) and share_far(sizes, shape, limit) >= _SOME


def usual_stretch(sizes: Sequence[_Size], shape: _Size, limit: float = FAR) -> float:
    """How far those images are that are far, the median; the largest crop of the shape leaves one over it of them."""
    found = sorted(stretch(size, shape) for size in sizes if stretch(size, shape) > limit)
    return found[len(found) // 2] if found else 1.0


def fitting_size(sizes: Sequence[_Size], config: ModelConfig) -> _Size:
    """The input size that distorts images of these (height, width) least, of about as many pixels as the network's.

    The images' mean aspect ratio, by its logarithm, is met among sizes that the network can take.
    """
    unit_rows, unit_columns = config.size_multiple[-2:]
    rows, columns = (side // unit for side, unit in zip(config.input_size[-2:], config.size_multiple[-2:], strict=True))
    wanted = sum(math.log(height / width) for height, width in sizes) / len(sizes)
    most = math.floor(_LARGER * rows * columns)

    def cost(units: _Size) -> float:
        shape = math.log(units[0] * unit_rows / (units[1] * unit_columns))
        return abs(shape - wanted) + abs(math.log(units[0] * units[1] / (rows * columns))) / 2

    legal = [(down, across) for down in range(1, most + 1) for across in range(1, most // down + 1)]
    down, across = min(legal, key=cost)
    return down * unit_rows, across * unit_columns


def remark(sizes: Sequence[_Size], config: ModelConfig, *, cropped: bool, option: str = SIZE_OPTION) -> str | None:
    """What a person should know where many images are far from the shape of the input; None where it is not so.

    Args:
        sizes: (height, width) of some of the images.
        config: The network.
        cropped: Whether crops of that shape become the input, else the whole image, squashed.
        option: What sets another input size, in which {height} and {width} stand for it.
    """
    shape, limit = (config.input_size[-2], config.input_size[-1]), FAR if cropped else _SQUASHED
    if config.is_video or not are_far(sizes, shape, limit):
        return None
    size, far, usual = fitting_size(sizes, config), share_far(sizes, shape), usual_stretch(sizes, shape, limit)
    remedy = "Cut them into squarer pieces."
    if 2 * usual_stretch(sizes, size, 1.0) <= usual:
        remedy = f"Their shape is that of {option.format(height=size[0], width=size[1])}."
    loss = f"a crop of it shows about {1 / usual:.0%} of each of them"
    if not cropped:
        loss = f"they are squashed to it, about {usual:.2g} times more one way than the other"
    return (
        f"{far:.0%} of the images that were looked at are far from the shape of the input, {shape[0]}x{shape[1]}: "
        f"{loss}. {remedy}"
    )
