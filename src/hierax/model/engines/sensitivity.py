"""Which products int8 would cost most: each one alone is rounded as int8 rounds it, and the embedding compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..encoder import Encoder
from .base import EMBEDDING
from .eager import TorchEngine
from .products import Product

PRODUCTS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_TINY = torch.finfo(torch.float32).tiny


class Rounded(Product):
    """A product of 8-bit numbers: one scale an output channel for weights, one scale and offset for activations."""

    def __init__(self, exact: Product) -> None:
        scale = (exact.weight.abs().amax(1, keepdim=True) / 127).clamp(min=_TINY)
        super().__init__((exact.weight / scale).round() * scale, exact.bias)

    def linear(self, x: Tensor, buffer: str = "") -> Tensor:
        """Affine, of x rounded to the nearest of 256 levels between its extremes, zero among them."""
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        step = ((high - low) / 255).clamp(min=_TINY)
        return super().linear((x / step).round() * step)


def by_harm(model: Encoder, images: Float[Tensor, "b 3 *pixels"]) -> list[str]:
    """Names of the blocks' products, the most harmful to round first; one forward pass each."""
    probe = TorchEngine(model, "traced")
    harm: dict[str, float] = {}
    with torch.inference_mode():
        exact = probe.run(images, EMBEDDING)[0]
        for index, block in enumerate(probe.blocks):
            for name in PRODUCTS:
                attribute = name.rpartition(".")[2]
                product = getattr(block, attribute)
                setattr(block, attribute, Rounded(product))
                found = probe.run(images, EMBEDDING)[0]
                harm[f"blocks.{index}.{name}"] = -F.cosine_similarity(found, exact).min().item()
                setattr(block, attribute, product)
    return sorted(harm, key=harm.__getitem__, reverse=True)
