"""The `openvino` engine: the non-padding graph compiled by OpenVINO for this processor (extra `openvino`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, MissingExtraError
from ..encoder import Encoder
from .base import Engine, Recent
from .encoder import FastEncoder
from .graph import EMBEDDING, export

MODELS, PROGRAMS = 8, 8  # kept; each program holds its own copy of the weights
# A batch runs in a program for a larger one while blank images make up at most a third of that: repeated, more of
# them would cost more than the second or so that a program of its own takes once.
FILLED = 1.5


def has_openvino() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("openvino") is not None


class OpenVINOEngine(Engine):
    """Compiles on first use of each input size and batch (seconds); a batch may be filled up to one nearly as small.

    Args:
        encoder: On the CPU, in float32 or bfloat16.
        precision: "f32" or "bf16": what OpenVINO computes in.
        quantize: Turns a float model into an int8 one.
    """

    name = "openvino"

    def __init__(
        self, encoder: Encoder, *, precision: str = "f32", quantize: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(encoder)
        if not has_openvino():
            raise MissingExtraError("openvino", "openvino")
        if self.device.type != "cpu" or self.dtype not in (torch.float32, torch.bfloat16):
            raise InputError(
                f"The openvino engine takes float32 or bfloat16 parameters on the CPU; got {self.dtype} on "
                f"{self.device}. Use engine='torch'."
            )
        self.precision, self.quantize = precision, quantize
        self._models: Recent[tuple, Any] = Recent(MODELS)
        self._programs: Recent[tuple, Program] = Recent(PROGRAMS)

    def describe(self) -> str:
        """What runs, in a line."""
        return f"engine openvino, {'int8' if self.quantize else self.precision} on cpu"

    def stages(self, x: Tensor, last: int) -> list[Tensor]:
        """Stage maps from the compiled program."""
        return self._run(x, last)

    def embedding(self, x: Tensor) -> Tensor:
        """The embedding from the compiled program."""
        return self._run(x, EMBEDDING)[0]

    def model(self, size: tuple[int, ...], last: int, known: Any = None) -> Any:
        """The OpenVINO model for inputs (3, *pixels) of that size, any batch; `known` is it, where given."""

        def converted() -> Any:
            os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
            import openvino

            exact = FastEncoder(self.encoder).float()
            model = openvino.convert_model(export(exact, torch.zeros(1, *size), last, any_batch=True))
            model.reshape([-1, *size])
            return self.quantize(model) if self.quantize else model

        return self._models.get((size, last), converted if known is None else lambda: known)

    def compiled_batches(self, size: tuple[int, ...], last: int = EMBEDDING) -> list[int]:
        """Batches that have a program for inputs (3, *pixels) of that size."""
        return sorted(batch for *what, batch in self._programs.held() if what == [size, last])

    def _run(self, x: Tensor, last: int) -> list[Tensor]:
        size, b = tuple(x.shape[1:]), x.shape[0]
        fitting = [batch for batch in self.compiled_batches(size, last) if b <= batch <= FILLED * b]
        batch = min(fitting, default=b)
        program = self._programs.get((size, last, batch), lambda: Program(self, size, last, batch))
        blank = x.new_zeros(batch - b, *size)
        outputs = program(torch.cat([x, blank]) if batch > b else x)
        return [output[:b].to(x.dtype) for output in outputs]


class Program:
    """A model compiled for one batch; each thread that calls at the same time gets a request of its own."""

    def __init__(self, engine: OpenVINOEngine, size: tuple[int, ...], last: int, batch: int) -> None:
        import openvino

        model = engine.model(size, last).clone()
        model.reshape([batch, *size])
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": engine.precision}
        self._compiled = openvino.Core().compile_model(model, "CPU", hints)
        self._idle: list[Any] = []

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Outputs in order, float32."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        found = request.infer([x.float().contiguous().numpy()], share_inputs=True)
        outputs = [torch.from_numpy(found[i].copy()) for i in range(len(found))]
        self._idle.append(request)
        return outputs
