"""Which samples a process sees at which step, read and augmented: a function of the recipe, the step and nothing else.

The run is one endless stream of permutations of the data, cut into equal steps. Every sample comes exactly once an
epoch whatever the number of processes and workers, and a run resumes anywhere by starting at another step.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ..config import ModelConfig
from ..data.datasets.samples import TrainingData
from ..data.decode import decode_image, decode_shrunk
from ..data.inputs import loaded
from ..data.sources import is_video
from ..data.video import read_clip
from ..errors import InputError
from .recipe import Recipe

Draw = tuple[int, int]  # sample, and how often it was drawn before


@dataclass
class Part:
    """What one process computes at once.

    Attributes:
        views: What the method made of each image or clip, by name, stacked.
        labels: Class of each.
        keys: A random number for each view, the same on any process.
        samples: Positions in the data.
        failures: Samples that could not be read, as (name, reason).
        places: Which of the part's views these are: those of samples that could not be read are missing.
    """

    views: dict[str, Tensor]
    labels: Int[Tensor, " b"]
    keys: Int[Tensor, " b"]
    samples: list[int]
    failures: list[tuple[str, str]]
    places: list[int] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def pin_memory(self) -> Part:
        """The same in memory that a GPU reads without waiting; the data loader calls this."""
        views = {name: view.pin_memory() for name, view in self.views.items()}
        return dataclasses.replace(self, views=views, labels=self.labels.pin_memory())


def mixed(*numbers: int) -> int:
    """One well-mixed 63-bit number of several, the same everywhere."""
    words = np.random.SeedSequence([abs(int(number)) for number in numbers]).generate_state(2, np.uint32)
    return int(words.view(np.uint64)[0]) >> 1


class Stream:
    """The order of samples over a whole run.

    Attributes:
        samples: Samples in the data.
        step_size: Samples read for one optimiser step, repeats not counted.
        total: Optimiser steps of the run.
    """

    def __init__(self, samples: int, recipe: Recipe) -> None:
        self.samples, self.seed, self.repeats = samples, recipe.seed, recipe.repeats
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

    def positions(self, step: int) -> range:
        """Places in the stream of what one step reads, on all processes together; the last step may be short."""
        first = step * self.step_size
        return range(first, min(first + self.step_size, self.end))

    def draws(self, step: int) -> list[Draw]:
        """What one step reads."""
        return [self._draw(position) for position in self.positions(step)]

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

    def places(self, places: Sequence[int], *, rank: int, world: int, part: int, of: int) -> list[int]:
        """Which views of a step those of a part are, of `of` parts on each process."""
        turns = (divmod(place, self.repeats) for place in places)
        return [((part + turn * of) * world + rank) * self.repeats + view for turn, view in turns]


@runtime_checkable
class ShrinkingViews(Protocol):
    """What makes views without all pixels of a large photograph, and says beforehand how many it needs."""

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"], key: int, size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The views of a source of that size, (height, width), from frames that may have been decoded smaller."""
        ...

    def shrink(self, size: tuple[int, int], key: int) -> int:
        """By how much an image of that size may be decoded smaller: 1, 2, 4 or 8."""
        ...


@dataclass(eq=False)
class Views(Dataset):
    """Views by draw, as a method makes them; what cannot be read comes back as its reason."""

    data: TrainingData
    make: Callable[[UInt8[np.ndarray, "t h w 3"], int], dict[str, Tensor]] | ShrinkingViews
    config: ModelConfig
    recipe: Recipe

    def __getitem__(self, draw: Draw) -> tuple[Draw, list[tuple[dict[str, Tensor], int]] | str]:
        """The views of one draw, each with its key."""
        sample, epoch = draw
        try:
            source = self.data.read(sample)
            keys = [mixed(self.recipe.seed, 3, sample, epoch, view) for view in range(self.recipe.repeats)]
            return draw, list(zip(self._made(source, keys), keys, strict=True))
        except (InputError, OSError, MemoryError) as error:
            return draw, str(error) or type(error).__name__

    def collate(self, items: Sequence[tuple[Draw, Any]]) -> Part:
        """Stack what could be read and name what could not."""
        failures = [(self.data.name(sample), found) for (sample, _), found in items if isinstance(found, str)]
        good = [(sample, view) for (sample, _), found in items if not isinstance(found, str) for view in found]
        if good:
            views = {name: torch.stack([made[name] for _, (made, _) in good]) for name in good[0][1][0]}
        else:
            views = {name: tensor[:0] for name, tensor in self.blank().views.items()}
        samples = np.array([sample for sample, _ in good], dtype=np.int64)
        keys = torch.tensor([key for _, (_, key) in good], dtype=torch.int64)
        places = [
            number * self.recipe.repeats + view
            for number, (_, found) in enumerate(items)
            for view in range(0 if isinstance(found, str) else len(found))
        ]
        return Part(views, torch.from_numpy(self.data.labels[samples]), keys, samples.tolist(), failures, places)

    def blank(self) -> Part:
        """One black sample, for a process that has none."""
        *time, height, width = self.config.input_size
        made = self.make(np.zeros((*(time or [1]), height, width, 3), dtype=np.uint8), 0)
        zero = torch.zeros(1, dtype=torch.int64)
        return Part({name: tensor[None] for name, tensor in made.items()}, zero, zero, [], [])

    @functools.cached_property
    def _shrinking(self) -> ShrinkingViews | None:
        """What makes the views, if it is of that kind; telling it of a protocol takes a fiftieth of an image's time."""
        return self.make if isinstance(self.make, ShrinkingViews) else None

    def _made(self, source: Any, keys: list[int]) -> list[dict[str, Tensor]]:
        """A view for each key: of one image, or of clips from random places of a video."""
        if is_video(source) and not self.config.is_video:
            raise InputError(f"{self.config.name!r} takes images; {source} is a video.")
        count = self.config.input_size[0] if self.config.is_video else 1
        if self.config.is_video and (is_video(source) or (isinstance(source, np.ndarray) and source.ndim == 4)):
            return [self.make(random_clip(source, count, self.recipe.frame_stride, key), key) for key in keys]
        make = self._shrinking
        if make is None:
            frames = _stands(decode_image(source), count)
            return [self.make(frames, key) for key in keys]
        pixels, size = decode_shrunk(source, lambda size: min(make.shrink(size, key) for key in keys))
        return [make(_stands(pixels, count), key, size) for key in keys]


def _stands(pixels: UInt8[np.ndarray, "h w 3"], frames: int) -> UInt8[np.ndarray, "t h w 3"]:
    """A still image as a clip, without copies."""
    return pixels[None] if frames == 1 else np.broadcast_to(pixels, (frames, *pixels.shape))


def random_clip(source: Any, frames: int, stride: int, key: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames of a video, one clip from a random start."""
    start = np.random.Generator(np.random.PCG64([key, 1])).random()
    return read_clip(source, frames=frames, stride=stride, size=320, start=start)[0]


def steps_of_parts(
    views: Views, stream: Stream, recipe: Recipe, *, start: int, rank: int, world: int
) -> Iterator[list[Part]]:
    """The parts of each step from `start` on, for one process."""
    steps = range(start, stream.total)
    batches = (
        share for step in steps for share in stream.shares(step, rank=rank, world=world, parts=recipe.accumulate)
    )
    pin = torch.cuda.is_available() and recipe.device.partition(":")[0] in ("auto", "cuda")
    parts = loaded(views, batches, views.collate, workers=recipe.workers, ahead=4, pin_memory=pin)
    while step := list(itertools.islice(parts, recipe.accumulate)):
        yield step
