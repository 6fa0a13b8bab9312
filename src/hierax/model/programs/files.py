"""A file of each kind in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def open_file(path: Path, kind: str, outputs: Sequence[str], torch_version: str) -> Any:
    """A program that can be called, and names its `outputs`.

    Args:
        path: The file.
        kind: "onnx", "openvino" or "torch".
        outputs: What it is said to give, in order.
        torch_version: Of the torch that wrote it.

    Raises:
        CheckpointError: Its runtime cannot run it.
        MissingExtraError: Its runtime is not installed.
    """
    if kind == "onnx":
        from .onnx import OnnxProgram

        return OnnxProgram(path)
    if kind == "openvino":
        from .openvino import OpenVINOProgram

        return OpenVINOProgram(path)
    from .torch import TorchProgram

    return TorchProgram(path, outputs, torch_version)
