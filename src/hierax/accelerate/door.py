"""The three functions that people call."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import HieraxError, InputError
from ..model.engines.openvino import has_openvino
from . import seam
from .fast import Fast, Options, understood
from .find import encoders_in, network_of
from .handle import Acceleration
from .peer import Original, Peer
from .report import EQUAL, Part, Report, compared, example, timed

log = logging.getLogger("hierax")
LITTLE = 1.2  # a gain below which engine="auto" also tries OpenVINO


def accelerate(
    obj: Any,
    *,
    engine: str = "auto",
    dtype: str | torch.dtype | None = None,
    input_size: int | tuple[int, ...] | None = None,
    check: bool = True,
) -> Acceleration:
    """Make a loaded model of another package faster in place: same type, same outputs, undoable.

    Its encoder is recognised by structure and weights, and its methods are answered by a fast encoder on the same
    parameters. What that cannot give (gradients, train mode, masks, attentions, hidden states, tracing, hooks inside)
    the model's own code still does, call by call; the reason is logged once. Changed weights are followed.

    Args:
        obj: A model of sam2, transformers, timm, birder or Meta's hiera, a predictor, a pipeline, or a network that
            holds one of these.
        engine: As for `optimize`; "auto" also tries OpenVINO, where installed, if the torch engine gains little.
        dtype: What is computed in; None is the model's own. Answers keep the model's type.
        input_size: Pixels of the image that it is measured with, an int or (height, width); None is the model's usual.
        check: Compare every output and measure the speed first, and leave the model alone if it is not equal or not
            faster. False exchanges at once and reports nothing.

    Returns:
        What was chosen and measured, with `undo()` and `refresh()`. Asked again for the same, it does nothing more.

    Raises:
        InputError: Nothing that can be made faster; says what is accepted, or why this model is not.
        UnknownNameError: No such engine.
        MissingExtraError: The engine is not installed.

    Source: docs/tasks/accelerate.md.
    """
    options = Options(engine, dtype, input_size)
    found = encoders_in(obj)
    modules = {name: module for name, (module, _) in found.items()}
    there = getattr(seam.placed(next(iter(modules.values()))), "handle", None)
    if there is not None and there.serves(modules, options):
        return there
    parts, placed = [], {}
    for name, (module, peer) in found.items():
        part, fast = _tried(name, module, peer, options, check)
        log.info("%s", part)
        parts.append(part)
        if part.kept:
            placed[name] = fast
    handle = Acceleration(modules, Report(tuple(parts)), options)
    handle.undo()  # what an earlier call exchanged
    for name, fast in placed.items():
        fast.handle = handle
        seam.place(modules[name], fast)
    return handle


def restore(obj: Any) -> None:
    """Undo `accelerate`, whoever called it; nothing happens to what is as it came."""
    for module in _modules(obj):
        seam.remove(module)


def is_accelerated(obj: Any) -> bool:
    """Whether `accelerate` exchanged anything in a model, predictor or pipeline."""
    return any(seam.placed(module) is not None for module in _modules(obj))


def _modules(obj: Any) -> list[nn.Module]:
    network = network_of(obj)
    return [] if network is None else list(network.modules())


def _tried(name: str, module: nn.Module, peer: Peer, options: Options, check: bool) -> tuple[Part, Fast]:
    """The best candidate for one encoder, measured if asked."""
    try:
        encoder = understood(peer, module)  # before anything else: a model that must be refused
    except HieraxError as error:
        raise InputError(f"This {peer.name} cannot be accelerated: {str(error).rstrip('.')}.") from error
    if module.training:
        log.warning("The %s is in train mode: its own code runs until .eval() is called.", peer.name)
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    with _evaluating(module):
        part, fast = _candidate(name, module, peer, options, check)
        free = options.engine == "auto" and str(options.dtype) != "int8" and on_cpu and has_openvino()
        if check and free and "openvino" not in part.choice and not part.speedup >= LITTLE:
            other = replace(options, engine="openvino")
            found = _candidate(name, module, peer, other, check)
            if found[0].kept and not part.speedup >= found[0].speedup:
                return found
    return part, fast


def _candidate(name: str, module: nn.Module, peer: Peer, options: Options, check: bool) -> tuple[Part, Fast]:
    fast = Fast(peer, options)
    choice = fast.choice(module)
    if (error := fast.failure(module)) is not None:
        raise error
    if not check:
        return Part(name, peer.name, choice), fast
    x = example(module, fast, fast.usual_size(module))
    tolerance = _tolerance(x.dtype, options)
    with torch.no_grad():
        try:
            differences = compared(module, fast, x)
        except Original as reason:
            return Part(name, peer.name, choice, tuple(x.shape), tolerance, kept=False, reason=str(reason)), fast
        before, after = timed(module, fast, x)
    part = Part(name, peer.name, choice, tuple(x.shape), tolerance, differences, before, after)
    reason = ""
    if not part.difference <= tolerance:
        reason = f"its outputs would move by {part.difference:.1e}, more than {tolerance:g}"
    elif not part.speedup > 1:
        reason = "it would not be faster"
    return replace(part, kept=not reason, reason=reason), fast


def _tolerance(dtype: torch.dtype, options: Options) -> float:
    """What outputs may move by: rounding of the coarsest type that is computed in."""
    asked = str(options.dtype).removeprefix("torch.")
    if asked == "int8":
        return math.inf  # measured by its own report
    coarsest = {"bfloat16": torch.bfloat16, "float16": torch.float16, "auto": torch.bfloat16}.get(asked, dtype)
    return max(EQUAL.get(coarsest, EQUAL[torch.float32]), EQUAL.get(dtype, EQUAL[torch.float32]))


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Every part in eval mode meanwhile."""
    modes = {each: each.training for each in module.modules()}
    try:
        for each in modes:
            each.training = False
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
