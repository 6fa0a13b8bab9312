"""What is measured of answers: exact counts of right ones, and the mistakes worth looking at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

_WORST = 32
_NO_NUMBER = "the network's answer is NaN or infinite: numbers overflow in it"
# Positions of the samples that could be read, their inputs, and (name, reason) of the others.
Inputs = tuple[list[int], Tensor, list[tuple[str, str]]]


@dataclass
class Accuracy:
    """Counts of right answers.

    Attributes:
        correct1: Samples whose class came first.
        correct5: Samples whose class was among the first five.
        total: Samples that could be read.
        among: How many first classes `correct5` looks at: 5, or all classes where those are fewer.
        confusion: Samples by (true class, answered class).
        losses: Sum over all samples of the cross entropy, in nats.
        own: By class, the sum over its samples of the probability that the network gives to it.
        worst: The most confident mistakes: (confidence, sample name, true class, answered class, position, probability
            of the true class).
        unreadable: Samples that could not be read, or whose answer was no number, as (name, reason).
        data: The samples.
    """

    correct1: int = 0
    correct5: int = 0
    total: int = 0
    among: int = 5
    confusion: Counter[tuple[int, int]] = field(default_factory=Counter)
    losses: float = 0.0
    own: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    worst: list[tuple[float, str, int, int, int, float]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    data: Any = None

    @property
    def top1(self) -> float:
        """Share of samples whose class came first."""
        return self.correct1 / self.total if self.total else float("nan")

    @property
    def top5(self) -> float:
        """Share of samples whose class was among the first five."""
        return self.correct5 / self.total if self.total else float("nan")

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""
        return self.losses / self.total if self.total else float("nan")

    def to_dict(self) -> dict[str, float]:
        """The numbers; the loss is rounded, as the order of a sum depends on the number of processes."""
        names = ("top1", "top5", "correct1", "correct5", "total")
        counts = {name: getattr(self, name) for name in names}
        return {**counts, "loss": round(self.loss, 5), "unreadable": len(self.unreadable)}

    def __str__(self) -> str:
        """One line for people, counts included."""
        text = f"top-1 {self.top1:.2%} ({self.correct1} of {self.total})"
        text += f", top-{self.among} {self.top5:.2%} ({self.correct5})" if self.among > 1 else ""
        return text + (f", {len(self.unreadable)} unreadable" if self.unreadable else "")

    @classmethod
    def merged(cls, parts: Sequence[Accuracy]) -> Accuracy:
        """The counts of several processes together."""
        whole = cls(data=parts[0].data)
        for part in parts:
            whole.correct1 += part.correct1
            whole.correct5 += part.correct5
            whole.total += part.total
            whole.among = min(whole.among, part.among)
            whole.unreadable += part.unreadable
            whole.losses += part.losses
            for label, score in part.own.items():
                whole.own[label] += score
            whole.worst += part.worst
            whole.confusion += part.confusion
        whole.worst = sorted(whole.worst, reverse=True)[:_WORST]
        return whole


def count_correct(
    logits: Callable[[Tensor], Float[Tensor, "b classes"]],
    batches: Iterable[Inputs],
    data: Any,
    *,
    labels: Int[np.ndarray, " n"] | None = None,
    together: bool = False,
) -> Accuracy:
    """Run a classifier over samples, each exactly once.

    Args:
        logits: The classifier.
        batches: What `hierax.data.inputs.plain_batches` gives.
        data: The samples: `labels`, and `name(index)`.
        labels: The right answers, where they are counted in other classes than the data's own.
        together: Whether every process must compute as often as the others, as where weights are spread over them.
    """
    found = Accuracy(data=data)
    truths = data.labels if labels is None else labels
    for indices, inputs, bad in batches:
        found.unreadable += bad
        if not indices:
            if together:
                logits(inputs.new_zeros(1, *inputs.shape[1:]))
            continue
        logs = logits(inputs).log_softmax(-1)
        scores = logs.exp()  # NaN all along the row if any logit is NaN or infinite
        good = scores.isfinite().all(dim=-1).tolist()
        found.unreadable += [(data.name(i), _NO_NUMBER) for i, fine in zip(indices, good, strict=True) if not fine]
        found.among = min(5, scores.shape[-1])
        best = scores.topk(found.among, dim=-1)
        for row, (index, values, order) in enumerate(
            zip(indices, best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            if not good[row]:
                continue
            truth, answer = int(truths[index]), order[0]
            found.total += 1
            found.losses -= max(float(logs[row, truth]), -1e4)  # a logit may be minus infinity
            found.own[truth] += float(scores[row, truth])
            found.correct1 += answer == truth
            found.correct5 += truth in order
            found.confusion[truth, answer] += 1
            if answer != truth:
                found.worst.append((values[0], data.name(index), truth, answer, index, float(scores[row, truth])))
        found.worst = sorted(found.worst, reverse=True)[:_WORST]
    return found
