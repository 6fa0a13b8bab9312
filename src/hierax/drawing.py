"""The pictures of a training run, drawn as all pictures of hierax are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int, UInt8
from numpy import ndarray

from .train.pictures import Reconstructions
from .visualize import charts, sheets


class Drawing:
    """Draws for `hierax.train`, which knows no drawing itself."""

    def curves(self, losses: Sequence[float], baseline: float | None, path: Path) -> None:
        """Loss by step, raw and smoothed, with a dashed line where nothing has been learned."""
        charts.training_curves(losses, path, baseline=baseline)

    def confusion(self, matrix: Int[ndarray, "classes classes"], classes: Sequence[str], path: Path) -> None:
        """True classes in rows, answers in columns."""
        charts.confusion(matrix, classes, path)

    def mistakes(self, images: Sequence[UInt8[ndarray, "h w 3"]], captions: Sequence[str], path: Path) -> None:
        """A contact sheet."""
        sheets.write_picture(sheets.contact_sheet(images, captions), path)

    def triptychs(self, made: Reconstructions, path: Path) -> None:
        """One row an image: the image, what was visible of it, and what was made of that."""
        rows = [
            sheets.masked_triptych(
                image,
                visible,
                prediction,
                pixels=made.pixels,
                unit=made.unit,
                normalized=made.normalized,
                preprocess=made.preprocess,
            )
            for image, visible, prediction in zip(made.images, made.visible, made.predictions, strict=True)
        ]
        sheets.write_picture(sheets.stack_sheets(rows), path)
