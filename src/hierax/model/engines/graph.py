"""The non-padding encoder as one exported program, which `compile` and `openvino` build from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .encoder import FastEncoder
from .products import Traced

EMBEDDING = -1


class Graph(nn.Module):
    """Embedding, or channels-last maps of the stages up to one, of inputs of one size."""

    def __init__(self, encoder: FastEncoder, last: int) -> None:
        super().__init__()
        self.encoder, self.last = encoder, last

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs in order of stages, or the embedding alone."""
        if self.last == EMBEDDING:
            return (FastEncoder.run_embedding(self.encoder, x),)
        return tuple(FastEncoder.run_stages(self.encoder, x, self.last))


def export(encoder: FastEncoder, x: Tensor, last: int, *, any_batch: bool = False) -> torch.export.ExportedProgram:
    """Trace for inputs shaped like x.

    Args:
        encoder: Any fast encoder; its weights become constants of the program.
        x: An example.
        last: The last stage wanted, counted from 0, or `EMBEDDING`.
        any_batch: Leave the batch open.
    """
    traced = FastEncoder(encoder)
    traced.kind = Traced
    traced.prepare()
    grid = traced.config.grid(tuple(x.shape[2:]))
    batch = 2 if any_batch else x.shape[0]  # one would be taken for a constant
    example = torch.zeros(batch, *x.shape[1:], dtype=x.dtype, device=x.device)
    shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
    with torch.no_grad():
        traced.position(grid)  # these two now, so that the trace sees constants
        traced.schedule(grid)
        return torch.export.export(Graph(traced, last).eval(), (example,), dynamic_shapes=shapes, strict=False)
