"""ONNX files in onnxruntime (extra `onnx`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import CheckpointError, MissingExtraError
from .encoder import INPUT

_ERRORS_ALONE = 3  # onnxruntime's severity


class OnnxProgram:
    """A session on the CPU, with as many threads as torch has.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: It cannot run the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnx", "onnxruntime") from error
        options = onnxruntime.SessionOptions()
        # By itself it counts the machine's cores, not those that this process may use.
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ALONE
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CheckpointError(
                f"onnxruntime {onnxruntime.__version__} cannot run {path}: {_line(error)}. Export it again, or install "
                "a newer onnxruntime."
            ) from error
        self.outputs = tuple(each.name for each in self._session.get_outputs())

    def __call__(self, x: Float[Tensor, "b 3 *pixels"], names: Sequence[str]) -> dict[str, Tensor]:
        """Those outputs by name."""
        found = self._session.run(list(names), {INPUT: x.numpy()})
        return {name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)}


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
