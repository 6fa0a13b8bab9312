"""Stage maps of an image of any size: resized to a working size, in tiles where that is large, joined without seams.

A linear map of each stage's channels may be applied tile by tile, so that of a large image only its few results are
held. Resizing and blending are linear too: the order changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from ..config import STAGE_NAMES, PreprocessSpec
from ..data.decode import decode_image
from ..data.preprocess import preprocess
from ..errors import InputError, brief
from ..predictor import Predictor
from .tiles import STEP, ramp, tiles

FULL = "full"
_MOST_PIXELS = 64_000_000  # of the working size
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class View:
    """At what size a network looks at images.

    Attributes:
        size: Pixels of the shorter side; `FULL` leaves images as large as they are.
        tile: Pixels of a tile's side, a multiple of 32; an image that fits into one is seen whole.
    """

    size: int | str
    tile: int

    @property
    def overlap(self) -> int:
        """Pixels that neighbouring tiles share at least: a third, two cells of the coarsest map of small tiles."""
        return max(STEP, self.tile // 3 // STEP * STEP)

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which an image is looked at, multiples of 32.

        Raises:
            InputError: It is too large.
        """
        scale = 1.0 if self.size == FULL else int(self.size) / min(size)
        height, width = (max(STEP, round(side * scale / STEP) * STEP) for side in size)
        if height * width > _MOST_PIXELS:
            raise InputError(
                f"An image is looked at in at most {_MOST_PIXELS:,} pixels; one of {size[1]} x {size[0]} would have "
                f"{width} x {height} at size {self.size}. Choose a smaller size, or cut the image."
            )
        return height, width


class CellMaps:
    """Maps of an image, whatever makes them, and features of their cells.

    Attributes:
        view: At what size images are looked at.
        strides: Pixels of that size for each cell of each map, finest first.
        channels: Width of each map.
    """

    view: View
    strides: dict[str, int]
    channels: dict[str, int]

    @property
    def stride(self) -> int:
        """Pixels of the working size for each cell of the finest map."""
        return min(self.strides.values())

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells of the finest map of an image of (height, width) pixels."""
        height, width = self.view.working_size(size)
        return height // self.stride, width // self.stride

    def maps(
        self, pixels: UInt8[ndarray, "h w 3"], weights: Mapping[str, Float[Tensor, "k c"]] | None = None
    ) -> dict[str, Float[Tensor, "c h w"]]:
        """The maps of an image.

        Args:
            pixels: RGB bytes of the image.
            weights: For each map a matrix that its channels are multiplied with; None leaves them as they are.
        """
        raise NotImplementedError

    def joined(
        self, pixels: UInt8[ndarray, "h w 3"], weights: Mapping[str, Float[Tensor, "k c"]]
    ) -> Float[Tensor, "k h w"]:
        """The sum over stages of linear maps of them, resized to the finest; the same as of stages that are joined."""
        maps = self.maps(pixels, weights)
        grid = self.grid((pixels.shape[0], pixels.shape[1]))
        return torch.stack([_to_grid(found, grid) for found in maps.values()]).sum(0)

    def cells(self, pixels: UInt8[ndarray, "h w 3"], chosen: Int[ndarray, " n"]) -> Float[ndarray, "n c"]:
        """Features of some cells of the finest map: all stages resized to it and joined.

        Args:
            pixels: RGB bytes of the image.
            chosen: Places in the finest map, row by row.
        """
        height, width = self.grid((pixels.shape[0], pixels.shape[1]))
        # Centres of cells, as `grid_sample` counts them: -1 and 1 are the outer edges.
        y, x = torch.from_numpy(chosen // width), torch.from_numpy(chosen % width)
        places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)[None, None].float()
        options: dict[str, Any] = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
        maps = self.maps(pixels).values()
        rows = [F.grid_sample(found[None], places, **options)[0, :, 0].T for found in maps]
        return torch.cat(rows, 1).numpy()


class Dense(CellMaps):
    """A network of images with the size at which it looks at them.

    Attributes:
        predictor: The network.
        stages: Which of its maps, finest first.
    """

    def __init__(self, predictor: Predictor, stages: Sequence[str] | None = None, view: View | None = None) -> None:
        self.predictor = predictor
        self.stages = checked_stages(predictor, stages)
        self.view = view or default_view(predictor)
        spec = predictor.preprocess
        self._spec = PreprocessSpec(
            resize="squash", crop_ratio=1.0, interpolation=spec.interpolation, engine=spec.engine, mean=spec.mean,
            std=spec.std,
        )  # fmt: skip
        strides = dict(zip(STAGE_NAMES, predictor.encoder.strides, strict=False))
        channels = dict(zip(STAGE_NAMES, predictor.encoder.return_channels, strict=False))
        self.strides = {stage: int(strides[stage]) for stage in self.stages}
        self.channels = {stage: int(channels[stage]) for stage in self.stages}

    def maps(
        self, pixels: UInt8[ndarray, "h w 3"], weights: Mapping[str, Float[Tensor, "k c"]] | None = None
    ) -> dict[str, Float[Tensor, "c h w"]]:
        """The maps of an image, un-normed.

        Args:
            pixels: RGB bytes of the image.
            weights: For each stage a matrix that its channels are multiplied with; None leaves them as they are.

        Raises:
            InputError: A value is not finite, or the image is too large.
        """
        size = self.view.working_size((pixels.shape[0], pixels.shape[1]))
        resized = _resized(pixels, size, self._spec)
        whole = size[0] <= self.view.tile and size[1] <= self.view.tile
        if whole:
            return self._seen(resized, weights)
        widths = self.channels if weights is None else {stage: len(weights[stage]) for stage in self.stages}
        grids = {stage: [side // stride for side in size] for stage, stride in self.strides.items()}
        sums = {stage: torch.zeros(widths[stage], *grids[stage]) for stage in self.stages}
        counts = {stage: torch.zeros(*grids[stage]) for stage in self.stages}
        for rows, columns in tiles(size, self.view.tile, self.view.overlap):
            found = self._seen(np.ascontiguousarray(resized[rows, columns]), weights)
            for stage, stride in self.strides.items():
                parts = zip((rows, columns), size, strict=True)
                down, across = (ramp(part, side, self.view.overlap, stride) for part, side in parts)
                weight = down[:, None] * across
                place = tuple(slice(part.start // stride, part.stop // stride) for part in (rows, columns))
                sums[stage][:, place[0], place[1]] += found[stage] * weight
                counts[stage][place] += weight
        return {stage: sums[stage].div_(counts[stage]) for stage in self.stages}

    def _seen(
        self, pixels: UInt8[ndarray, "h w 3"], weights: Mapping[str, Float[Tensor, "k c"]] | None
    ) -> dict[str, Float[Tensor, "c h w"]]:
        """Maps of an image or tile in one pass."""
        parameter = next(self.predictor.model.parameters(), torch.zeros(0))
        spec = self._spec.with_size(pixels.shape[:2])
        with torch.inference_mode():
            batch = preprocess(pixels, spec)[None].to(parameter.device, parameter.dtype)
            maps = self.predictor.encoder.detection_features(batch, self.stages)
            found = {stage: value[0].float().cpu() for stage, value in maps.items()}
            if weights is not None:
                found = {stage: torch.einsum("kc,chw->khw", weights[stage], value) for stage, value in found.items()}
        if not all(bool(value.isfinite().all()) for value in found.values()):
            raise InputError(self.predictor.not_finite(parameter.dtype))
        return {stage: value.clone() for stage, value in found.items()}  # no inference tensors


def read_image(path: Any) -> UInt8[ndarray, "h w 3"]:
    """RGB bytes of an image file, upright.

    Raises:
        InputError: It cannot be read.
    """
    return decode_image(path)


def checked_stages(predictor: Predictor, stages: Sequence[str] | None) -> tuple[str, ...]:
    """Stages that the network has, finest first; None is all.

    Raises:
        UnknownNameError: No such stage.
        InputError: A network of clips, or no stage.
    """
    if predictor.encoder.config.is_video:
        raise InputError(f"Masks are of images; {predictor.card.name!r} takes clips. Choose an image member.")
    known = predictor.encoder.config.stage_names
    asked = predictor.encoder.config.known_stages(stages)
    if not asked:
        raise InputError(f"Name a stage at least: {', '.join(known)}.")
    return tuple(name for name in known if name in asked)


def default_view(predictor: Predictor, size: int | str | None = None, tile: int | None = None) -> View:
    """How a network looks at images where nobody says otherwise.

    Args:
        predictor: The network.
        size: Pixels of the shorter side, or `FULL`; None is that of the input it is configured for.
        tile: Pixels of a tile's side; None is twice that input, of at least 1024 pixels that input itself.

    Raises:
        InputError: A size or tile that is impossible.
    """
    sides = predictor.encoder.config.input_size[-2:]
    usual = max(sides)
    size = min(sides) if size is None else size
    if size != FULL and not (isinstance(size, int) and not isinstance(size, bool) and 8 <= size <= 65536):
        raise InputError(f"A size is the shorter side in pixels, from 8 to 65536, or '{FULL}'; got {brief(size)}.")
    tile = max(usual, min(2 * usual, 1024)) if tile is None else tile
    if not isinstance(tile, int) or tile % STEP or not 2 * STEP <= tile <= 4096:
        raise InputError(f"A tile's side is a multiple of {STEP} pixels, from {2 * STEP} to 4096; got {brief(tile)}.")
    return View(size, tile)


def _resized(pixels: UInt8[ndarray, "h w 3"], size: tuple[int, int], spec: PreprocessSpec) -> UInt8[ndarray, "h w 3"]:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), _FILTERS[spec.interpolation]))


def _to_grid(found: Float[Tensor, "k _ _"], grid: tuple[int, int]) -> Float[Tensor, "k h w"]:
    if tuple(found.shape[1:]) == tuple(grid):
        return found
    return F.interpolate(found[None], size=grid, mode="bilinear", align_corners=False)[0]
