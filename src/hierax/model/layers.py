"""Which layer of an encoder a parameter belongs to, for learning rates that fall with depth and for freezing."""

from __future__ import annotations


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
