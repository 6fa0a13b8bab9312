"""The `openvino` engine: the non-padding graph compiled by OpenVINO for this processor (extra `openvino`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, MissingExtraError
from .encoder import FastEncoder
from .graph import EMBEDDING, export

Transform = Callable[[Any], Any]


def has_openvino() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("openvino") is not None


class OpenVINOEncoder(FastEncoder):
    """Compiles on first use of each input size (seconds); batches smaller than one compiled before are filled up.

    Attributes:
        precision: "f32" or "bf16": what OpenVINO computes in; inputs and outputs are float32.
    """

    engine = "openvino"

    def __init__(self, model: FastEncoder, *, precision: str = "f32") -> None:
        super().__init__(model)
        if not has_openvino():
            raise MissingExtraError("openvino", "openvino")
        self.precision = precision
        self.quantize: Transform | None = None
        self._models: dict[tuple, Any] = {}
        self._programs: dict[tuple, dict[int, Any]] = {}

    @property
    def choice(self) -> str:
        """What runs, in words."""
        return f"engine openvino, {'int8' if self.quantize else self.precision} on cpu"

    def run_stages(self, x: Tensor, last: int) -> list[Tensor]:
        """Stage maps from the compiled program."""
        return [] if last < 0 else self._infer(x, last)

    def run_embedding(self, x: Tensor) -> Tensor:
        """The embedding from the compiled program."""
        return self._infer(x, EMBEDDING)[0]

    def prepare(self) -> None:
        """Forget programs whose weights have changed."""
        parameter = next(self.parameters())
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            raise InputError(
                f"The openvino engine takes float32 parameters on the CPU; got {parameter.dtype} on "
                f"{parameter.device}. Use engine='torch'."
            )
        before = self._state
        super().prepare()
        if self._state != before:
            self._models, self._programs = {}, {}

    def model(self, x: Tensor, last: int) -> Any:
        """The OpenVINO model for inputs of that size, any batch."""
        os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
        import openvino

        key = (tuple(x.shape[1:]), last)
        if key not in self._models:
            model = openvino.convert_model(export(self, x.float(), last, any_batch=True))
            model.reshape([-1, *x.shape[1:]])
            self._models[key] = self.quantize(model) if self.quantize else model
        return self._models[key]

    def adopt(self, x: Tensor, last: int, model: Any) -> None:
        """Run that OpenVINO model for inputs of that size from now on."""
        key = (tuple(x.shape[1:]), last)
        self._models[key] = model
        self._programs.pop(key, None)

    def _infer(self, x: Tensor, last: int) -> list[Tensor]:
        import openvino

        compiled = self._programs.setdefault((tuple(x.shape[1:]), last), {})
        b = x.shape[0]
        batch = min((size for size in compiled if size >= b), default=b)
        if batch not in compiled:
            model = self.model(x, last).clone()
            model.reshape([batch, *x.shape[1:]])
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self.precision}
            compiled[batch] = openvino.Core().compile_model(model, "CPU", hints)
        filled = torch.cat([x, x.new_zeros(batch - b, *x.shape[1:])]) if batch > b else x
        outputs = compiled[batch](filled.float().contiguous().numpy())
        return [torch.from_numpy(outputs[i].copy())[:b].to(x.dtype) for i in range(len(outputs))]
