"""transformers' image encoder of SAM 2: the trunk, and the trunk with its neck."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from ...errors import CheckpointError, InputError
from ...model.encoder import Block, Encoder
from ...model.init import build
from ...model.necks import FeaturePyramidNeck
from ...weights.card import Weights
from ...weights.formats.transformers import SAM2
from ...weights.formats.transformers_config import read_sam2
from ...weights.neck import neck_tensors
from ...weights.rename import flat_name
from ..dialect import ForeignNames
from .base import LoadingInfo, PreTrainedModel, load_network, log
from .configuration_base import PreTrainedConfig
from .configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from .outputs import Sam2HieraDetModelOutput, Sam2VisionEncoderOutput

if TYPE_CHECKING:
    from typing_extensions import Self


class Sam2HieraDetModel(PreTrainedModel, ForeignNames):
    """SAM 2's trunk: un-normed maps of every stage, channels last.

    Attributes:
        network: Our encoder, which does the work.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = Sam2HieraDetConfig
    base_model_prefix: ClassVar[str] = "sam2"
    inner: ClassVar[str] = "network"
    network: Encoder

    def __init__(self, config: Sam2HieraDetConfig, *, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = cast("Encoder", build(read_sam2(config.to_dict())) if network is None else network)

    @property
    def encoder(self) -> Encoder:
        """Our encoder."""
        return self.network

    @property
    def stage_ends(self) -> list[int]:
        """Number of the last block of each stage."""
        return list(self.encoder.stage_ends)

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.encoder.patch_embed

    def spell(self, name: str) -> str:
        """Name that transformers gives to one of our parameters."""
        return SAM2.spell(flat_name(name), self.config.blocks_per_stage)

    @classmethod
    def build(cls, weights: Weights, config: Any, lenient: bool, **own: Any) -> tuple[Self, LoadingInfo]:
        """The trunk of the weights; a head or a final norm stays behind."""
        depths = config.blocks_per_stage
        network, info = load_network(weights, read_sam2(config.to_dict()), lenient, lambda key: SAM2.spell(key, depths))
        return cls(config, network=network), info

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Sam2HieraDetModelOutput | tuple[Any, ...]:
        """Maps of every stage.

        Args:
            pixel_values: Preprocessed images, of any size that is a multiple of 32.
            output_hidden_states: Add the tokens after the patch embedding and each block.
            output_attentions: Refused: transformers gives the layers' outputs under that name, not probabilities.
            return_dict: False for a tuple.

        Raises:
            InputError: An illegal size, or attentions.
        """
        x, encoder = self.pixels(pixel_values), self.encoder
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise InputError(
                "output_attentions is not supported for SAM 2: transformers returns outputs of its attention layers "
                "under that name, not probabilities. Leave it out."
            )
        states: tuple[Tensor, ...] | None = None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            passed = [encoder.embed_tokens(x)]
            for block in cast("Iterable[Block]", encoder.blocks):
                passed.append(block(passed[-1]))
            states, maps = tuple(passed), [passed[end + 1] for end in encoder.stage_ends]
        else:
            maps = encoder.stages(x)
        output = Sam2HieraDetModelOutput(
            last_hidden_state=maps[-1], intermediate_hidden_states=tuple(maps), hidden_states=states
        )
        return self.returned(output, return_dict)


class Sam2VisionModel(PreTrainedModel):
    """SAM 2's image encoder: the trunk, and the neck that gives the maps of the mask decoder.

    Attributes:
        backbone: The trunk.
        neck: Projections to one width.
        num_feature_levels: How many of the neck's maps are given, the finest.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = Sam2VisionConfig
    base_model_prefix: ClassVar[str] = "sam2"

    def __init__(self, config: Sam2VisionConfig, *, backbone: Sam2HieraDetModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = Sam2HieraDetModel(config.backbone_config) if backbone is None else backbone
        widths = config.backbone_channel_list[::-1]
        self.neck = FeaturePyramidNeck(widths, config.fpn_hidden_size, top_down=config.fpn_top_down_levels)
        self.num_feature_levels = config.num_feature_levels

    @property
    def encoder(self) -> Encoder:
        """Our encoder, inside the trunk."""
        return self.backbone.encoder

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.backbone.get_input_embeddings()

    @classmethod
    def build(cls, weights: Weights, config: Any, lenient: bool, **own: Any) -> tuple[Self, LoadingInfo]:
        """Trunk and neck of the weights; where they have no neck, a fresh one, which is said."""
        backbone, info = Sam2HieraDetModel.build(weights, config.backbone_config, lenient)
        model = cls(config, backbone=backbone)
        info = info.inside("backbone")
        info.unexpected_keys -= {name for name in info.unexpected_keys if "neck.convs." in name}
        wanted, found = model.neck.state_dict(), neck_tensors(weights)
        fitting = {key: found[key] for key in wanted if key in found and found[key].shape == wanted[key].shape}
        unfit = [key for key in wanted if key in found and key not in fitting]
        if unfit and not lenient:
            raise CheckpointError(
                f"The neck in {weights.card.name!r} does not fit the config: {unfit[0]} has shape "
                f"{tuple(found[unfit[0]].shape)}, not {tuple(wanted[unfit[0]].shape)}. Leave the config as it is."
            )
        missing = [key for key in wanted if key not in fitting]
        if missing:
            log.warning("%s: the neck is freshly initialised: %s.", weights.card.name, ", ".join(missing))
        info.missing_keys |= {f"neck.{key}" for key in missing if key not in unfit}
        info.mismatched_keys |= {(f"neck.{k}", tuple(found[k].shape), tuple(wanted[k].shape)) for k in unfit}
        model.neck.load_state_dict(fitting, strict=False)
        return model, info

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Sam2VisionEncoderOutput | tuple[Any, ...]:
        """The trunk's last map (channels last), and the neck's maps with the positions of their cells, finest first.

        Arguments as for `Sam2HieraDetModel`.

        Raises:
            InputError: An illegal size, or attentions.
        """
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        shown = self.config.output_attentions if output_attentions is None else output_attentions
        trunk = self.backbone(pixel_values, wanted, shown, return_dict=True)
        maps, places = self.neck([grid.movedim(-1, 1) for grid in trunk.intermediate_hidden_states])
        kept = self.num_feature_levels
        output = Sam2VisionEncoderOutput(
            last_hidden_state=trunk.last_hidden_state,
            hidden_states=trunk.hidden_states,
            fpn_hidden_states=tuple(maps[:kept]),
            fpn_position_encoding=tuple(places[:kept]),
        )
        return self.returned(output, return_dict)
