"""An encoder of the family as timm's `features_only` models are: a list of maps, and `feature_info` beside it.

import timm
from hierax.compat.timm import register

body = timm.create_model(register("sam2.1_hiera_small"), features_only=True, out_indices=(1, 2, 3))
body.feature_info.channels()  # [192, 384, 768]
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import Backbone, backbone
from ..config import STAGE_NAMES
from ..errors import InputError, MissingExtraError, UnknownNameError, brief, nearest
from ..predictor import Predictor
from ..weights.formats.timm import evaluated_at
from .names import refuse_unknown

Source = str | Path | Predictor | None
__all__ = ["TimmFeatures", "features", "register"]
__getattr__ = refuse_unknown(
    __name__,
    "timm",
    ["TimmFeatures", "features", "register"],
    {".*": "It hands encoders to timm; timm.create_model(register(source), features_only=True) builds with them."},
)
# What `create_model` hands to every model beside the caller's own arguments.
_OF_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "in_chans", "output_stride")


class TimmFeatures(nn.Module):
    """Stage maps as timm's models give them with `features_only=True`.

    Attributes:
        body: The backbone, a `hierax.Backbone`.
        feature_info: timm's `FeatureInfo`: `channels()`, `reduction()` and `module_name()` of the maps that are given.
        output_fmt: "NCHW".
        pretrained_cfg: Size, mean, deviation and resizing of the checkpoint, for `timm.data.resolve_model_data_config`.
    """

    output_fmt = "NCHW"

    def __init__(self, body: Backbone, info: Any) -> None:
        super().__init__()
        self.body, self.feature_info = body, info
        self.pretrained_cfg = self.default_cfg = evaluated_at(body.preprocess, body.encoder.config)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory while training."""
        self.body.checkpoint_blocks = enable

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps of `out_indices`, contiguous and finest first."""
        return self.body(x)


def features(
    source: Source = None,
    *,
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    frozen_until: str | None = None,
    norm: bool = False,
    input_size: int | tuple[int, int] | None = None,
    drop_path: float | None = None,
) -> TimmFeatures:
    """The encoder of a checkpoint with timm's `features_only` interface.

    Args:
        source: As for `hierax.load`.
        out_indices: Which stages, counted from 0, negative ones from the last; a number n is the last n.
        frozen_until: As for `hierax.backbone`, like the others.
        norm: A fresh LayerNorm after each map.
        input_size: Pixels that it is configured for.
        drop_path: Stochastic depth while training.

    Raises:
        MissingExtraError: timm is not installed.
        InputError: No such stage.
        HieraxError: As of `hierax.backbone`.
    """
    kind = _timm("timm.models").FeatureInfo
    count = len(STAGE_NAMES)
    asked = range(-out_indices, 0) if isinstance(out_indices, int) else out_indices
    if not asked or any(place not in range(-count, count) for place in asked):
        raise InputError(
            f"out_indices are stages, 0 to {count - 1} or -{count} to -1, or how many of the last; got "
            f"{brief(out_indices)}. (1, 2, 3) are those of strides 8, 16 and 32."
        )
    stages = [STAGE_NAMES[place] for place in asked]
    options: dict[str, Any] = {"frozen_until": frozen_until, "norm": norm, "input_size": input_size}
    body = backbone(source, stages=stages, drop_path=drop_path, **options)
    encoder = body.encoder
    facts = zip(encoder.return_channels, encoder.strides, encoder.stage_ends, strict=True)
    info = [{"num_chs": c, "reduction": s, "module": f"body.encoder.blocks.{end}"} for c, s, end in facts]
    return TimmFeatures(body, kind(info, tuple(STAGE_NAMES.index(stage) for stage in body.stages)))


def register(source: Source = None, name: str = "hierax", **options: Any) -> str:
    """Make an encoder known to timm: `timm.create_model(name, features_only=True)`, and whoever builds through it.

    Such a model has the checkpoint's weights whatever `pretrained` says. transformers' `TimmBackbone` takes the name,
    and segmentation_models_pytorch with `tu-` before it.

    Args:
        source: As for `hierax.load`; read each time that a model is built.
        name: What timm calls it; registered again, it means the new source.
        **options: As for `features`, but for `out_indices`, which `create_model` takes.

    Returns:
        The name.

    Raises:
        MissingExtraError: timm is not installed.
        InputError: A name that timm has already.
        UnknownNameError: No such option.
        HieraxError: As of `features`.
    """
    timm = _timm("timm.models")
    word = isinstance(name, str) and name.isidentifier()
    if not word or (timm.is_model(name) and timm.model_entrypoint(name).__module__ != __name__):
        raise InputError(f"name must be a word that timm has no model by; got {brief(name)}. Try 'hierax'.")
    _known(options)
    features(source, **options)  # what is wrong with them is said now

    def build(*, features_only: bool = False, out_indices: Any = (0, 1, 2, 3), **others: Any) -> TimmFeatures:
        _check(features_only, others)
        return features(source, out_indices=out_indices, **options)

    build.__name__ = build.__qualname__ = name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it replaces one of ours
        timm.register_model(build)
    __all__[:] = [each for each in __all__ if each != name]  # where timm writes it, though it is no name of this module
    return name


def _known(options: dict[str, Any]) -> None:
    names = [name for name in inspect.signature(features).parameters if name not in ("source", "out_indices")]
    for name in options:
        if name not in names:
            raise UnknownNameError(f"Options of an encoder are {', '.join(names)}; got {name}. {nearest(name, names)}")


def _check(features_only: bool, others: dict[str, Any]) -> None:
    if not features_only:
        raise InputError(
            "timm.create_model builds this encoder for its maps alone: pass features_only=True. hierax.load gives its "
            "classes and embeddings."
        )
    wrong = {key: value for key, value in others.items() if key not in _OF_TIMM}
    wrong |= {
        key: others[key] for key, only in (("in_chans", 3), ("output_stride", 32)) if others.get(key, only) != only
    }
    if wrong:
        said = ", ".join(f"{key}={brief(value)}" for key, value in wrong.items())
        raise InputError(
            f"This encoder takes images of 3 channels to stride 32, and its options when it is registered; got {said}. "
            "Leave it out here."
        )


def _timm(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("timm", "timm") from error
