"""Masked pretraining: hide mask units, rebuild their pixels.

Source: arXiv:2306.00989 appendix A.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ...config import DecoderConfig, ModelConfig
from ...errors import RecipeError
from ...model.mae import MaskedAutoencoder, random_units, visible_count
from ...schema import Between, Positive, ProperShare
from ...visualize import sheets
from ...visualize.reconstruction import reconstruction
from ...weights.card import Weights
from ...weights.network import to_module
from ..batches import Part
from ..recipe import Recipe
from .base import Method, OneView, StepContext, View

_FRAMES = 4  # of each clip that is drawn
Rebuilt = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, visible mask units, prediction of the others


@dataclass(frozen=True, kw_only=True)
class MAESettings(OneView):
    """Keys of `[mae]`, those of the view among them.

    Attributes:
        mask_ratio: Share of mask units that are hidden.
        decoder_depth: Blocks of a fresh decoder.
        decoder_dim: Its width.
        decoder_heads: Its heads.
        query_pools: Query pools of an encoder that is pretrained from scratch, 2 or 3.
    """

    mask_ratio: ProperShare = 0.6
    decoder_depth: Positive = 8
    decoder_dim: Positive = 512
    decoder_heads: Positive = 16
    query_pools: Annotated[int, Between(least=2, most=3)] = 2


@dataclass(frozen=True)
class MaskedView:
    """One view of a sample and "visible", the mask units to keep; drawn where samples are read, not in the step.

    They follow from the view's own key, so that any split over processes draws the same.

    Attributes:
        view: What makes the pixels.
        units: Mask units of the network's input.
        mask_ratio: Share of them that is hidden.
    """

    view: View
    units: int
    mask_ratio: float

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"], key: int, size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The view of frames, or of those of a source of that size, (height, width), which were decoded smaller."""
        generator = torch.Generator().manual_seed(key)
        visible = random_units(1, self.units, self.mask_ratio, generator=generator)[0]
        return {**self.view(frames, key, size), "visible": visible}

    def shrink(self, size: tuple[int, int], key: int) -> int:
        """By how much the source may be decoded smaller."""
        return self.view.shrink(size, key)


class MaskedPretraining(Method):
    """MAE for images and clips."""

    name, task, Settings, preset = "mae", "pretrain", MAESettings, "small_pretrain"
    picture = "reconstructions.png"
    module: MaskedAutoencoder
    settings: MAESettings

    def __init__(self, weights: Weights, recipe: Recipe, classes: list[str]) -> None:
        super().__init__(as_autoencoder(weights, recipe), recipe, classes)
        self.module = to_module(self.weights)  # type: ignore[assignment]
        for name, parameter in self.module.named_parameters():
            # The encoder's own norm and pooling stand behind the stages and get no gradient.
            parameter.requires_grad_(not name.startswith(("encoder.norm.", "encoder.attention_pool.")))
        # What predicting zero gives on normalised patches: their variance is unbiased.
        self.baseline = 1 - 1 / (3 * self.module.pixels**2) if self.module.normalize_target else None
        self.shown = 2 if self.weights.config.is_video else 8
        self.shape: dict[str, Any] = {"pixels": self.module.pixels, "unit": self.module.unit[-2:]}
        self.units = self.module.num_units(tuple(self.weights.config.input_size))
        visible_count(self.units, self.settings.mask_ratio)  # refuses a bad ratio now

    def views(self) -> MaskedView:
        """The view, and which of its mask units stay visible."""
        return MaskedView(self.settings.views(self.weights), self.units, self.settings.mask_ratio)

    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over masked tokens."""
        pixels = self.input(part)
        visible = part.views["visible"].to(pixels.device, non_blocking=True)
        return model(pixels, visible=visible).loss.float(), {}

    def draw(self, part: Part) -> Any:
        """One row an image, or frame: the image, what was visible of it, and what was made of that."""
        rows, normalized = [], self.module.normalize_target
        for image, visible, prediction in self.rebuilt(part):
            made, seen = reconstruction(image, visible, prediction, **self.shape, normalized=normalized)
            rows.append(sheets.masked_triptych(image, made, seen, self.weights.preprocess, normalized))
        return sheets.stack_sheets(rows)

    @torch.no_grad()
    def rebuilt(self, part: Part) -> list[Rebuilt]:
        """What the autoencoder makes of images, or of a few frames of each clip, masked as in training."""
        module, x = self.module.eval(), self.input(part)
        output = module(x, visible=part.views["visible"].to(x.device))
        columns = (x.cpu(), output.visible.cpu(), output.prediction.float().cpu())
        images = list(zip(*(column.numpy() for column in columns), strict=True))
        if not module.config.is_video:
            return images
        stride = module.config.patch_stride[0]
        return [row for clip, seen, made in images for row in frames(clip[:, ::stride], seen, made, **self.shape)]

    def advice(self, samples: int) -> list[str]:
        """Whether the data is enough."""
        if samples >= 10_000:
            return []
        return [
            f"{samples} images are few for pretraining: start from published MAE weights, or fine-tune directly. "
            "Self-supervision from scratch pays off from about 100,000 images on."
        ]


def frames(
    clip: Float[np.ndarray, "3 t h w"],
    visible: Int[np.ndarray, " n"],
    predictions: Float[np.ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
) -> list[Rebuilt]:
    """A few frames of a clip, evenly spread, each with its visible mask units and the predictions of its hidden tokens.

    Args:
        clip: The frame of each decoder token in time, preprocessed.
        visible: Row-major indices of the mask units that were kept, over time, rows and columns.
        predictions: For each hidden token in raster order, its square as (row, column, channel).
        pixels: Side of a token's square.
        unit: Rows and columns of a mask unit in tokens; it is one token long.
    """
    _, times, height, width = clip.shape
    shown = np.zeros((times, height // (unit[0] * pixels), width // (unit[1] * pixels)), bool)
    shown.flat[visible] = True
    hidden = np.repeat(np.repeat(~shown, unit[0], 1), unit[1], 2).reshape(times, -1).sum(1)  # tokens of each frame
    squares = predictions.reshape(-1, pixels, pixels, 3).transpose(0, 3, 1, 2).reshape(len(predictions), -1)
    parts = np.split(squares, np.cumsum(hidden)[:-1])
    some = np.flatnonzero(shown.any((1, 2)))  # a frame of which nothing was seen shows nothing
    chosen = some[np.unique(np.linspace(0, len(some) - 1, _FRAMES).round().astype(int))]
    return [(clip[:, time], np.flatnonzero(shown[time]), parts[time]) for time in chosen]


def as_autoencoder(weights: Weights, recipe: Recipe) -> Weights:
    """A masked autoencoder; the decoder is fresh where the weights have none.

    Raises:
        RecipeError: The network cannot be masked.
    """
    config, settings = weights.config, recipe.settings
    if config.family == "hieradet":
        raise RecipeError(
            f"MAE needs windows that tile the mask unit, which {config.name!r} does not have. "
            "Pretrain a hiera_abswin_... model and convert it to HieraDet."
        )
    changes: dict[str, Any] = {} if recipe.drop_path is None else {"drop_path": recipe.drop_path}
    heads = settings.decoder_heads
    if config.decoder is None or not weights.tensors:
        if settings.decoder_dim % heads:
            raise RecipeError(f"decoder_heads must divide decoder_dim; got {heads} and {settings.decoder_dim}.")
        shape = {"dim": settings.decoder_dim, "depth": settings.decoder_depth, "num_heads": heads}
        decoder = dataclasses.replace(config.decoder or DecoderConfig(), **shape)
        changes |= {"decoder": decoder, "q_pool": settings.query_pools}
        if config.decoder is None:
            changes |= {"head": "pool", "name": f"mae_{config.name}"}
    else:
        _refuse_other_decoder(config, settings)
    config = dataclasses.replace(config, num_classes=0, head_dropout=0.0, **changes)
    kept = ("patch_embed.", "pos_embed", "blocks.", "encoder_norm", "multi_scale", "decoder_", "mask_token")
    tensors = {name: tensor for name, tensor in weights.tensors.items() if name.startswith(kept)}
    return dataclasses.replace(weights, tensors=tensors, labels=None).with_card(config=config)


def _refuse_other_decoder(config: ModelConfig, settings: MAESettings) -> None:
    """Refuse a decoder that was asked for and that the weights do not have.

    Raises:
        RecipeError: A key of the decoder is neither the default nor what the weights have.
    """
    decoder, usual = config.decoder or DecoderConfig(), MAESettings()
    held_by = {"decoder_depth": decoder.depth, "decoder_dim": decoder.dim, "query_pools": config.q_pool}
    for key, held in held_by.items():
        asked = getattr(settings, key)
        if asked not in (held, getattr(usual, key)):
            raise RecipeError(
                f"{key} must be that of the weights, which have a decoder; got {asked}, they have {held}. Leave it "
                "out, or start at random with pretrained=false."
            )
