"""What a run yields: `OUT/model`, and beside it the other one of the last weights and those that validated best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.files import name_text
from ..model.metrics import Accuracy
from ..net.transfer import shown
from ..weights.files import write_safetensors
from ..weights.rename import flat_name
from ..weights.write import write_weights
from .loop import Loop
from .start import derived


def write_result(loop: Loop, source: Any, found: Accuracy | None) -> tuple[Accuracy | None, dict[str, Any]]:
    """Write the result, and beside it the other one of last and best; the result's accuracy, and which it is.

    Args:
        loop: A run that is over; its network has the last weights and gets the result's.
        source: The data, for the card.
        found: The last weights' accuracy.
    """
    best, devices, module = loop.best, loop.devices, loop.method.result()
    if found is not None:
        loop.offer(loop.done, found)
    which: dict[str, Any] = {"model": "last", "step": loop.done}
    other = best.step not in (0, loop.done)
    if not other:
        _write(loop, source, devices.state(module), "model")
    elif best.is_result(loop.recipe):
        _write(loop, source, devices.state(module), "last")
        devices.load(module, best.tensors)
        found = loop.method.validate(loop.validation, devices) if loop.validation is not None else None
        _write(loop, source, devices.state(module), "model")
        which = {"model": "best", "step": best.step, "beside": "last", "beside_step": loop.done}
    else:
        _write(loop, source, devices.state(module), "model")
        _write(loop, source, best.tensors, "best")
        which |= {"beside": "best", "beside_step": best.step}
    if loop.method.extras and devices.main:
        write_safetensors(loop.out / loop.method.extras, loop.method.beside())
    if best.step:
        which |= {"best_step": best.step, "best_top1": best.top1}
    return found, which


def _write(loop: Loop, source: Any, state: Mapping[str, Tensor], name: str) -> None:
    """Write weights as a hierax folder, with the parent's licence."""
    if loop.devices.main:
        # The card never names a path of this machine.
        data = Path(shown(name_text(str(source)))).name if isinstance(source, (str, Path)) else "own images"
        tensors = {flat_name(name): tensor for name, tensor in state.items()}
        weights = dataclasses.replace(derived(loop.method.weights, loop.recipe, data), tensors=tensors)
        write_weights(weights, loop.out / name, to="hierax", replace=True)
    loop.devices.accelerator.wait_for_everyone()


def told(result: Mapping[str, Any], out: Path) -> list[str]:
    """Which weights are the model, for a person; nothing where there are no others."""
    if "beside" not in result:
        return []
    return [
        f"the {result['model']} weights, of step {result['step']}, are the model; the {result['beside']}, of step "
        f"{result['beside_step']}, are in {out / result['beside']} (best validation {result['best_top1']:.1%})"
    ]
