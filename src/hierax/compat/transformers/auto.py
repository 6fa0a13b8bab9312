"""The `Auto` classes: which class a source is for, by what lies there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from ...errors import CheckpointError, UnknownNameError, nearest
from ...weights.card import Weights
from ...weights.neck import neck_tensors
from .base import PreTrainedModel
from .configuration import HieraConfig
from .configuration_base import CONFIG, PreTrainedConfig, as_weights
from .configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from .hiera_models import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from .image_processing import BitImageProcessor, Sam2ImageProcessor, stored_options
from .options import Request, requested
from .sam2_models import Sam2HieraDetModel, Sam2VisionModel

Config = type[PreTrainedConfig]
CONFIGS: tuple[Config, ...] = (HieraConfig, Sam2VisionConfig, Sam2HieraDetConfig)


class _Auto:
    def __init__(self, *_: Any, **__: Any) -> None:
        kind = type(self).__name__
        raise UnknownNameError(f"{kind} is no class to build. Use {kind}.from_pretrained(name_or_folder).")


class AutoConfig(_Auto):
    """The config of whatever lies at a source."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """The config of a folder, file, catalogue name or hub id; arguments and errors as `HieraConfig`'s."""
        apart = {name: value for name, value in options.items() if name not in ("return_unused_kwargs",)}
        request, _ = requested(apart, list(apart))
        kind = config_class(pretrained_model_name_or_path, request)
        return kind.from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def for_model(cls, model_type: str, **options: Any) -> PreTrainedConfig:
        """A config by transformers' name of the kind of model.

        Raises:
            UnknownNameError: No such kind here.
        """
        found = {kind.model_type: kind for kind in CONFIGS}
        if model_type not in found:
            raise UnknownNameError(
                f"Kinds of model are {', '.join(found)}; got {model_type!r}. {nearest(model_type, found)}"
            )
        return found[model_type](**options)


def config_class(source: str | Path, request: Request) -> Config:
    """Which config describes a source, by its config.json or by its weights."""
    data = request.sidecar(source, CONFIG) or {}
    for kind in CONFIGS:
        if kind.written(data) is not None:
            return kind
    entry = request.published(source)
    return _kind_of(request.weights(source) if entry is None else as_weights(entry))


def _kind_of(weights: Weights) -> Config:
    if weights.config.family != "hieradet":
        return HieraConfig
    whole = weights.raw is None and weights.card.format in ("sam2", "transformers")  # as it was published
    return Sam2VisionConfig if whole or neck_tensors(weights) else Sam2HieraDetConfig


class _AutoModel(_Auto):
    # By the class of a config, for the kinds of which transformers has such a model.
    _models: ClassVar[dict[Config, type[PreTrainedModel]]]
    _instead: ClassVar[str] = "hierax.load loads any of them."

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, config: Any = None, **options: Any) -> Any:
        """The model of a folder, file, catalogue name or hub id; arguments and errors as `HieraModel`'s."""
        request, own = requested(options, {name for kind in cls._models.values() for name in kind.options()})
        if isinstance(config, (str, Path)):
            config = AutoConfig.from_pretrained(config)
        weights = request.weights(pretrained_model_name_or_path)
        kind = cls._kind(type(config) if isinstance(config, PreTrainedConfig) else _kind_of(weights))
        requested(own, kind.options())
        model, info = kind.of_weights(weights, request, config, **own)
        model.name_or_path = str(pretrained_model_name_or_path)
        return (model, dataclasses.asdict(info)) if request.info else model

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
        """A freshly initialised model of a config."""
        return cls._kind(type(config))(config, **options)  # type: ignore[call-arg]  # every model takes its config

    @classmethod
    def _kind(cls, config: Config) -> type[PreTrainedModel]:
        if config not in cls._models:
            fits = ", ".join(kind.model_type for kind in cls._models)
            raise CheckpointError(
                f"{cls.__name__} holds networks of the kinds {fits}, as in transformers; this is {config.model_type}. "
                f"{cls._instead}"
            )
        return cls._models[config]


class AutoModel(_AutoModel):
    """The encoder: `HieraModel`, or of SAM 2 `Sam2VisionModel` where there is a neck, else `Sam2HieraDetModel`."""

    _models: ClassVar[dict[Config, type[PreTrainedModel]]] = {
        HieraConfig: HieraModel,
        Sam2VisionConfig: Sam2VisionModel,
        Sam2HieraDetConfig: Sam2HieraDetModel,
    }


class AutoModelForImageClassification(_AutoModel):
    """The classifier, `HieraForImageClassification`."""

    _models: ClassVar[dict[Config, type[PreTrainedModel]]] = {HieraConfig: HieraForImageClassification}
    _instead = "hierax.load(..., num_classes=N) gives any network a head."


class AutoModelForPreTraining(_AutoModel):
    """The masked autoencoder, `HieraForPreTraining`."""

    _models: ClassVar[dict[Config, type[PreTrainedModel]]] = {HieraConfig: HieraForPreTraining}
    _instead = "hierax.create('mae_...') builds one."


class AutoBackbone(_AutoModel):
    """Stage maps for detectors and segmenters, `HieraBackbone`."""

    _models: ClassVar[dict[Config, type[PreTrainedModel]]] = {HieraConfig: HieraBackbone}
    _instead = "Sam2HieraDetModel gives the maps of SAM 2's trunk, and hierax.load(...).features those of any network."


class AutoImageProcessor(_Auto):
    """The image processor: `BitImageProcessor` for Hiera, `Sam2ImageProcessor` for SAM 2."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> BitImageProcessor:
        """The processor of a source; arguments and errors as `BitImageProcessor`'s."""
        request, _ = requested(options, list(options))
        kind = stored_options(pretrained_model_name_or_path, request)["image_processor_type"]
        known = Sam2ImageProcessor if kind == "Sam2ImageProcessor" else BitImageProcessor
        return known.from_pretrained(pretrained_model_name_or_path, **options)
