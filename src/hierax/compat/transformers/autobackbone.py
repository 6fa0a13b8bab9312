"""The whole family as a backbone of transformers itself: a config with its own `model_type`, and the model behind it.

Both classes derive from transformers' own, so they are made when first used: nothing else here needs the package.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from ...backbones import Backbone
from ...config import STAGE_NAMES, ModelConfig
from ...errors import InputError, MissingExtraError, UnknownNameError, brief
from ...weights.card import ModelCard, Weights

MODEL_TYPE = "hierax"


def needed() -> Any:
    """The transformers package.

    Raises:
        MissingExtraError: It is not installed, or older than the version whose backbones this is written for.
    """
    try:
        importlib.import_module("transformers.backbone_utils")  # of version 5
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error


def register() -> None:
    """Make `AutoConfig` and `AutoBackbone` of transformers know `model_type` "hierax"; a second call changes nothing.

    Whoever loads a detector that was saved with such a backbone calls this first; `backbone_config` and `use_in` do.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    transformers = needed()
    config, model = classes()
    transformers.AutoConfig.register(MODEL_TYPE, config, exist_ok=True)
    transformers.AutoBackbone.register(config, model, exist_ok=True)
    transformers.AutoModel.register(config, model, exist_ok=True)


@functools.cache
def classes() -> tuple[type[Any], type[Any]]:
    """The config's and the model's class.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    transformers = needed()
    mixins = importlib.import_module("transformers.backbone_utils")
    outputs = importlib.import_module("transformers.modeling_outputs")

    class HieraxConfig(mixins.BackboneConfigMixin, transformers.PreTrainedConfig):  # type: ignore[misc]
        """Config of a backbone: the network, and which of its maps are given.

        Attributes:
            network: Fields of `hierax.ModelConfig`.
            norm: Whether a LayerNorm follows each map.
            license: Of the weights that it was made for.
            image_mean: Mean of each channel, 0..1, by which images are normalised.
            image_std: Deviation of each channel.
        """

        model_type = MODEL_TYPE

        def __init__(
            self,
            network: Mapping[str, Any] | None = None,
            out_features: list[str] | None = None,
            out_indices: list[int] | None = None,
            norm: bool = False,
            license: str | None = None,
            image_mean: list[float] | None = None,
            image_std: list[float] | None = None,
            **others: Any,
        ) -> None:
            others.pop("stage_names", None)  # they follow from the network
            super().__init__(**others)
            # transformers builds every config without arguments too, to compare with.
            config = ModelConfig() if network is None else ModelConfig.from_dict(network)
            self.network = config.to_dict()
            self.norm, self.license = norm, license
            self.image_mean, self.image_std = image_mean, image_std
            self.num_channels, self.image_size = config.in_channels, list(config.input_size)
            self.hidden_size = config.channels[-1]  # detectors on the last map alone ask for it
            self.stage_names = ["stem", *config.stage_names]
            self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)

    class HieraxBackbone(mixins.BackboneMixin, transformers.PreTrainedModel):  # type: ignore[misc]
        """Stage maps of any member of the family, un-normed, contiguous and channels first.

        Attributes:
            body: The backbone, a `hierax.Backbone`.
        """

        config_class = HieraxConfig
        base_model_prefix = "backbone"
        main_input_name = "pixel_values"
        has_attentions = False
        supports_gradient_checkpointing = True
        _supports_sdpa = True

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            network = ModelConfig.from_dict(config.network)
            unknown = [name for name in config.out_features if name not in STAGE_NAMES]
            if unknown:
                raise UnknownNameError(
                    f"A backbone gives maps of {', '.join(config.stage_names[1:])}; got {', '.join(unknown)}. "
                    "Leave it out of out_features."
                )
            self.body = Backbone(Weights(card=ModelCard(config=network)), config.out_features, norm=config.norm)
            # With a place for what comes before the first stage, which has no map.
            self.num_features = [network.channels[0], *network.channels]
            self.post_init()

        @property
        def gradient_checkpointing(self) -> bool:
            """Whether activations are computed anew in the backward pass."""
            return self.body.checkpoint_blocks

        @gradient_checkpointing.setter
        def gradient_checkpointing(self, value: bool) -> None:
            self.body.checkpoint_blocks = value

        def forward(
            self,
            pixel_values: Any,
            output_hidden_states: bool | None = None,
            output_attentions: bool | None = None,
            return_dict: bool | None = None,
            **_: Any,
        ) -> Any:
            """Maps (b, c_i, h / s_i, w / s_i) of the stages in `out_features`, as `feature_maps`.

            Args:
                pixel_values: Preprocessed images (b, 3, h, w), height and width multiples of 32.
                output_hidden_states: The same maps as `hidden_states` too.
                output_attentions: Refused: attention is fused.
                return_dict: False for a tuple.

            Raises:
                InputError: An illegal size, or attentions.
            """
            if output_attentions:
                raise InputError("output_attentions is not supported: attention is fused. Leave it out.")
            maps = tuple(self.body(pixel_values))
            output = outputs.BackboneOutput(feature_maps=maps, hidden_states=maps if output_hidden_states else None)
            return output.to_tuple() if return_dict is False else output

    for each in (HieraxConfig, HieraxBackbone):
        each.__module__, each.__qualname__ = __name__, each.__name__  # as `__getattr__` below finds them
    return HieraxConfig, HieraxBackbone


def __getattr__(name: str) -> Any:
    """The two classes, for pickles and for whoever imports them."""
    if name in ("HieraxConfig", "HieraxBackbone"):
        return classes()[name == "HieraxBackbone"]
    raise AttributeError(f"module {__name__!r} has no attribute {brief(name)}")
