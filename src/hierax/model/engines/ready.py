"""The engine that `auto` takes where a program is kept: OpenVINO for what needs no conversion, torch for the rest."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..encoder import Encoder
from . import keeping
from .base import Engine
from .eager import TorchEngine
from .openvino import OpenVINOEngine, has_openvino


def ready_or_torch(encoder: Encoder, *, precision: str = "f32") -> Engine:
    """The faster of what can answer at once."""
    parameter = next(encoder.parameters())
    runs = parameter.device.type == "cpu" and parameter.dtype in (torch.float32, torch.bfloat16) and has_openvino()
    kept = keeping.ready(encoder) if runs else set()
    return ReadyEngine(encoder, kept, precision=precision) if kept else TorchEngine(encoder)


class ReadyEngine(Engine):
    """OpenVINO for sizes and outputs of which a program is kept, the torch engine for others: nothing is converted.

    Args:
        encoder: As for `OpenVINOEngine`.
        kept: Sizes (3, *pixels) and outputs.
        precision: What OpenVINO computes in.
    """

    name = "openvino"

    def __init__(self, encoder: Encoder, kept: set[tuple[tuple[int, ...], int]], *, precision: str) -> None:
        super().__init__(encoder)
        self._kept = kept
        self._openvino = OpenVINOEngine(encoder, precision=precision, convert=False)
        self.choice = f"{self._openvino.choice}, where a program is kept; engine torch elsewhere"

    @functools.cached_property
    def _torch(self) -> TorchEngine:
        return TorchEngine(self.encoder)

    def run(self, x: Tensor, last: int) -> list[Tensor]:
        """Stage maps or embedding."""
        what = (tuple(x.shape[1:]), last)
        if what in self._kept:
            if self._openvino.model(*what) is not None:
                return self._openvino.run(x, last)
            self._kept.discard(what)  # damaged, or cleared since
        return self._torch.run(x, last)
