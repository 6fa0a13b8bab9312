"""The non-padding encoder as one exported program, which the `compile` and `openvino` engines build from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoder import Encoder
from .eager import TorchEngine

EMBEDDING = -1


class Graph(nn.Module):
    """Embedding, or channels-last maps of the stages up to one, of inputs of one size."""

    def __init__(self, encoder: Encoder, last: int) -> None:
        super().__init__()
        self.encoder, self.last = encoder, last  # registered: its parameters become the program's
        self.engine = TorchEngine(encoder, "traced")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs in order of stages, or the embedding alone."""
        return (self.engine.embedding(x),) if self.last == EMBEDDING else tuple(self.engine.stages(x, self.last))


def export(encoder: Encoder, x: Tensor, last: int, *, any_batch: bool = False) -> torch.export.ExportedProgram:
    """Trace for inputs shaped like x.

    Args:
        encoder: Its weights become constants of the program.
        x: An example.
        last: The last stage wanted, counted from 0, or `EMBEDDING`.
        any_batch: Leave the batch open.
    """
    graph = Graph(encoder, last).eval()
    grid = encoder.config.grid(tuple(x.shape[2:]))
    batch = 2 if any_batch else x.shape[0]  # one would be taken for a constant
    example = torch.zeros(batch, *x.shape[1:], dtype=x.dtype, device=x.device)
    shapes = ({0: torch.export.Dim("batch", max=1 << 20)},) if any_batch else None
    with torch.no_grad():
        graph.engine.position(grid)  # these two now, so that the trace sees constants
        graph.engine.schedule(grid)
        return torch.export.export(graph, (example,), dynamic_shapes=shapes, strict=False)
