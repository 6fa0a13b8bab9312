"""Methods of one module exchanged for others, so that copies, pickles and replicas stay right.

A method is bound to the module by hand and carries the name of what it stands for. A deep copy binds it to the copy,
so a copy answers with its own weights; a pickle keeps the name alone and finds the class's own method when it is read,
anywhere. Type, children and keys are untouched, and hooks on the module fire.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

from torch import nn

from .fast import Fast, Stages
from .guards import traced
from .peer import Original

_MARK = "_hierax_fast"


def place(module: nn.Module, fast: Fast) -> None:
    """Let a module's methods be answered by fast stages."""
    for name in fast.peer.methods:
        module.__dict__[name] = MethodType(_answered(type(module), name, fast), module)
    module.__dict__["_replicate_for_data_parallel"] = MethodType(_replicated(type(module), fast), module)


def remove(module: nn.Module) -> None:
    """Give a module its own methods back."""
    for name in [name for name, value in module.__dict__.items() if _mark(value) is not None]:
        del module.__dict__[name]


def placed(module: nn.Module) -> Fast | None:
    """What answers a module's methods; None for a module as it came."""
    return next((fast for value in list(module.__dict__.values()) if (fast := _mark(value)) is not None), None)


def original(module: nn.Module, name: str) -> Any:
    """A method as the module's class has it."""
    return MethodType(getattr(type(module), name), module)


def answer(module: nn.Module, fast: Fast, name: str, *args: Any, **kwargs: Any) -> Any:
    """What a method says by fast stages.

    Raises:
        Original: The module's own code must answer.
    """
    return getattr(fast.peer, name)(module, Stages(fast, module), *args, **kwargs)


def _mark(value: object) -> Fast | None:
    return getattr(getattr(value, "__func__", None), _MARK, None) if isinstance(value, MethodType) else None


def _answered(kind: type[nn.Module], name: str, fast: Fast) -> Any:
    @functools.wraps(getattr(kind, name))
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        own = getattr(type(self), name)
        if traced():
            return own(self, *args, **kwargs)
        try:
            return answer(self, fast, name, *args, **kwargs)
        except Original as reason:
            fast.say(str(reason))
        return own(self, *args, **kwargs)

    method.__name__ = name  # what a pickle looks up
    setattr(method, _MARK, fast)
    return method


def _replicated(kind: type[nn.Module], fast: Fast) -> Any:
    """torch.nn.DataParallel copies a module's dictionary: its replicas would answer with the original's weights."""

    @functools.wraps(kind._replicate_for_data_parallel)
    def method(self: nn.Module) -> nn.Module:
        replica = type(self)._replicate_for_data_parallel(self)
        remove(replica)
        return replica

    setattr(method, _MARK, fast)
    return method
