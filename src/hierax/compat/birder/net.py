"""The network that birder's functions take and return, on our encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from ...config import block_table
from ...errors import InputError, brief
from ...model.encoder import Block, Encoder
from ...weights.adapt import to_input_size
from ...weights.card import ModelCard, Weights
from ...weights.formats.birder import DET, HIERA
from ...weights.network import from_module
from ..dialect import ForeignNames
from ..unroll import unroll


class Net(ForeignNames):
    """A Hiera or HieraDet with birder's methods, attributes and parameter names.

    Attributes:
        encoder: Our encoder, which does the work.
        size: (height, width) that it is configured for; Hiera takes only this size, HieraDet any legal one.
        return_stages: Which stages `detection_features` gives.
        return_channels: Channels of each stage.
        embedding_size: Channels of the embedding.
        stem_stride: Pixels per token after the patch embedding.
        max_stride: Pixels per token of the last stage.
    """

    inner = "encoder"
    task = "image_classification"

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, config = encoder, encoder.config
        self.size = (config.input_size[-2], config.input_size[-1])
        self.input_channels = config.in_channels
        self.return_stages = list(config.stage_names)
        self.return_channels = list(config.channels)
        self.embedding_size = self.feature_dim = config.embedding_size
        self.stem_stride, self.stem_width = config.patch_stride[-1], config.embed_dim
        self.max_stride = config.strides[-1]

    def spell(self, name: str) -> str:
        """Name that birder gives to one of our parameters."""
        return (DET if self.is_hieradet else HIERA).spell(name, self.encoder.config.depths)

    @property
    def num_classes(self) -> int:
        """Classes of the head, 0 without one."""
        return self.encoder.num_classes

    @property
    def is_hieradet(self) -> bool:
        """Whether it is a HieraDet, whose tokens stay a grid and whose input size is free."""
        return self.encoder.config.family == "hieradet"

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b out"]:
        """Raw logits, or the embedding where there are no classes."""
        return self.classify(self.embedding(x))

    def classify(self, embedding: Float[Tensor, "b c"]) -> Float[Tensor, "b out"]:
        """Raw logits of an embedding."""
        return self.encoder.classify(embedding)

    def embedding(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector."""
        return self.encoder.embedding(self._checked(x))

    def embedding_from_features(self, features: Tensor) -> Float[Tensor, "b c"]:
        """The embedding of what `forward_features` gave."""
        return self.encoder.pool(features)

    def forward_features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b *tokens c"]:
        """Un-normed tokens of the last stage: (b, tokens, c) of Hiera, (b, h, w, c) of HieraDet."""
        last, config = self.encoder.stages(self._checked(x))[-1], self.encoder.config
        return last if self.is_hieradet else unroll(last, len(config.depths) - 1 - config.q_pool, config.q_stride)

    def flatten_features(self, features: Tensor, include_special_tokens: bool = True) -> Float[Tensor, "b tokens c"]:
        """Tokens as one axis; there are no special ones."""
        return features.flatten(1, -2)

    def detection_features(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b c h w"]]:
        """Un-normed maps of `return_stages`, contiguous and channels first."""
        return self.encoder.detection_features(self._checked(x), self.return_stages)

    def adjust_size(self, new_size: tuple[int, int]) -> None:
        """Configure for another input size, in place: tables by birder's rule, fractional windows anew.

        Raises:
            InputError: Not (height, width) in multiples of 32.
        """
        self.size = resized(self.encoder, new_size)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a fresh one; 0 removes it."""
        self.encoder.set_num_classes(num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory while training."""
        self.encoder.checkpoint_blocks = enable

    def _checked(self, x: Float[Tensor, "b 3 h w"]) -> Tensor:
        """Refuse a size that birder's fixed tables of Hiera refuse."""
        if not self.is_hieradet and tuple(x.shape[-2:]) != self.size:
            raise InputError(
                f"This Hiera is configured for {self.size} (height, width); got {tuple(x.shape[-2:])}. "
                "Call net.adjust_size((height, width)) first."
            )
        return x


def resized(encoder: Encoder, new_size: tuple[int, int]) -> tuple[int, int]:
    """Configure an encoder for another input size, in place, by birder's rules; the size that it has then.

    Raises:
        InputError: Not (height, width) in multiples of 32.
    """
    if not isinstance(new_size, (tuple, list)) or len(new_size) != 2:
        raise InputError(f"A size is (height, width) in pixels; got {brief(new_size)}.")
    before = from_module(encoder, Weights(card=ModelCard(config=encoder.config, origin="birder")))
    after = to_input_size(before, (int(new_size[0]), int(new_size[1])))
    encoder.config, encoder.input_size = after.config, after.config.input_size
    if after.tensors["pos_embed"] is not before.tensors["pos_embed"]:
        encoder.pos_embed = nn.Parameter(after.tensors["pos_embed"], encoder.pos_embed.requires_grad)
    for block, spec in zip(cast("Iterable[Block]", encoder.blocks), block_table(after.config), strict=True):
        block.window = spec.window
    return after.config.input_size[-2], after.config.input_size[-1]
