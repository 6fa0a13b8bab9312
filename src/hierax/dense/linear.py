"""A linear classifier of cells: logistic regression on standardised, joined stage maps.

Fitting is scikit-learn's (extra "eval"); what comes of it is a matrix for each stage, and needs nothing but torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from ..errors import MissingExtraError
from .labels import pixel_classes
from .maps import CellMaps

_STEPS = 300
_ONE_THREAD_TO = 4_000_000  # numbers: of fewer, threads wait for each other longer than they compute


@dataclass(frozen=True)
class Linear:
    """Scores of classes, or directions of a smaller space, as linear maps of stage maps.

    Attributes:
        weights: A matrix for each stage.
        bias: What is added.
    """

    weights: Mapping[str, Float[Tensor, "k c"]]
    bias: Float[Tensor, " k"]

    def of(self, dense: CellMaps, pixels: UInt8[ndarray, "h w 3"]) -> Float[Tensor, "k h w"]:
        """Scores of the cells of an image."""
        return dense.joined(pixels, self.weights) + self.bias[:, None, None]

    def of_rows(self, rows: Float[ndarray, "n c"]) -> Float[ndarray, "n k"]:
        """Scores of features that `Dense.cells` gave."""
        matrix = torch.cat(list(self.weights.values()), 1).double().numpy()
        return rows.astype(np.float64) @ matrix.T + self.bias.double().numpy()

    def classes(self, dense: CellMaps, pixels: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w"]:
        """The class of each pixel of an image."""
        return pixel_classes(self.of(dense, pixels), (pixels.shape[0], pixels.shape[1]))


def split_by_stage(matrix: Float[ndarray, "k c"], bias: Float[ndarray, " k"], channels: Mapping[str, int]) -> Linear:
    """A map of joined features as one for each stage."""
    ends = np.cumsum(list(channels.values()))[:-1]
    parts = np.split(np.asarray(matrix, np.float32), ends, axis=1)
    weights = {stage: torch.from_numpy(part.copy()) for stage, part in zip(channels, parts, strict=True)}
    return Linear(weights, torch.from_numpy(np.asarray(bias, np.float32).copy()))


def fit(
    rows: Float[ndarray, "n c"],
    labels: Int[ndarray, " n"],
    count: int,
    channels: Mapping[str, int],
    *,
    strength: float = 0.01,
    balance: bool = True,
) -> Linear:
    """Logistic regression on standardised features.

    Args:
        rows: Features of cells.
        labels: Their classes.
        count: How many classes there are; one without a cell gets no chance.
        channels: Width of each stage, in the order in which they are joined.
        strength: C, the inverse of the penalty.
        balance: Whether every class weighs the same, however many cells it has.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    need_scikit_learn()
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, deviation = standard(rows)
    present = np.unique(labels)
    matrix, bias = np.zeros((count, rows.shape[1])), np.full(count, -1e4)
    if len(present) == 1:
        bias[present] = 0.0
        return split_by_stage(matrix, bias, channels)
    model = LogisticRegression(C=strength, max_iter=_STEPS, tol=1e-3, class_weight="balanced" if balance else None)
    with warnings.catch_warnings(), threadpool_limits(1 if rows.size < _ONE_THREAD_TO else None):
        warnings.simplefilter("ignore")  # one that stops early is judged all the same
        model.fit(((rows - mean) / deviation).astype(np.float32), labels)
    found, constant = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(present) == 2:  # scikit-learn keeps the difference of the two alone
        found, constant = np.concatenate([-found, found]) / 2, np.concatenate([-constant, constant]) / 2
    matrix[present] = found / deviation
    bias[present] = constant - (found / deviation) @ mean
    return split_by_stage(matrix, bias, channels)


def standard(rows: Float[ndarray, "n c"]) -> tuple[Float[ndarray, " c"], Float[ndarray, " c"]]:
    """Mean and deviation of each feature; one that never changes has deviation 1."""
    mean, deviation = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    return mean, np.where(deviation > 1e-12, deviation, 1.0)


def need_scikit_learn() -> None:
    """Refuse before any image is read.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("eval", "scikit-learn") from error
