"""What a masked autoencoder saw, and what it made of the rest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from ..config import PreprocessSpec
from ..errors import InputError
from .paper import as_array, fitted, row_of


def reconstruction(
    image: Float[ndarray, "3 h w"],
    visible: ndarray,
    prediction: Float[ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
    normalized: bool = True,
) -> Float[ndarray, "3 h w"]:
    """The image with its hidden mask units replaced by a masked autoencoder's prediction.

    A decoder trained on normalised targets predicts each token's square up to its mean and standard deviation;
    those are taken from the true image, which no model has seen: it shows structure, not colour or contrast.

    Args:
        image: One preprocessed image.
        visible: Row-major indices of the mask units that were kept.
        prediction: For each hidden decoder token in raster order, its square as (channel, row, column).
        pixels: Side of a decoder token's square, `MaskedAutoencoder.pixels`.
        unit: Mask unit in decoder tokens, `MaskedAutoencoder.unit`.
        normalized: Whether targets were normalised, `MaskedAutoencoder.normalize_target`.

    Raises:
        InputError: Shapes that do not belong together.
    """
    image, prediction = as_array(image).astype(np.float64), as_array(prediction).astype(np.float64)
    hidden = ~_visible_tokens(image, visible, pixels, unit)  # (rows, columns)
    if prediction.shape != (hidden.sum(), 3 * pixels**2):
        raise InputError(
            f"prediction must hold {3 * pixels**2} values for each of {hidden.sum()} hidden tokens; "
            f"got {prediction.shape}."
        )
    rows, columns = hidden.shape
    squares = image.reshape(3, rows, pixels, columns, pixels).transpose(1, 3, 0, 2, 4)  # (rows, columns, 3, p, p)
    squares = squares.reshape(rows, columns, -1).copy()
    if normalized:
        true = squares[hidden]
        deviation = np.sqrt(true.var(-1, ddof=1, keepdims=True) + 1e-6)
        prediction = prediction * deviation + true.mean(-1, keepdims=True)
    squares[hidden] = prediction
    squares = squares.reshape(rows, columns, 3, pixels, pixels).transpose(2, 0, 3, 1, 4)
    return squares.reshape(image.shape)


def masked_triptych(
    image: Float[ndarray, "3 h w"],
    visible: ndarray,
    prediction: Float[ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
    normalized: bool = True,
    preprocess: PreprocessSpec | None = None,
    tile: int = 224,
) -> Image.Image:
    """The image, what the masked autoencoder saw of it, and what it made of that.

    Args:
        image: One preprocessed image.
        visible: Row-major indices of the mask units that were kept.
        prediction: One image's `MAEOutput.prediction`.
        pixels: Side of a decoder token's square, `MaskedAutoencoder.pixels`.
        unit: Mask unit in decoder tokens, `MaskedAutoencoder.unit`.
        normalized: Whether targets were normalised, `MaskedAutoencoder.normalize_target`.
        preprocess: Its mean and std turn values back into colours; None is ImageNet's.
        tile: Longer side of each panel in pixels.

    Raises:
        InputError: Shapes that do not belong together.
    """
    spec = preprocess or PreprocessSpec()
    rebuilt = reconstruction(image, visible, prediction, pixels=pixels, unit=unit, normalized=normalized)
    shown = _visible_tokens(as_array(image), visible, pixels, unit)
    true = _colors(as_array(image), spec)
    seen = np.where(shown.repeat(pixels, 0).repeat(pixels, 1)[..., None], true, np.uint8(205))
    share = f"{shown.mean():.0%} visible"
    note = "un-normalised with the original's patch mean and std" if normalized else "as predicted"
    captions = (("image", f"{true.shape[1]} x {true.shape[0]} px"), ("seen", share), ("reconstruction", note))
    pictures = (true, seen, _colors(rebuilt, spec))
    return row_of(
        [
            (fitted(picture, tile, Image.Resampling.LANCZOS), *caption)
            for picture, caption in zip(pictures, captions, strict=True)
        ]
    )


def _visible_tokens(image: ndarray, visible: ndarray, pixels: int, unit: tuple[int, int]) -> ndarray:
    """Which decoder tokens lie in visible mask units, as booleans (rows, columns)."""
    side = [u * pixels for u in unit]
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] % side[0] or image.shape[2] % side[1]:
        raise InputError(f"The image must be (3, h, w) in whole mask units of {side} pixels; got {image.shape}.")
    units = np.zeros((image.shape[1] // side[0], image.shape[2] // side[1]), bool)
    kept = as_array(visible).astype(np.int64)
    if kept.ndim != 1 or not kept.size or kept.min() < 0 or kept.max() >= units.size:
        raise InputError(f"visible must hold indices (n,) in 0..{units.size - 1} of one image; got {kept.shape}.")
    units.flat[kept] = True
    return units.repeat(unit[0], 0).repeat(unit[1], 1)


def _colors(image: Float[ndarray, "3 h w"], spec: PreprocessSpec) -> UInt8[ndarray, "h w 3"]:
    """Undo the statistics of preprocessing."""
    rgb = image.transpose(1, 2, 0) * np.array(spec.std) + np.array(spec.mean)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
