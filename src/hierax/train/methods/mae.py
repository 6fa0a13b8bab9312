"""Masked pretraining: hide mask units, rebuild their pixels.

Source: arXiv:2306.00989 appendix A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...model.mae import MaskedAutoencoder
from ...weights.load import to_module
from ...weights.state import Weights
from ..batches import Part
from ..recipe import Recipe
from ..start import as_autoencoder
from .base import StepContext, normalized


class MaskedPretraining:
    """MAE for images and clips.

    Attributes:
        baseline: What predicting zero gives on normalised patches: 1 - 1 / 768, because their variance is unbiased.
    """

    def __init__(self, weights: Weights, recipe: Recipe) -> None:
        self.weights = as_autoencoder(weights, recipe)
        self.recipe = recipe
        module = to_module(self.weights)
        if not isinstance(module, MaskedAutoencoder):
            raise TypeError(type(module).__name__)
        self.module: MaskedAutoencoder = module
        for name, parameter in module.named_parameters():
            # The encoder's own norm and pooling stand behind the stages and get no gradient.
            parameter.requires_grad_(not name.startswith(("encoder.norm.", "encoder.attention_pool.")))
        self.baseline: float | None = 1 - 1 / (3 * module.pixels**2) if module.normalize_target else None
        size = tuple(self.weights.config.input_size)
        module.random_visible(torch.zeros(1, 3, *size), recipe.mask_ratio)  # refuses an impossible ratio now

    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over masked tokens."""
        device = next(self.module.parameters()).device
        pixels = normalized(part.pixels, self.weights.preprocess, device)
        output = model(pixels, mask_ratio=self.recipe.mask_ratio, visible=self.visible(part).to(device))
        return output.loss.float(), {}

    def visible(self, part: Part) -> Tensor:
        """Mask units to keep, drawn from each view's own key, so that any split over processes draws the same."""
        one = torch.zeros(1, 1, *part.pixels.shape[2:])
        draws = [
            self.module.random_visible(one, self.recipe.mask_ratio, torch.Generator().manual_seed(int(key)))
            for key in part.keys.tolist()
        ]
        return torch.cat(draws)

    def after_step(self, context: StepContext) -> None:
        """Nothing."""
