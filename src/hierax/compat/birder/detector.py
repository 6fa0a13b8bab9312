"""Detectors of birder itself on an encoder of the family, with its weights inside.

from birder.model_registry import registry
from hierax.compat.birder import detector_backbone

body = detector_backbone("sam2.1_hiera_small", size=(640, 640))
net = registry.detection_net_factory("faster_rcnn", 80, body, size=(640, 640))

The class derives from birder's own, so it is made when first used: nothing else here needs the package.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ...backbones import Backbone, backbone
from ...config import STAGE_NAMES
from ...errors import InputError, MissingExtraError, brief
from ...predictor import Predictor
from .net import resized

Source = str | Path | Predictor | None


def detector_backbone(
    source: Source = None,
    *,
    size: tuple[int, int] | None = None,
    stages: Sequence[str] = STAGE_NAMES,
    frozen_until: str | None = None,
    drop_path: float | None = None,
) -> Any:
    """A `DetectorBackbone` for any detector of birder, with the weights of a checkpoint.

    Args:
        source: As for `hierax.load`.
        size: (height, width) in pixels, as for the detector; None is the checkpoint's. Any multiple of 32 goes through
            all the same.
        stages: Which maps; RT-DETR, D-FINE, RetinaNet and FCOS take the last three of them by themselves.
        frozen_until: As for `hierax.backbone`, like the last.
        drop_path: Stochastic depth while training.

    Raises:
        MissingExtraError: birder is not installed.
        HieraxError: As of `hierax.backbone`.
    """
    kind = _class()
    return kind(backbone(source, stages=stages, input_size=size, frozen_until=frozen_until, drop_path=drop_path))


@functools.cache
def _class() -> type[Any]:
    try:
        base = importlib.import_module("birder.net.base").DetectorBackbone
    except ImportError as error:
        raise MissingExtraError("birder", "birder") from error

    class HieraxDetectorBackbone(base):  # type: ignore[misc, valid-type]
        """Stage maps for birder's detectors, un-normed.

        Attributes:
            body: The backbone, a `hierax.Backbone`.
            return_stages: Which maps are given; a detector shortens it.
            return_channels: Their widths; a detector shortens it too.
        """

        block_group_regex = r"body\.encoder\.blocks\.(\d+)\."

        def __init__(self, body: Backbone) -> None:
            config = body.encoder.config
            super().__init__(config.in_channels, 0, size=(config.input_size[-2], config.input_size[-1]))
            self.body = body
            self.return_stages, self.return_channels = list(body.stages), list(body.channels)
            self.stem_stride, self.stem_width = config.patch_stride[-1], config.embed_dim
            self.max_stride = body.strides[-1]
            self.embedding_size = self.feature_dim = body.channels[-1]
            self.classifier = nn.Identity()

        def detection_features(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
            """Maps of `return_stages`, contiguous and channels first.

            Raises:
                InputError: Height or width are no multiples of 32.
            """
            maps = dict(zip(self.body.stages, self.body(x), strict=True))
            return {name: maps[name] for name in self.return_stages}

        def freeze_stages(self, up_to_stage: int) -> None:
            """Train nothing up to and with a stage, counted from 1.

            Raises:
                InputError: No such stage.
            """
            known = self.body.encoder.config.stage_names
            if up_to_stage not in range(1, len(known) + 1):
                raise InputError(f"up_to_stage is 1 to {len(known)}; got {brief(up_to_stage)}.")
            self.body.freeze(known[up_to_stage - 1])

        def set_grad_checkpointing(self, enable: bool = True, **_: Any) -> None:
            """Trade compute for memory while training."""
            self.body.checkpoint_blocks = enable

        def adjust_size(self, new_size: tuple[int, int]) -> None:
            """Configure for another input size, in place, by birder's rules.

            Raises:
                InputError: Not (height, width) in multiples of 32.
            """
            self.size = resized(self.body.encoder, new_size)

    HieraxDetectorBackbone.__module__, HieraxDetectorBackbone.__qualname__ = __name__, "HieraxDetectorBackbone"
    return HieraxDetectorBackbone


def __getattr__(name: str) -> Any:
    """The class, for pickles and for whoever imports it."""
    if name == "HieraxDetectorBackbone":
        return _class()
    raise AttributeError(f"module {__name__!r} has no attribute {brief(name)}")
