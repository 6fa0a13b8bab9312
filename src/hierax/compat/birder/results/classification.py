"""What `evaluate` found, with birder's measures of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ....console import emit
from ....errors import InputError, nearest

NO_LABEL = -1
TOP_K = 3
_ROWS = "polars, which birder's tables are made of, is not installed. Install it with: pip install polars"


class Results:
    """Labels, predictions and probabilities of samples in the order of their names.

    Attributes:
        label_names: Names of the classes, by index.
        labels: True classes, -1 where nobody knows.
        predictions: The most probable class.
        output: Probability of each class.
        valid_idx: Which samples have a label.
    """

    def __init__(
        self,
        sample_list: Sequence[str],
        labels: Int[np.ndarray, " n"] | Sequence[int],
        label_names: Sequence[str],
        output: Float[np.ndarray, "n classes"],
        predictions: Int[np.ndarray, " n"] | None = None,
        *,
        lazy: bool = True,
    ) -> None:
        """Sort the samples by name; measures are computed when asked for, so that `lazy` changes nothing.

        Raises:
            InputError: Not one name, label and row for each sample, not one column for each class, or no sample.
        """
        output, truth = np.asarray(output), np.asarray(labels, dtype=np.int64)
        if output.ndim != 2 or not len(output) or not len(sample_list) == len(truth) == len(output):
            raise InputError(
                f"Results are of one or more samples, each with a name, a label and a row of probabilities; got "
                f"{len(sample_list)} names, {truth.shape} labels and {output.shape} probabilities."
            )
        if len(label_names) != output.shape[1]:
            raise InputError(
                f"Each class has a name; got {len(label_names)} names for {output.shape[1]} classes. Pass the "
                "class_to_idx of the model's ModelInfo."
            )
        if len(wrong := truth[(truth < NO_LABEL) | (truth >= len(label_names))]):
            raise InputError(f"Labels are indices of {len(label_names)} classes, or -1; got {wrong[0]}.")
        order = sorted(range(len(sample_list)), key=sample_list.__getitem__)
        chosen = output.argmax(1) if predictions is None else np.asarray(predictions)
        self.label_names = list(label_names)
        self.samples = [sample_list[index] for index in order]
        self.labels, self.predictions, self.output = truth[order], chosen[order], output[order]
        self.valid_idx = self.labels != NO_LABEL
        self.missing_all_labels = not self.valid_idx.any()

    def __getattr__(self, name: str) -> Any:
        """Only reached for what is not there."""
        known = [each for each in dir(type(self)) if not each.startswith("_")]
        raise AttributeError(f"Results has no {name!r} in hierax. {nearest(name, known)}It has: {', '.join(known)}.")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __repr__(self) -> str:
        """Samples, those with a label, and the accuracy on them."""
        score = "" if self.missing_all_labels else f"\n    Accuracy: {self.accuracy:.4f}"
        return (
            f"Results\n    Number of samples: {len(self)}\n    Number of valid samples: {self.valid_idx.sum()}{score}"
        )

    @property
    def missing_labels(self) -> bool:
        """Whether a sample has no label."""
        return not bool(self.valid_idx.all())

    @property
    def prediction_names(self) -> list[str]:
        """Name of the most probable class of each sample."""
        return [self.label_names[index] for index in self.predictions]

    @property
    def accuracy(self) -> float:
        """Share of the labelled samples that are predicted right, NaN without labels."""
        truth, chosen = self._pairs
        return float((truth == chosen).mean()) if len(truth) else float("nan")

    @property
    def top_k(self) -> float:
        """Share of labelled samples whose class is among the three most probable; NaN for three classes or fewer."""
        if len(self.label_names) <= TOP_K or self.missing_all_labels:
            return float("nan")
        best = np.argpartition(self.output, -TOP_K, axis=1)[:, -TOP_K:]
        return float((best == self.labels[:, None]).any(1)[self.valid_idx].mean())

    @functools.cached_property
    def unique_labels(self) -> Int[np.ndarray, " k"]:
        """Classes that occur as a label or a prediction of a labelled sample, ascending."""
        return np.unique(np.concatenate(self._pairs))

    @functools.cached_property
    def confusion_matrix(self) -> Int[np.ndarray, "k k"]:
        """How often each of `unique_labels` (rows) was predicted as each (columns)."""
        truth, chosen = (np.searchsorted(self.unique_labels, values) for values in self._pairs)
        count = len(self.unique_labels)
        return np.bincount(truth * count + chosen, minlength=count * count).reshape(count, count)

    @property
    def macro_f1_score(self) -> float:
        """Mean over `unique_labels` of the harmonic mean of precision and recall."""
        right, seen, said = self._counts
        return float(np.mean(2 * right / (seen + said)))

    def detailed_report(self) -> Any:
        """A polars table with a row for each class that has samples.

        Raises:
            InputError: polars is not installed.
        """
        return _polars().DataFrame(self._report())

    def most_confused_pairs(self, n: int = 10) -> Any:
        """A polars table of the pairs that are mixed up most often.

        Raises:
            InputError: polars is not installed.
        """
        matrix, names = self.confusion_matrix, [self.label_names[index] for index in self.unique_labels]
        wrong = np.where(np.eye(len(names), dtype=bool), -1, matrix)
        places = [np.unravel_index(place, matrix.shape) for place in np.argsort(wrong.ravel())[-n:][::-1]]
        return _polars().DataFrame(
            [
                {"predicted": names[j], "actual": names[i], "amount": matrix[i, j], "reverse": matrix[j, i]}
                for i, j in places
                if wrong[i, j] > 0
            ]
        )

    def to_dataframe(self) -> Any:
        """A polars table with a row for each sample: name, label, its name, prediction, probabilities.

        Raises:
            InputError: polars is not installed.
        """
        names = ["" if label == NO_LABEL else self.label_names[label] for label in self.labels]
        columns = {"sample": self.samples, "label": self.labels, "label_name": names, "prediction": self.predictions}
        return _polars().DataFrame({**columns, **{str(i): column for i, column in enumerate(self.output.T)}})

    @property
    def mistakes(self) -> Any:
        """The rows of `to_dataframe` that are predicted wrong."""
        return self.to_dataframe().filter(self.valid_idx & (self.labels != self.predictions))

    def filter_by_labels(self, target_label_indices: Sequence[int]) -> Results:
        """The results of some classes' samples alone.

        Raises:
            InputError: No sample has such a label.
        """
        kept = np.flatnonzero(np.isin(self.labels, target_label_indices))
        samples = [self.samples[index] for index in kept]
        return Results(samples, self.labels[kept], self.label_names, self.output[kept], self.predictions[kept])

    def pretty_print(self) -> None:
        """Print precision and recall of each class, then the accuracy."""
        rows = [
            {key: f"{v:.4f}" if isinstance(v, float) else str(v) for key, v in row.items()} for row in self._report()
        ]
        table = [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            emit("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        emit(repr(self))

    @property
    def _pairs(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        return self.labels[self.valid_idx], self.predictions[self.valid_idx]

    @property
    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per class of `unique_labels`: predicted right, has samples, was predicted."""
        matrix = self.confusion_matrix
        return matrix.diagonal(), matrix.sum(1), matrix.sum(0)

    def _report(self) -> list[dict[str, Any]]:
        rows = []
        for index, right, seen, said in zip(self.unique_labels, *self._counts, strict=True):
            if seen:
                rows.append(
                    {
                        "Class": int(index),
                        "Class name": self.label_names[index],
                        "Precision": float(right / said) if said else 0.0,
                        "Recall": float(right / seen),
                        "F1-score": float(2 * right / (seen + said)),
                        "Samples": int(seen),
                        "False negative": int(seen - right),
                        "False positive": int(said - right),
                    }
                )
        return rows


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise InputError(f"This gives a table of {_ROWS}.") from error
    return polars
