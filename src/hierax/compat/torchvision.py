"""An encoder under the detectors of torchvision: Faster R-CNN, Mask R-CNN, RetinaNet, FCOS.

from torchvision.models.detection import FasterRCNN
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

body = hierax.backbone("sam2.1_hiera_small")
pyramid = FeaturePyramidNetwork(body.channels, 256, extra_blocks=LastLevelMaxPool())
detector = FasterRCNN(with_fpn(body, pyramid), num_classes=91)

The pyramid comes from the caller: nothing here imports torchvision.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import Backbone
from ..errors import InputError, brief
from .names import refuse_unknown

__all__ = ["FpnBackbone", "with_fpn"]
_REMEDY = "Build it as FeaturePyramidNetwork(body.channels, 256, extra_blocks=LastLevelMaxPool()) of torchvision."
__getattr__ = refuse_unknown(
    __name__,
    "torchvision",
    __all__,
    {".*": "It puts encoders under torchvision's detectors; take the rest from torchvision itself."},
)


class FpnBackbone(nn.Module):
    """A backbone and the pyramid over it, with what torchvision's detectors read of them.

    Attributes:
        body: The backbone, a `hierax.Backbone`.
        fpn: The pyramid.
        out_channels: Width of every level.
    """

    def __init__(self, body: Backbone, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = body, fpn, out_channels

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b c _ _"]]:
        """Levels of the pyramid, finest first: "0", "1" ... for the stages, then what its extra blocks add.

        Raises:
            InputError: Height or width are no multiples of 32.
        """
        return self.fpn(_named(self.body(x)))


def with_fpn(body: Backbone, fpn: nn.Module) -> FpnBackbone:
    """A backbone under a feature pyramid, as torchvision's detectors take it.

    Args:
        body: What `hierax.backbone` gives. Its maps get the names "0", "1" ..., which `featmap_names` of torchvision's
            pooling expects.
        fpn: `FeaturePyramidNetwork` of torchvision over `body.channels`, or a module that likewise maps an ordered dict
            of maps to one whose maps all have the same width.

    Raises:
        InputError: No backbone, no module, or a pyramid for maps of other widths, or whose levels differ in width.
    """
    if not isinstance(body, Backbone):
        raise InputError(f"with_fpn takes what hierax.backbone(source) gives; got {type(body).__name__}.")
    if not isinstance(fpn, nn.Module):
        raise InputError(f"with_fpn takes a pyramid that is built; got {brief(fpn)}. {_REMEDY}")
    probe = copy.deepcopy(fpn).eval()  # statistics of norms must not see the probe
    some = next(fpn.parameters(), torch.empty(0))
    sides = [256 // stride for stride in body.strides]  # so that extra blocks have something left to pool
    maps = [some.new_zeros(1, width, side, side) for width, side in zip(body.channels, sides, strict=True)]
    try:
        with torch.no_grad():
            levels = probe(_named(maps))
        widths = sorted({level.shape[1] for level in levels.values()})
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"The pyramid must take maps of the backbone's widths, {', '.join(map(str, body.channels))}, in an ordered "
            f"dict; this {type(fpn).__name__} fails on them: {reason[0]}. {_REMEDY}"
        ) from error
    if len(widths) != 1:
        raise InputError(
            f"Every level of the pyramid must have one width; this {type(fpn).__name__} gives "
            f"{', '.join(map(str, widths))}. {_REMEDY}"
        )
    return FpnBackbone(body, fpn, widths[0])


def _named(maps: list[Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((str(index), each) for index, each in enumerate(maps))
