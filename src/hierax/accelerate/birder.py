"""birder's Hiera, abswin Hiera and HieraDet; detection networks hold one and call `detection_features`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .grids import GridPeer
from .peer import has
from .units import UnitPeer


class _Birder:
    """What both lines share."""

    methods = ("forward_features", "detection_features")
    outside = ("features", "classifier")

    def blocks(self, module: Any) -> list[Any]:
        """The blocks of its stages, in order."""
        return [block for stage in module.body.children() for block in stage]

    def detection_features(self, module: Any, stages: Any, x: Tensor) -> dict[str, Tensor]:
        """Maps (b, c, h, w) of the stages that it returns; it runs all of them."""
        maps = dict(zip((name for name, _ in module.body.named_children()), stages(x), strict=True))
        wanted = module.return_stages
        return {name: grid.permute(0, 3, 1, 2).contiguous() for name, grid in maps.items() if name in wanted}


class BirderHiera(_Birder, UnitPeer):
    """`birder.net.hiera.Hiera`; with masks it runs its own code."""

    name, patches = "birder Hiera", "stem"

    def matches(self, module: nn.Module) -> bool:
        """A stem, stages in a body, and token orders."""
        return has(module, "stem", "body", "unroll", "reroll", "mask_unit_size", "detection_features")

    def forward_features(self, module: Any, stages: Any, x: Tensor) -> Tensor:
        """Tokens (b, n, c)."""
        return self.tokens(module, stages(x)[-1])


class BirderHieraDet(_Birder, GridPeer):
    """`birder.net.hieradet.HieraDet`."""

    name, window_table = "birder HieraDet", "pos_embed_win"

    def matches(self, module: nn.Module) -> bool:
        """A stem, stages in a body, and a windowed table."""
        return has(module, "stem", "body", "pos_embed_win", "q_pool_blocks", "detection_features")

    def convolution(self, module: Any) -> nn.Module:
        """Its patch embedding."""
        return module.stem.proj

    def size(self, module: Any) -> tuple[int, ...]:
        """The size it was made for; it takes others."""
        return tuple(module.size)

    def forward_features(self, module: Any, stages: Any, x: Tensor) -> Tensor:
        """The last map, channels last."""
        return stages(x)[-1]
