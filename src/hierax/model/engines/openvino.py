"""The `openvino` engine: the non-padding graph compiled by OpenVINO for this processor (extra `openvino`)."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ... import kept
from ...config import STAGE_NAMES
from ...errors import InputError, MissingExtraError
from ...kept import Kept
from ..encoder import Encoder
from ..forks import outlive_forks
from . import keeping
from .base import EMBEDDING, Engine, Recent
from .eager import TorchEngine
from .graph import export

# Kept; each program holds its own copy of the weights, each request of a program the tokens of one call.
MODELS, PROGRAMS, REQUESTS = 8, 8, 8
# A batch runs in a program for a larger one while blank images make up at most a third of that: repeated, more of
# them would cost more than the second or so that a program of its own takes once.
FILLED = 1.5
# Between the two, no sum of squares of the network overflows. Beyond, int8 gives finite answers where the network
# has NaN, and so do OpenVINO's norms.
LARGEST = 1e4


class Quantizes(Protocol):
    """Turns a float model into an int8 one; `key` is what the result depends on beside the model, JSON-able."""

    @property
    def key(self) -> dict[str, Any]: ...  # noqa: D102

    def __call__(self, program: Any) -> Any: ...  # noqa: D102


def within(x: Tensor) -> bool:
    """Whether all elements are numbers that OpenVINO answers for like torch."""
    return x.numel() == 0 or bool(x.abs().amax() <= LARGEST)  # false for NaN


def has_openvino() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino() -> Any:
    """The package, sending nobody a word of its use.

    Raises:
        MissingExtraError: It is not installed.
    """
    if not has_openvino():
        raise MissingExtraError("openvino", "openvino")
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    return importlib.import_module("openvino")


def converted(program: torch.export.ExportedProgram, *size: int) -> Any:
    """The OpenVINO model of a traced program for images of a size (3, *pixels), -1 for any, in any batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what torch says of itself when a program is copied
        model = openvino().convert_model(program)
    model.reshape([-1, *size])
    return model


class OpenVINOEngine(Engine):
    """Compiles on first use of each input size and batch; a batch may be filled up to one nearly as small.

    A size that no process met before is traced and converted first, which takes seconds to a minute, and then kept.

    Args:
        encoder: On the CPU, in float32 or bfloat16.
        precision: "f32" or "bf16": what OpenVINO computes in.
        quantize: Turns a float model into an int8 one.
        convert: Whether to convert where nothing is kept; else `model` gives None.

    Attributes:
        model: The OpenVINO model for images of a size (3, *pixels) and outputs, any batch.
    """

    name = "openvino"

    def __init__(
        self,
        encoder: Encoder,
        *,
        precision: str = "f32",
        quantize: Quantizes | None = None,
        convert: bool = True,
    ) -> None:
        super().__init__(encoder)
        openvino()
        if self.device.type != "cpu" or self.dtype not in (torch.float32, torch.bfloat16):
            raise InputError(
                f"The openvino engine takes float32 or bfloat16 parameters on the CPU; got {self.dtype} on "
                f"{self.device}. Use engine='torch'."
            )
        for name, parameter in encoder.named_parameters():
            if not name.startswith("head.") and not within(parameter.detach()):
                raise InputError(
                    f"The openvino engine takes weights between -{LARGEST:g} and {LARGEST:g}; {name} has others, or no "
                    "numbers. Load sound weights, or use engine='torch', which answers like the readable network."
                )
        self.quantize = quantize
        self.choice = f"engine openvino, {'int8' if quantize else precision} on cpu"
        self.model = Recent(MODELS, partial(self._made, convert))
        self._program = Recent(PROGRAMS, partial(Program, self.model, precision))

    def run(self, x: Tensor, last: int) -> list[Tensor]:
        """Stage maps or embedding from the compiled program."""
        if not within(x):
            with torch.inference_mode(False), torch.no_grad():
                return TorchEngine(self.encoder).run(x, last)
        return [output.to(x.dtype) for output in filled(self._program, x, last)]

    def keep(self, size: tuple[int, ...], output: str) -> Kept:
        """What is kept for images of a size (3, *pixels) and the embedding or maps up to a stage, made where it is not.

        Raises:
            InputError: It cannot be kept.
        """
        last = EMBEDDING if output == "embedding" else STAGE_NAMES.index(output)
        self.model(size, last)
        program = self._wanted(size, last)
        if (found := kept.find(program.name, program.key)) is None:
            raise InputError(
                "A program must be written to be kept; the warning says why that failed. Free some space, raise "
                "HIERAX_CACHE_LIMIT, or name another folder in HIERAX_CACHE."
            )
        return found

    def _wanted(self, size: tuple[int, ...], last: int) -> keeping.Wanted:
        return keeping.wanted(self.encoder, size, last, self.quantize.key if self.quantize else None)

    def _made(self, convert: bool, size: tuple[int, ...], last: int) -> Any:
        """The model that is kept, or one made now and kept."""
        program = self._wanted(size, last)
        model = keeping.find(program)
        if model is None and convert:
            model = _convert(self.encoder, size, last)
            model = self.quantize(model) if self.quantize else model
            keeping.keep(program, model, self.encoder)
        return model


def filled(program: Recent[Program], x: Tensor, last: int) -> list[Tensor]:
    """Outputs, float32, of the program for that batch, or of one that is kept for a batch nearly as small."""
    size, b = tuple(x.shape[1:]), x.shape[0]
    batches = [batch for *what, batch in list(program.held) if what == [size, last]]
    batch = min((held for held in batches if b <= held <= FILLED * b), default=b)
    blank = x.new_zeros(batch - b, *size)
    outputs = program(size, last, batch)(torch.cat([x, blank]) if batch > b else x)
    return [output[:b] for output in outputs]


def _convert(encoder: Encoder, size: tuple[int, ...], last: int) -> Any:
    """The OpenVINO model for images of that size, any batch."""
    exact = encoder if next(encoder.parameters()).dtype == torch.float32 else copy.deepcopy(encoder).float()
    return converted(export(exact, torch.zeros(2, *size), last, any_batch=True), *size)


class Program:
    """A model compiled for one batch; each thread that calls at the same time gets a request of its own."""

    def __init__(self, model: Callable[..., Any], precision: str, size: tuple[int, ...], last: int, batch: int) -> None:
        sized = model(size, last).clone()
        sized.reshape([batch, *size])
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        self._compiled = openvino().Core().compile_model(sized, "CPU", hints)
        self._idle: list[Any] = []
        outlive_forks(self)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Outputs in order, float32."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        found = request.infer([x.float().contiguous().numpy()], share_inputs=True)
        outputs = [torch.from_numpy(found[i].copy()) for i in range(len(found))]
        if len(self._idle) < REQUESTS:
            self._idle.append(request)
        return outputs
