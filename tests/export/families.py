"""One small network of each family, wide enough for every runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

from hierax.config import ModelConfig

from ..members import MAE, MEMBERS

# OpenVINO 2026.4 ends the process on heads of 8 channels and a handful of tokens; published networks have 96.
_SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 2, 1)}


def _of(member: str, **options: Any) -> ModelConfig:
    return dataclasses.replace(MEMBERS[member], **{**_SMALL, **options})


FAMILIES: dict[str, ModelConfig] = {
    "Hiera": _of("Hiera"),
    "video Hiera": _of("Hiera video"),
    "abswin Hiera": _of("birder abswin, attention pool"),
    "timm's abswin Hiera": _of("timm small abswin"),
    "HieraDet": _of("birder HieraDet", global_blocks=(3,)),
    "HieraDet d": _of("birder HieraDet, global stages", global_blocks=(3,)),
    "encoder of an MAE": _of("Hiera MAE", **{key: MAE[key] for key in ("q_pool", "head")}),
}
