"""Grad-CAM on a stage's map: where the channels are active that speak for a class.

Source: arXiv:1610.02391.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..encoder import Encoder


def gradcam(
    encoder: Encoder, x: Float[Tensor, "b 3 h w"], classes: Int[Tensor, " b"], stage: int = -1
) -> Float[Tensor, "b rows columns"]:
    """The positive part of a stage's channels, each times the mean gradient of the class's logit along it.

    Args:
        encoder: An image network with classes, in eval mode.
        x: Preprocessed images.
        classes: Which class of each.
        stage: Whose un-normed map, counted from 0.
    """
    stage = range(len(encoder.stage_ends))[stage]
    with torch.no_grad():
        tokens = encoder.stages(x, last=stage)[-1]
    with torch.enable_grad():
        leaf = tokens.detach().requires_grad_()
        after: Tensor = leaf
        for block in encoder.blocks[encoder.stage_ends[stage] + 1 :]:
            after = block(after)
        logits = encoder.classify(encoder.pool(after))
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), leaf)  # (b, h, w, c)
    weights = gradient.float().mean((1, 2), keepdim=True)
    return (weights * tokens.float()).sum(-1).relu()
