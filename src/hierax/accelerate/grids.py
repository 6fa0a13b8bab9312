"""What the HieraDets of SAM 2, timm, birder and transformers share: windows by side, any input size, no token order."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..config import ModelConfig
from .peer import Peer
from .structure import Row, check_activation, check_rows, grid_rows, read_norms, read_patches, read_rows


class GridPeer(Peer):
    """A HieraDet."""

    window_table = "pos_embed_window"

    def blocks(self, module: Any) -> list[Any]:
        """Its blocks, in order."""
        return list(module.blocks)

    def rows(self, module: Any) -> list[Row]:
        """What its blocks say."""
        return grid_rows(self.blocks(module))

    def convolution(self, module: Any) -> nn.Module:
        """Its patch embedding."""
        return module.patch_embed.proj

    def size(self, module: Any) -> tuple[int, ...]:
        """It takes any; this one is usual."""
        return (1024, 1024)

    def config(self, module: Any) -> ModelConfig:
        """The network, read off its blocks and tables."""
        blocks, rows = self.blocks(module), self.rows(module)
        hidden = next(layer for layer in blocks[0].mlp.modules() if isinstance(layer, nn.Linear)).out_features
        config = ModelConfig(
            family="hieradet",
            position="window",
            position_size=tuple(module.pos_embed.shape[2:]),
            mask_unit=tuple(getattr(module, self.window_table).shape[2:]),
            **read_rows(rows),
            **read_patches(self.convolution(module)),
            input_size=self.size(module),
            num_classes=0,
            head="pool",
            layer_scale=1e-5 if hasattr(getattr(blocks[0], "ls1", None), "gamma") else None,
            norm_eps=read_norms(self.passed_over(module)),
            mlp_ratio=hidden / blocks[0].dim_out,
        )
        check_rows(config, rows)
        check_activation(blocks)
        return config

    def state(self, module: Any) -> object:
        """Windows and pools."""
        return tuple(self.rows(module))
