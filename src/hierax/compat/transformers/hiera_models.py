"""transformers' Hiera models: encoder, classifier, backbone and masked autoencoder, on our networks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...config import ModelConfig
from ...errors import InputError
from ...model.mae import MaskedAutoencoder
from ...weights.card import Weights
from ...weights.formats.transformers_config import read_hiera
from ..unroll import unroll
from .base import log
from .configuration import HieraConfig
from .hiera_base import HieraPreTrainedModel
from .outputs import BackboneOutput, HieraForImageClassificationOutput, HieraForPreTrainingOutput, HieraModelOutput
from .trace import steps_left, trace


class HieraModel(HieraPreTrainedModel):
    """The encoder: tokens of the last stage in unrolled order, and their pooled, normed mean."""

    constructor_options: ClassVar[tuple[str, ...]] = ("add_pooling_layer", "is_mae")

    def __init__(
        self, config: HieraConfig, add_pooling_layer: bool = True, is_mae: bool = False, **network: nn.Module
    ) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer, **network)
        self.is_mae, self.has_pooler = is_mae, add_pooling_layer

    @classmethod
    def architecture(cls, config: HieraConfig, add_pooling_layer: bool = True, is_mae: bool = False) -> ModelConfig:
        """An encoder without classes."""
        return read_hiera(config.to_dict(), head="pool_norm" if add_pooling_layer else "pool")

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        noise: Float[Tensor, "b units"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraModelOutput | tuple[Any, ...]:
        """Encode images.

        Args:
            pixel_values: Preprocessed images.
            noise: With is_mae, one number per mask unit; the smallest are kept.
            output_attentions: Add the probabilities of each stage's last block.
            output_hidden_states: Add tokens after the patch embedding and each stage, flat (unrolled order) and
                as maps.
            interpolate_pos_encoding: Allow any size that is a multiple of 32 pixels.
            return_dict: False for a tuple.

        Raises:
            InputError: An illegal size, or noise of the wrong shape.
        """
        x = self.check_size(pixel_values, interpolate_pos_encoding)
        keep, restore, visible = draw_units(self, x, noise) if self.is_mae else (None, None, None)
        grids, shown = trace(self, x, visible, output_attentions, output_hidden_states)
        last, network = (grids or self.encoder.stages(x, visible=visible))[-1], self.encoder.config
        output = HieraModelOutput(
            last_hidden_state=unroll(last, steps_left(network, len(network.depths) - 1), network.q_stride),
            pooler_output=self.encoder.pool(last) if self.has_pooler else None,
            bool_masked_pos=keep,
            ids_restore=restore,
            **shown,
        )
        return self.returned(output, return_dict)


class HieraForImageClassification(HieraPreTrainedModel):
    """The encoder with a classification head; logits are raw."""

    inner_prefix: ClassVar[str] = "hiera."

    @property
    def num_labels(self) -> int:
        """Classes of the head."""
        return self.encoder.num_classes

    @classmethod
    def architecture(cls, config: HieraConfig) -> ModelConfig:
        """An encoder with as many classes as the config has labels."""
        return read_hiera(config.to_dict(), head="pool_norm", num_classes=config.num_labels)

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraForImageClassificationOutput | tuple[Any, ...]:
        """Classify images; with labels, the loss too. Other arguments as for `HieraModel`.

        Raises:
            InputError: An illegal size.
        """
        x = self.check_size(pixel_values, interpolate_pos_encoding)
        grids, shown = trace(self, x, None, output_attentions, output_hidden_states)
        logits = self.encoder.classify(self.encoder.pool(grids[-1]) if grids else self.encoder.embedding(x))
        loss = None if labels is None else self.loss(logits, labels.to(logits.device))
        output = HieraForImageClassificationOutput(loss=loss, logits=logits, **shown)
        return self.returned(output, return_dict)

    def loss(self, logits: Float[Tensor, "b classes"], labels: Tensor) -> Float[Tensor, ""]:
        """Cross entropy of integer labels, squared error of one output, binary cross entropy otherwise."""
        integers = labels.dtype in (torch.int64, torch.int32)
        guess = "regression" if self.num_labels == 1 else f"{'single' if integers else 'multi'}_label_classification"
        match self.config.problem_type or guess:
            case "regression":
                return F.mse_loss(logits.squeeze(), labels.squeeze().to(logits.dtype))
            case "single_label_classification":
                return F.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1).long())
            case "multi_label_classification":
                return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            case other:
                raise InputError(
                    "problem_type must be 'regression', 'single_label_classification' or "
                    f"'multi_label_classification'; got {other!r}."
                )


class HieraBackbone(HieraPreTrainedModel):
    """Stage feature maps for detection and segmentation.

    One deliberate difference: transformers' backbone feeds tokens in raster order to blocks that expect unrolled
    order, which scrambles its maps, and norms them with parameters that no published file holds. Here they are the
    maps that `HieraModel` computes, un-normed, at any legal size. `match_transformers=True` reproduces theirs.

    Attributes:
        stage_names: "stem", "stage1", ...
        out_features: Names of the returned stages.
        out_indices: The same as positions in `stage_names`.
        out_feature_channels: Channels of every stage.
        channels: Channels of the returned stages.
    """

    constructor_options: ClassVar[tuple[str, ...]] = ("match_transformers",)

    def __init__(self, config: HieraConfig, match_transformers: bool = False, **network: nn.Module) -> None:
        super().__init__(config, **network)
        self.match_transformers = match_transformers
        channels = self.encoder.config.channels
        self.stage_names, self.num_features = config.stage_names, [channels[0], *channels]
        self.out_features, self.out_indices = config.out_features, config.out_indices
        self.out_feature_channels = dict(zip(self.stage_names, self.num_features, strict=True))
        self.channels = [self.out_feature_channels[name] for name in self.out_features]
        if match_transformers:
            # Quirk(transformers): these norms have torch's epsilon, not the config's.
            norms = {name: nn.LayerNorm(width) for name, width in zip(self.out_features, self.channels, strict=True)}
            for norm in norms.values():
                nn.init.constant_(norm.weight, config.layer_norm_init)
                nn.init.constant_(norm.bias, config.initializer_range)
            self.hidden_states_norms = nn.ModuleDict(norms)

    @classmethod
    def architecture(cls, config: HieraConfig, match_transformers: bool = False) -> ModelConfig:
        """An encoder without final norm and classes."""
        return read_hiera(config.to_dict(), head="pool")

    def restore(self, weights: Weights) -> None:
        """The stage norms of a saved backbone, which matter only when matching transformers."""
        prefix = "hidden_states_norms."
        raw = weights.raw.tensors if weights.raw is not None else {}
        found = {key.removeprefix(prefix): tensor for key, tensor in raw.items() if key.startswith(prefix)}
        if self.match_transformers:
            self.hidden_states_norms.load_state_dict(found, strict=False)
        elif found:
            log.info("stage norms of the saved backbone are not applied; match_transformers=True applies them.")

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Feature maps of the chosen stages, contiguous (b, c, h, w).

        Raises:
            InputError: An illegal size; when matching transformers, any size but the config's.
        """
        matching, stem = self.match_transformers, 0 in self.out_indices
        x = self.check_size(pixel_values, interpolate=not matching)
        grids, shown = trace(self, x, None, output_attentions, output_hidden_states, rolled=matching, stem=stem)
        maps = grids or [x, *self.encoder.stages(x, last=max(self.out_indices) - 1)]
        chosen = {name: maps[place] for name, place in zip(self.out_features, self.out_indices, strict=True)}
        if matching:
            chosen = {name: self.hidden_states_norms[name](grid) for name, grid in chosen.items()}
        feature_maps = tuple(grid.movedim(-1, 1).contiguous() for grid in chosen.values())
        shown.pop("reshaped_hidden_states", None)
        return self.returned(BackboneOutput(feature_maps=feature_maps, **shown), return_dict)


class HieraForPreTraining(HieraPreTrainedModel):
    """The masked autoencoder: rebuilds the pixels of hidden mask units."""

    inner_prefix: ClassVar[str] = "hiera."
    network: MaskedAutoencoder

    def __init__(self, config: HieraConfig, **network: nn.Module) -> None:
        super().__init__(config, **network)
        self.pred_stride = self.network.pixels

    @classmethod
    def architecture(cls, config: HieraConfig) -> ModelConfig:
        """An autoencoder with the config's decoder."""
        return read_hiera(config.to_dict(), head="pool", decoder=True)

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        noise: Float[Tensor, "b units"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraForPreTrainingOutput | tuple[Any, ...]:
        """Hide mask units, predict every token's pixels, and compare those of hidden ones.

        `bool_masked_pos` is per predicted token, True where it was kept. Arguments as for `HieraModel`; hidden
        states and attentions cost a second pass over the encoder.

        Raises:
            InputError: An illegal size, or noise of the wrong shape.
        """
        x = self.check_size(pixel_values, interpolate_pos_encoding)
        _, restore, visible = draw_units(self, x, noise)
        size, mae = (x.shape[-2], x.shape[-1]), self.network
        logits = mae.decode(mae.encode(x, visible), visible, size)  # (b, tokens, pixels)
        masked = mae.masked_tokens(visible, size)  # (b, masked)
        error = (logits - mae.targets(x)).take_along_dim(masked[..., None], dim=1)
        _, shown = trace(self, x, visible, output_attentions, output_hidden_states)
        output = HieraForPreTrainingOutput(
            loss=(error**2).mean(),
            logits=logits,
            bool_masked_pos=logits.new_ones(logits.shape[:2], dtype=torch.bool).scatter_(1, masked, False),
            ids_restore=restore,
            **shown,
        )
        return self.returned(output, return_dict)


def draw_units(
    model: HieraPreTrainedModel, x: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b units"] | None
) -> tuple[Tensor, Int[Tensor, "b units"], Int[Tensor, "b n"]]:
    """Which mask units are kept, by the noise or a random draw, at the config's ratio: those of the smallest values.

    Returns:
        Per unit whether it is kept; each unit's rank; row-major indices of the kept ones, ascending.

    Raises:
        InputError: Noise that is not (b, units).
    """
    config = model.encoder.config
    grid = config.grid((x.shape[-2], x.shape[-1]))
    units = (grid[0] // config.mask_unit[0]) * (grid[1] // config.mask_unit[1])
    noise = torch.rand(x.shape[0], units, device=x.device) if noise is None else noise.to(x.device)
    if tuple(noise.shape) != (x.shape[0], units):
        raise InputError(f"noise must be one number per mask unit, {(x.shape[0], units)}; got {tuple(noise.shape)}.")
    shuffle = noise.argsort(dim=1)
    restore = shuffle.argsort(dim=1)
    kept = shuffle[:, : int(units * (1 - model.config.mask_ratio))]
    return torch.zeros_like(restore, dtype=torch.bool).scatter_(1, kept, True), restore, kept.sort(dim=1).values
