"""What a fast encoder holds: an engine, made from the weights as they are and thrown away with everything in it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from jaxtyping import Float
from torch import Tensor

from ..encoder import Encoder

K = TypeVar("K")
V = TypeVar("V")


class Engine(ABC):
    """Computes the stages of an encoder for inference.

    One engine serves one state of the weights: after a change the fast encoder makes another. Inputs are legal, not
    empty, in the parameters' dtype, and ask for no gradient. Every method may be called from several threads.
    """

    name: ClassVar[str]

    def __init__(self, encoder: Encoder) -> None:
        parameter = next(encoder.parameters())
        self.encoder, self.dtype, self.device = encoder, parameter.dtype, parameter.device

    @abstractmethod
    def stages(self, x: Float[Tensor, "b 3 *pixels"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of the stages up to that one."""

    @abstractmethod
    def embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector."""

    def describe(self) -> str:
        """What runs, in a line."""
        return f"engine {self.name}, {str(self.dtype).removeprefix('torch.')} on {self.device}"


class Recent(Generic[K, V]):
    """The few things used last, each made once; threads wait for each other while one is made."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """What is held under that key, made if need be; the one unused for longest then goes."""
        with self._lock:
            if key not in self._held:
                self._held[key] = make()
            self._held.move_to_end(key)
            if len(self._held) > self.limit:
                self._held.popitem(last=False)
            return self._held[key]

    def held(self) -> list[K]:
        """What is held, the one used last at the end."""
        with self._lock:
            return list(self._held)
