"""Self-distillation of the encoder: heads and losses of DINOv2, read top to bottom; targets are in targets.py.

A student sees crops of an image, some with cells hidden, and learns to answer as a teacher does, which sees other crops
of the same image whole. The teacher is the average of the student over time. What they answer is a distribution over
prototypes: of a crop (DINO), and of each hidden cell (iBOT).

Shapes: b images, n crops of an image, m hidden cells of all crops, k prototypes, c channels.

Source: arXiv:2304.07193; DINO arXiv:2104.14294; iBOT arXiv:2111.07832; KoLeo arXiv:1806.03198. Hidden tokens of
a hierarchical encoder as in birder's HieraDet.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import across
from .encoder import Encoder

# --- heads ----------------------------------------------------------------------------------------------------------


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have a direction and a length: g v / |v|.

    The length is trained, so scores are not bounded by 1.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(count, 1))
        self.v = nn.Parameter(torch.empty(count, dim).uniform_(-(dim**-0.5), dim**-0.5))  # as torch's Linear begins

    def forward(self, x: Float[Tensor, "rows c"]) -> Float[Tensor, "rows k"]:
        """Scores of unit vectors."""
        return F.linear(x, self.v * (self.g / self.v.norm(dim=1, keepdim=True)))


class Head(nn.Module):
    """An MLP with GELU to a narrow layer, brought to length 1, and its scores of prototypes.

    Attributes:
        checkpointed: Compute the MLP again for the gradient instead of keeping what is inside it.
    """

    def __init__(
        self, dim: int, prototypes: int, *, layers: int = 3, hidden: int = 2048, bottleneck: int = 256
    ) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            linear = nn.Linear(narrow, wide)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            parts += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*parts[:-1])
        self.last_layer = Prototypes(bottleneck, prototypes)
        self.checkpointed = False

    def forward(self, x: Float[Tensor, "rows c"]) -> Float[Tensor, "rows k"]:
        """Scores of the prototypes."""
        if self.checkpointed and torch.is_grad_enabled():
            x = checkpoint(self.mlp, x, use_reentrant=False)
        else:
            x = self.mlp(x)
        return self.last_layer(F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12))


# --- the network that student and teacher are -----------------------------------------------------------------------


class Answers(NamedTuple):
    """What a network says: embeddings of the large crops, and scores; crops are crop-major, first those of all images.

    Attributes:
        embedding: Pooled features of the large crops, before the head.
        large: Scores of the large crops.
        small: Scores of the small crops; None without any.
        cells: Scores of the hidden cells.
    """

    embedding: Float[Tensor, "large c"]
    large: Float[Tensor, "large k"]
    small: Float[Tensor, "small k"] | None
    cells: Float[Tensor, "m k_cells"]


class SelfDistilled(nn.Module):
    """An encoder with its heads; the student and the teacher are one each, with equal parameters to average.

    Attributes:
        encoder: The encoder, without classes.
        dino_head: Of crops.
        ibot_head: Of hidden cells; None shares the other one.
        mask_token: What stands for a token of a hidden cell; the teacher hides nothing.
    """

    def __init__(self, encoder: Encoder, dino_head: Head, ibot_head: Head | None) -> None:
        super().__init__()
        self.encoder, self.dino_head, self.ibot_head = encoder, dino_head, ibot_head
        self.mask_token = nn.Parameter(torch.zeros(encoder.config.embed_dim))

    def forward(
        self,
        large: Float[Tensor, "large 3 h w"],
        small: Float[Tensor, "small 3 h_small w_small"] | None,
        hidden: Bool[Tensor, "large rows columns"] | None,
        cells: Int[Tensor, " m"],
    ) -> Answers:
        """Scores of all crops and of some cells: one pass for each size of crop.

        Args:
            large: Large crops.
            small: Small crops, which are never hidden.
            hidden: Cells of the last stage's grid that the large crops lack; None shows them whole.
            cells: Which cells to score, as indices into the cells of all large crops, row-major.
        """
        last = hide(self.encoder, large, hidden, self.mask_token)  # (large, rows, columns, c)
        pooled = self.encoder.pool(last)
        tokens = last.flatten(0, 2).index_select(0, cells)  # (m, c); raw, as in birder: DINOv2 norms them
        embeddings = pooled if small is None else torch.cat([pooled, self.encoder.embedding(small)])
        if self.ibot_head is None:
            scores, scored = self.dino_head(torch.cat([embeddings, tokens])).tensor_split([len(embeddings)])
        else:
            scores, scored = self.dino_head(embeddings), self.ibot_head(tokens)
        of_large, of_small = scores.tensor_split([len(large)])
        return Answers(pooled, of_large, None if small is None else of_small, scored)


def hide(
    encoder: Encoder,
    x: Float[Tensor, "b 3 h w"],
    hidden: Bool[Tensor, "b rows columns"] | None,
    token: Float[Tensor, " c"],
) -> Float[Tensor, "b rows columns d"]:
    """The last stage of images in which the tokens of some cells are replaced by one learned token.

    They are replaced after the patch embedding and before positions are added, so a hidden cell knows its place. The
    patch kernel is wider than its stride: the tokens below and right of a cell have seen three of its pixels.
    """
    if hidden is None:
        return encoder.stages(x)[-1]
    tokens = encoder.patch_embed(x)  # (b, *grid, c)
    grid = tuple(tokens.shape[1:-1])
    for axis, (side, cells) in enumerate(zip(grid, hidden.shape[1:], strict=True), start=1):
        hidden = hidden.repeat_interleave(side // cells, axis)
    tokens = torch.where(hidden[..., None], token.to(tokens.dtype), tokens)
    return encoder.through(tokens + encoder.position(grid))[-1]


# --- losses ---------------------------------------------------------------------------------------------------------


def dino_loss(
    students: Float[Tensor, "n b k"], targets: Float[Tensor, "t b k"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Cross entropy of each student's crop with each target, summed over the pairs: mean_b -sum_k t log softmax(s / T).

    Source: arXiv:2104.14294.
    """
    logs = (students.float() / temperature).log_softmax(-1)
    return -(logs.sum(0) * targets.float().sum(0)).sum(-1).mean()


def ibot_loss(
    students: Float[Tensor, "m k"],
    targets: Float[Tensor, "m k"],
    weights: Float[Tensor, " m"],
    crops: int,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Cross entropy of hidden cells, -sum_m w sum_k t log softmax(s / T), over the number of crops.

    Args:
        students: Scores of hidden cells.
        targets: The teacher's, of the same cells, seen.
        weights: One over the hidden cells of the crop that each belongs to.
        crops: All large crops, those of which nothing is hidden among them.
        temperature: The student's.

    Source: arXiv:2111.07832, weighted and divided as in DINOv2's code.
    """
    each = (targets.float() * (students.float() / temperature).log_softmax(-1)).sum(-1)
    return -(each * weights).sum() / crops


def koleo_loss(embeddings: Float[Tensor, "b c"], *, gathered: bool = False) -> Float[Tensor, ""]:
    """How little the embeddings spread over the sphere: mean_b -log(|x - nearest other x| + 1e-8).

    Args:
        embeddings: Of one crop of each image, before the head.
        gathered: Look for the nearest among those of all processes, not among this one's.

    Returns:
        The loss; 0 without another embedding.

    Source: arXiv:1806.03198.
    """
    with torch.amp.autocast(embeddings.device.type, enabled=False):
        own = F.normalize(embeddings.float(), dim=-1, eps=1e-8)
        everyone, begin = across.all_rows(own) if gathered else (own, 0)
        if len(everyone) < 2 or not len(own):
            return everyone.sum() * 0.0
        with torch.no_grad():
            near = own @ everyone.T
            near.diagonal(begin).fill_(-1.0)
            nearest = near.argmax(1)
        distance = (own - everyone[nearest] + 1e-8).norm(dim=-1)
        return -(distance + 1e-8).log().mean()
