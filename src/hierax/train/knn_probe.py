"""A kNN probe of what is being trained: how well its features alone tell the classes of some labelled images apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig, PreprocessSpec
from ..data.datasets.open import open_data
from ..data.datasets.samples import Subset, TrainingData
from ..data.datasets.some import some_of
from ..data.inputs import network_input, plain_batches
from ..errors import InputError
from ..model.encoder import Encoder
from ..model.neighbours import knn_accuracy
from .devices import Devices

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the vote, as DINO's evaluation has them
MOST = 1000  # images: on a share of right answers an error of 1.6 points
_NEEDS = "A probe needs labelled images, one folder a class, at least two classes of two images"


class Probe:
    """Labelled images, checked, and how they are preprocessed.

    Attributes:
        data: The images: all, or some of each class where there are many.
        classes: Classes among them.
        neighbours: How many vote: as many as the smallest class has others, at most `NEIGHBOURS`.
    """

    def __init__(self, data: TrainingData, config: ModelConfig, spec: PreprocessSpec, workers: int) -> None:
        self.data, self.config, self.spec, self.workers = data, config, spec, workers
        counts = np.unique(data.labels, return_counts=True)[1]
        self.classes, self.neighbours = len(counts), int(min(NEIGHBOURS, counts.min() - 1))

    @classmethod
    def open(cls, source: Any, config: ModelConfig, spec: PreprocessSpec, *, workers: int = 0) -> Probe:
        """The labelled images of a source; every one of them is read, so that a bad one is told before the first step.

        Raises:
            InputError: No labels, fewer than two classes of two images, or an image that cannot be read.
        """
        try:
            data = open_data(source)
        except InputError as error:
            raise InputError(f"{_NEEDS}. {error}") from error
        labels, counts = np.unique(data.labels[data.labels >= 0], return_counts=True)
        if (counts >= 2).sum() < 2:
            found = ", ".join(
                f"{data.classes[label]} ({count})" for label, count in zip(labels[:5], counts, strict=False)
            )
            raise InputError(f"{_NEEDS}; {str(source)!r} has {found or 'none'}. Name a folder of classes.")
        kept = np.flatnonzero(np.isin(data.labels, labels[counts >= 2]))
        chosen = kept if len(kept) <= MOST else kept[some_of(data.labels[kept], MOST)]
        probe = cls(Subset(data, chosen), config, spec, workers)
        for index in range(len(chosen)):
            try:
                network_input(probe.data.read(index), config, spec)
            except (InputError, OSError, MemoryError) as error:
                raise InputError(
                    f"Every image of a probe must be readable, so that all its measurements are of the same; "
                    f"{probe.data.name(index)}: {str(error).rstrip('.')}. Mend it, or take it out of {str(source)!r}."
                ) from error
        return probe

    def __str__(self) -> str:
        whole = len(self.data.base) if isinstance(self.data, Subset) else len(self.data)
        some = f"{len(self.data)} of {whole}" if len(self.data) < whole else str(whole)
        vote = f"{self.neighbours} nearest neighbours vote, each image left out in turn"
        return f"{some} images of {self.classes} classes, {vote}"

    @torch.no_grad()
    def measure(self, encoder: Encoder, devices: Devices) -> float:
        """Share of the images whose class their nearest neighbours vote for; shared out, so every process calls it."""
        training, rows, places = encoder.training, list[Tensor](), list[int]()
        place = {"rank": devices.rank, "world": devices.world, "workers": self.workers}
        encoder.eval()
        for indices, inputs, _ in plain_batches(self.data, self.config, self.spec, batch_size=32, **place):
            if indices:
                rows.append(encoder.embedding(inputs.to(devices.device)).float().cpu())
                places += indices
        encoder.train(training)
        found = devices.gather((places, torch.cat(rows).numpy() if rows else np.zeros((0, encoder.embedding_size))))
        order = np.concatenate([np.asarray(indices, dtype=np.int64) for indices, _ in found])
        vectors = np.concatenate([values for _, values in found])
        if not np.isfinite(vectors).all():
            return float("nan")
        return knn_accuracy(vectors, self.data.labels[order], k=self.neighbours, temperature=TEMPERATURE)
