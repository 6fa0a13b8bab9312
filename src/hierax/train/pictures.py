"""What a run asks of whoever draws its pictures; nothing is drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from ..config import PreprocessSpec


@dataclass(frozen=True)
class Reconstructions:
    """What a masked autoencoder made of some images, or of frames of clips, of which each may be seen to another share.

    Attributes:
        images: Preprocessed images or frames.
        visible: Of each, row-major indices of the mask units that it saw.
        predictions: Of each, for each hidden decoder token in raster order, its square as (channel, row, column).
        pixels: Side of a decoder token's square.
        unit: Mask unit in decoder tokens.
        normalized: Whether predictions lack the mean and deviation of their square.
        preprocess: Its mean and std turn values back into colours.
    """

    images: Sequence[Float[ndarray, "3 h w"]] | Float[ndarray, "b 3 h w"]
    visible: Sequence[Int[ndarray, " n"]] | Int[ndarray, "b n"]
    predictions: Sequence[Float[ndarray, "masked pixels"]] | Float[ndarray, "b masked pixels"]
    pixels: int
    unit: tuple[int, int]
    normalized: bool
    preprocess: PreprocessSpec


class Pictures(Protocol):
    """Draws what it is given into a file; whatever it raises costs a run the picture and no more."""

    def curves(self, losses: Sequence[float], baseline: float | None, path: Path) -> None:
        """Loss of each step, and the loss that means nothing was learned."""
        ...

    def confusion(self, matrix: Int[ndarray, "classes classes"], classes: Sequence[str], path: Path) -> None:
        """Counts by true class (rows) and answered class (columns)."""
        ...

    def mistakes(self, images: Sequence[UInt8[ndarray, "h w 3"]], captions: Sequence[str], path: Path) -> None:
        """The most confident mistakes, with a caption each."""
        ...

    def triptychs(self, made: Reconstructions, path: Path) -> None:
        """Image, what was visible, and the reconstruction of what was not."""
        ...
