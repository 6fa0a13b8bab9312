"""int8: matrix products with weights in 8 bits; the patch embedding, softmax, norms and sums stay float.

Ranges are the widest seen on the calibration images, and weights keep one bit free, so that the file answers alike on
processors that saturate sums of 8-bit products. Source: docs/decisions/0016, where the quantizers are compared.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.sources import IMAGE_EXTENSIONS, find_images
from ..errors import InputError, MissingExtraError
from ..model.engines.quantize import Calibration, Quantizer
from ..model.programs.encoder import INPUT
from ..predictor import Predictor

MOST_IMAGES = 300


def check_installed() -> None:
    """Refuse early what would fail after a long trace.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("int8", "nncf")


def calibration_of(images: Any, predictor: Predictor) -> Calibration:
    """The images to quantize by.

    Args:
        images: Preprocessed (n, 3, h, w); or paths, pictures or arrays as `Predictor.embed` takes them, or a folder or
            a glob, of which the first 300 count; None takes seeded stand-ins.
        predictor: Whose preprocess makes inputs of them.

    Raises:
        InputError: None is found, or one cannot be read.
    """
    size = predictor.encoder.input_size
    if images is None:
        return Calibration(size)
    if isinstance(images, Tensor):
        if tuple(images.shape[2:]) != size:
            raise InputError(
                f"Calibration images must have the program's input size, {'x'.join(map(str, size))}; got a tensor "
                f"{tuple(images.shape)}."
            )
        return Calibration(size, images)
    if isinstance(images, (str, Path)):
        images = find_images(images, extensions=IMAGE_EXTENSIONS)
    try:
        made = [predictor.prepare(image) for image in list(images)[:MOST_IMAGES]]
    except TypeError as error:
        raise InputError("Calibration images are a folder, a list of images, or a tensor (n, 3, h, w).") from error
    return Calibration(size, torch.stack(made) if made else torch.zeros(0, 3, *size))


def of_openvino(model: Any, calibration: Calibration) -> Any:
    """The int8 model of an OpenVINO one, by NNCF."""
    return Quantizer(calibration, portable=True)(model)


def of_onnx(path: Path, target: Path, calibration: Calibration) -> None:
    """Write the int8 model of an ONNX file, QDQ, by onnxruntime's quantizer."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        class Images(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(calibration.parts[0].float())

            def get_next(self) -> Any:  # None at the end, whatever its base class says
                image = next(self.left, None)
                return None if image is None else {INPUT: image[None].numpy()}

        root = logging.getLogger()
        before = root.level
        root.setLevel(logging.ERROR)  # it talks through the root
        try:
            quantize_static(
                str(path),
                str(target),
                Images(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            root.setLevel(before)
