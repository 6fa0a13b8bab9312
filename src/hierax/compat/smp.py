"""Models of segmentation_models_pytorch on an encoder of the family, with its weights inside.

import segmentation_models_pytorch as smp
from hierax.compat.smp import register

name = register("sam2.1_hiera_small")
model = smp.Unet(name, encoder_weights=None, classes=5)
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import Backbone, backbone
from ..config import STAGE_NAMES
from ..errors import InputError, MissingExtraError, brief
from ..predictor import Predictor
from .names import refuse_unknown

Source = str | Path | Predictor | None
__getattr__ = refuse_unknown(
    __name__,
    "segmentation_models_pytorch",
    ["SmpEncoder", "register"],
    {".*": "It hands encoders to smp; smp.Unet(register(source), encoder_weights=None) builds with them."},
)


class SmpEncoder(nn.Module):
    """An encoder as smp's decoders want it: the image, an empty map of half its size, then the stage maps.

    Attributes:
        body: The backbone, a `hierax.Backbone`.
        out_channels: Width of each map: 3, 0, then those of the stages.
        output_stride: Pixels per cell of the coarsest map.
    """

    _is_torch_scriptable: ClassVar[bool] = False
    _is_torch_exportable: ClassVar[bool] = True
    _is_torch_compilable: ClassVar[bool] = True

    def __init__(self, source: Any = None, depth: int = 5, output_stride: int = 32, **options: Any) -> None:
        super().__init__()
        if depth not in (2, 3, 4, 5):
            raise InputError(
                f"encoder_depth must be 2 to 5, of which each after the first adds a stage; got {brief(depth)}."
            )
        if output_stride != 32:
            raise InputError(
                f"Stages of this encoder cannot be dilated: encoder_output_stride must be 32; got {output_stride}. Say "
                "encoder_output_stride=32, or take Unet, FPN or UPerNet where a model (DeepLabV3) wants 8 or 16."
            )
        self.body: Backbone = backbone(source, stages=STAGE_NAMES[: depth - 1], **options)
        self.out_channels = [3, 0, *self.body.channels]
        self.output_stride = self.body.strides[-1]

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The image (b, 3, h, w), an empty (b, 0, h / 2, w / 2), and the maps of the stages, finest first.

        Raises:
            InputError: Height or width are no multiples of 32.
        """
        maps = self.body(x)  # first, for it says what is wrong with the size
        return [x, x.new_empty((len(x), 0, x.shape[-2] // 2, x.shape[-1] // 2)), *maps]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Refuse another number of channels than 3.

        Raises:
            InputError: Another number.
        """
        if in_channels != 3:
            raise InputError(
                f"The encoder takes images of 3 channels; got in_channels={brief(in_channels)}. Repeat a grey channel "
                "three times, or put nn.Conv2d(channels, 3, 1) before the model."
            )


def register(
    source: Source = None,
    name: str = "hierax",
    *,
    frozen_until: str | None = None,
    norm: bool = False,
    input_size: int | tuple[int, int] | None = None,
    drop_path: float | None = None,
) -> str:
    """Make an encoder known to smp, under a name for `encoder_name`; its models then hold the checkpoint's weights.

    Give them `encoder_weights=None`: to smp these are weights that come with the encoder. Whoever reads a saved model
    with `smp.from_pretrained` registers the same name first.

    Args:
        source: As for `hierax.load`; read now, and each time that a model is built.
        name: What smp calls it; registered again, it means the new source.
        frozen_until: As for `hierax.backbone`, like the others.
        norm: A fresh LayerNorm after each map.
        input_size: Pixels that it is configured for.
        drop_path: Stochastic depth while training.

    Returns:
        The name.

    Raises:
        MissingExtraError: segmentation_models_pytorch is not installed.
        InputError: A name that smp has already.
        HieraxError: As of `hierax.backbone`.
    """
    try:
        known: dict[str, Any] = importlib.import_module("segmentation_models_pytorch.encoders").encoders
    except ImportError as error:
        raise MissingExtraError("smp", "segmentation_models_pytorch") from error
    before = known.get(name, {}).get("encoder") if isinstance(name, str) else None
    ours = isinstance(before, functools.partial) and before.func is SmpEncoder
    if not isinstance(name, str) or not name or name.startswith(("tu-", "timm-")) or (before and not ours):
        raise InputError(
            f"name must be one that smp does not have, and without its tu- and timm-; got {brief(name)}. Try 'hierax'."
        )
    options: dict[str, Any] = {"frozen_until": frozen_until, "norm": norm, "input_size": input_size}
    build = functools.partial(SmpEncoder, source, drop_path=drop_path, **options)
    build()  # what is wrong with them is said now
    known[name] = {"encoder": build, "params": {}, "pretrained_settings": {}}
    return name
