"""Supervised training: cross entropy with soft targets, of a whole encoder or of a head on a frozen one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...data.augment import mix, soft_targets
from ...model.encoder import Encoder
from ...weights.load import to_module
from ...weights.state import Weights
from ..batches import Part
from ..recipe import Recipe
from ..start import as_classifier
from .base import StepContext, normalized


class FineTuning:
    """A classifier of given classes."""

    baseline: float | None

    def __init__(self, weights: Weights, classes: list[str], recipe: Recipe) -> None:
        self.weights = as_classifier(weights, classes, recipe)
        self.recipe, self.classes = recipe, classes
        random = recipe.init == "torch" and not weights.tensors
        module = Encoder(self.weights.config) if random else to_module(self.weights)
        if not isinstance(module, Encoder):
            raise TypeError(type(module).__name__)
        self.module: Encoder = module
        self.baseline = None
        if recipe.linear_probe:
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name.startswith("head."))

    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy with smoothed and mixed targets."""
        device = next(self.module.parameters()).device
        pixels = normalized(part.pixels, self.weights.preprocess, device)
        recipe = self.recipe
        targets = soft_targets(part.labels.to(device), len(self.classes), recipe.label_smoothing)
        if recipe.mixup or recipe.cutmix:
            rng = np.random.Generator(np.random.PCG64(context.seed))
            pixels, targets = mix(
                pixels, targets, mixup=recipe.mixup, cutmix=recipe.cutmix, choice=recipe.mix_choice, rng=rng
            )
        if recipe.linear_probe:
            self.module.blocks.eval()  # a frozen encoder must not drop paths
        logits = model(pixels).float()
        loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        return loss, {}

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Raw logits of preprocessed inputs, in eval mode."""
        self.module.eval()
        return self.module(inputs.to(next(self.module.parameters()).device)).float().cpu()

    def after_step(self, context: StepContext) -> None:
        """Nothing."""
