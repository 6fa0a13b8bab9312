"""Our preprocessing against the functions of the packages that the weights come from."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import IMAGENET_MEAN, IMAGENET_STD, PreprocessSpec
from hierax.data.decode import decode_image
from hierax.data.preprocess import preprocess

from ..members import encoded, photograph
from ..peers import peer

pytestmark = pytest.mark.parity

# (width, height): even, odd, the size at which the two crop roundings part, tall, tiny, smaller than the crop.
SIZES = [(640, 480), (343, 256), (257, 511), (1001, 333), (224, 224), (37, 53), (500, 3)]


def _jpeg(size: tuple[int, int]) -> Image.Image:
    """A real JPEG: engines and crops that differ show on it."""
    return Image.open(io.BytesIO(encoded(photograph(*size), "JPEG", quality=92)))


def _worst(image: Image.Image, spec: PreprocessSpec, want) -> float:
    got = preprocess(decode_image(image), spec)
    want = torch.as_tensor(np.asarray(want))
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    return float((got - want).abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_meta_recipe(size):
    """A crop off by one pixel, or another resize engine, differs by 0.1 and more."""
    transforms = peer("torchvision.transforms")
    recipe = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    image = _jpeg(size)
    assert _worst(image, PreprocessSpec(resize_to=256), recipe(image)) == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", ["pil", "uint8"])
def test_transformers_hiera(size, backend):
    """Rounding the crop as torchvision does moves a 343-pixel-wide image by one pixel, that is by whole units."""
    if backend == "pil":
        processor = peer("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil
    else:
        processor = peer("transformers.models.bit.image_processing_bit").BitImageProcessor
    statistics = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    theirs = processor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, **statistics)
    image = _jpeg(size)
    want = theirs(image, return_tensors="pt")["pixel_values"][0]
    spec = PreprocessSpec(resize_to=256, crop_rounding="floor", engine=backend)
    assert _worst(image, spec, want) <= (0 if backend == "uint8" else 1e-6)


@pytest.mark.parametrize("backend", ["pil", "uint8"])
@pytest.mark.parametrize("short", [200, 201, 223])
def test_transformers_pads_small(backend, short):
    """A resize below the crop is padded; padding the odd row on the other side shifts everything."""
    if backend == "pil":
        processor = peer("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil
    else:
        processor = peer("transformers.models.bit.image_processing_bit").BitImageProcessor
    statistics = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    theirs = processor(size={"shortest_edge": short}, crop_size={"height": 224, "width": 224}, **statistics)
    image = _jpeg((333, 257))
    want = theirs(image, return_tensors="pt")["pixel_values"][0]
    spec = PreprocessSpec(resize_to=short, crop_rounding="floor", engine=backend)
    assert _worst(image, spec, want) <= 1e-6


def test_torchvision_pads_small():
    """Our padding must follow torchvision's for the origins that use it."""
    transforms = peer("torchvision.transforms")
    recipe = transforms.Compose([transforms.Resize(201), transforms.CenterCrop(224), transforms.ToTensor()])
    image = _jpeg((333, 257))
    spec = PreprocessSpec(resize_to=201, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    assert _worst(image, spec, recipe(image)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_transformers_sam2(size):
    """Pillow's bilinear, or a resize of floats, differs by a grey level (0.017)."""
    theirs = peer("transformers.models.sam2.image_processing_sam2").Sam2ImageProcessor(
        size={"height": 256, "width": 256}
    )
    image = _jpeg(size)
    spec = PreprocessSpec(size=(256, 256), resize="squash", crop_ratio=1.0, interpolation="bilinear", engine="uint8")
    assert _worst(image, spec, theirs(image, return_tensors="pt")["pixel_values"][0]) == 0


@pytest.mark.parametrize("size", SIZES)
def test_meta_sam2(size):
    """SAM 2 resizes floats: rounding to bytes first differs by up to half a grey level."""
    theirs = peer("sam2.utils.transforms").SAM2Transforms(resolution=256, mask_threshold=0.0)
    image = _jpeg(size)
    spec = PreprocessSpec(size=(256, 256), resize="squash", crop_ratio=1.0, interpolation="bilinear", engine="float")
    assert _worst(image, spec, theirs(image)) <= 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("target", "crop"), [((224, 224), 1.0), ((256, 192), 1.0), ((224, 224), 0.9)])
def test_birder(size, target, crop):
    """Keeping the aspect ratio, as every other origin does, gives another picture altogether."""
    preset = peer("birder.data.transforms.classification").inference_preset
    statistics = {"mean": (0.5191, 0.5306, 0.4877), "std": (0.2316, 0.2304, 0.2588)}
    image = _jpeg(size)
    want = preset(target, statistics, center_crop=crop)(image)
    assert _worst(image, PreprocessSpec(size=target, resize="squash", crop_ratio=crop, **statistics), want) <= 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("target", "crop"),
    [((224, 224), 0.9), ((256, 256), 0.95), ((224, 224), 1.0), ((256, 192), 0.9), ((224, 320), 1.0)],
)
def test_timm(size, target, crop):
    """Rounding the resize instead of flooring it makes 249 of 248 for 224 / 0.9."""
    create_transform = peer("timm.data").create_transform
    image = _jpeg(size)
    want = create_transform((3, *target), crop_pct=crop, interpolation="bicubic")(image)
    assert _worst(image, PreprocessSpec(size=target, crop_ratio=crop), want) == 0


def test_roundings_differ_loudly():
    """The two crop roundings must part at 343 pixels, or the parity tests above prove nothing."""
    image = decode_image(_jpeg((343, 256)))
    even = preprocess(image, PreprocessSpec(resize_to=256))
    floor = preprocess(image, PreprocessSpec(resize_to=256, crop_rounding="floor"))
    assert (even - floor).abs().max() > 1
