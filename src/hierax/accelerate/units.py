"""What the plain Hieras of Meta, timm and birder share: blocks that know their windows by area, one input size."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..compat.unroll import unroll
from ..config import ModelConfig
from .peer import Original, Peer
from .structure import check_activation, check_rows, read_norms, read_patches, read_rows, unit_rows


class UnitPeer(Peer):
    """A plain or abswin Hiera of images or clips."""

    patches, table_window = "patch_embed", "pos_embed_win"
    # Quirk(birder): `adjust_size` makes these anew, in train mode.
    idle = ("unroll", "reroll")

    def blocks(self, module: Any) -> list[Any]:
        """Its blocks, in order."""
        return list(module.blocks)

    def config(self, module: Any) -> ModelConfig:
        """The network, read off its blocks and tables."""
        blocks = self.blocks(module)
        rows = unit_rows(blocks, module.mask_unit_size, module.q_stride)
        window = getattr(module, self.table_window, None)
        separable = getattr(module, "pos_embed_spatial", None) is not None
        tables: dict[str, Any] = {"family": "hiera", "position": "grid"}
        if separable:
            tables = {"family": "hiera_video", "position": "separable"}
        elif window is not None:
            table = tuple(module.pos_embed.shape[2:])
            tables = {
                "family": "hiera_abswin",
                "position": "window",
                "position_size": table,
                "position_antialias": True,
            }
        opener = next((b for b in blocks if b.dim != b.dim_out), None)
        config = ModelConfig(
            **tables,
            **read_rows(rows),
            **read_patches(getattr(module, self.patches).proj),
            input_size=self.size(module),
            mask_unit=tuple(module.mask_unit_size),
            num_classes=0,
            head="pool",
            shortcut="max_avg" if opener is not None and getattr(opener, "proj", None) is None else "linear",
            layer_scale=1e-5 if hasattr(getattr(blocks[0], "ls1", None), "gamma") else None,
            norm_eps=read_norms(self.passed_over(module)),
            mlp_ratio=_mlp_ratio(blocks[0]),
        )
        check_rows(config, rows)
        check_activation(blocks)
        return config

    def size(self, module: Any) -> tuple[int, ...]:
        """The one size that its token order was made for."""
        return tuple(n * s for n, s in zip(module.tokens_spatial_shape, module.patch_stride, strict=True))

    def state(self, module: Any) -> object:
        """Windows and sizes."""
        attns = tuple((b.attn.q_stride, b.attn.window_size, b.attn.use_mask_unit_attn) for b in self.blocks(module))
        return attns, tuple(module.tokens_spatial_shape), tuple(module.unroll.size)

    def prepared(self, module: Any, x: Tensor) -> Tensor:
        """Its own size only: it refuses others itself."""
        if tuple(x.shape[2:]) != self.size(module):
            raise Original(f"an input size of {tuple(x.shape[2:])}")
        return x

    def tokens(self, module: Any, grid: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b n c"]:
        """A stage's tokens in its order: pools that were not made are still unrolled."""
        schedule, side = list(module.unroll.schedule), module.tokens_spatial_shape[-1]
        stride = tuple(schedule[0]) if schedule else (2,) * (grid.ndim - 2)
        steps = len(schedule)
        while side > grid.shape[-2]:
            side, steps = side // stride[-1], steps - 1
        return unroll(grid, steps, stride)


def _mlp_ratio(block: Any) -> float:
    hidden = next(layer for layer in block.mlp.modules() if isinstance(layer, nn.Linear)).out_features
    return hidden / block.dim_out
