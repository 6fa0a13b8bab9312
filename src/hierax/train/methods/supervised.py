"""Supervised training: cross entropy with soft targets, of a whole encoder or of a head on a frozen one."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...data.augment import mix, soft_targets
from ...data.datasets.class_list import read_classes, with_classes
from ...data.datasets.open import find_validation, open_data
from ...data.datasets.samples import SPLITS, TrainingData, hold_out, match_classes
from ...data.datasets.some import sizes_of
from ...data.inputs import plain_batches
from ...errors import InputError
from ...model.encoder import Encoder
from ...model.metrics import Accuracy, count_correct
from ...schema import NonNegative, ProperShare
from ...weights.adapt import to_encoder, to_num_classes, with_final_norm
from ...weights.card import Weights
from ...weights.labels import synsets
from ...weights.network import to_module
from ..batches import Part
from ..devices import Devices
from ..recipe import Recipe
from .base import Method, OneView, StepContext


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(OneView):
    """Keys of `[supervised]`, those of the view among them.

    Attributes:
        init: Random weights: "paper" as Hiera's, "torch" torch's defaults, which suit narrow networks.
        head_dropout: Rate before the classifier; None keeps the model's.
        linear_probe: Train only the head, on a frozen encoder.
        label_smoothing: Share of the target spread over all classes.
        mixup: Alpha of mixup's Beta distribution; 0 is off.
        cutmix: Alpha of cutmix's; 0 is off.
        mix_choice: "always" mixes every batch, "uniform" chooses among none and the ones that are on.
        class_file: Text file with the name of each class on a line, in the order of their indices, or "imagenet1k" or
            "imagenet12k" for the WordNet ids of these; None takes the classes that the data has.
    """

    init: Literal["paper", "torch"] = "paper"
    head_dropout: ProperShare | None = None
    linear_probe: bool = False
    label_smoothing: ProperShare = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    mix_choice: Literal["always", "uniform"] = "always"
    class_file: str | None = None


class Supervised(Method):
    """A classifier of given classes."""

    name, task, Settings, preset = "supervised", "finetune", SupervisedSettings, "small_finetune"
    module: Encoder
    settings: SupervisedSettings

    def __init__(self, weights: Weights, recipe: Recipe, classes: list[str]) -> None:
        super().__init__(as_classifier(weights, classes, recipe), recipe, classes)
        random = self.settings.init == "torch" and not weights.tensors
        self.module = Encoder(self.weights.config) if random else to_module(self.weights)  # type: ignore[assignment]
        self.random_start = not weights.tensors
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(not self.settings.linear_probe or name.startswith("head."))

    @classmethod
    def open(cls, data: Any, recipe: Recipe) -> tuple[TrainingData, TrainingData | None]:
        """Samples that have classes, and the data's own validation split, named others, or some that are held out."""
        listed = classes_of(recipe.settings.class_file)
        train = open_data(data, split=recipe.split)
        if (train.labels < 0).any():
            raise InputError("Every training sample must have a class; use a labelled source.")
        if len(listed or train.classes) < 2:
            raise InputError(
                f"A classifier needs at least two classes; the data has {len(train.classes)}: {train.classes}. "
                f"Add a folder, or rows, of another class. {' '.join(train.notes)}".strip()
            )
        named = recipe.validation
        if named is None:
            validation = find_validation(data, beside=recipe.split)
        elif named in SPLITS["validation"]:
            validation = open_data(data, split=named)
        else:
            validation = open_data(named, split="validation")
        if validation is None:  # before classes are numbered anew: what is held out follows from the data alone
            train, validation = hold_out(train, recipe.validation_fraction, recipe.seed)
        if listed:
            train = with_classes(train, listed)
            return train, None if validation is None else with_classes(validation, listed)
        return train, None if validation is None else match_classes(validation, train.classes)

    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy with smoothed and mixed targets."""
        pixels, settings = self.input(part), self.settings
        labels = part.labels.to(pixels.device, non_blocking=True)
        targets = soft_targets(labels, len(self.classes), settings.label_smoothing)
        if settings.mixup or settings.cutmix:
            rng = np.random.Generator(np.random.PCG64(context.seed))
            alphas = {"mixup": settings.mixup, "cutmix": settings.cutmix}
            pixels, targets = mix(pixels, targets, **alphas, choice=settings.mix_choice, rng=rng)
        if settings.linear_probe:
            self.module.blocks.eval()  # a frozen encoder must not drop paths
        logits = model(pixels).float()
        return -(targets * logits.log_softmax(-1)).sum(-1).mean(), {}

    def validate(self, data: TrainingData, devices: Devices) -> Accuracy:
        """Exact counts over all processes."""
        spec = dataclasses.replace(self.weights.preprocess, frame_stride=self.recipe.frame_stride)
        place = {"rank": devices.rank, "world": devices.world, "workers": self.recipe.workers}
        size = max(1, self.recipe.batch_size // devices.world)
        batches = plain_batches(data, self.weights.config, spec, batch_size=size, **place)
        found = count_correct(self._logits, batches, data, together=devices.world > 1)
        return Accuracy.merged(devices.gather(found))

    @torch.no_grad()
    def _logits(self, inputs: Tensor) -> Tensor:
        self.module.eval()
        return self.module(inputs.to(next(self.module.parameters()).device)).float().cpu()

    def remarks(self, data: TrainingData) -> list[str]:
        """Also whether a smaller input would do for small images; the person decides, as weights fit theirs."""
        config, known = self.weights.config, super().remarks(data)
        if known or config.is_video or self.recipe.input_size is not None or not (sizes := sizes_of(data)):
            return known
        usual, least = int(np.median([min(size) for size in sizes])), config.strides[-1]
        smaller = least * math.ceil(usual / least)
        if 2 * smaller > min(config.input_size):
            return []
        size = "x".join(map(str, config.input_size))
        return [
            f"images of about {usual} pixels are enlarged to {size}. A smaller input is faster, and was as accurate on "
            f"digits: --set input_size={smaller}"
        ]

    def advice(self, samples: int) -> list[str]:
        """Whether the data is enough for a random start, and for its classes."""
        lines = []
        if self.random_start and samples < 50_000:
            lines.append(
                f"{samples} images are few to train from random weights: start from a pretrained checkpoint (`hierax "
                "list`). Hiera without pretraining does worse than other networks (arXiv:2306.00989, section B)."
            )
        each = round(samples / len(self.classes))
        if each < 20:
            lines.append(
                f"about {each} image{'' if each == 1 else 's'} a class: accuracy on few validation images is "
                "uncertain by several points; validate on other images (validation=), or repeat with other seeds."
            )
        return lines


def classes_of(source: str | None) -> list[str]:
    """Names of a class file, WordNet ids of a list that is known, or none at all.

    Raises:
        InputError: The file cannot be read, or holds no list of different names.
    """
    if source is None:
        return []
    known = source in ("imagenet1k", "imagenet12k") and not os.path.exists(source)
    return list(synsets(source)) if known else read_classes(source)


def as_classifier(weights: Weights, classes: list[str], recipe: Recipe) -> Weights:
    """An encoder with a head for these classes; a fresh one unless the labels are the same, in any order."""
    weights = _in_order(weights, classes)
    kept = weights.labels == classes
    weights = with_final_norm(to_encoder(weights))
    weights = weights if kept else to_num_classes(to_num_classes(weights, 0), len(classes))
    rates = {"drop_path": recipe.drop_path, "head_dropout": recipe.settings.head_dropout}
    changes: dict[str, Any] = {key: rate for key, rate in rates.items() if rate is not None}
    config = dataclasses.replace(weights.config, **changes)
    return dataclasses.replace(weights, labels=list(classes)).with_card(config=config)


def _in_order(weights: Weights, classes: list[str]) -> Weights:
    """The same classifier with its classes in another order, if it has these; hierax used to sort numbers as text."""
    if weights.labels is None or weights.labels == classes or sorted(weights.labels) != sorted(classes):
        return weights
    places = {name: index for index, name in enumerate(weights.labels)}
    order = [places[name] for name in classes]
    rows = {name: tensor[order] for name, tensor in weights.tensors.items() if name.startswith("head.projection.")}
    return dataclasses.replace(weights, labels=list(classes), tensors={**weights.tensors, **rows})
