"""What a validation found, class by class and mistake by mistake: numbers for the page of a run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ..model.metrics import Accuracy

_TIMES = 10  # how often likelier than its label the answer to what looks like a wrong label is


@dataclass(frozen=True)
class ClassScore:
    """How one class is answered.

    Attributes:
        label: Its index.
        count: Images of it that were measured.
        precision: Share of right ones among the images that are taken for it; None where none is.
        recall: Share of its images that are recognised; None where there are none.
        f1: Harmonic mean of both; None where the class has no images.
    """

    label: int
    count: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_scores(result: Accuracy, classes: int) -> list[ClassScore]:
    """Scores of all classes, the worst first; those without images last."""
    truths, answers = totals(result)
    scores = []
    for label in range(classes):
        right, count, answered = result.confusion[label, label], truths[label], answers[label]
        f1 = 2 * right / (count + answered) if count else None
        scores.append(
            ClassScore(label, count, right / answered if answered else None, right / count if count else None, f1)
        )
    return sorted(scores, key=lambda score: (score.f1 is None, score.f1 or 0.0, -score.count, score.label))


def totals(result: Accuracy) -> tuple[Counter[int], Counter[int]]:
    """Images of each class, and images taken for it."""
    truths, answers = Counter[int](), Counter[int]()
    for (truth, answer), count in result.confusion.items():
        truths[truth] += count
        answers[answer] += count
    return truths, answers


def matrix(result: Accuracy, classes: int) -> Int[np.ndarray, "classes classes"]:
    """Counts by true class and answer."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for (truth, answer), count in result.confusion.items():
        counts[truth, answer] = count
    return counts


def worst_pairs(result: Accuracy, most: int) -> list[tuple[int, int, int, int]]:
    """The mistakes made most often, as (true class, answer, how often, images of the class).

    Of equally frequent ones the larger share of its class comes first.
    """
    truths, _ = totals(result)
    wrong = [(truth, answer, count, truths[truth]) for (truth, answer), count in result.confusion.items()]
    wrong = [pair for pair in wrong if pair[0] != pair[1] and pair[2]]
    return sorted(wrong, key=lambda pair: (-pair[2], pair[3], pair[:2]))[:most]


def suspects(result: Accuracy) -> list[int]:
    """Which of `result.worst` look like wrong labels rather than mistakes.

    Their answer is about as sure as the network is, on average, of images that bear that label, and at least one half;
    and their own label is hardly considered.

    Source: the thresholds of confident learning, arXiv:1911.00068 section 3.1, less a tenth: half of what is labelled
    wrongly lies below a mean.
    """
    truths, _ = totals(result)
    found = []
    for place, (confidence, _, _, answer, _, given) in enumerate(result.worst):
        usual = result.own[answer] / truths[answer] if truths[answer] else 1.0
        if confidence >= max(0.5, 0.9 * usual) and confidence >= _TIMES * given:
            found.append(place)
    return found


def interval(right: int, total: int) -> tuple[float, float]:
    """The share that a count of right answers stands for, to 95 %.

    Source: Wilson's score interval, doi:10.1080/01621459.1927.10502953.
    """
    z, share = 1.959964, right / total
    middle, scale = share + z * z / (2 * total), 1 + z * z / total
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
