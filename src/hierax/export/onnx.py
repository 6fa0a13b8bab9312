"""Writing ONNX (extra `onnx`): one file, opset 20, nothing of this machine in it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ExportError, MissingExtraError
from ..model.engines.quantize import Calibration
from ..model.programs.encoder import INPUT
from ..weights.programs import ProgramFacts
from . import int8

OPSET = 20
FEWEST_HALVED = 1024  # elements of a tensor: norms and biases stay as they are
BYTES = {"float32": 4, "float16": 2, "int8": 4}  # of a weight, int8 before it is quantized
MOST_BYTES = (2 << 30) - (1 << 20)  # of a protobuf message, less what is not weights


def check_installed(dtype: str) -> None:
    """Refuse early what would fail after a long trace.

    Raises:
        MissingExtraError: A package of the extra is not installed.
    """
    if not _installed("onnx"):
        raise MissingExtraError("onnx", "onnx")
    if not _installed("onnxscript"):
        raise MissingExtraError("onnx", "onnxscript")
    if not _installed("onnxruntime"):
        raise MissingExtraError("onnx", "onnxruntime")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # what `sys.modules[package] = None` leads to
        return False


def check_bytes(count: int, dtype: str) -> None:
    """Refuse so many weights that they do not fit into one file.

    Raises:
        ExportError: They do not.
    """
    each = BYTES[dtype]
    if count * each > MOST_BYTES:
        half = "--dtype float16, which halves it, or " if each > 2 and count * 2 <= MOST_BYTES else ""
        raise ExportError(
            f"An ONNX file is one file of less than 2 GB; these weights need {count * each / 1e9:.1f} GB in {dtype}. "
            f"Use {half}--to openvino."
        )


def write(
    program: torch.export.ExportedProgram, path: Path, facts: ProgramFacts, calibration: Calibration | None
) -> None:
    """Write a traced program, quantized by images if there are any."""
    import onnx

    model = graph_of(program, facts)
    if facts.dtype == "float16":
        halve(model.graph)
    if calibration is not None:
        exact = path.with_name("float.onnx")
        onnx.save(model, exact)
        int8.of_onnx(exact, path, calibration)
        exact.unlink()
        model = onnx.load(path)
        _describe(model, facts)
    onnx.save(model, path)


def halve(graph: Any) -> None:
    """Keep weights in float16, which a node turns back into float32: a runtime does that once, when it opens the file.

    Products in float16 are slow on processors that have none, and norms overflow on those that have.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= FEWEST_HALVED:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), f"{name}_half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def graph_of(program: torch.export.ExportedProgram, facts: ProgramFacts) -> Any:
    """The ONNX model of a traced program, with the metadata of ours and without the exporter's."""
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=list(facts.outputs),
        )
    model = made.model_proto  # type: ignore[union-attr]
    _strip(model.graph)
    for function in model.functions:
        _strip(function)
    _name_axes(model.graph, ("height", "width") if facts.any_size else ())
    _describe(model, facts)
    return model


def _describe(model: Any, facts: ProgramFacts) -> None:
    """Put the metadata of ours in the place of any other."""
    model.ClearField("metadata_props")
    model.producer_name, model.producer_version = "hierax", facts.version
    for key, text in facts.to_texts().items():
        model.metadata_props.add(key=key, value=text)


def _name_axes(graph: Any, open_axes: Sequence[str]) -> None:
    """Call the batch and the open sides of the input by their names, wherever they stand."""
    shape = graph.input[0].type.tensor_type.shape.dim
    named = {0: "batch", **{len(shape) - len(open_axes) + i: name for i, name in enumerate(open_axes)}}
    known = {shape[axis].dim_param: name for axis, name in named.items() if shape[axis].dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_param = known[dim.dim_param]


def _strip(graph: Any) -> None:
    """Take away what the exporter says of where each node came from: lines and folders of this machine."""
    parts = [graph, *graph.node]
    for name in ("input", "output", "initializer", "value_info"):
        parts.extend(part for part in getattr(graph, name, ()) if hasattr(part, "metadata_props"))
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on stdout, in warnings and in logs of several packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [each.level for each in loggers]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, before, strict=True):
                each.setLevel(level)
