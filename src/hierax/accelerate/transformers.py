"""transformers' Hiera and the trunk of its SAM 2, wherever a model or pipeline holds one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..compat.unroll import unroll
from ..config import ModelConfig
from .grids import GridPeer
from .peer import Original, has
from .structure import Row, check_activation, check_rows, grid_rows, read_norms, read_patches, read_rows, unit_rows
from .units import UnitPeer


class _Layer:
    """A layer of transformers' under the names that the other packages' have."""

    def __init__(self, layer: Any) -> None:
        self.dim, self.dim_out = layer.hidden_size, layer.hidden_size_output
        self.attn, self.mlp = _Attention(layer.attn), layer.mlp


class _Attention:
    def __init__(self, attn: Any) -> None:
        self.heads, self.q_stride = attn.num_heads, attn.query_stride
        self.window_size, self.use_mask_unit_attn = attn.window_size, attn.use_mask_unit_attn


class TransformersHiera(UnitPeer):
    """`HieraModel`, alone or in a classifier; `HieraBackbone` feeds tokens in raster order and is another network."""

    name, methods, outside = "transformers HieraModel", ("forward",), ("pooler",)

    def matches(self, module: nn.Module) -> bool:
        """Embeddings, stages, and the order of tokens."""
        return has(module, "embeddings", "encoder", "unroll_schedule", "pooler") and has(module.encoder, "stages")

    def obstacle(self, module: Any) -> str | None:
        """Autoencoders mask every pass."""
        if module.embeddings.is_mae:
            return "a masked autoencoder's passes are all masked, and masks run its own code"
        return None

    def blocks(self, module: Any) -> list[Any]:
        """Its layers, in order."""
        return [_Layer(layer) for stage in module.encoder.stages for layer in stage.layers]

    def config(self, module: Any) -> ModelConfig:
        """The network, read off its layers."""
        blocks, theirs = self.blocks(module), module.config
        rows = unit_rows(blocks, theirs.masked_unit_size, theirs.query_stride)
        hidden = blocks[0].mlp.fc1.out_features
        config = ModelConfig(
            family="hiera",
            **read_rows(rows),
            **read_patches(module.embeddings.patch_embeddings.projection),
            input_size=self.size(module),
            mask_unit=tuple(theirs.masked_unit_size),
            num_classes=0,
            head="pool",
            norm_eps=read_norms(self.passed_over(module)),
            mlp_ratio=hidden / blocks[0].dim_out,
        )
        check_rows(config, rows)
        check_activation(blocks)
        return config

    def size(self, module: Any) -> tuple[int, ...]:
        """What its table was made for."""
        side = module.config.image_size
        return (side, side) if isinstance(side, int) else tuple(side)

    def state(self, module: Any) -> object:
        """Windows and sizes."""
        attns = (block.attn for block in self.blocks(module))
        return tuple((a.q_stride, a.window_size, a.use_mask_unit_attn) for a in attns), self.size(module)

    def prepared(self, module: Any, x: Tensor) -> Tensor:
        """Any size: `forward` knows which."""
        return x

    def forward(
        self,
        module: Any,
        stages: Any,
        pixel_values: Tensor | None = None,
        noise: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Last tokens in unrolled order, and their pooled and normed vector."""
        said = {"attentions": output_attentions, "hidden_states": output_hidden_states}
        for what, asked in said.items():
            if asked or (asked is None and getattr(module.config, f"output_{what}")):
                raise Original(f"{what} were asked for")
        if pixel_values is None or noise is not None or module.embeddings.is_mae:
            raise Original("masks, or no pixels")
        size = tuple(pixel_values.shape[-2:])
        if size != self.size(module) and not (interpolate_pos_encoding and len(set(self.size(module))) == 1):
            raise Original(f"an input size of {size}")
        grid = stages(pixel_values)[-1]
        schedule, pools = module.unroll_schedule, sum(block.attn.q_stride > 1 for block in self.blocks(module))
        tokens = unroll(grid, len(schedule) - pools, tuple(schedule[0]) if schedule else (2, 2))
        pooled = None if module.pooler is None else module.pooler(tokens)
        if not (module.config.return_dict if return_dict is None else return_dict):
            return (tokens,) if pooled is None else (tokens, pooled)
        from transformers.models.hiera.modeling_hiera import HieraModelOutput

        return HieraModelOutput(last_hidden_state=tokens, pooler_output=pooled)


class TransformersHieraDet(GridPeer):
    """`Sam2HieraDetModel`, the backbone of `Sam2VisionModel` and so of every SAM 2 model of the package."""

    name, methods = "transformers Sam2HieraDetModel", ("forward",)

    def matches(self, module: nn.Module) -> bool:
        """A windowed table, stages, and transformers' config."""
        parts = ("patch_embed", "blocks", "pos_embed_window", "stage_ends", "config")
        return has(module, *parts) and hasattr(module.config, "window_size_per_stage")

    def rows(self, module: Any) -> list[Row]:
        """What its blocks say."""
        return grid_rows(self.blocks(module), "num_attention_heads", "query_stride")

    def convolution(self, module: Any) -> nn.Module:
        """Its patch embedding."""
        return module.patch_embed.projection

    def size(self, module: Any) -> tuple[int, ...]:
        """What the config says; it takes others."""
        side = getattr(module.config, "image_size", 1024)
        return (side, side) if isinstance(side, int) else tuple(side)

    def prepared(self, module: Any, x: Tensor) -> Tensor:
        """Pixels may be of another type than the weights: its patch embedding casts them."""
        return x if torch.is_autocast_enabled(x.device.type) else x.to(self.convolution(module).weight.dtype)

    def forward(self, module: Any, stages: Any, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        """The last map and all maps, channels last."""
        for what in ("attentions", "hidden_states"):
            if kwargs.pop(f"output_{what}", None) or getattr(module.config, f"output_{what}", False):
                raise Original(f"{what} were asked for")
        as_tuple = kwargs.pop("return_dict", getattr(module.config, "return_dict", True)) is False
        if pixel_values is None or any(value is not None for value in kwargs.values()):
            raise Original(f"no pixels, or options that are not known: {', '.join(kwargs)}")
        maps = stages(pixel_values)
        from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModelOutput

        found = Sam2HieraDetModelOutput(last_hidden_state=maps[-1], intermediate_hidden_states=tuple(maps))
        return found.to_tuple() if as_tuple else found
