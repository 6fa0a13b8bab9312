"""timm's `hiera*` and `sam2_hiera*`, `hieradet*`; `features_only` forms hold one and call `forward_intermediates`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..config import ModelConfig
from .grids import GridPeer
from .peer import Original, arguments, has
from .units import UnitPeer


class _Timm:
    """What both lines share."""

    methods = ("forward_features", "forward_intermediates")
    outside = ("head",)

    def named_tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """Its parameters, with a final norm that changes nothing: by `head.norm` the format is known."""
        found = super().named_tensors(module)  # type: ignore[misc]
        like = found["blocks.0.norm1.weight"]
        width = self.config(module).embedding_size  # type: ignore[attr-defined]
        norm = {"head.norm.weight": like.new_ones(width), "head.norm.bias": like.new_zeros(width)}
        return {**found, **norm}

    def intermediates(self, module: Any, stages: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """All maps that were computed, and those that `forward_intermediates` was asked for.

        Raises:
            Original: Masks, or values of single blocks.
        """
        said = arguments(module, "forward_intermediates", args, kwargs)
        known = said["output_fmt"] in ("NCHW", "NHWC") and said["coarse"] and not said["norm"]
        if not known or said.get("mask") is not None:
            raise Original("intermediates other than whole maps of stages were asked for")
        left = sum(end < len(module.blocks) for end in module.stage_ends)  # after pruning
        indices = taken(said["indices"], len(module.stage_ends))
        if max(indices) >= left:
            raise Original("a stage was asked for that was cut off")
        maps = stages(said["x"], max(indices) if said["stop_early"] or said["intermediates_only"] else None)
        found = [maps[index] for index in indices]
        found = found if said["output_fmt"] == "NHWC" else [grid.permute(0, 3, 1, 2) for grid in found]
        return maps, found, said["intermediates_only"]


class TimmHiera(_Timm, UnitPeer):
    """`timm.models.hiera.Hiera`."""

    name = "timm Hiera"

    def matches(self, module: nn.Module) -> bool:
        """Blocks, token orders, and timm's ways to ask for intermediates."""
        return has(module, "patch_embed", "blocks", "unroll", "reroll", "mask_unit_size", "forward_intermediates")

    def config(self, module: Any) -> ModelConfig:
        """As read, with the norm that stands for timm's."""
        return dataclasses.replace(super().config(module), head="pool_norm")

    def forward_features(
        self, module: Any, stages: Any, x: Tensor, mask: Tensor | None = None, return_intermediates: bool = False
    ) -> Any:
        """Tokens (b, n, c), perhaps with the maps of the stages."""
        if mask is not None:
            raise Original("a mask was given")
        maps = stages(x)
        tokens = self.tokens(module, maps[-1])
        return (tokens, maps) if return_intermediates else tokens

    def forward_intermediates(self, module: Any, stages: Any, *args: Any, **kwargs: Any) -> Any:
        """Maps of stages, perhaps after the tokens of the last that was computed."""
        maps, found, alone = self.intermediates(module, stages, args, kwargs)
        return found if alone else (self.tokens(module, maps[-1]), found)


class TimmHieraDet(_Timm, GridPeer):
    """`timm.models.hieradet_sam2.HieraDet`."""

    name = "timm HieraDet"

    def matches(self, module: nn.Module) -> bool:
        """A windowed table and timm's ways to ask for intermediates."""
        return has(module, "patch_embed", "blocks", "pos_embed_window", "q_pool_blocks", "forward_intermediates")

    def config(self, module: Any) -> ModelConfig:
        """As read, with the norm that stands for timm's."""
        return dataclasses.replace(super().config(module), head="pool_norm")

    def forward_features(self, module: Any, stages: Any, x: Tensor) -> Tensor:
        """The last map, channels last."""
        return stages(x)[-1]

    def forward_intermediates(self, module: Any, stages: Any, *args: Any, **kwargs: Any) -> Any:
        """Maps of stages, perhaps after the last that was computed."""
        maps, found, alone = self.intermediates(module, stages, args, kwargs)
        return found if alone else (maps[-1], found)


def taken(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Stages that timm's `indices` mean, in order.

    Raises:
        Original: None that there are; its own code says so.
    """
    if isinstance(indices, int):
        chosen = list(range(count - indices, count)) if 0 < indices <= count else []
    else:
        chosen = list(range(count)) if indices is None else [i + count if i < 0 else i for i in indices]
    if not chosen or any(not 0 <= i < count for i in chosen):
        raise Original(f"stages {indices}")
    return sorted(set(chosen))
