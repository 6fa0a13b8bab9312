"""OpenVINO files in OpenVINO (extra `openvino`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import CheckpointError
from ..engines.base import Recent
from ..engines.openvino import PROGRAMS, Program, filled, openvino, within


def read_model(path: Path) -> Any:
    """The graph of an .xml file and the .bin beside it.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: It cannot read the file.
    """
    package = openvino()
    beside = path.with_suffix(".bin")
    if not beside.is_file():
        raise CheckpointError(f"An OpenVINO program is two files; {path} has no {beside.name} beside it. Copy both.")
    try:
        return package.Core().read_model(path, beside)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"OpenVINO {package.__version__} cannot read {path}: {reason}. Export it again, or install a newer one."
        ) from error


class OpenVINOProgram:
    """Compiles on first use of each input size and batch; computes in float32 (int8 where the graph does).

    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: It cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        model = read_model(path)
        self.outputs = tuple(output.get_any_name() for output in model.outputs)
        self._program = Recent(PROGRAMS, partial(Program, lambda size, last: model, "f32"))

    def __call__(self, x: Float[Tensor, "b 3 *pixels"], names: Sequence[str]) -> dict[str, Tensor]:
        """Those outputs by name; NaN for images on which OpenVINO's norms would hide that they overflow."""
        sound = torch.stack([torch.tensor(within(image)) for image in x])
        shape = (-1, *[1] * (x.ndim - 1))
        found = filled(self._program, x.where(sound.view(shape), torch.zeros(())), 0)
        by_name = dict(zip(self.outputs, found, strict=True))
        answers = {name: by_name[name] for name in names}
        if not sound.all():
            answers = {
                name: each.where(sound.view(-1, *[1] * (each.ndim - 1)), torch.tensor(float("nan")))
                for name, each in answers.items()
            }
        return answers
