"""Which layer of an encoder a parameter belongs to, for learning rates that fall with depth and for freezing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def layer_of(name: str, last: int) -> int:
    """Layer of an encoder's parameter, from the pixels up.

    Args:
        name: As `Encoder.named_parameters` gives it.
        last: Layer of what comes after the blocks.

    Returns:
        0 for the patch embedding and the positions, i + 1 for block i, `last` for the rest.
    """
    if name.startswith(("patch_embed.", "pos_embed")):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else last


def decays(name: str, ndim: int) -> bool:
    """Whether weight decay acts on a parameter: not on vectors (biases, norms, scales), nor on position tables."""
    return ndim > 1 and not name.startswith("pos_embed")


def grouped(
    module: nn.Module, place: Callable[[str, int], tuple[int, bool]]
) -> list[tuple[tuple[int, bool], dict[str, list[Any]]]]:
    """Every trainable parameter once, from the pixels up.

    Args:
        module: An encoder, or what holds one as `encoder`.
        place: Layer of a parameter and whether it decays, of its name in the encoder and its number of axes.

    Returns:
        Groups of one place: the place, and `params` and `names` as an optimiser takes them.
    """
    groups: dict[tuple[int, bool], dict[str, list[Any]]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            group = groups.setdefault(place(name.removeprefix("encoder."), parameter.ndim), {"params": [], "names": []})
            group["params"].append(parameter)
            group["names"].append(name)
    return [(key, groups[key]) for key in sorted(groups)]
