"""The neck's parameters in a SAM 2 checkpoint, whoever wrote it, under the names of our module."""

from __future__ import annotations

import re

from torch import Tensor

from .card import Weights

# `image_encoder.neck.convs.0.conv.weight` of SAM 2, `vision_encoder.neck.convs.0.weight` or less of transformers.
_NAME = re.compile(r"(?:^|\.)neck\.convs\.(\d+)\.(?:conv\.)?(weight|bias)$")


def neck_tensors(weights: Weights) -> dict[str, Tensor]:
    """Parameters of the neck beside a trunk, as `FeaturePyramidNeck` names them; empty where the file has none."""
    found = {} if weights.raw is None else weights.raw.tensors
    named = ((_NAME.search(key), tensor) for key, tensor in found.items())
    return {f"convs.{match[1]}.{match[2]}": tensor for match, tensor in named if match}
