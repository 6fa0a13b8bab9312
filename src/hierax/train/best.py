"""The weights that validated best so far, kept beside those that go on changing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..model.metrics import Accuracy
from .recipe import Recipe


def merit(top1: float, loss: float) -> tuple[float, float]:
    """What decides which of two validations is the better one: accuracy, then loss; of equal ones the earlier is."""
    return top1, -loss if math.isfinite(loss) else -math.inf


class Best:
    """The best validation of a run, and the weights that it was of.

    Attributes:
        step: Steps that were done then, 0 before the first validation.
        top1: Its accuracy.
        loss: Its loss, which decides between equal accuracies.
        waited: Validations since then.
        tensors: The result's weights, by name, on the CPU; empty on processes that write nothing.
    """

    def __init__(self) -> None:
        self.step, self.top1, self.loss, self.waited = 0, -1.0, 0.0, 0
        self.tensors: dict[str, Tensor] = {}

    def offer(self, step: int, found: Accuracy, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Take the present weights, if they are better; every process must call this."""
        if merit(found.top1, found.loss) > merit(self.top1, self.loss):
            self.step, self.top1, self.loss, self.waited = step, found.top1, found.loss, 0
            self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in weights().items()}
        else:
            self.waited += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside the tensors."""
        return {"step": self.step, "top1": self.top1, "loss": self.loss, "waited": self.waited}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to what a checkpoint kept; runs from before there was a best have none."""
        found = state.get("best", {})
        if found.get("step"):
            self.step, self.top1, self.loss, self.waited = (found[key] for key in ("step", "top1", "loss", "waited"))
            known = {name: tensor for name, tensor in tensors.items() if name.startswith("best.")}
            self.tensors = {name.removeprefix("best."): tensor for name, tensor in known.items()}

    def is_result(self, recipe: Recipe) -> bool:
        """Whether the run yields these weights rather than the last ones."""
        wanted = recipe.result or ("best" if recipe.patience else "last")
        return wanted == "best" and self.step > 0
