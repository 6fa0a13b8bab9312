"""int8 in the openvino engine: NNCF's post-training quantization of the OpenVINO model, never without a report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import math
import sys
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError, MissingExtraError
from ..encoder import Encoder
from . import keeping, processor
from .base import EMBEDDING
from .eager import TorchEngine
from .encoder import FastEncoder
from .openvino import OpenVINOEngine
from .products import Product

log = logging.getLogger("hierax")
CALIBRATION_IMAGES = 48
TRUSTED = 0.99  # worst cosine, and agreement
FEWEST_TO_SPLIT = 16
PIXELS = (-2.1, 2.6)  # black and white, after the usual mean and deviation
LEAVES = 12
RANKING_IMAGES = 2
# Shares of the blocks' products kept in float, one rebuild each, until the report meets both targets.
KEPT_SHARES = (1 / 16, 1 / 8, 1 / 4)
PRODUCTS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # of a block, in order


@dataclass(frozen=True)
class Int8Report:
    """int8 against float32.

    Attributes:
        images: How many were compared.
        cosine: Mean cosine of the embeddings.
        worst_cosine: The smallest.
        top1_agreement: Share of images with the same best class, None without classes.
        speedup: Seconds of the float32 torch engine over seconds of int8, same batch.
        held_out: Whether calibration did not see these images.
        kept: Products left in float because quantizing them cost most, e.g. "blocks.3.mlp.fc2".
        int8_share: Share of the multiply-adds with weights (patch embedding and linear layers) that run in int8.
    """

    images: int
    cosine: float
    worst_cosine: float
    top1_agreement: float | None
    speedup: float
    held_out: bool
    kept: tuple[str, ...]
    int8_share: float

    @property
    def trusted(self) -> bool:
        """Worst cosine and agreement of 0.99 at least; one image of a small set may disagree."""
        differing = 0 if self.top1_agreement is None else round((1 - self.top1_agreement) * self.images)
        allowed = max(1, int((1 - TRUSTED) * self.images + 1e-9))
        return self.worst_cosine >= TRUSTED and differing <= allowed

    def __str__(self) -> str:
        agreement = "no classes" if self.top1_agreement is None else f"{self.top1_agreement:.1%}"
        kind = "held-out" if self.held_out else "calibration"
        kept = f"; kept in float: {', '.join(self.kept)}" if self.kept else ""
        return (
            f"int8 against float32 on {self.images} {kind} images: cosine {self.cosine:.4f} "
            f"(worst {self.worst_cosine:.4f}), top-1 agreement {agreement}, {self.speedup:.2f}x the speed, "
            f"{self.int8_share:.1%} of the products in int8{kept}"
        )


def quantized(model: FastEncoder, size: tuple[int, ...], images: Tensor | None = None) -> FastEncoder:
    """An int8 encoder with its `report`.

    Everything is quantized first. Where the report misses its targets, products are ranked by what rounding each one
    alone does to the embedding, and the worst stay in float: a sixteenth, an eighth, then a quarter of them.
    On one AVX2 core: 20 s for hiera_nano_96 and 100 s for hiera_base_224, which each of the at most three rebuilds
    lengthens by 7 s and 60 s, and the ranking of hiera_base by another minute.

    Args:
        model: The encoder in float32, in the torch engine.
        size: Input size of the stand-in images, and of the report.
        images: Preprocessed calibration images (n, 3, h, w), best the user's own; None takes seeded stand-ins. From
            16 on, every fourth is held out for the report.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
        InputError: Calibration images of the wrong shape.
    """
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("int8", "nncf")
    calibration = Calibration(size, images)
    precision = "bf16" if processor.native_bfloat16() else "f32"

    def leaving(*kept: str) -> FastEncoder:
        quantize = Quantizer(calibration, kept)
        return FastEncoder(model, partial(OpenVINOEngine, precision=precision, quantize=quantize))

    search = keeping.wanted(model, calibration.shape, EMBEDDING, {**calibration.key, "search": len(KEPT_SHARES)})
    found = keeping.noted(search)
    if found is not None:
        known = Int8Report(**{**found, "kept": tuple(found["kept"])})
        fast = leaving(*known.kept)
    else:
        fast, known = _searched(model, calibration, leaving)
        keeping.note(search, model, **dataclasses.asdict(known))
    fast.report = known  # type: ignore[assignment]
    (log.info if known.trusted else log.warning)("%s", known)
    return fast


def _searched(
    model: FastEncoder, calibration: Calibration, leaving: Callable[..., FastEncoder]
) -> tuple[FastEncoder, Int8Report]:
    """The int8 encoder that keeps as few products in float as its targets allow; its program is kept."""
    what = (calibration.shape, EMBEDDING)
    program = OpenVINOEngine(model).model(*what)
    seen, unseen = calibration.parts

    def tried(*kept: str) -> tuple[FastEncoder, Int8Report, Any]:
        fast = leaving(*kept)
        engine: Any = fast.current()
        lower = engine.model.held[what] = engine.quantize(program)
        known = {"held_out": seen is not unseen, "kept": kept, "int8_share": _int8_share(lower)}
        return fast, report(fast, model, unseen, **known), lower

    fast, found, lower = tried()
    ranking = [] if found.trusted else by_harm(model, seen[:RANKING_IMAGES].float())
    for share in KEPT_SHARES:
        if not found.trusted:
            fast, found, lower = tried(*ranking[: max(1, round(share * len(ranking)))])
    keeping.keep(keeping.wanted(model, *what, Quantizer(calibration, found.kept).key), lower, model)
    return fast, found


class Calibration:
    """Images to quantize by, and to judge by; the stand-ins are made when they are needed.

    Args:
        size: Input size of the stand-ins.
        images: Preprocessed (n, 3, *pixels), in their place.

    Raises:
        InputError: Images of the wrong shape, or not finite.
    """

    def __init__(self, size: tuple[int, ...], images: Tensor | None = None) -> None:
        self.shape = (3, *size) if images is None else tuple(images.shape[1:])
        if images is not None and (images.ndim != len(size) + 2 or images.shape[0] == 0):
            raise InputError(f"Calibration images must be preprocessed (n, 3, h, w); got {tuple(images.shape)}.")
        if images is not None and not images.isfinite().all():
            raise InputError(
                "Calibration images must be finite numbers; got NaN or infinity. Leave the broken ones out."
            )
        self._images = images

    @functools.cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Those to quantize by, and those held out for the report: the same where there are few."""
        images = textures(CALIBRATION_IMAGES, self.shape[1:]) if self._images is None else self._images
        held_out = torch.arange(len(images)) % 4 == 0  # spread out, for sets sorted by class
        return (images, images) if len(images) < FEWEST_TO_SPLIT else (images[~held_out], images[held_out])

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What an int8 program depends on beside the float one, JSON-able."""
        images = "stand-ins" if self._images is None else keeping.digest_of([("", self._images)])
        chosen = {"exact": processor.exact_int8(), "bf16": processor.native_bfloat16()}
        return {"images": images, "shape": list(self.shape), "nncf": metadata.version("nncf"), **chosen}


@dataclass(frozen=True)
class Quantizer:
    """Turns a float program into an int8 one.

    Matrix products run in int8; the patch embedding, which sees raw pixels, and softmax, norms and sums stay float.
    SmoothQuant stays off: it scales channels by how loud they are on the calibration images, and one that is silent
    there ruins images on which it is not. Ranges are the widest seen, not the mean over images, for the same reason.

    Attributes:
        calibration: The images.
        kept: Products that stay float.
        portable: Whether the program may run on other processors, which perhaps saturate sums of 8-bit products.
    """

    calibration: Calibration
    kept: tuple[str, ...] = ()
    portable: bool = False

    @property
    def key(self) -> dict[str, Any]:
        """What the result depends on beside the float program."""
        return {**self.calibration.key, "kept": list(self.kept)}

    def __call__(self, program: Any) -> Any:
        """The int8 program."""
        shape = [axis.get_length() for axis in list(program.input(0).get_partial_shape())[2:]]
        images = self.calibration.parts[0].float()
        if list(images.shape[2:]) != shape:
            images = F.interpolate(images, size=shape, mode="bilinear" if len(shape) == 2 else "trilinear")
        names = [node.get_friendly_name() for name, node in _products(program) if name in self.kept]
        with contextlib.redirect_stdout(sys.stderr):  # NNCF keeps the stream it meets first for its talk
            import nncf
            from nncf.quantization import advanced_parameters as advanced
            from nncf.quantization.range_estimator import RangeEstimatorParametersSet

            exact = processor.exact_int8() and not self.portable
            return nncf.quantize(
                program.clone(),
                nncf.Dataset([image[None].numpy() for image in images]),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=names, types=["Convolution"], validate=False),
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    overflow_fix=advanced.OverflowFix.DISABLE if exact else advanced.OverflowFix.ENABLE,
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
                ),
            )


def _products(program: Any) -> list[tuple[str, Any]]:
    """Linear layers of a program by name, in order; a pooling head's come after the last block's."""
    nodes = [n for n in program.get_ordered_ops() if n.get_type_name() == "MatMul" and _weight(n) is not None]
    return [(f"blocks.{i // len(PRODUCTS)}.{PRODUCTS[i % len(PRODUCTS)]}", node) for i, node in enumerate(nodes)]


def _weight(node: Any) -> Any:
    """The constant that a product multiplies by, under its scale and conversion; None where there is none."""
    node = node.input(1).get_source_output().get_node()
    while node.get_type_name() in ("Multiply", "Convert", "Reshape"):
        node = node.input(0).get_source_output().get_node()
    return node if node.get_type_name() == "Constant" else None


def _int8_share(program: Any) -> float:
    """Share of multiply-adds with weights whose weights are int8, of one image."""
    single = program.clone()
    single.reshape([1, *(axis.get_length() for axis in list(program.input(0).get_partial_shape())[1:])])
    total = lower = 0.0
    for node in single.get_ordered_ops():
        kind = node.get_type_name()
        weight = _weight(node) if kind in ("MatMul", "Convolution") else None
        if weight is not None:
            shape = list(node.output(0).get_shape())
            count = math.prod(shape) * weight.data.size / shape[-1 if kind == "MatMul" else 1]
            total += count
            lower += count * (weight.get_element_type().get_type_name() in ("i8", "u8"))
    return lower / total


class Rounded(Product):
    """A product of 8-bit numbers: one scale an output channel for weights, one scale and offset for activations."""

    def __init__(self, exact: Product) -> None:
        scale = (exact.weight.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        super().__init__((exact.weight / scale).round() * scale, exact.bias)

    def linear(self, x: Tensor, buffer: str = "") -> Tensor:
        """Affine, of x rounded to the nearest of 256 levels between its extremes, zero among them."""
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        step = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        return super().linear((x / step).round() * step)


def by_harm(model: Encoder, images: Float[Tensor, "b 3 *pixels"]) -> list[str]:
    """Names of the blocks' products, the most harmful to round alone first; one forward pass each."""
    probe = TorchEngine(model, "traced")
    harm: dict[str, float] = {}
    with torch.inference_mode():
        exact = probe.run(images, EMBEDDING)[0]
        for index, block in enumerate(probe.blocks):
            for name in PRODUCTS:
                attribute = name.rpartition(".")[2]
                product = getattr(block, attribute)
                setattr(block, attribute, Rounded(product))
                found = probe.run(images, EMBEDDING)[0]
                harm[f"blocks.{index}.{name}"] = -F.cosine_similarity(found, exact).min().item()
                setattr(block, attribute, product)
    return sorted(harm, key=harm.__getitem__, reverse=True)


def report(fast: FastEncoder, exact: Encoder, images: Tensor, **known: Any) -> Int8Report:
    """Compare two encoders on the same images, timing them in turn; `known` is the rest of the report."""
    with torch.inference_mode():
        parts = images.split(8)
        ours, theirs = (torch.cat([e.embedding(part) for part in parts]).float() for e in (fast, exact))
        cosine = F.cosine_similarity(ours, theirs)
        agreement = None
        if exact.num_classes:
            same = exact.classify(ours).argmax(-1) == exact.classify(theirs).argmax(-1)
            agreement = same.float().mean().item()
        rounds = [[timeit.timeit(lambda e=e: e.embedding(parts[0]), number=1) for e in (fast, exact)] for _ in range(3)]
    lower, full = map(min, zip(*rounds, strict=True))
    return Int8Report(len(images), cosine.mean().item(), cosine.min().item(), agreement, full / lower, **known)


def textures(count: int, size: tuple[int, ...]) -> Tensor:
    """Seeded stand-ins for the user's images, in preprocessed units.

    Leaves of every size and colour over one another, plain, faint or with the spectrum of photographs and rougher:
    ranges measured on evenly textured images are far too narrow for flat ones, and the other way round.
    """
    generator = torch.Generator().manual_seed(0)
    *rest, height, width = size

    def each(channels: int = 1) -> Float[Tensor, "n channels *ones"]:
        return torch.rand(count, channels, *(1 for _ in size), generator=generator)

    noise = torch.randn(count, 3, *rest, height, width, generator=generator)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (rows**2 + columns**2).sqrt().clamp(min=1 / max(height, width))
    grain = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency ** (0.5 + 2 * each()), s=(height, width))
    grain = (grain - grain.mean((-2, -1), keepdim=True)) / grain.std((-2, -1), keepdim=True)
    down, along = (torch.arange(side) / max(height, width) for side in (height, width))
    images = grain * each() ** 4 + PIXELS[0] + (PIXELS[1] - PIXELS[0]) * each(3)
    crowded = each()
    for leaf in range(1, LEAVES + 1):
        radius, power = 0.04 * 12 ** each(), torch.where(each() < 0.5, 2.0, 8.0)  # discs and squares
        reach = ((down[:, None] - each()).abs() / radius) ** power + ((along - each()).abs() / radius) ** power
        color = PIXELS[0] + (PIXELS[1] - PIXELS[0]) * each(3)
        inside = (reach < 1) & (each() < crowded)
        images = torch.where(inside, grain.roll(leaf, 0) * each() ** 4 + color, images)
    return images.clamp(*PIXELS)
