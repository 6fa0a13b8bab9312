"""Exact accuracy of a classifier on labelled images, by the evaluation protocol of each origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ..config import PreprocessSpec
from ..data.datasets.folders import open_data
from ..data.datasets.samples import TrainingData
from ..errors import InputError, UnknownNameError, nearest
from ..predictor import Predictor
from .batches import Plain, plain_batches

# How the origins evaluate, at the size of the checkpoint.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "checkpoint": {},
    "birder": {"resize": "squash", "crop_ratio": 1.0, "engine": "uint8"},
    "timm": {"resize": "shortest", "crop_ratio": 0.9, "engine": "pil"},
    "meta": {"resize": "shortest", "crop_ratio": 224 / 256, "engine": "pil"},
}  # fmt: skip


@dataclass
class Accuracy:
    """Counts of right answers.

    Attributes:
        correct1: Samples whose class came first.
        correct5: Samples whose class was among the first five.
        total: Samples that could be read.
        confusion: Samples by (true class, answered class).
        worst: The most confident mistakes: (confidence, sample name, true class, answered class, position).
        unreadable: Samples that could not be read, as (name, reason).
        data: The samples.
    """

    correct1: int = 0
    correct5: int = 0
    total: int = 0
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    worst: list[tuple[float, str, int, int, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    data: TrainingData | None = None

    @property
    def top1(self) -> float:
        """Share of samples whose class came first."""
        return self.correct1 / self.total if self.total else float("nan")

    @property
    def top5(self) -> float:
        """Share of samples whose class was among the first five."""
        return self.correct5 / self.total if self.total else float("nan")

    def to_dict(self) -> dict[str, float]:
        """The numbers."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "correct1": self.correct1,
            "correct5": self.correct5,
            "total": self.total,
            "unreadable": len(self.unreadable),
        }

    def __str__(self) -> str:
        """One line for people, counts included."""
        text = f"top-1 {self.top1:.2%} ({self.correct1} of {self.total}), top-5 {self.top5:.2%} ({self.correct5})"
        return text + (f", {len(self.unreadable)} unreadable" if self.unreadable else "")

    @classmethod
    def merged(cls, parts: Sequence[Accuracy]) -> Accuracy:
        """The counts of several processes together."""
        whole = cls(data=parts[0].data)
        for part in parts:
            whole.correct1 += part.correct1
            whole.correct5 += part.correct5
            whole.total += part.total
            whole.unreadable += part.unreadable
            whole.worst += part.worst
            for key, count in part.confusion.items():
                whole.confusion[key] = whole.confusion.get(key, 0) + count
        whole.worst = sorted(whole.worst, reverse=True)[:_WORST]
        return whole


_WORST = 16


def accuracy(
    data: Any,
    predictor: Predictor,
    *,
    protocol: str = "checkpoint",
    split: str = "validation",
    batch_size: int = 32,
    workers: int = 0,
) -> Accuracy:
    """Count right answers on labelled images or clips.

    Args:
        data: As for `finetune`; a split folder or column is used where there is one.
        predictor: A classifier.
        protocol: "checkpoint" preprocesses as the checkpoint says, "birder", "timm" and "meta" as those evaluate.
        split: Which split, where the data has splits.
        batch_size: Samples at a time.
        workers: Processes that read; 0 reads in this one.

    Raises:
        InputError: No data, no classifier, or classes that cannot be matched to the model's.
        UnknownNameError: No such protocol.
    """
    spec = protocol_spec(protocol, predictor.preprocess)
    samples = open_data(data, split=split)
    labels = _model_classes(samples, predictor)

    def logits(inputs: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            return predictor.encoder(inputs.to(predictor.device)).float().cpu()

    plain = Plain(samples, predictor.encoder.config, spec, frame_stride=4)
    return count_correct(logits, plain, batch_size=batch_size, workers=workers, labels=labels)


def protocol_spec(protocol: str, spec: PreprocessSpec) -> PreprocessSpec:
    """The preprocess of a protocol at the checkpoint's size.

    Raises:
        UnknownNameError: No such protocol.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError(
            f"Evaluation protocols are {', '.join(PROTOCOLS)}; got {protocol!r}. {nearest(protocol, PROTOCOLS)}"
        )
    changes = dict(PROTOCOLS[protocol])
    if protocol == "meta" and min(spec.size) > 224:
        changes["crop_ratio"] = 1.0
    if changes:
        changes |= {"resize_to": None, "crop_rounding": "even", "interpolation": "bicubic"}
    return dataclasses.replace(spec, **changes)


def _model_classes(data: TrainingData, predictor: Predictor) -> Int[np.ndarray, " n"]:
    """The model's class index of each sample: by name, else by order where the counts agree."""
    count = predictor.encoder.num_classes
    if count == 0:
        raise InputError(f"Accuracy needs a classifier; {predictor.card.name!r} has no classes. Fine-tune it first.")
    names = predictor.labels or []
    position = {name: index for index, name in enumerate(names)}
    if all(name in position for name in data.classes):
        table = np.array([position[name] for name in data.classes], dtype=np.int64)
        return table[data.labels]
    whole = all(name.isdigit() for name in data.classes) and len(data.classes) <= count
    if len(data.classes) == count or whole:
        return data.labels
    strange = next(name for name in data.classes if name not in position)
    raise InputError(
        f"The data's classes must be the model's {count}, by name or all of them in sorted order; got "
        f"{len(data.classes)} with {strange!r} among them. {nearest(strange, names)}".strip()
    )


def count_correct(
    logits: Callable[[Tensor], Float[Tensor, "b classes"]],
    plain: Plain,
    *,
    batch_size: int,
    workers: int,
    labels: Int[np.ndarray, " n"] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Accuracy:
    """Run a classifier over this process's samples, each exactly once."""
    found = Accuracy(data=plain.data)
    labels = plain.data.labels if labels is None else labels
    batches = plain_batches(plain, batch_size=batch_size, workers=workers, rank=rank, world=world)
    for indices, inputs, bad in batches:
        found.unreadable += bad
        if not indices:
            if world > 1:  # where weights are spread over processes, all of them must take part
                logits(inputs.new_zeros(1, *inputs.shape[1:]))
            continue
        scores = logits(inputs).softmax(-1)
        best = scores.topk(min(5, scores.shape[-1]), dim=-1)
        for index, values, order in zip(indices, best.values.tolist(), best.indices.tolist(), strict=True):
            truth, answer = int(labels[index]), order[0]
            found.total += 1
            found.correct1 += answer == truth
            found.correct5 += truth in order
            found.confusion[truth, answer] = found.confusion.get((truth, answer), 0) + 1
            if answer != truth:
                found.worst.append((values[0], plain.data.name(index), truth, answer, index))
        found.worst = sorted(found.worst, reverse=True)[:_WORST]
    return found
