"""The pictures of a training run, drawn as all pictures of hierax are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray

from .train.pictures import Reconstructions
from .visualize import confusion_matrix_picture, contact_sheet, curves, masked_triptych, stack_sheets, write_picture

_POINTS = 2000  # more than a chart has pixels


class Drawing:
    """Draws for `hierax.train`, which knows no drawing itself."""

    def curves(self, losses: Sequence[float], baseline: float | None, path: Path) -> None:
        """Loss by step, raw and smoothed, with a dashed line where nothing has been learned.

        Raises:
            InputError: No loss is finite.
        """
        values = np.asarray(losses, dtype=float)
        width = max(1, len(values) // 50)
        means = np.convolve(values, np.ones(width) / width, mode="valid")  # means[k] ends at step k + width
        shown = range(0, len(values), max(1, len(values) // _POINTS))
        history = [{"step": k + 1, "loss": values[k]} for k in shown]
        if width > 1:
            history += [{"step": k + 1, f"mean of {width}/loss": means[k - width + 1]} for k in shown if k >= width - 1]
        curves(history, path, baselines=None if baseline is None else {"loss": baseline})

    def confusion(self, matrix: Int[ndarray, "classes classes"], classes: Sequence[str], path: Path) -> None:
        """True classes in rows, answers in columns."""
        write_picture(confusion_matrix_picture(matrix, classes), path)

    def mistakes(self, images: Sequence[UInt8[ndarray, "h w 3"]], captions: Sequence[str], path: Path) -> None:
        """A contact sheet."""
        write_picture(contact_sheet(images, captions), path)

    def triptychs(self, made: Reconstructions, path: Path) -> None:
        """One row an image: the image, what was visible of it, and what was made of that."""
        rows = [
            masked_triptych(
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
        write_picture(stack_sheets(rows), path)
