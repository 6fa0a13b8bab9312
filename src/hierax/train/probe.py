"""How well the features that a run starts from tell its classes apart already, before anything is trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from ..data.datasets.samples import Subset, TrainingData
from ..data.datasets.some import some_of
from ..data.inputs import plain_batches
from ..weights.adapt import to_encoder, to_num_classes
from ..weights.card import Weights
from ..weights.network import to_module

MOST = 400  # images that are embedded: less than the time of a hundred steps
_RIDGE = 0.1  # of the variance of a feature


def told_apart(data: TrainingData, weights: Weights, device: torch.device) -> float:
    """Share of some training images whose class a linear classifier of the others finds, the mean over their classes.

    0 if none could be read. The network is frozen; the classifier is ridge regression on its embeddings, and its
    leave-one-out answers are exact.
    """
    weights = to_num_classes(to_encoder(weights), 0)
    weights = weights.with_card(config=dataclasses.replace(weights.config, drop_path=0.0))
    chosen = Subset(data, some_of(data.labels, MOST))
    rows, labels = [], []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # what is fresh, such as a final norm, must be the same for the same data
        network = to_module(weights).to(device).eval()
        for places, inputs, _ in plain_batches(chosen, weights.config, weights.preprocess, batch_size=32, workers=0):
            if places:
                rows.append(network.embedding(inputs.to(device)).float().cpu().numpy())  # type: ignore[operator]
                labels.append(chosen.labels[places])
    return left_out(np.concatenate(rows), np.concatenate(labels)) if rows else 0.0


def left_out(features: Float[ndarray, "n d"], labels: Int[ndarray, " n"]) -> float:
    """Share of rows that ridge regression on all other rows puts in their class, the mean over classes of several rows.

    A share of all rows would be that of the largest classes, however little is known of the others.

    Source: the residuals of leaving one out are those of the fit over the diagonal of the inverse kernel, up to sign.
    """
    rows = features.astype(np.float64)
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    classes, truth = np.unique(labels, return_inverse=True)
    targets = np.eye(len(classes))[truth]
    targets -= targets.mean(0)
    kernel = rows @ rows.T / rows.shape[1] + 1 / len(rows)  # and a constant
    inverse = np.linalg.inv(kernel + _RIDGE * np.eye(len(rows)))
    answers = targets - (inverse @ targets) / np.diag(inverse)[:, None]
    counts = np.bincount(truth)
    shares = np.bincount(truth, answers.argmax(1) == truth) / counts
    return float(shares[counts > 1].mean()) if (counts > 1).any() else 0.0
