"""transformers' image processor for Hiera (`BitImageProcessor`) and its factory, with their options and defaults."""

from __future__ import annotations

import json
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
from ...errors import InputError, UnknownNameError, nearest
from ...registry import describe, is_local
from ...weights.adapt import check_stated
from ...weights.files import write_json
from ...weights.formats.transformers_processor import BIT_DEFAULTS, RESAMPLE, processor_json, processor_options
from .options import Request, requested
from .outputs import ModelOutput

FILE = "preprocessor_config.json"
_NEWER = "processor_config.json"  # of a model that takes more than images, which says the image processor inside
# In preprocessor files, and without effect here.
_IGNORED = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "do_pad", "pad_size")


class BatchFeature(ModelOutput, fields=("pixel_values", "original_sizes")):
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

    def __repr__(self) -> str:
        """Class and options."""
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2)}"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> BitImageProcessor:
        """The processor of a folder, file, catalogue name or hub id, with options on top; no weights are fetched.

        Of a published name the catalogue knows the recipe, so that nothing at all is.

        Args:
            pretrained_model_name_or_path: The source.
            **options: `cache_dir`, `revision`, `token` and the like, `use_fast` or `backend`, any of the processor's.

        Raises:
            UnknownNameError: No such name or option.
            CheckpointError: A repository or folder without a preprocessor and without weights, or a very large size
                that nobody asked for.
        """
        request, own = requested(options, (*BIT_DEFAULTS, *_IGNORED, "use_fast", "backend"))
        stored = stored_options(pretrained_model_name_or_path, request)
        if not own.keys() & {"size", "crop_size"}:
            sides = tuple((stored["crop_size"] if stored["do_center_crop"] else stored["size"]).values())
            check_stated((*sides, *sides)[:2], option="size= and crop_size=")  # one that is alone is both
        return cls(**{**{name: value for name, value in stored.items() if name != "image_processor_type"}, **own})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, as preprocessor files hold it."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {"image_processor_type": type(self).__name__, **{name: plain[name] for name in BIT_DEFAULTS}}

    def save_pretrained(self, save_directory: str | Path) -> list[str]:
        """Write preprocessor_config.json, which transformers loads."""
        return [str(write_json(Path(save_directory) / FILE, self.to_dict()))]

    def __call__(self, images: Any, *, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        """Make images the model's input.

        Args:
            images: One or many PIL images, paths, arrays or tensors, (h, w, c) or (c, h, w). Paths are turned
                upright by their orientation tag and PIL images are not, as in transformers.
            return_tensors: "pt" for one tensor, "np" for one array, None for a list of tensors.
            **options: Any option of the processor, for this call.

        Returns:
            `pixel_values`, (b, 3, h, w); of SAM 2's processor also `original_sizes`, (height, width) of each image.

        Raises:
            InputError: An image that cannot be read, or results of several sizes.
        """
        if return_tensors not in (None, "pt", "np"):
            raise InputError(f"return_tensors must be 'pt', 'np' or None; got {return_tensors!r}.")
        settings = processor_options({name: getattr(self, name) for name in BIT_DEFAULTS} | _given(options))
        given = [_pixels(image, settings["do_convert_rgb"]) for image in _flat(images)]
        results = [self._one(image, settings) for image in given]
        if return_tensors is None:
            return self._feature(results, given, None)
        shapes = {tuple(result.shape) for result in results}
        if len(shapes) != 1:
            raise InputError(f"Images of one call must come out alike; got {sorted(shapes)}. Use do_center_crop=True.")
        stacked = torch.stack(results)
        return self._feature(stacked if return_tensors == "pt" else stacked.numpy(), given, return_tensors)

    preprocess = __call__

    def _feature(self, values: Any, images: Sequence[Tensor], kind: str | None) -> BatchFeature:
        """The result, for images as they were before."""
        return BatchFeature(pixel_values=values)

    def _one(self, pixels: Tensor, o: Mapping[str, Any]) -> Float[Tensor, "3 h w"]:
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


class Sam2ImageProcessor(BitImageProcessor):
    """SAM 2's: squash to a square of 1024 pixels, and say how large images were before."""

    def __init__(self, *, backend: str = "torchvision", use_fast: bool | None = None, **options: Any) -> None:
        """Take any of transformers' options; masks are no business of an image encoder."""
        known = {name: value for name, value in options.items() if name not in ("mask_size", "mask_pad_size")}
        stated = processor_options(_given(known), sam2=True)
        super().__init__(backend=backend, use_fast=use_fast, **stated)

    def _feature(self, values: Any, images: Sequence[Tensor], kind: str | None) -> BatchFeature:
        sizes: Any = [tuple(image.shape[-2:]) for image in images]
        convert = {"pt": torch.tensor, "np": np.array}.get(kind or "")
        return BatchFeature(pixel_values=values, original_sizes=sizes if convert is None else convert(sizes))


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


def stored_options(source: str | Path, request: Request) -> dict[str, Any]:
    """Every option of the processor of a source, its class's name included."""
    path = Path(source).expanduser()
    entry = None if path.exists() else request.published(source)
    if entry is not None and entry.path is not None:
        return stored_options(entry.path, request)
    data = request.sidecar(source, FILE, _NEWER)
    if data is None:
        card = entry or (describe(path) if is_local(source) else request.weights(source).card)
        spec, sam2 = card.preprocess, card.family == "hieradet" and card.format in ("sam2", "transformers")
        said = {"backend": "pil" if spec.engine == "pil" else "torchvision", **processor_json(spec, sam2=sam2)}
    else:
        inner = data.get("image_processor")
        said = inner if isinstance(inner, Mapping) else data
    kind = "Sam2ImageProcessor" if str(said.get("image_processor_type", "")).startswith("Sam2") else "BitImageProcessor"
    backend = {"backend": said["backend"]} if data is None else {}
    return {"image_processor_type": kind, **backend, **processor_options(said)}
