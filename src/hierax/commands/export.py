"""The command that writes models for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..console import emit, say
from ..errors import InputError


def export(
    source: Positional[str],
    destination: Positional[Path],
    to: Literal["onnx", "openvino", "torch"],
    outputs: str = "embedding,logits",
    size: Annotated[tuple[int, ...] | None, arg(metavar="H [W]")] = None,
    dynamic: bool = False,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    calibration: Annotated[str | None, arg(metavar="IMAGES")] = None,
) -> None:
    """Write a model for another runtime, compare it there with the network, and print the path.

    Args:
        source: Catalogue name, hub id, or local file or folder.
        destination: File to write: .onnx, .xml (with a .bin beside it) or .pt2; nothing existing is overwritten.
        to: Whose format.
        outputs: What it gives: embedding, logits, stage1 to stage4, with commas between.
        size: Height and width of its inputs; the model's own without it.
        dynamic: Leave height and width open.
        dtype: float16 halves the file and computes in float32; int8 is for onnx and openvino.
        calibration: Images to quantize int8 by: a folder, a glob or a file.
    """
    from .. import export as export_model  # torch, some seconds

    if size is not None and len(size) not in (1, 2):
        raise InputError(f"--size is a side, or height and width, in pixels; got {len(size)} numbers.")
    sides = None if size is None else size[0] if len(size) == 1 else (size[0], size[1])
    report = export_model(
        source,
        destination,
        to=to,
        outputs=[name.strip() for name in outputs.split(",")],
        size=sides,
        dynamic=dynamic,
        dtype=dtype,
        calibration=calibration,
    )
    emit(str(report.path), now=True)
    say(str(report))
