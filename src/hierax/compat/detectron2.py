"""An encoder under the pyramids and detectors of detectron2; untested, for it has no wheel.

from detectron2.modeling import FPN
from hierax.compat.detectron2 import bottom_up

body = bottom_up("sam2.1_hiera_small")
pyramid = FPN(body, list(body.output_shape()), 256, norm="LN")

The class derives from detectron2's own `Backbone`, so it is made when first used.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..backbones import Backbone, backbone
from ..config import STAGE_NAMES
from ..errors import HieraxError
from ..predictor import Predictor
from .names import refuse_unknown

__getattr__ = refuse_unknown(
    __name__,
    "detectron2",
    ["bottom_up"],
    {".*": "It puts encoders under detectron2's pyramids; take the rest from detectron2 itself."},
)


def bottom_up(
    source: str | Path | Predictor | None = None,
    *,
    stages: Sequence[str] = STAGE_NAMES,
    frozen_until: str | None = None,
    norm: bool = False,
    input_size: int | tuple[int, int] | None = None,
    drop_path: float | None = None,
) -> Any:
    """A `Backbone` of detectron2 with the weights of a checkpoint: maps by name, widths and strides beforehand.

    Untested: detectron2 could not be installed where this was written.

    Args:
        source: As for `hierax.load`.
        stages: As for `hierax.backbone`, like the others.
        frozen_until: Train nothing up to and with this stage.
        norm: A fresh LayerNorm after each map.
        input_size: Pixels that it is configured for.
        drop_path: Stochastic depth while training.

    Raises:
        HieraxError: detectron2 is not installed, or as of `hierax.backbone`.
    """
    kind = _class()
    options: dict[str, Any] = {"frozen_until": frozen_until, "norm": norm, "input_size": input_size}
    return kind(backbone(source, stages=stages, drop_path=drop_path, **options))


@functools.cache
def _class() -> type[Any]:
    try:
        base = importlib.import_module("detectron2.modeling").Backbone
        spec = importlib.import_module("detectron2.layers").ShapeSpec
    except ImportError as error:
        raise HieraxError(
            "This needs detectron2, which is not installed and which no index has for today's torch. Build it from "
            "https://github.com/facebookresearch/detectron2."
        ) from error

    class HieraxBottomUp(base):  # type: ignore[misc, valid-type]
        """Stage maps by name, un-normed unless asked for.

        Attributes:
            body: The backbone, a `hierax.Backbone`.
        """

        def __init__(self, body: Backbone) -> None:
            super().__init__()
            self.body = body

        @property
        def size_divisibility(self) -> int:
            """Height and width are padded to multiples of it."""
            return self.body.size_divisibility

        def output_shape(self) -> dict[str, Any]:
            """A `ShapeSpec` for each map."""
            facts = zip(self.body.stages, self.body.channels, self.body.strides, strict=True)
            return {name: spec(channels=channels, stride=stride) for name, channels, stride in facts}

        def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
            """Maps by name, finest first."""
            return dict(zip(self.body.stages, self.body(x), strict=True))

    return HieraxBottomUp
