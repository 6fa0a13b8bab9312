"""Which products int8 would cost most: each one alone is rounded as int8 rounds it, and the embedding compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..encoder import Encoder
from .eager import TorchEngine
from .products import Plain

PRODUCTS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class Rounded(Plain):
    """A product of 8-bit numbers: one scale an output channel for weights, one scale and offset for activations."""

    def __init__(self, exact: Plain) -> None:
        scale = (exact.weight.abs().amax(0) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.weight, self.bias = (exact.weight / scale).round() * scale, exact.bias

    def linear(self, x: Tensor, buffer: str) -> Tensor:
        """Affine: x W + b."""
        return super().linear(rounded(x), buffer)

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum x += y W + b, in place."""
        return super().add_to(x, rounded(y))


def rounded(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """To the nearest of 256 levels between the smallest and the largest number, zero among them."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    step = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / step).round() * step


def by_harm(model: Encoder, images: Float[Tensor, "b 3 *pixels"]) -> list[str]:
    """Names of the blocks' products, the most harmful to round first; one forward pass each."""
    probe = TorchEngine(model, "plain")
    harm: dict[str, float] = {}
    with torch.inference_mode():
        exact = probe.embedding(images)
        for index, block in enumerate(probe.blocks):
            for name in PRODUCTS:
                attribute = name.rpartition(".")[2]
                product = getattr(block, attribute)
                setattr(block, attribute, Rounded(product))
                harm[f"blocks.{index}.{name}"] = -F.cosine_similarity(probe.embedding(images), exact).min().item()
                setattr(block, attribute, product)
    return sorted(harm, key=harm.__getitem__, reverse=True)
