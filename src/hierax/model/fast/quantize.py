"""int8 behind the fast door: NNCF's post-training quantization of the OpenVINO model, never without a report."""

from __future__ import annotations

import importlib.util
import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, MissingExtraError
from ..encoder import Encoder
from .encoder import FastEncoder
from .openvino import OpenVINOEncoder

log = logging.getLogger("hierax")
CALIBRATION_IMAGES = 32
TRUSTED_COSINE = 0.99


@dataclass(frozen=True)
class Int8Report:
    """int8 against float32 on the calibration images.

    Attributes:
        images: How many were compared.
        cosine: Mean cosine of the embeddings.
        worst_cosine: The smallest.
        top1_agreement: Share of images with the same best class, None without classes.
        speedup: Seconds of the float32 torch engine over seconds of int8, same batch.
    """

    images: int
    cosine: float
    worst_cosine: float
    top1_agreement: float | None
    speedup: float

    def __str__(self) -> str:
        agreement = "no classes" if self.top1_agreement is None else f"{self.top1_agreement:.1%}"
        return (
            f"int8 against float32 on {self.images} images: cosine {self.cosine:.4f} (worst {self.worst_cosine:.4f}), "
            f"top-1 agreement {agreement}, {self.speedup:.2f}x the speed"
        )


def quantized(model: FastEncoder, size: tuple[int, ...], images: Tensor | None = None) -> OpenVINOEncoder:
    """An int8 encoder with its `report`.

    Args:
        model: The float32 encoder.
        size: Input size of the stand-in images, and of the report.
        images: Preprocessed calibration images (n, 3, h, w), best the user's own; None takes seeded textures.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
        InputError: Calibration images of the wrong shape.
    """
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("int8", "nncf")
    images = textures(CALIBRATION_IMAGES, size) if images is None else images
    if images.ndim != len(size) + 2 or images.shape[0] == 0:
        raise InputError(f"Calibration images must be preprocessed (n, 3, h, w); got {tuple(images.shape)}.")
    encoder = OpenVINOEncoder(model)
    encoder.quantize = lambda program: _quantize(program, images)
    encoder.report = report(encoder, model, images)  # type: ignore[assignment]
    say = log.info if encoder.report.worst_cosine >= TRUSTED_COSINE else log.warning
    say("%s", encoder.report)
    return encoder


def _quantize(program: Any, images: Tensor) -> Any:
    """Matrix products in int8; the patch embedding, which sees raw pixels, and softmax, norms and sums stay float."""
    import nncf

    calibration = nncf.Dataset([image[None].float().numpy() for image in images])
    return nncf.quantize(
        program,
        calibration,
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(types=["Convolution"], validate=False),
    )


def report(fast: FastEncoder, exact: Encoder, images: Tensor, *, batch: int = 8, rounds: int = 3) -> Int8Report:
    """Compare two encoders on the same images, timing them in turn."""
    with torch.inference_mode():
        parts = images.split(batch)
        ours, theirs = (torch.cat([e.embedding(part) for part in parts]).float() for e in (fast, exact))
        cosine = torch.nn.functional.cosine_similarity(ours, theirs)
        agreement = None
        if exact.num_classes:
            same = exact.classify(ours).argmax(-1) == exact.classify(theirs).argmax(-1)
            agreement = same.float().mean().item()
        seconds = {id(encoder): [] for encoder in (fast, exact)}
        for _ in range(rounds):
            for encoder in (fast, exact):
                start = time.perf_counter()
                encoder.embedding(parts[0])
                seconds[id(encoder)].append(time.perf_counter() - start)
    speedup = min(seconds[id(exact)]) / min(seconds[id(fast)])
    return Int8Report(len(images), cosine.mean().item(), cosine.min().item(), agreement, speedup)


def textures(count: int, size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Seeded images with the spectrum of photographs (amplitude 1 / frequency), standing in for the user's own."""
    generator = torch.Generator().manual_seed(seed)
    *rest, height, width = size
    noise = torch.randn(count, 3, *rest, height, width, generator=generator)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    spectrum = torch.fft.rfft2(noise) / (rows**2 + columns**2).sqrt().clamp(min=1 / max(height, width))
    images = torch.fft.irfft2(spectrum, s=(height, width))
    return (images - images.mean((-2, -1), keepdim=True)) / images.std((-2, -1), keepdim=True)
