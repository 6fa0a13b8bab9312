"""What a fast encoder holds: an engine, made from the weights as they are and thrown away with everything in it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from jaxtyping import Float
from torch import Tensor

from ..encoder import Encoder

V = TypeVar("V")
EMBEDDING = -1  # wanted in place of stages


class Engine(ABC):
    """Computes the stages of an encoder for inference.

    One engine serves one state of the weights: after a change the fast encoder makes another. Inputs are legal, not
    empty, in the parameters' dtype, and ask for no gradient. Several threads may call at once.

    Attributes:
        choice: What runs, in a line.
    """

    name: ClassVar[str]

    def __init__(self, encoder: Encoder) -> None:
        parameter = next(encoder.parameters())
        self.encoder, self.dtype, self.device = encoder, parameter.dtype, parameter.device
        self.choice = f"engine {self.name}, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    @abstractmethod
    def run(self, x: Float[Tensor, "b 3 *pixels"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids (b, *grid, c) at the end of the stages up to that one; for `EMBEDDING` only that, (b, c)."""


class Recent(Generic[V]):
    """A function whose few answers used last are kept; threads wait for each other while one is made.

    Args:
        limit: How many answers are kept.
        make: The function.
        size: Bytes of an answer.
        most: Bytes of all that are kept; the last answer is kept whatever its size.

    Attributes:
        held: What is kept, by arguments, the one used last at the end.
    """

    def __init__(
        self, limit: int, make: Callable[..., V], size: Callable[[V], int] = lambda _: 0, most: int = 0
    ) -> None:
        self.limit, self.make, self.size, self.most = limit, make, size, most
        self.held: dict[tuple, V] = {}
        self._lock = threading.Lock()

    def __call__(self, *key: Any) -> V:
        """What was made for these arguments."""
        with self._lock:
            known = key in self.held
            self.held[key] = found = self.held.pop(key) if known else self.make(*key)
            while not known and len(self.held) > 1 and self._too_much():
                del self.held[next(iter(self.held))]
            return found

    def _too_much(self) -> bool:
        return len(self.held) > self.limit or sum(map(self.size, self.held.values())) > self.most
