"""Detectors and segmenters of transformers on an encoder of the family, with its weights inside and proven.

    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection
    from hierax.compat.transformers import backbone_config, use_in

    body = backbone_config("sam2.1_hiera_small", stages=("stage2", "stage3", "stage4"))
    detector = use_in(RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=body)), "sam2.1_hiera_small")

transformers builds every backbone from its config with random weights, and accepts and ignores the old switch for
pretrained ones: hence the second call.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...backbones import Backbone, backbone, source_weights
from ...config import STAGE_NAMES, ModelConfig
from ...errors import InputError, brief
from ...predictor import Predictor
from ...weights.adapt import at_size, to_encoder
from ...weights.card import Weights
from .autobackbone import classes, needed, register

Source = str | Path | Predictor | None
log = logging.getLogger("hierax")
_REMEDY = "Build the detector with backbone_config=hierax.compat.transformers.backbone_config(source)."


def backbone_config(
    source: Source = None,
    *,
    stages: Sequence[str] = STAGE_NAMES,
    norm: bool = False,
    input_size: int | tuple[int, int] | None = None,
    drop_path: float | None = None,
) -> Any:
    """A `backbone_config` for any detector or segmenter of transformers; its weights come with `use_in`.

    Args:
        source: As for `hierax.load`.
        stages: Which maps. DETR takes the last alone, RT-DETR, D-FINE and Deformable DETR the last three,
            Mask2Former, MaskFormer and UperNet all four.
        norm: A LayerNorm after each map, fresh; off, the maps equal `detection_features`.
        input_size: As for `hierax.load`.
        drop_path: Stochastic depth while training; None is the checkpoint's.

    Returns:
        A `HieraxConfig`, which `AutoConfig` and `AutoBackbone` know from now on.

    Raises:
        MissingExtraError: transformers is not installed.
        HieraxError: As of `hierax.backbone`.
    """
    needed()
    return _config_of(backbone(source, stages=stages, norm=norm, input_size=input_size, drop_path=drop_path))


def use_in(detector: nn.Module, source: Source = None) -> Any:
    """Put the weights of a checkpoint into a detector or segmenter of transformers that is built, and prove it.

    A backbone of `backbone_config` is filled. Any other, whose maps are as wide as the stages of the source, is
    replaced, and the detector's config says so: transformers' own `HieraBackbone`, which scrambles its maps, a Swin of
    the same widths, or a timm Hiera.

    Args:
        detector: Model with one backbone, e.g. `RTDetrV2ForObjectDetection` or `Mask2FormerForUniversalSegmentation`.
        source: As for `hierax.load`.

    Returns:
        The same detector.

    Raises:
        InputError: No backbone in it, one of other widths or another network, or parameters without values.
        CheckpointError: After all a parameter differs from the checkpoint's; or the weights are broken.
        MissingExtraError: transformers is not installed.
    """
    register()
    mixin = importlib.import_module("transformers.backbone_utils").BackboneMixin
    if not isinstance(detector, nn.Module):
        raise InputError(f"use_in takes a detector or segmenter that is built; got {brief(detector)}. {_REMEDY}")
    found = {name: module for name, module in detector.named_modules() if isinstance(module, mixin)}
    # DETR and Deformable DETR unwrap what timm made, so its outer module is gone.
    found = found or {n: m for n, m in detector.named_modules() if n.endswith("backbone.conv_encoder.model")}
    if len(found) != 1 or "" in found:
        raise InputError(
            f"use_in takes a detector or segmenter of transformers with one backbone; {type(detector).__name__} has "
            f"{len(found) - ('' in found)}. {_REMEDY}"
        )
    (place, inside), (_, own) = next(iter(found.items())), classes()
    if getattr(getattr(detector, "neck", None), "reassemble_stage", None) is not None:
        raise InputError(
            f"{type(detector).__name__} of transformers reads every backbone but Swin v2 as tokens of a plain ViT, and "
            "would cut these maps to pieces. Use UperNet, Mask2Former or a detector."
        )
    if any(parameter.is_meta for parameter in inside.parameters()):
        raise InputError(
            f"The backbone of {type(detector).__name__} has no values yet (meta device). Use .to_empty first."
        )
    with torch.device("cpu"):
        weights = to_encoder(source_weights(source))
        if not isinstance(inside, own):
            inside = _replaced(detector, place, inside, weights)
        body: Backbone = inside.body  # type: ignore[assignment]
        body.take(_wanted(body, weights))
    return detector


def _wanted(body: Backbone, weights: Weights) -> Backbone:
    """The weights as a backbone like this one."""
    size = body.encoder.input_size
    wanted = Backbone(at_size(weights, (size[-2], size[-1])), body.stages)
    same = dataclasses.replace(wanted.encoder.config, drop_path=body.encoder.config.drop_path)
    if same != body.encoder.config:
        raise InputError(
            f"The detector's backbone is a {_described(body.encoder.config)}; the source is a {_described(same)}. "
            f"{_REMEDY}"
        )
    return wanted


def _described(config: ModelConfig) -> str:
    return f"{config.name} ({config.family}, widths {', '.join(map(str, config.channels))})"


def _replaced(detector: nn.Module, place: str, inside: Any, weights: Weights) -> nn.Module:
    """Exchange a foreign backbone for ours with maps of the same widths."""
    widths, offered = _widths(inside), weights.config.channels
    if not widths or not set(widths) <= set(offered):
        raise InputError(
            f"The backbone of {type(detector).__name__} is a {type(inside).__name__} whose maps are "
            f"{', '.join(map(str, widths)) or 'unknown'} wide; those of the source are "
            f"{', '.join(map(str, offered))}. {_REMEDY}"
        )
    stages = [name for name, width in zip(STAGE_NAMES[: len(offered)], offered, strict=True) if width in widths]
    some = next(inside.parameters())
    config = _config_of(Backbone(at_size(weights, None), stages))
    module = classes()[1](config).to(device=some.device, dtype=some.dtype).train(inside.training)
    parent, _, name = place.rpartition(".")
    setattr(detector.get_submodule(parent), name, module)
    for owner in detector.modules():
        settings: Any = getattr(owner, "config", None)
        if getattr(settings, "backbone_config", None) is not None:
            settings.backbone_config = config
    log.warning(
        "%s: its %s is now a hierax backbone of %s.", type(detector).__name__, type(inside).__name__, ", ".join(stages)
    )
    return module


def _widths(inside: Any) -> list[int]:
    """Widths of the maps that a foreign backbone gives."""
    try:
        return list(inside.channels)
    except (AttributeError, TypeError, KeyError):  # a timm network that its wrapper was taken off
        return list(inside.feature_info.channels()) if hasattr(inside, "feature_info") else []


def _config_of(body: Backbone) -> Any:
    """The config by which transformers builds this backbone."""
    register()
    return classes()[0](
        network=body.encoder.config.to_dict(),
        out_features=list(body.stages),
        norm=bool(body.norms),
        license=body.card.license,
        image_mean=list(body.preprocess.mean),
        image_std=list(body.preprocess.std),
    )
