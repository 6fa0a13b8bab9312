"""What a masked autoencoder was shown of an image, and the image that its prediction makes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from ..errors import InputError


def reconstruction(
    image: Float[ndarray, "3 h w"],
    visible: Int[ndarray, " n"],
    prediction: Float[ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
    normalized: bool = True,
) -> tuple[Float[ndarray, "3 h w"], Bool[ndarray, "h w"]]:
    """The image with its hidden mask units replaced by a masked autoencoder's prediction, and which were not hidden.

    A decoder trained on normalised targets predicts each token's square up to its mean and standard deviation;
    those are taken from the true image, which no model has seen: it shows structure, not colour or contrast.

    Args:
        image: One preprocessed image.
        visible: Row-major indices of the mask units that were kept.
        prediction: For each hidden decoder token in raster order, its square as (channel, row, column).
        pixels: Side of a decoder token's square, `MaskedAutoencoder.pixels`.
        unit: Mask unit in decoder tokens, `MaskedAutoencoder.unit`.
        normalized: Whether targets were normalised, `MaskedAutoencoder.normalize_target`.

    Returns:
        The image, and which of its pixels were visible.

    Raises:
        InputError: Shapes that do not belong together.
    """
    image, prediction = np.asarray(image, np.float64), np.asarray(prediction, np.float64)
    side = [u * pixels for u in unit]
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] % side[0] or image.shape[2] % side[1]:
        raise InputError(f"The image must be (3, h, w) in whole mask units of {side} pixels; got {image.shape}.")
    units = np.zeros((image.shape[1] // side[0], image.shape[2] // side[1]), bool)
    kept = np.asarray(visible, np.int64)
    if kept.ndim != 1 or not kept.size or kept.min() < 0 or kept.max() >= units.size:
        raise InputError(f"visible must hold indices (n,) in 0..{units.size - 1} of one image; got {kept.shape}.")
    units.flat[kept] = True
    hidden = ~units.repeat(unit[0], 0).repeat(unit[1], 1)  # (rows, columns)
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
    return squares.reshape(image.shape), ~hidden.repeat(pixels, 0).repeat(pixels, 1)
