"""transformers' image processor for Hiera (`BitImageProcessor`) and its factory, with their options and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...config import MOST_PIXELS, PreprocessSpec
from ...data.decode import open_rgb
from ...data.preprocess import center_crop, resized_size
from ...errors import CheckpointError, InputError, UnknownNameError, nearest
from ...weights.adapt import check_stated
from ...weights.files import read_json, write_json
from ...weights.formats.transformers_processor import BIT_DEFAULTS, RESAMPLE, processor_json, processor_options
from .outputs import ModelOutput

FILE = "preprocessor_config.json"
# In preprocessor files, and without effect here.
_IGNORED = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "do_pad", "pad_size")


class BatchFeature(ModelOutput, fields=("pixel_values",)):
    """What a processor returns: a dictionary whose entries are attributes too."""

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move tensors to a device or floating type, in place as in transformers; returns itself."""
        for key, value in self.items():
            if isinstance(value, Tensor):
                self[key] = value.to(*args, **kwargs)
        return self


class BitImageProcessor:
    """Resize, crop, rescale and normalise images, as transformers does for Hiera.

    Attributes:
        backend: "torchvision" resizes bytes as torch does, transformers' default; "pil" as Pillow does.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, *, backend: str = "torchvision", use_fast: bool | None = None, **options: Any) -> None:
        """Take any of transformers' options.

        Raises:
            UnknownNameError: No such option or backend.
            InputError: An option with an impossible value.
        """
        self.backend = "pil" if use_fast is False else backend
        if self.backend not in ("torchvision", "pil"):
            raise UnknownNameError(f"backend must be 'torchvision' or 'pil'; got {backend!r}.")
        vars(self).update(processor_options(_given(options)))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> BitImageProcessor:
        """The processor of a folder, file, catalogue name or hub id, with options on top.

        Of a published name the catalogue knows the recipe, so that nothing is downloaded for it.

        Raises:
            UnknownNameError: No such name or option.
            CheckpointError: A folder without a preprocessor and without weights, or a very large size that nobody
                asked for.
        """
        stored = _stored_options(source, options.pop("revision", None))
        if not options.keys() & {"size", "crop_size"}:
            sides = tuple((stored["crop_size"] if stored["do_center_crop"] else stored["size"]).values())
            check_stated((*sides, *sides)[:2], option="size= and crop_size=")  # one that is alone is both
        return cls(**{**stored, **options})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, as preprocessor files hold it."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {"image_processor_type": "BitImageProcessor", **{name: plain[name] for name in BIT_DEFAULTS}}

    def save_pretrained(self, directory: str | Path) -> list[str]:
        """Write preprocessor_config.json, which transformers loads."""
        return [str(write_json(Path(directory) / FILE, self.to_dict()))]

    def __call__(self, images: Any, *, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        """Make images the model's input.

        Args:
            images: One or many PIL images, paths, arrays or tensors, (h, w, c) or (c, h, w). Paths are turned
                upright by their orientation tag and PIL images are not, as in transformers.
            return_tensors: "pt" for one tensor, "np" for one array, None for a list of tensors.
            **options: Any option of the processor, for this call.

        Returns:
            `pixel_values`, (b, 3, h, w).

        Raises:
            InputError: An image that cannot be read, or results of several sizes.
        """
        if return_tensors not in (None, "pt", "np"):
            raise InputError(f"return_tensors must be 'pt', 'np' or None; got {return_tensors!r}.")
        settings = processor_options({name: getattr(self, name) for name in BIT_DEFAULTS} | _given(options))
        results = [self._one(image, settings) for image in _flat(images)]
        if return_tensors is None:
            return BatchFeature(pixel_values=results)
        shapes = {tuple(result.shape) for result in results}
        if len(shapes) != 1:
            raise InputError(f"Images of one call must come out alike; got {sorted(shapes)}. Use do_center_crop=True.")
        stacked = torch.stack(results)
        return BatchFeature(pixel_values=stacked if return_tensors == "pt" else stacked.numpy())

    preprocess = __call__

    def _one(self, image: Any, o: Mapping[str, Any]) -> Float[Tensor, "3 h w"]:
        pixels = _pixels(image, o["do_convert_rgb"])
        if o["do_resize"]:
            pixels = self._resize(pixels, o["size"], o["resample"])
        if o["do_center_crop"]:
            crop = (o["crop_size"]["height"], o["crop_size"]["width"])
            engine = "pil" if self.backend == "pil" else "uint8"
            pixels = center_crop(pixels, PreprocessSpec(size=crop, engine=engine, crop_rounding="floor"))
        if o["do_normalize"]:
            # Rescaling is folded into the statistics.
            scale = 1.0 / o["rescale_factor"] if o["do_rescale"] else 1.0
            mean, std = (torch.tensor(o[key]).view(-1, 1, 1) * scale for key in ("image_mean", "image_std"))
            return pixels.float().sub(mean).div_(std)
        return pixels * o["rescale_factor"] if o["do_rescale"] else pixels

    def _resize(self, pixels: Tensor, size: Mapping[str, int], resample: int) -> Tensor:
        before = (pixels.shape[-2], pixels.shape[-1])
        shortest = PreprocessSpec(resize="shortest", resize_to=size.get("shortest_edge"))
        target = resized_size(before, shortest) if shortest.resize_to else (size["height"], size["width"])
        if target == before:
            return pixels
        if target[0] * target[1] > MOST_PIXELS:
            raise InputError(f"An image of {before} (height, width) would be resized to {target}. Crop it.")
        if self.backend == "pil" and pixels.dtype == torch.uint8:
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            resized = np.array(picture.resize((target[1], target[0]), Image.Resampling(resample)))
            return torch.from_numpy(resized).permute(2, 0, 1)
        return F.interpolate(pixels[None], size=target, mode=RESAMPLE[resample], antialias=resample != 0)[0]


AutoImageProcessor = BitImageProcessor  # every Hiera processor is one


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Known options that were given a value; unknown ones are refused."""
    for name in options:
        if name not in BIT_DEFAULTS and name not in _IGNORED:
            raise UnknownNameError(f"Unknown image processor option {name!r}. {nearest(name, BIT_DEFAULTS)}")
    if options.get("do_pad"):
        raise InputError("do_pad is not supported; Hiera's images are cropped. Leave it out.")
    return {name: value for name, value in options.items() if name in BIT_DEFAULTS and value is not None}


def _flat(images: Any) -> list[Any]:
    """One image or many, as a list; a batch of arrays is taken apart."""
    if isinstance(images, (np.ndarray, Tensor)):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str) or not isinstance(images, Sequence):
        return [images]
    if not images:
        raise InputError("Images are PIL images, paths, arrays or tensors, one or a list; got an empty one.")
    return [single for image in images for single in _flat(image)]


def _pixels(image: Any, convert: bool) -> Tensor:
    """One image as (3, h, w), bytes or floats as they came."""
    if isinstance(image, (str, Path, Image.Image)):
        rgb = open_rgb(image, upright=not isinstance(image, Image.Image))
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise InputError(f"Images are PIL images, paths, arrays or tensors; got {type(image).__name__}.")
    pixels = torch.from_numpy(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image.detach()
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[0] not in (1, 3):
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise InputError(
            f"An array must be (h, w), (h, w, 3) or (3, h, w); got {tuple(image.shape)}. "
            "Pass anything else as PIL.Image.fromarray(array)."
        )
    return pixels.expand(3, -1, -1).contiguous() if convert else pixels.contiguous()


def _stored_options(source: str | Path, revision: str | None) -> dict[str, Any]:
    from ...registry import describe, find_weights
    from ...weights import catalog

    path, entry = Path(source).expanduser(), None
    if not path.exists():
        try:
            entry = catalog.resolve(str(source))
        except UnknownNameError:
            if str(source).count("/") != 1:
                raise
            raw = find_weights(source, revision=revision).raw
            if raw is None or not raw.preprocessor:
                raise CheckpointError(f"{str(source)!r} has no {FILE}. Name another processor.") from None
            return processor_options(raw.preprocessor)
        path = entry.path or path
    place = path / FILE if path.is_dir() else path
    if place.suffix == ".json" and os.path.lexists(place):
        return processor_options(read_json(place))
    spec = (entry or describe(path)).preprocess
    return {"backend": "pil" if spec.engine == "pil" else "torchvision", **processor_options(processor_json(spec))}
