"""`Sam2HieraDetConfig` and `Sam2VisionConfig`: transformers' description of SAM 2's image encoder, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ...config import Cells, Padding, Side, Stages
from ...errors import CheckpointError, InputError, brief
from ...schema import Between, Length, Natural, pick
from ...weights.card import Weights
from ...weights.formats.transformers_config import Sam2Fields, read_sam2, sam2_defaults, sam2_json, sam2_obstacle
from ...weights.neck import neck_tensors
from .configuration_base import OUTPUTS, PreTrainedConfig

if TYPE_CHECKING:
    from typing_extensions import Self

_SHARED: dict[str, Any] = {**OUTPUTS, "dtype": None}
# What transformers keeps in the configs of its whole SAM 2, above the one of the image encoder.
_WHOLE = ("sam2", "sam2_video")
_NECK = "Sam2VisionConfig"
_PROJECTION = {"fpn_kernel_size": 1, "fpn_stride": 1, "fpn_padding": 0}
# What says nothing of the network.
_BESIDE: dict[str, Any] = {
    "backbone_feature_sizes": [[256, 256], [128, 128], [64, 64]],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "initializer_range": 0.02,
    **_SHARED,
}


class Sam2HieraDetConfig(PreTrainedConfig):
    """The trunk: windows, widths and depths, with transformers' fields and defaults.

    Attributes:
        hidden_size: Channels after the patch embedding.
        embed_dim_per_stage: Channels of each stage, which double from stage to stage.
    """

    model_type = "sam2_hiera_det_model"
    extra_fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **options: Any) -> None:
        """Take any of transformers' fields by name; others are kept as attributes, as there.

        Raises:
            InputError: A field that no network can have, or widths and heads that do not double.
        """
        given = {name: value for name, value in options.items() if name not in self.derived and value is not None}
        pick(Sam2Fields, given, where=type(self).__name__)
        network = read_sam2(given)
        fields = {**sam2_defaults(), **_SHARED, **given, **sam2_json(network)}
        fields.pop("model_type")
        vars(self).update({name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()})

    @classmethod
    def written(cls, data: Mapping[str, Any]) -> Self | None:
        """The trunk's own config, or its part of a larger one."""
        vision = data.get("vision_config") if data.get("model_type") in _WHOLE else data
        inner = vision.get("backbone_config", vision) if isinstance(vision, Mapping) else None
        return super().written(inner) if isinstance(inner, Mapping) else None

    @classmethod
    def of_weights(cls, weights: Weights) -> Self:
        """The trunk's config in the file, or our description of the network in their words.

        Raises:
            CheckpointError: No network that transformers' classes could hold.
        """
        said = cls.written(weights.raw.config if weights.raw is not None else {})
        if said is None:
            if problem := sam2_obstacle(weights.config):
                raise CheckpointError(
                    f"transformers' SAM 2 classes hold its trunks; {weights.config.name!r} is none: {problem}. "
                    "Use hierax.load for it."
                )
            said = cls(**sam2_json(weights.config))
        vars(said)["hierax"] = weights.card.facts
        return said


@dataclass(frozen=True, kw_only=True)
class _Neck:
    """The fields of a `Sam2VisionConfig` that say what the neck is."""

    backbone_channel_list: Stages[Side] | None = None
    fpn_hidden_size: Annotated[int, Between(least=4, most=4096)] = 256
    fpn_kernel_size: Cells = 1
    fpn_stride: Cells = 1
    fpn_padding: Padding = 0
    fpn_top_down_levels: Annotated[tuple[Natural, ...], Length(most=16)] = (2, 3)
    num_feature_levels: Annotated[int, Between(least=1, most=16)] = 3


class Sam2VisionConfig(PreTrainedConfig):
    """Trunk and neck, with transformers' fields and defaults.

    Attributes:
        backbone_config: The trunk.
        fpn_hidden_size: Channels of the neck's maps.
        num_feature_levels: How many of the maps are given, the finest.
    """

    model_type = "sam2_vision_model"
    extra_fields: ClassVar[tuple[str, ...]] = ()
    backbone_config: Sam2HieraDetConfig

    def __init__(self, backbone_config: Sam2HieraDetConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        """Take any of transformers' fields by name; others are kept as attributes, as there.

        Raises:
            InputError: A trunk that no network can be, or a neck for other widths than the trunk's.
        """
        if not isinstance(backbone_config, Sam2HieraDetConfig):
            if not isinstance(backbone_config, (Mapping, type(None))):
                raise InputError(f"backbone_config must be a config or its dictionary; got {brief(backbone_config)}.")
            backbone_config = Sam2HieraDetConfig.from_dict(backbone_config or {})
        widths = list(reversed(backbone_config.embed_dim_per_stage))
        given = {name: value for name, value in options.items() if name not in self.derived and value is not None}
        said = vars(pick(_Neck, given, where=_NECK))
        neck: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in said.items()}
        if neck["backbone_channel_list"] not in (None, widths):
            raise InputError(
                f"backbone_channel_list must be the trunk's widths, deepest first: {widths}; got "
                f"{neck['backbone_channel_list']}."
            )
        projection = {name: neck[name] for name in _PROJECTION}
        if projection != _PROJECTION:
            raise InputError(f"SAM 2's neck projects cell by cell: {_PROJECTION}; got {projection}.")
        if neck["fpn_hidden_size"] % 4:
            raise InputError(f"fpn_hidden_size must be a multiple of 4; got {neck['fpn_hidden_size']}.")
        parts = {"backbone_channel_list": widths, "backbone_config": backbone_config}
        vars(self).update({**_BESIDE, **given, **neck, **parts})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; `from_dict` inverts it."""
        return {**super().to_dict(), "backbone_config": self.backbone_config.to_dict()}

    @classmethod
    def written(cls, data: Mapping[str, Any]) -> Self | None:
        """The image encoder's own config, or its part of a whole SAM 2."""
        vision = data.get("vision_config") if data.get("model_type") in _WHOLE else data
        return super().written(vision) if isinstance(vision, Mapping) else None

    @classmethod
    def of_weights(cls, weights: Weights) -> Self:
        """The image encoder's config in the file, or our description of trunk and neck in their words.

        Raises:
            CheckpointError: No network that transformers' classes could hold.
        """
        said = cls.written(weights.raw.config if weights.raw is not None else {})
        if said is None:
            found = neck_tensors(weights).get("convs.0.bias")
            neck = {} if found is None else {"fpn_hidden_size": len(found)}
            said = cls(backbone_config=Sam2HieraDetConfig.of_weights(weights), **neck)
        vars(said)["hierax"] = weights.card.facts
        return said
