"""What every dialect asks: images in, vectors and maps out; and whether the server is well."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy import ndarray

from ..config import STAGE_NAMES
from ..errors import HieraxError, InputError
from .line import Line
from .metrics import Metrics
from .replies import Refusal, invalid, overloaded, unhealthy
from .settings import Settings

if TYPE_CHECKING:
    from ..config import PreprocessSpec
    from ..search import Store

T = TypeVar("T")
log = logging.getLogger("hierax")


@dataclass(frozen=True)
class Facts:
    """What is known of the model that answers.

    Attributes:
        name: As it is called in addresses.
        names: All that it is called.
        labels: Class names, none without a head.
        embedding_size: Length of an embedding.
        channels: Of each stage's map.
        strides: Pixels a cell of each.
        gives: What can be asked of it: "embedding", "logits", "stage1" and so on.
        preprocess: How images become its input.
        card: What it says of itself.
    """

    name: str
    names: frozenset[str]
    labels: list[str]
    embedding_size: int
    channels: list[int]
    strides: list[int]
    gives: list[str]
    preprocess: PreprocessSpec
    card: dict[str, Any]

    @classmethod
    def of(cls, told: dict[str, Any], source: str | None) -> Facts:
        """As the model's process tells it; `source` is what the server was told to load."""
        from ..config import PreprocessSpec

        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in told["name"])
        names = {name, told["name"], *told["aliases"], *([] if source is None else [source])}
        shown = ("name", "architecture", "license", "commercial", "embedding_size", "dtype")
        spec = PreprocessSpec.from_dict(told["preprocess"])
        card = {**{key: told[key] for key in shown}, "input_size": list(spec.size), "classes": len(told["labels"])}
        kept = {key: told[key] for key in ("labels", "embedding_size", "channels", "strides", "gives")}
        return cls(name=name, names=frozenset(names), preprocess=spec, card=card, **kept)

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """Channels and stride of each map that it gives, by name."""
        sizes = zip(STAGE_NAMES, self.channels, self.strides, strict=False)  # some models have fewer stages
        return {name: (channels, stride) for name, channels, stride in sizes if name in self.gives}

    def answer_bytes(self, name: str, size: tuple[int, ...]) -> int:
        """Bytes of a float32 answer to an input of (height, width)."""
        if name not in self.stages:
            return 4 * (self.embedding_size if name == "embedding" else len(self.labels))
        channels, stride = self.stages[name]
        return 4 * channels * (size[0] // stride) * (size[1] // stride)


class Service:
    """A running server, without its addresses.

    Attributes:
        settings: What it was told.
        metrics: What it counts.
        line: Where inputs wait for the model.
        draining: Whether it was asked to stop: it is not ready, and still answers.
        closed: Whether new work is refused.
        active: Requests under way.
        leaving: Bytes of answers that clients are taking.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.line = Line(settings, self.metrics)
        self.draining = self.closed = False
        self.active = self.leaving = 0
        self._facts: Facts | None = None
        self._expected = 0  # bytes of answers under way
        self._threads = settings.decoders or min(os.cpu_count() or 1, 4)
        self._pool = ThreadPoolExecutor(self._threads, "hierax-serve", initializer=_prepare)
        self.metrics.watch("hierax_queue_depth", "Images that wait for the model.", lambda: self.line.depth)
        self.metrics.watch("hierax_active_requests", "Requests under way.", lambda: self.active)
        self.metrics.watch("hierax_worker_resident_bytes", "Memory of the model's process.", self.line.resident_bytes)
        self.metrics.watch("hierax_ready", "Whether the server is ready.", lambda: self.ready)

    def start(self) -> None:
        """Load the model, in a process of its own; returns at once."""
        self.line.start()
        for _ in range(self._threads):  # the first request is not to wait for imports
            self._pool.submit(int)

    def stop(self) -> None:
        """End the model's process and the threads."""
        self.closed = self.draining = True
        self.line.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether work sent now would be answered: the model lives, there is room, and nobody asked to stop."""
        return not self.draining and self.line.ready and self.line.depth < self.settings.limits.queue

    @property
    def facts(self) -> Facts:
        """What is known of the model.

        Raises:
            Refusal: It is being loaded.
        """
        if self._facts is None:
            if self.line.facts is None:
                raise unhealthy("The model is being loaded. Try again in a moment.")
            self._facts = Facts.of(self.line.facts, self.settings.model)
            self.metrics.about(self._facts.card)
        return self._facts

    @functools.cached_property
    def store(self) -> Store | None:
        """What is searched."""
        if self.settings.store is None:
            return None
        from ..search import open_store

        return open_store(Path(self.settings.store))

    async def apart(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the pool; what the library refuses is the client's fault.

        Raises:
            Refusal: The function refused.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        except InputError as error:
            raise invalid(self._without_places(str(error))) from error
        except HieraxError as error:
            raise Refusal(424, "Backend", type(error).__name__) from error
        except MemoryError as error:
            raise Refusal(413, "TooLarge", "A request must fit into memory; this one does not.") from error

    def _without_places(self, words: str) -> str:
        """Words for a client: where things lie on this machine is none of its business."""
        for place, name in ((self.settings.store, "the store"), (self.settings.model, "the model")):
            if place is not None and os.path.lexists(place):
                for text in (repr(str(Path(place))), repr(os.path.abspath(place)), os.path.abspath(place)):
                    words = words.replace(text, name)
        return words

    def decode(self, data: bytes) -> tuple[ndarray, tuple[int, int]]:
        """The network's input (3, h, w) of one encoded image, and the image's (height, width); for the pool.

        Raises:
            InputError: It cannot be decoded.
        """
        from ..data.decode import at_most
        from ..data.inputs import image_input

        since = time.perf_counter()
        try:
            with at_most(self.settings.limits.pixels):
                made, size = image_input(data, self.facts.preprocess)
            return made.numpy(), size
        finally:
            self.metrics.decoded(since)

    async def inputs(self, images: Sequence[bytes]) -> list[tuple[ndarray, tuple[int, int]]]:
        """Inputs of encoded images, and their sizes.

        Raises:
            Refusal: One cannot be decoded, or there are too many; with several, its number is told.
        """
        self.few(len(images))
        made = await asyncio.gather(*(self.apart(self.decode, each) for each in images), return_exceptions=True)
        found: list[tuple[ndarray, tuple[int, int]]] = []
        for number, each in enumerate(made):
            if isinstance(each, Refusal) and len(images) > 1:
                raise Refusal(each.status, each.kind, f"Image {number}: {each.message}")
            if isinstance(each, BaseException):
                raise each
            found.append(each)
        return found

    def few(self, count: int) -> None:
        """Refuse more images than a request may hold, or none.

        Raises:
            Refusal: There are none, or too many.
        """
        if not count:
            raise Refusal(422, "Empty", "A request must hold at least one image; got none.")
        most = self.settings.limits.items
        if count > most:
            raise Refusal(413, "TooLarge", f"A request may hold at most {most} images; got {count}. Send several.")

    async def answers(self, inputs: Sequence[ndarray], names: Sequence[str]) -> list[dict[str, ndarray]]:
        """What the model gives for inputs, by name.

        Raises:
            Refusal: It does not give that, there is no room, the model ended, or it failed at one of them.
        """
        facts = self.facts
        for name in names:
            if name not in facts.gives:
                raise invalid(f"{facts.card['name']!r} gives {', '.join(facts.gives)}; got {name!r}.")
        expected = sum(facts.answer_bytes(name, each.shape[-2:]) for each in inputs for name in names)
        limits = self.settings.limits
        if expected > limits.answer_bytes:
            words = f"The maps for a request may take at most {limits.answer_bytes:,} bytes; these take {expected:,}."
            raise Refusal(413, "TooLarge", f"{words} Ask for fewer images or stages.")
        self.room(expected)
        items = self.line.submit(inputs, names)
        futures = [asyncio.wrap_future(item.answer) for item in items]
        self._expected += expected
        try:
            found = await asyncio.wait_for(asyncio.gather(*futures), self.settings.limits.answer_s)
        except asyncio.TimeoutError as error:
            raise unhealthy("An image must be answered in time; this one was not. Try again later.") from error
        finally:
            self._expected -= expected
            for future in futures:
                future.cancel()
        return [dict(zip(names, each, strict=True)) for each in found]

    def room(self, size: int) -> None:
        """Refuse an answer of so many bytes while others hold the memory for them, made or being taken.

        Raises:
            Refusal: They do.
        """
        held = self._expected + self.leaving
        if held and held + size > self.settings.limits.held_bytes:
            raise overloaded("Answers under way hold all the memory there is for them. Try again in a moment.")


def _prepare() -> None:
    """One thread of torch's for each that decodes; the model's process has its own."""
    import torch

    from ..data import inputs  # noqa: F401  what decoding needs

    torch.set_num_threads(1)


def softmax(logits: ndarray) -> ndarray:
    """Probabilities (..., c) in float64."""
    spread = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return spread / spread.sum(-1, keepdims=True)
