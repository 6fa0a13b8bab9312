"""Meta's `hiera` models, of images and of clips."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .peer import Original, has
from .units import UnitPeer


class MetaHiera(UnitPeer):
    """`hiera.Hiera`; its pooling, norm and head stay its own."""

    name, methods, outside = "Meta Hiera", ("forward",), ("norm", "head")

    def matches(self, module: nn.Module) -> bool:
        """Blocks and token orders, without what timm added."""
        parts = ("patch_embed", "blocks", "unroll", "reroll", "mask_unit_size", "get_random_mask")
        return has(module, *parts) and not hasattr(module, "forward_intermediates")

    def obstacle(self, module: nn.Module) -> str | None:
        """An autoencoder is one of these, too."""
        if hasattr(module, "decoder_blocks"):
            return "a masked autoencoder's passes are all masked, and masks run its own code"
        return None

    def probes(self, module: nn.Module) -> dict[str, tuple[str, dict[str, Any]]]:
        """Maps and all."""
        return {"forward": ("forward", {"return_intermediates": True})}

    def forward(
        self, module: Any, stages: Any, x: Any, mask: Tensor | None = None, return_intermediates: bool = False
    ) -> Any:
        """Probabilities (b, classes), perhaps with the maps of the stages."""
        if mask is not None:
            raise Original("a mask was given")
        maps = stages(x[0] if isinstance(x, list) else x)
        pooled = module.head(module.norm(self.tokens(module, maps[-1]).mean(dim=1)))
        return (pooled, maps) if return_intermediates else pooled
