"""Attention inside each window of a layout, with the effect of padded keys but without padded rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..encoder import attend


def attend_beside_zeros(
    q: Float[Tensor, "n q c"], k: Float[Tensor, "n k c"], v: Float[Tensor, "n k c"], heads: int, zeros: int
) -> Float[Tensor, "n q c"]:
    """Attention of each window over its keys and that many more keys whose k and v are zero.

    The readable encoder pads windows with tokens whose k and v are the qkv bias. The bias of k shifts every score
    of a query alike and drops out of the softmax; the bias of v passes through to the output. Without both, a
    padded key is all zeros: it adds exp(0) to the softmax's denominator and nothing else.
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (n, heads, tokens, d)
    if not zeros:
        return attend(q, k, v).transpose(1, 2).flatten(2)
    if not torch.compiler.is_compiling() and q.device.type == "cpu" and _HAS_FLASH:
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        share = torch.sigmoid(log_sum - math.log(zeros)).to(out.dtype)  # (n, heads, tokens)
        return (out * share[..., None]).transpose(1, 2).flatten(2)
    # One zero key that counts as many, through an additive mask.
    k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    mask = torch.cat([q.new_zeros(k.shape[2] - 1), q.new_full((1,), math.log(zeros))])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(q.shape[2], -1)).transpose(1, 2).flatten(2)


_HAS_FLASH = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
