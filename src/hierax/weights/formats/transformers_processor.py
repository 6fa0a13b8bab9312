"""transformers' preprocessor_config.json, to a `PreprocessSpec` and back: the only translation."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ...config import IMAGENET_MEAN, IMAGENET_STD, Deviation, PreprocessSpec, Scale
from ...errors import InputError, brief
from ...schema import Between, pick

log = logging.getLogger("hierax")
_Side = Annotated[int, Between(least=1, most=4096)]
_Sides = _Side | tuple[_Side, _Side] | dict[str, _Side]
Factor = Annotated[float, Between(least=1e-6, most=1e4)]
# What the conversion scripts write, for folders without a preprocessor_config.json.
HIERA_RECIPE = PreprocessSpec(resize_to=256, engine="uint8", crop_rounding="floor")
SAM2_RECIPE = PreprocessSpec(
    size=(1024, 1024), resize="squash", crop_ratio=1.0, interpolation="bilinear", engine="uint8"
)
# What the two classes do where a file is silent.
BIT_DEFAULTS: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_SAM2_DEFAULTS: dict[str, Any] = {
    "size": {"height": 1024, "width": 1024},
    "resample": 2,
    "do_center_crop": False,
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
}


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What a preprocessor file may say; None where it is silent."""

    image_processor_type: str = ""
    do_convert_rgb: bool | None = None
    do_resize: bool | None = None
    size: _Sides | None = None
    resample: int | None = None
    do_center_crop: bool | None = None
    crop_size: _Sides | None = None
    do_rescale: bool | None = None
    rescale_factor: Factor | None = None
    do_normalize: bool | None = None
    image_mean: Scale | tuple[Scale, Scale, Scale] | None = None
    image_std: Deviation | tuple[Deviation, Deviation, Deviation] | None = None


# Pillow's numbers, which are what the files hold, and torch's words.
RESAMPLE = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


def processor_options(data: Mapping[str, Any], *, sam2: bool = False) -> dict[str, Any]:
    """Every option of an image processor: what a preprocessor file says, and its class's defaults.

    Args:
        data: Content of a preprocessor_config.json, or options; None counts as unsaid.
        sam2: Whether a file that names no class is SAM 2's.

    Raises:
        InputError: An option with an impossible value.
    """
    if isinstance(data.get("hierax"), Mapping):  # a folder in hierax's own format says it in full
        data = processor_json(PreprocessSpec.from_dict(data["hierax"]))
    said = vars(pick(_Options, data, where="An image processor"))
    sam2 = said.pop("image_processor_type", "").startswith("Sam2") if data.get("image_processor_type") else sam2
    given = {name: said[name] for name in BIT_DEFAULTS if data.get(name) is not None}
    o = {**BIT_DEFAULTS, **(_SAM2_DEFAULTS if sam2 else {}), **given}
    o["size"] = {"shortest_edge": o["size"]} if isinstance(o["size"], int) else _sides(o["size"])
    o["crop_size"] = _sides((o["crop_size"],) * 2 if isinstance(o["crop_size"], int) else o["crop_size"])
    if set(o["size"]) not in ({"shortest_edge"}, {"height", "width"}):
        raise InputError(f"size must have 'shortest_edge', or 'height' and 'width'; got {brief(data.get('size'))}.")
    if o["do_center_crop"] and set(o["crop_size"]) != {"height", "width"}:
        raise InputError(f"crop_size must have 'height' and 'width'; got {brief(data.get('crop_size'))}.")
    if o["resample"] not in RESAMPLE:
        raise InputError(f"resample must be 0 (nearest), 2 (bilinear) or 3 (bicubic); got {o['resample']}.")
    for key in ("image_mean", "image_std"):
        o[key] = (o[key],) * 3 if isinstance(o[key], float) else tuple(o[key])
    return o


def read_processor(data: Mapping[str, Any], *, sam2: bool = False) -> PreprocessSpec:
    """Our recipe of a preprocessor file; without one, that of the conversion script. What it cannot say is logged."""
    base = SAM2_RECIPE if sam2 else HIERA_RECIPE
    if not data:
        return base
    o = processor_options(data, sam2=sam2)
    # Recipes normalise pixels in 0..1; other scales move into the statistics.
    scale = 255 * (o["rescale_factor"] if o["do_rescale"] else 1)
    scale = 1.0 if math.isclose(scale, 1) else scale
    mean, std = (o["image_mean"], o["image_std"]) if o["do_normalize"] else ((0.0,) * 3, (1.0,) * 3)
    crop = (o["crop_size"].get("height", 0), o["crop_size"].get("width", 0))
    changes: dict[str, Any] = {
        "mean": tuple(value / scale for value in mean),
        "std": tuple(value / scale for value in std),
        "interpolation": "bilinear" if o["resample"] == 2 else "bicubic",
    }
    lost = [] if o["do_resize"] and o["resample"] else ["do_resize=False" if o["resample"] else "resample=0"]
    if "height" in o["size"]:
        size = (o["size"]["height"], o["size"]["width"])
        ratio = crop[0] / size[0] if o["do_center_crop"] else 1.0
        changes |= {"resize": "squash", "resize_to": None, "crop_ratio": ratio, "size": crop if ratio != 1 else size}
    else:
        changes |= {"resize": "shortest", "resize_to": o["size"]["shortest_edge"]}
        changes["size"] = crop if o["do_center_crop"] else (changes["resize_to"],) * 2
        lost += [] if o["do_center_crop"] else ["do_center_crop=False"]
    if lost:
        log.warning("preprocessor_config.json: %s cannot be said by a recipe of hierax and is left out.", lost[0])
    return dataclasses.replace(base, **changes)


def processor_json(spec: PreprocessSpec, *, sam2: bool = False) -> dict[str, Any]:
    """A preprocessor_config.json that says one of our recipes, but for transformers' own rounding of the crop."""
    height, width = spec.size
    size = {"height": height, "width": width}
    data: dict[str, Any] = {
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
        "rescale_factor": 1 / 255,
        "resample": 3 if spec.interpolation == "bicubic" else 2,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    if sam2:  # whose class knows no crop
        return {"image_processor_type": "Sam2ImageProcessor", **data, "size": size}
    data |= {"image_processor_type": "BitImageProcessor", "do_convert_rgb": True, "crop_size": size}
    if spec.resize == "squash":
        squash = {"height": int(height / spec.crop_ratio), "width": int(width / spec.crop_ratio)}
        return {**data, "do_center_crop": spec.crop_ratio != 1, "size": squash}
    shortest = spec.resize_to or int(min(spec.size) / spec.crop_ratio)
    return {**data, "do_center_crop": True, "size": {"shortest_edge": shortest}}


def _sides(size: Any) -> dict[str, int]:
    """A size as a dictionary, from one or from a pair."""
    return dict(size) if isinstance(size, Mapping) else {"height": size[0], "width": size[1]}
