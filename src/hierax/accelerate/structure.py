"""The network that live blocks are, read off their own attributes, and whether its layers are what they seem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig, block_table
from ..errors import InputError

Window = tuple[int, ...] | None


class Row(NamedTuple):
    """What a live block says of itself."""

    dim_in: int
    dim_out: int
    heads: int
    window: Window
    q_stride: Window


def read_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Depths, widths, windows and pools of a `ModelConfig`, from the blocks' own.

    Raises:
        InputError: Blocks of one stage have several windows.
    """
    opens = [0, *(i for i, row in enumerate(rows) if i and row.dim_in != row.dim_out)]
    depths = [end - start for start, end in zip(opens, [*opens[1:], len(rows)], strict=True)]
    windows: list[Window] = []
    global_blocks: list[int] = []
    for stage, (start, depth) in enumerate(zip(opens, depths, strict=True)):
        # The lag rule: a stage's window serves its blocks but the first, and the first of the next stage.
        served = range(start + (stage > 0), min(start + depth + 1, len(rows)))
        found = sorted({window for i in served if (window := rows[i].window) is not None})
        if len(found) > 1:
            raise InputError(f"Blocks {served.start} to {served.stop - 1} must share a window; theirs are {found}.")
        windows.append(found[0] if found else None)
        if found:
            global_blocks += [i for i in served if rows[i].window is None]
    pools = [row.q_stride for row in rows if row.q_stride is not None]
    return {
        "embed_dim": rows[0].dim_in,
        "num_heads": rows[0].heads,
        "depths": tuple(depths),
        "windows": tuple(windows),
        "global_blocks": tuple(global_blocks),
        "q_pool": len(pools),
        **({"q_stride": pools[0]} if pools else {}),
    }


def check_rows(config: ModelConfig, rows: Sequence[Row]) -> None:
    """Refuse blocks that the network's table does not give.

    Raises:
        InputError: Names the first block that differs.
    """
    table = [Row(spec.dim_in, spec.dim_out, spec.heads, spec.window, spec.q_stride) for spec in block_table(config)]
    for index, (wanted, found) in enumerate(zip(table, rows, strict=True)):
        if wanted != found:
            raise InputError(f"Block {index} must be {wanted} in a network of the family; it is {found}.")


def unit_rows(blocks: Sequence[Any], unit: Sequence[int], stride: Sequence[int]) -> list[Row]:
    """Rows of blocks that know their windows by area: mask units, which shrink with every pool.

    Raises:
        InputError: An area that is no mask unit's.
    """
    rows, window = [], tuple(unit)
    for index, block in enumerate(blocks):
        attn, pools = block.attn, block.attn.q_stride > 1
        if attn.use_mask_unit_attn and math.prod(window) != attn.q_stride * attn.window_size:
            raise InputError(f"Block {index} must attend in units of {window}; its windows have other areas.")
        here = window if attn.use_mask_unit_attn else None
        rows.append(Row(block.dim, block.dim_out, attn.heads, here, tuple(stride) if pools else None))
        if pools:
            window = tuple(w // s for w, s in zip(window, stride, strict=True))
    return rows


def grid_rows(blocks: Sequence[Any], heads: str = "num_heads", stride: str = "q_stride") -> list[Row]:
    """Rows of HieraDet's blocks, whose windows are sides, 0 for global."""
    rows = []
    for block in blocks:
        side = block.window_size
        window = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
        pool = getattr(block, stride)
        pools = None if not pool else tuple(pool) if isinstance(pool, (tuple, list)) else (pool, pool)
        number = getattr(block.attn, heads)
        rows.append(Row(block.dim, block.dim_out, number, tuple(window) if any(window) else None, pools))
    return rows


def read_patches(conv: nn.Module) -> dict[str, Any]:
    """Kernel, stride and padding of a patch embedding.

    Raises:
        InputError: A convolution that is dilated, grouped or padded with other than zeros.
    """
    if not isinstance(conv, (nn.Conv2d, nn.Conv3d)) or not isinstance(conv.padding, tuple):
        raise InputError(f"The patch embedding must be a plain convolution; it is {conv}.")
    if set(conv.dilation) != {1} or conv.groups != 1 or conv.padding_mode != "zeros":
        raise InputError(f"The patch embedding must be a plain convolution; it is {conv}.")
    fields = {"patch_kernel": conv.kernel_size, "patch_stride": conv.stride, "patch_padding": conv.padding}
    return {"in_channels": conv.in_channels, **{key: tuple(value) for key, value in fields.items()}}


def read_norms(modules: Sequence[nn.Module]) -> float:
    """The one epsilon of all norms.

    Raises:
        InputError: They have several.
    """
    found = {module.eps for module in modules if isinstance(module, nn.LayerNorm)}
    if len(found) != 1:
        raise InputError(f"Norms of a network must share an epsilon; these have {sorted(found)}.")
    return found.pop()


def check_layers(named: dict[str, nn.Module]) -> None:
    """Refuse layers that are not the plain ones that weights alone describe, and weights that are not all there.

    Args:
        named: The modules that a fast answer would not run.

    Raises:
        InputError: Names the first, and what to do.
    """
    kinds: set[tuple[torch.dtype, torch.device]] = set()
    for name, module in named.items():
        if reason := _foreign(name, module):
            raise InputError(reason)
        for key, parameter in module._parameters.items():
            if parameter is not None:
                _check_parameter(f"{name}.{key}".lstrip("."), parameter)
                kinds.add((parameter.dtype, parameter.device))
    if len(kinds) > 1:
        said = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise InputError(f"its parameters must have one type and device; they are {said}. Cast or move it as a whole")


def _foreign(name: str, module: nn.Module) -> str | None:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    where = f"{name or 'the encoder'} is a {kind}"
    lowered = f"{kind}.{name}".lower()
    if "lora" in lowered or "peft." in lowered:
        return f"{where}: it has adapters. Merge them first (merge_and_unload())"
    if any(word in lowered for word in ("quant", "bitsandbytes", "torchao", "awq", "gptq")):
        return f"{where}: it is quantized. Load the model in floating point"
    if hasattr(module, "_hf_hook"):
        return f"{name or 'the encoder'} is moved about by device_map. Load the model on one device"
    if "parametrizations" in module._modules:
        return f"{where}: it is parametrized. Remove the parametrizations first"
    weight = module._parameters.get("weight")
    if weight is None or isinstance(module, nn.LayerNorm):
        return None
    if type(module) not in (nn.Linear, nn.Conv2d, nn.Conv3d):
        return f"{where}, not one of torch's own layers. Put the plain layer back"
    return None


def _check_parameter(name: str, parameter: Tensor) -> None:
    if parameter.is_meta:
        raise InputError(f"{name} has no data (it is on the meta device): the model is half loaded. Load it whole")
    if type(parameter) not in (nn.Parameter, Tensor) or type(parameter.data) is not Tensor:
        raise InputError(f"{name} is a {type(parameter.data).__name__}, no plain tensor. Load plain weights")
    if not parameter.is_floating_point():
        raise InputError(f"{name} holds {parameter.dtype}: it is quantized. Load the model in floating point")


def check_activation(blocks: Sequence[Any]) -> None:
    """Refuse MLPs whose activation is not the exact GELU.

    Raises:
        InputError: Names what stands there.
    """
    x = torch.linspace(-3, 3, 25)
    allowed = [x, F.gelu(x)]
    for module in blocks[0].mlp.modules():
        if isinstance(module, (nn.ModuleList, nn.Dropout)) or any(True for _ in module.parameters()):
            continue
        if not any(torch.allclose(module(x), each, atol=1e-6) for each in allowed):
            raise InputError(f"The activation of a network of the family is GELU; this one's is {module}.")
