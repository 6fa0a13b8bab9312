"""transformers' Hiera and the trunk of its SAM 2, wherever a model or pipeline holds one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..compat.unroll import unroll
from ..config import ModelConfig
from ..model.encoder import Encoder, stack_visible
from .grids import GridPeer
from .peer import Original, arguments, has
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

    def matches(self, module: Any) -> bool:
        """Embeddings, stages, and the order of tokens."""
        return has(module, "embeddings", "encoder", "unroll_schedule", "pooler") and has(module.encoder, "stages")

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

    def probes(self, module: Any) -> dict[str, tuple[str, dict[str, Any]]]:
        """Vector and tokens; with maps, of the same mask where it masks."""
        if module.embeddings.is_mae:
            units = math.prod(module.embeddings.mask_spatial_shape)
            noise = torch.linspace(0, 1, units, device=next(module.parameters()).device)[None]
            return {"forward": ("forward", {"noise": noise, "output_hidden_states": True})}
        return {"forward": ("forward", {}), "with states": ("forward", {"output_hidden_states": True})}

    def forward(self, module: Any, stages: Any, *args: Any, **kwargs: Any) -> Any:
        """Last tokens in unrolled order, their pooled and normed vector, and on request the states of all stages."""
        said = arguments(module, "forward", args, kwargs)
        flags = {key: said[key] if said[key] is not None else getattr(module.config, key) for key in _FLAGS}
        x, masks = said["pixel_values"], module.embeddings.is_mae
        if flags["output_attentions"] or x is None:
            raise Original("attentions were asked for, or no pixels were given")
        own = tuple(x.shape[-2:]) == self.size(module)
        states = masks or flags["output_hidden_states"]
        square = len(set(self.size(module))) == 1
        if not own and (states or not (said["interpolate_pos_encoding"] and square)):
            raise Original(f"an input size of {tuple(x.shape[-2:])}")
        fields: dict[str, Any] = {}
        if states:
            shown = self._with_states(module, stages, x, said["noise"], fields)
            tokens = shown["hidden_states"][-1]
            fields |= shown if flags["output_hidden_states"] else {}
        else:
            tokens = _in_order(module, stages(x)[-1], len(module.encoder.stages) - 1)
        pooled = None if module.pooler is None else module.pooler(tokens)
        if not flags["return_dict"]:
            return tuple(value for value in (tokens, pooled, *fields.values()) if value is not None)
        from transformers.models.hiera.modeling_hiera import HieraModelOutput

        return HieraModelOutput(last_hidden_state=tokens, pooler_output=pooled, **fields)

    def _with_states(
        self, module: Any, stages: Any, x: Tensor, noise: Tensor | None, drawn: dict[str, Any]
    ) -> dict[str, Any]:
        """The fields of hidden states; what masking drew goes into the other dictionary."""
        grids: list[Tensor] = []

        def embed(encoder: Encoder) -> Tensor:
            embedded, mask, restore = module.embeddings(x, noise=noise)
            grid = embedded.unflatten(1, encoder.config.grid(tuple(x.shape[-2:])))
            if mask is not None:
                drawn.update(bool_masked_pos=mask, ids_restore=restore)
                visible = mask.nonzero()[:, 1].view(len(mask), -1)
                grid = stack_visible(grid, visible, encoder.config.mask_unit)
            grids.append(grid.contiguous())
            return grids[0].clone()

        grids += stages.through(x, embed)
        units = drawn["bool_masked_pos"][0].sum().item() if drawn else None
        numbered = [(grid, max(0, n - 1)) for n, grid in enumerate(grids)]
        # Of a masked image each kept unit is shown by itself, (b, n, h, w, c).
        maps = [grid if units is None else grid.unflatten(1, (units, -1)) for grid in grids]
        hidden = tuple(_in_order(module, grid, stage, units) for grid, stage in numbered)
        return {"hidden_states": hidden, "reshaped_hidden_states": tuple(maps)}


_FLAGS = ("output_attentions", "output_hidden_states", "return_dict")


def _in_order(module: Any, grid: Tensor, stage: int, units: int | None = None) -> Tensor:
    """A stage's tokens (b, n, c) in unrolled order; of masked images, whose units stand in a column, unit by unit."""
    schedule, _ = module.encoder.schedule[stage]
    steps, stride = len(schedule), tuple(schedule[0]) if schedule else (1, 1)
    if units is None:
        return unroll(grid, steps, stride)
    inside = unroll(grid.unflatten(1, (units, -1)).flatten(0, 1), steps, stride)  # (b * units, tokens, c)
    return inside.unflatten(0, (-1, units)).transpose(1, 2).flatten(1, 2)


class TransformersHieraDet(GridPeer):
    """`Sam2HieraDetModel`, the backbone of `Sam2VisionModel` and so of every SAM 2 model of the package."""

    name, methods = "transformers Sam2HieraDetModel", ("forward",)

    def matches(self, module: Any) -> bool:
        """A windowed table, stages, and transformers' config."""
        parts = ("patch_embed", "blocks", "pos_embed_window", "stage_ends", "config")
        return has(module, *parts) and hasattr(module.config, "window_size_per_stage")

    def rows(self, module: Any) -> list[Row]:
        """What its blocks say."""
        return grid_rows(self.blocks(module), "num_attention_heads", "query_stride")

    def convolution(self, module: Any) -> Any:
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
