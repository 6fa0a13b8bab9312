"""The network that is exported: traced once, in the form that every target is written from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import STAGE_NAMES, ModelConfig, block_table
from ..model.encoder import Encoder
from ..model.engines.base import EMBEDDING
from ..model.engines.eager import TorchEngine
from ..model.tables import resize_by_products

MOST_BATCH, MOST_SIDE = 1 << 20, 1 << 16
TRACED_BATCH = 2  # one would be taken for a constant


class FixedSize(nn.Module):
    """The graph of the engines for inputs of one size: position tables are constants, nothing is padded.

    Only what it runs as a module is registered: the blocks' weights are folded, and would be written twice.
    """

    def __init__(self, encoder: Encoder, outputs: Sequence[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: part for name, part in encoder.named_children() if name != "blocks"})
        self.engine, self.outputs = TorchEngine(encoder, "traced"), tuple(outputs)
        wanted = [STAGE_NAMES.index(name) for name in outputs if name in STAGE_NAMES]
        self.vectors = bool({"embedding", "logits"} & set(outputs))
        last = len(encoder.stage_ends) - 1 if self.vectors else max(wanted)
        self.last = last if wanted else EMBEDDING

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order in which they were asked for."""
        encoder, found = self.engine.encoder, self.engine.run(images, self.last)
        named: dict[str, Tensor] = {}
        if self.last == EMBEDDING:
            named["embedding"] = found[0]
        else:
            named = {name: each.movedim(-1, 1) for name, each in zip(STAGE_NAMES, found, strict=False)}
            if self.vectors:
                named["embedding"] = encoder.pool(found[-1])
        if "logits" in self.outputs:
            named["logits"] = encoder.classify(named["embedding"])
        return tuple(named[name] for name in self.outputs)


class AnySize(nn.Module):
    """The readable encoder for inputs of every size: it resizes its tables by products, and pads every window."""

    def __init__(self, encoder: Encoder, outputs: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.outputs = encoder, tuple(outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order in which they were asked for."""
        tokens = self._patches(images)
        tokens = tokens + self.encoder.position(tuple(tokens.shape[1:-1]), resize_by_products)
        found = self.encoder.through(tokens)
        named = {name: each.movedim(-1, 1) for name, each in zip(STAGE_NAMES, found, strict=False)}
        named["embedding"] = self.encoder.pool(found[-1])
        if "logits" in self.outputs:
            named["logits"] = self.encoder.classify(named["embedding"])
        return tuple(named[name] for name in self.outputs)

    def _patches(self, images: Tensor) -> Tensor:
        """The patch embedding, padded by hand: its own formula of a grid's sides is one that no tracer can simplify."""
        config, layer = self.encoder.config, self.encoder.patch_embed.proj
        sides = zip(config.patch_kernel, config.patch_stride, config.patch_padding, strict=True)
        pads = [n for kernel, stride, left in reversed(list(sides)) for n in (left, kernel - stride - left)]
        convolve = F.conv3d if config.is_video else F.conv2d
        tokens = convolve(F.pad(images, pads), layer.weight, layer.bias, config.patch_stride)
        return tokens.movedim(1, -1)


def example_size(config: ModelConfig) -> tuple[int, ...]:
    """A size to trace every size at: what it has of, one window or none to fill up, the trace would take for a rule.

    Two windows of each block along each axis, or more, and the last of them not full wherever some size leaves it so.
    """
    axes = range(len(config.input_size) - 2, len(config.input_size))
    height, width = (_example_side(config, axis) for axis in axes)
    while width == height or not _is_general(config, axes[-1], width):
        width += config.size_multiple[-1]
    return (*config.input_size[:-2], height, width)


def _example_side(config: ModelConfig, axis: int) -> int:
    side = config.size_multiple[axis]
    while not _is_general(config, axis, side):
        side += config.size_multiple[axis]
    return side


def _is_general(config: ModelConfig, axis: int, side: int) -> bool:
    cells = config.patch_stride[axis]  # pixels of one
    for spec in block_table(config):
        if spec.window is not None:
            window = cells * spec.window[axis]
            may_divide_not = config.size_multiple[axis] % window
            if side <= window or (may_divide_not and side % window == 0):
                return False
        cells *= spec.q_stride[axis] if spec.q_stride is not None else 1
    return True


def trace(
    encoder: Encoder, outputs: Sequence[str], size: tuple[int, ...], *, any_size: bool
) -> torch.export.ExportedProgram:
    """The program of an encoder in eval mode on the CPU, any batch.

    Args:
        encoder: Its weights become the program's.
        outputs: What it gives, in that order.
        size: Of the inputs; with `any_size` one of many, of which every axis should hold two windows of each block.
        any_size: Leave height and width open.
    """
    example = torch.zeros(TRACED_BATCH, encoder.config.in_channels, *size)
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=MOST_BATCH)}
    graph: nn.Module
    if any_size:
        graph = AnySize(encoder, outputs)
        for name, axis, multiple in zip(("height", "width"), (-2, -1), encoder.config.size_multiple[-2:], strict=True):
            cells = torch.export.Dim(f"{name}_cells", min=1, max=MOST_SIDE // multiple)
            axes[example.ndim + axis] = multiple * cells
    else:
        graph = FixedSize(encoder, outputs)
        grid = encoder.config.grid(size)
        graph.engine.position(grid)  # these two now, so that the trace sees constants
        graph.engine.schedule(grid)
    with torch.no_grad():
        return torch.export.export(graph.eval(), (example,), dynamic_shapes=(axes,), strict=False)
