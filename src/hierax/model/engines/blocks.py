"""A block of the encoder as the fast engines run it: fewer products, no copies, nothing padded."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..encoder import Block, LayerScale, attend, max_pool, mean_pool
from .layout import Group, Layout
from .products import Product

_HAS_FLASH = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


class FastBlock:
    """The weights of one block, folded and fused, and the order of operations over a layout.

    Folded: the bias of k (drops out of the softmax), the bias of v (into proj's), branch scales (into proj and
    fc2). Fused: in a block that widens, the shortcut's projection and qkv are one product, and one maximum pools
    queries and shortcut together.
    """

    def __init__(self, block: Block, make: Callable[[Tensor, Tensor], Product]) -> None:
        attn, mlp = block.attn, block.mlp
        self.window, self.q_stride, self.heads = block.window, block.q_stride, attn.heads
        self.widens, self.max_avg = block.widens, block.max_avg
        self.norm1, self.norm2 = _norm(block.norm1), _norm(block.norm2)
        q, k, v = attn.qkv.weight.detach().chunk(3)
        q_bias, _, v_bias = attn.qkv.bias.detach().chunk(3)
        zeros = torch.zeros_like(q_bias)
        if self.widens and not self.max_avg:
            shortcut, shortcut_bias = block.proj.weight.detach(), block.proj.bias.detach()
            weight, bias = torch.cat([q, shortcut, k, v]), torch.cat([q_bias, shortcut_bias, zeros, zeros])
        else:
            weight, bias = attn.qkv.weight.detach(), torch.cat([q_bias, zeros, zeros])
        self.qkv = make(weight, bias)
        proj = attn.proj.weight.detach()
        proj_bias = (attn.proj.bias + proj @ v_bias).detach()
        self.proj = make(*_scaled(proj, proj_bias, block.ls1))
        self.hidden = mlp.fc1.out_features
        self.fc1 = make(mlp.fc1.weight.detach(), mlp.fc1.bias.detach())
        self.fc2 = make(*_scaled(mlp.fc2.weight.detach(), mlp.fc2.bias.detach(), block.ls2))

    def __call__(self, x: Float[Tensor, "n tokens c"], layout: Layout, rows: int | None) -> Float[Tensor, "n pooled d"]:
        """One block over n items of that layout; x may be overwritten.

        Args:
            x: Contiguous tokens.
            layout: Their order.
            rows: How many tokens the MLP takes at a time, so that its hidden layer stays in the cache; None: all.
        """
        x = self.attend(x, layout)
        tokens = x.flatten(0, 1)  # (n * pooled, d)
        parts = [tokens] if rows is None or len(tokens) <= rows * 3 // 2 else tokens.split(rows)
        done = [self.fc2.add_to(part, self.fc1.gelu(F.layer_norm(part, *self.norm2), "hidden")) for part in parts]
        # In place for the engines that can: then every part is a view of x.
        return (done[0] if len(done) == 1 else tokens).view(x.shape)

    def attend(self, x: Float[Tensor, "n tokens c"], layout: Layout) -> Float[Tensor, "n pooled d"]:
        """The attention branch, added to the shortcut."""
        n, tokens, c = x.shape
        normed = F.layer_norm(x.view(-1, c), *self.norm1)
        wide = self.qkv.linear(normed, "wide").view(n, tokens, -1)
        stride = self.q_stride
        parts = 4 if self.widens and not self.max_avg else 3
        d = wide.shape[-1] // parts
        queries, k, v = wide[..., : wide.shape[-1] - 2 * d], wide[..., -2 * d : -d], wide[..., -d:]
        if stride is not None:
            queries = _pool(queries, layout, lambda part: max_pool(part, (1, *stride)))
        if parts == 4:
            x = queries[..., d:].contiguous()
        elif self.max_avg:
            x = self._max_avg(x, layout)
        out = self._windows(queries[..., :d], k, v, layout)  # (n, pooled, d)
        return self.proj.add_to(x.view(-1, d), out.reshape(-1, d)).view(x.shape)

    def _max_avg(self, x: Tensor, layout: Layout) -> Tensor:
        # Quirk(timm hiera_small_abswin_256): max and mean of the raw tokens side by side, as in `Block.shortcut`.
        stride = (1, *(self.q_stride or (1,) * len(layout.grid)))
        both = (_pool(x, layout, lambda part, pool=pool: pool(part, stride)) for pool in (max_pool, mean_pool))
        return torch.cat(list(both), dim=-1)

    def _windows(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Attention in each window of the layout, or among all tokens of an item."""
        if self.window is None:
            return attend_beside_zeros(q, k, v, self.heads, 0)
        pooled = layout if self.q_stride is None else layout.pooled(self.q_stride)
        outs = []
        for keys, queries in zip(layout.groups, pooled.groups, strict=True):
            q_part, k_part, v_part = _cut(q, queries), _cut(k, keys), _cut(v, keys)
            out = attend_beside_zeros(q_part, k_part, v_part, self.heads, keys.missing)  # (n * windows, tokens, d)
            outs.append(out.reshape(q.shape[0], -1, q.shape[-1]))
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)


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


def _cut(x: Float[Tensor, "n tokens c"], group: Group) -> Float[Tensor, "windows tokens c"]:
    """A group's windows of every item, as a batch."""
    part = x[:, group.start : group.stop]
    return part.unflatten(1, (group.count, -1)).flatten(0, 1)


def _pool(x: Float[Tensor, "n tokens c"], layout: Layout, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """Pool the cells inside each unit of a layout."""
    parts = []
    for group in layout.groups:
        part = x[:, group.start : group.stop].unflatten(1, (group.count, *group.shape))
        parts.append(pool(part).flatten(1, -2))  # (n, pooled, c)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _norm(norm: nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return tuple(norm.normalized_shape), norm.weight.detach(), norm.bias.detach(), norm.eps


def _scaled(weight: Tensor, bias: Tensor, scale: nn.Module) -> tuple[Tensor, Tensor]:
    """A linear layer with its branch scale folded in."""
    if not isinstance(scale, LayerScale):
        return weight, bias
    gamma = scale.gamma.detach()
    return weight * gamma[:, None], bias * gamma
