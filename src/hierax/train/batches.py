"""Which samples a process sees at which step, read and augmented: a function of the recipe, the step and nothing else.

The run is one endless stream of permutations of the data, cut into equal steps. Every sample comes exactly once an
epoch whatever the number of processes and workers, and a run resumes anywhere by starting at another step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import ModelConfig
from ..data.augment import Augment
from ..data.datasets.samples import TrainingData
from ..data.decode import decode_image
from ..data.inputs import one_thread, whole_loader
from ..data.sources import is_video
from ..data.video import read_clip
from ..errors import InputError
from .recipe import Recipe

Draw = tuple[int, int]  # sample, and how often it was drawn before


@dataclass
class Part:
    """What one process computes at once.

    Attributes:
        pixels: Bytes of images or clips.
        labels: Class of each.
        keys: A random number for each view, the same on any process.
        samples: Positions in the data.
        failures: Samples that could not be read, as (name, reason).
    """

    pixels: UInt8[Tensor, "b 3 *pixels"]
    labels: Int[Tensor, " b"]
    keys: Int[Tensor, " b"]
    samples: list[int]
    failures: list[tuple[str, str]]

    def pin_memory(self) -> Part:
        """The same in memory that a GPU reads without waiting; the data loader calls this."""
        return dataclasses.replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())


def mixed(*numbers: int) -> int:
    """One well-mixed 63-bit number of several, the same everywhere."""
    return int(
        np.random.SeedSequence([abs(int(number)) for number in numbers]).generate_state(2, np.uint32).view(np.uint64)[0]
        >> 1
    )


class Stream:
    """The order of samples over a whole run.

    Attributes:
        samples: Samples in the data.
        step_size: Samples read for one optimiser step, repeats not counted.
        total: Optimiser steps of the run.
    """

    def __init__(self, samples: int, recipe: Recipe) -> None:
        self.samples, self.seed = samples, recipe.seed
        self.step_size = recipe.batch_size // recipe.repeats
        if recipe.steps is not None:
            self.total = recipe.steps
            self.end = self.total * self.step_size
        else:
            passes = (recipe.epochs if recipe.epochs is not None else 1.0) / recipe.repeats
            self.end = max(1, round(passes * samples))
            self.total = math.ceil(self.end / self.step_size)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def epochs(self, step: int) -> float:
        """Passes over the data that `step` steps are."""
        return min(step * self.step_size, self.end) / self.samples

    def draws(self, step: int) -> list[Draw]:
        """What one step reads, on all processes together; the last step may be short."""
        first = step * self.step_size
        return [self._draw(position) for position in range(first, min(first + self.step_size, self.end))]

    def _draw(self, position: int) -> Draw:
        epoch, place = divmod(position, self.samples)
        if self._order[0] != epoch:
            rng = np.random.Generator(np.random.PCG64([self.seed, 2, epoch]))
            self._order = (epoch, rng.permutation(self.samples))
        return int(self._order[1][place]), epoch

    def shares(self, step: int, *, rank: int, world: int, parts: int) -> list[list[Draw]]:
        """What one process reads at a step, cut into parts."""
        draws = self.draws(step)
        return [draws[part * world + rank :: world * parts] for part in range(parts)]


class Views(Dataset):
    """Augmented views by draw; what cannot be read comes back as its reason."""

    def __init__(self, data: TrainingData, config: ModelConfig, recipe: Recipe, bicubic: bool) -> None:
        self.data, self.config, self.recipe = data, config, recipe
        size = config.input_size[-2:]
        self.augment = Augment(
            size=(size[0], size[1]),
            crop_scale=recipe.crop_scale,
            crop_ratio=recipe.crop_ratio,
            flip=recipe.flip,
            color_jitter=recipe.color_jitter,
            rand_augment=recipe.rand_augment,
            erasing=recipe.erasing,
            bicubic=bicubic,
        )

    def __getitem__(self, draw: Draw) -> tuple[Draw, list[tuple[Tensor, int]] | str]:
        """The views of one draw, each with its key."""
        sample, epoch = draw
        try:
            source = self.data.read(sample)
            views = []
            for view in range(self.recipe.repeats):
                key = mixed(self.recipe.seed, 3, sample, epoch, view)
                frames = self.augment(self._frames(source, key), key)
                pixels = frames.permute(1, 0, 2, 3) if self.config.is_video else frames[0]  # (3, [t,] h, w)
                views.append((pixels.contiguous(), key))
            return draw, views
        except (InputError, OSError, MemoryError) as error:
            return draw, str(error) or type(error).__name__

    def _frames(self, source: Any, key: int) -> UInt8[np.ndarray, "t h w 3"]:
        """One image, or a clip from a random place of a video."""
        if not self.config.is_video:
            if is_video(source):
                raise InputError(f"{self.config.name!r} takes images; {source} is a video.")
            return decode_image(source)[None]
        return random_clip(source, self.config.input_size[0], self.recipe.frame_stride, key)


def random_clip(source: Any, frames: int, stride: int, key: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames of a video from a random start; a still image stands still."""
    if not is_video(source) and not (isinstance(source, np.ndarray) and source.ndim == 4):
        return np.repeat(decode_image(source)[None], frames, axis=0)
    start = np.random.Generator(np.random.PCG64([key, 1])).random()
    return read_clip(source, frames=frames, stride=stride, size=320, start=start)[0]


def collate(items: Sequence[tuple[Draw, Any]], data: TrainingData, shape: tuple[int, ...]) -> Part:
    """Stack what could be read and name what could not."""
    pixels: list[Tensor] = []
    keys: list[int] = []
    samples: list[int] = []
    failures: list[tuple[str, str]] = []
    for (sample, _), views in items:
        if isinstance(views, str):
            failures.append((data.name(sample), views))
            continue
        for view, key in views:
            pixels.append(view)
            keys.append(key)
            samples.append(sample)
    return Part(
        torch.stack(pixels) if pixels else torch.zeros(0, *shape, dtype=torch.uint8),
        torch.from_numpy(data.labels[samples]) if samples else torch.zeros(0, dtype=torch.int64),
        torch.tensor(keys, dtype=torch.int64),
        samples,
        failures,
    )


class _Plan:
    """Batches of draws from a step on: the sampler of a DataLoader."""

    def __init__(self, stream: Stream, start: int, rank: int, world: int, parts: int) -> None:
        self.stream, self.start, self.rank, self.world, self.parts = stream, start, rank, world, parts

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start, self.stream.total):
            yield from self.stream.shares(step, rank=self.rank, world=self.world, parts=self.parts)


def steps_of_parts(
    views: Views, stream: Stream, recipe: Recipe, *, start: int, rank: int, world: int
) -> Iterator[list[Part]]:
    """The parts of each step from `start` on, for one process."""
    plan = _Plan(stream, start, rank, world, recipe.accumulate)
    loader = DataLoader(
        views,
        batch_sampler=plan,  # type: ignore[arg-type]
        num_workers=recipe.workers,
        collate_fn=functools.partial(collate, data=views.data, shape=(3, *views.config.input_size)),
        worker_init_fn=one_thread,
        prefetch_factor=4 if recipe.workers else None,
        pin_memory=torch.cuda.is_available() and recipe.device.partition(":")[0] in ("auto", "cuda"),
    )
    waiting: list[Part] = []
    for part in whole_loader(loader):
        waiting.append(part)
        if len(waiting) == recipe.accumulate:
            yield waiting
            waiting = []
