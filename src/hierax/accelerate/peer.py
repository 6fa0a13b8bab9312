"""What is said of each peer: how its encoder is told, what network it is, and how its methods answer."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config import ModelConfig


class Original(Exception):
    """The peer's own code must answer this call; the message is the reason."""


class Peer(ABC):
    """One kind of encoder of another package.

    For every name in `methods` a peer has a method of that name, which takes the module, what computes its stages
    (`fast.Stages`), and what its caller gave; it returns what the module's own method would, or raises `Original`.
    """

    name: ClassVar[str]
    """Package and kind, for people."""

    methods: ClassVar[tuple[str, ...]]
    """Methods of the module that are answered, the one that speed is measured by first."""

    outside: ClassVar[tuple[str, ...]] = ()
    """Children that the peer's own code still runs: heads, norms, poolers."""

    idle: ClassVar[tuple[str, ...]] = ()
    """Children that only reorder tokens: no matter in which mode they are, or that a fast answer does not run them."""

    @abstractmethod
    def matches(self, module: nn.Module) -> bool:
        """Whether the module has the parts of such an encoder; whatever its class is called."""

    @abstractmethod
    def config(self, module: nn.Module) -> ModelConfig:
        """The network, read off the live parts.

        Raises:
            HieraxError: Parts that no network of the family has.
        """

    @abstractmethod
    def size(self, module: nn.Module) -> tuple[int, ...]:
        """Pixels of its usual input, (height, width) or (frames, height, width)."""

    def obstacle(self, module: nn.Module) -> str | None:
        """Why such an encoder cannot be made faster though its parts are right."""
        return None

    def state(self, module: nn.Module) -> object:
        """What beside weights and types decides its answers: windows, strides, sizes."""
        return None

    def prepared(self, module: nn.Module, x: Tensor) -> Tensor:
        """Input as its own patch embedding would take it.

        Raises:
            Original: An input that its own code refuses, or treats in another way.
        """
        return x

    def named_tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """Parameters that the stages need, by its own names."""
        skip = tuple(f"{name}." for name in self.outside)
        found = module.named_parameters(remove_duplicate=False)
        return {name: _plain(parameter) for name, parameter in found if not name.startswith(skip)}

    def passed_over(self, module: nn.Module) -> list[nn.Module]:
        """The module and everything inside that a fast answer does not run."""
        modules = [module]
        for each in modules:
            outside = self.outside + self.idle if each is module else ()
            modules.extend(m for name, m in each._modules.items() if m is not None and name not in outside)
        return modules

    def probes(self, module: nn.Module) -> dict[str, tuple[str, dict[str, Any]]]:
        """Calls by which an answer is compared: a method and its keywords, by what they are called in a report."""
        return {name: (name, {}) for name in self.methods}


def _plain(parameter: Tensor) -> Tensor:
    # What is born in inference mode can ask for no gradient, as parameters do.
    detached = parameter.detach()
    with torch.inference_mode(False):
        return detached.clone() if detached.is_inference() else detached


def arguments(module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a call gives a method of the module's class, by name, its defaults included.

    Raises:
        Original: Not what the method takes: its own code says so.
    """
    try:
        bound = inspect.signature(getattr(type(module), name)).bind(module, *args, **kwargs)
    except TypeError as error:
        raise Original(str(error)) from error
    bound.apply_defaults()
    return bound.arguments


def has(module: nn.Module, *names: str) -> bool:
    """Whether a module has all these attributes."""
    return all(hasattr(module, name) for name in names)


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest of lists, tuples and mappings, named by the way to it."""
    if isinstance(value, Tensor):
        yield name, value
    elif hasattr(value, "items"):
        for key, each in value.items():
            yield from tensors_in(each, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from tensors_in(each, f"{name}[{index}]")
