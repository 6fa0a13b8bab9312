"""Writing OpenVINO (extra `openvino`): an .xml with the graph and a .bin with the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..model.engines.openvino import converted, openvino
from ..model.engines.quantize import Calibration
from ..model.programs.encoder import INPUT
from ..weights.programs import PREFIX, ProgramFacts
from . import int8


def check_installed(dtype: str) -> None:
    """Refuse early what would fail after a long trace.

    Raises:
        MissingExtraError: OpenVINO, or for int8 NNCF, is not installed.
    """
    openvino()
    if dtype == "int8":
        int8.check_installed()


def write(
    program: torch.export.ExportedProgram, path: Path, facts: ProgramFacts, calibration: Calibration | None
) -> None:
    """Write a traced program, quantized by images if there are any."""
    model = graph_of(program, facts)
    if calibration is not None:
        model = int8.of_openvino(model, calibration)
    _describe(model, facts)
    # By itself it would keep every weight in float16.
    openvino().save_model(model, path, compress_to_fp16=facts.dtype == "float16")


def graph_of(program: torch.export.ExportedProgram, facts: ProgramFacts) -> Any:
    """The OpenVINO model of a traced program."""
    config = facts.config
    sides = (-1, -1) if facts.any_size else config.input_size[-2:]
    model = converted(program, config.in_channels, *config.input_size[:-2], *sides)
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, facts.outputs, strict=True):
        output.get_tensor().set_names({name})
    return model


def _describe(model: Any, facts: ProgramFacts) -> None:
    """Add the metadata of ours, and what it computes in."""
    # As JSON once more: an attribute in XML keeps no line breaks.
    for key, text in facts.to_texts().items():
        model.set_rt_info(json.dumps(text), ["hierax", key.removeprefix(PREFIX)])
    # Without it a processor that has bfloat16 or float16 computes in that, and answers differently.
    model.set_rt_info("f32", ["runtime_options", "INFERENCE_PRECISION_HINT"])
