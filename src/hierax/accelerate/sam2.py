"""The trunk of SAM 2's image encoder, behind every predictor of the package."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .grids import GridPeer
from .peer import has


class Sam2Trunk(GridPeer):
    """`sam2.modeling.backbones.hieradet.Hiera`; neck, prompts, decoder and memory stay the package's own."""

    name, methods = "SAM 2 trunk", ("forward",)

    def matches(self, module: nn.Module) -> bool:
        """A windowed table, and the switch between one map and all."""
        return has(module, "patch_embed", "blocks", "pos_embed_window", "return_interm_layers", "channel_list")

    def state(self, module: Any) -> object:
        """Windows and pools, and whether all maps are returned."""
        return super().state(module), module.return_interm_layers

    def forward(self, module: Any, stages: Any, x: Tensor) -> list[Tensor]:
        """Maps (b, c, h, w), finest first, or the last alone; a new list every time, because callers write to it."""
        maps = [grid.permute(0, 3, 1, 2) for grid in stages(x)]
        return maps if module.return_interm_layers else maps[-1:]
