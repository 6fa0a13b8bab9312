"""The neck's parameters in a SAM 2 checkpoint, whoever wrote it, under the names of our module."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, brief
from ..model.necks import Sam2Neck
from .card import Weights

# `image_encoder.neck.convs.0.conv.weight` of SAM 2, `vision_encoder.neck.convs.0.weight` or less of transformers.
_NAME = re.compile(r"(?:^|\.)neck\.convs\.(\d+)\.(?:conv\.)?(weight|bias)$")
# `sam_mask_decoder.conv_s0.weight` of SAM 2, `mask_decoder.conv_s0.weight` of transformers.
_HIGH_RES = re.compile(r"mask_decoder\.(conv_s[01]\.(?:weight|bias))$")
_REMEDY = "Name a whole SAM 2 checkpoint: Meta's .pt, or a folder of transformers' Sam2Model."


def neck_tensors(weights: Weights) -> dict[str, Tensor]:
    """Parameters of the neck beside a trunk, as `FeaturePyramidNeck` names them; empty where the file has none."""
    found = {} if weights.raw is None else weights.raw.tensors
    named = ((_NAME.search(key), tensor) for key, tensor in found.items())
    return {f"convs.{match[1]}.{match[2]}": tensor for match, tensor in named if match}


def sam2_neck(weights: Weights, *, high_res: bool | None = None) -> Sam2Neck:
    """The neck in a SAM 2 checkpoint, with the projections of its decoder.

    Args:
        weights: As they were read of a file that holds more than the trunk.
        high_res: Whether the finer maps go through the decoder's `conv_s0` and `conv_s1`; None where the file has them.

    Raises:
        CheckpointError: The file has no neck, or parts of one, or one for another trunk.
    """
    name, tensors = weights.card.name, {f"fpn.{key}": tensor for key, tensor in neck_tensors(weights).items()}
    if not tensors:
        raise CheckpointError(f"A neck comes from a whole SAM 2 checkpoint; {name!r} has none. {_REMEDY}")
    found = {} if weights.raw is None else weights.raw.tensors
    fine = {match[1]: tensor for key, tensor in found.items() if (match := _HIGH_RES.search(key))}
    if high_res and not fine:
        raise CheckpointError(
            f"high_res needs conv_s0 and conv_s1 of the mask decoder; {name!r} has none. Leave it out. {_REMEDY}"
        )
    wanted = bool(fine) if high_res is None else high_res
    tensors |= fine if wanted else {}
    widths, last = weights.config.channels, tensors.get("fpn.convs.0.weight")
    with torch.device("meta"):  # what a file says about shapes allocates nothing
        dim = last.shape[0] if last is not None and last.ndim == 4 and last.numel() else 256
        neck = Sam2Neck(widths, dim, top_down=_top_down(weights), high_res=wanted)
    places = neck.state_dict()
    for key in places.keys() | tensors.keys():
        needed, given = (tuple(each[key].shape) if key in each else "none" for each in (places, tensors))
        if needed != given:
            raise CheckpointError(
                f"The neck over {weights.config.name!r} needs {key!r} of shape {needed}; {name!r} has {given}. "
                f"{_REMEDY}"
            )
        if not tensors[key].isfinite().all():
            raise CheckpointError(f"{name!r} holds NaN or infinite values in {key!r}; it was not loaded. {_REMEDY}")
    neck.load_state_dict({key: tensor.float().clone() for key, tensor in tensors.items()}, assign=True)
    return neck.requires_grad_(True)


def _top_down(weights: Weights) -> tuple[int, ...]:
    """Stages that receive the next coarser one: as transformers' config says, else as of every SAM 2 that Meta made."""
    config = {} if weights.raw is None else weights.raw.config
    vision = config.get("vision_config", config)
    said = vision.get("fpn_top_down_levels") if isinstance(vision, Mapping) else None
    if said is None:
        return (2, 3)
    if not isinstance(said, (list, tuple)) or any(type(level) is not int for level in said):
        raise CheckpointError(f"fpn_top_down_levels in config.json must be numbers of stages; got {brief(said)}.")
    return tuple(said)
