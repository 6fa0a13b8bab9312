"""The non-padding encoder as one exported program, which the `compile` and `openvino` engines build from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoder import Encoder
from .eager import TorchEngine


class Graph(nn.Module):
    """Embedding, or channels-last maps of the stages up to one, of inputs of one size."""

    def __init__(self, encoder: Encoder, last: int) -> None:
        super().__init__()
        self.encoder, self.last = encoder, last  # registered: its parameters become the program's
        self.engine = TorchEngine(encoder, "traced")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs in order of stages, or the embedding alone."""
        return tuple(self.engine.run(x, self.last))


def export(encoder: Encoder, x: Tensor, last: int, *, any_batch: bool = False) -> torch.export.ExportedProgram:
    """Trace for inputs shaped like x.

    Args:
        encoder: Its weights become constants of the program.
        x: An example, of at least two images with `any_batch`: one would be taken for a constant.
        last: The last stage wanted, counted from 0, or `EMBEDDING`.
        any_batch: Leave the batch open.
    """
    graph = Graph(encoder, last).eval()
    grid = encoder.config.grid(tuple(x.shape[2:]))
    shapes = ({0: torch.export.Dim("batch", max=1 << 20)},) if any_batch else None
    with torch.no_grad():
        graph.engine.position(grid)  # these two now, so that the trace sees constants
        graph.engine.schedule(grid)
        return torch.export.export(graph, (x,), dynamic_shapes=shapes, strict=False)
