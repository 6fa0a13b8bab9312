"""What the Hiera models share: names, loading, and the size rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...config import ModelConfig
from ...errors import InputError
from ...model.encoder import Encoder
from ...model.init import build
from ...weights.card import Weights
from ...weights.formats.transformers import ENCODER_OUTER, HIERA
from ...weights.rename import flat_name
from ..dialect import ForeignNames
from .base import LoadingInfo, PreTrainedModel, load_network
from .configuration import HieraConfig
from .configuration_base import PreTrainedConfig

if TYPE_CHECKING:
    from typing_extensions import Self


class HieraPreTrainedModel(PreTrainedModel, ForeignNames):
    """A Hiera network with transformers' config, parameter names and files.

    Attributes:
        config: transformers' description of the network.
        network: Our encoder or masked autoencoder, which does the work.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = HieraConfig
    inner: ClassVar[str] = "network"
    base_model_prefix: ClassVar[str] = "hiera"
    inner_prefix: ClassVar[str] = ""

    def __init__(self, config: HieraConfig, *, network: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config
        self.network = build(self.architecture(config, **options)) if network is None else network

    @property
    def encoder(self) -> Encoder:
        """Our encoder, inside a masked autoencoder too."""
        return getattr(self.network, "encoder", self.network)  # type: ignore[return-value]

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.encoder.patch_embed

    def spell(self, name: str) -> str:
        """Name that transformers gives to one of our parameters."""
        return self.spelled(name, self.config.depths)

    @classmethod
    def spelled(cls, name: str, depths: Any) -> str:
        """The same, before there is a model."""
        key = flat_name(name)
        return (cls.inner_prefix if key.startswith(ENCODER_OUTER) else "") + HIERA.spell(key, depths)

    @classmethod
    def architecture(cls, config: HieraConfig) -> ModelConfig:
        """Our architecture of this class with this config; a class takes options of its constructor beside it."""
        raise NotImplementedError

    @classmethod
    def build(cls, weights: Weights, config: Any, lenient: bool, **own: Any) -> tuple[Self, LoadingInfo]:
        """The model with every parameter that the weights have for it, the rest fresh."""
        target = cls.architecture(config, **own)
        # Quirk(transformers): what a checkpoint lacks gets its own initialisation, also the pooler's norm.
        norm = {
            "norm.weight": torch.full((target.embedding_size,), float(config.layer_norm_init)),
            "norm.bias": torch.full((target.embedding_size,), float(config.initializer_range)),
        }
        instead = norm if target.head == "pool_norm" else {}
        network, info = load_network(weights, target, lenient, lambda key: cls.spelled(key, config.depths), **instead)
        model = cls(config, network=network, **own)
        model.restore(weights)
        return model, info

    def restore(self, weights: Weights) -> None:
        """Load what the class has beside our network; nothing, for most."""

    def check_size(self, pixel_values: Tensor | None, interpolate: bool | None) -> Tensor:
        """Refuse no input, and another size than the config's unless asked to interpolate.

        Raises:
            InputError: Says which size is wanted, or which option allows any.
        """
        x = self.pixels(pixel_values)
        if not interpolate and tuple(x.shape[-2:]) != tuple(self.config.image_size):
            raise InputError(
                f"Images must be {self.config.image_size} (height, width) as in the config; got "
                f"{list(x.shape[-2:])}. Pass interpolate_pos_encoding=True for any multiple of 32."
            )
        return x
